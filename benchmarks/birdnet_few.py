"""Few labelled clips on BirdNET's embeddings: `birdnet-head` beside a plain logistic regression.

    python benchmarks/birdnet_few.py [--data animals birds] [--clips 1 2 4 8 16 0] [--seeds 3] [--set KEY=VALUE ...]

Folds of `animals` are given; `birds` has three by recording, of the species with two recordings and more. A fold trains
on so many clips a label (0: all), drawn anew for each seed, and is measured on its held-out recordings: macro AUC
and top-1 of the mean over windows, as `predict` scores. Intervals are 1.96 standard errors over folds and seeds. The
logistic regression (scikit-learn's defaults) takes the standardised mean of a clip's embeddings.

Then, with all clips of `animals`: the share of windows of `background`, which hold no animal, at the score that half of
a fold's held-out clips reach for their own label; also of heads that had backgrounds of other folds as negatives.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd

import keras_birds  # noqa: F401 - chooses the backend
from keras_birds.config import Config
from keras_birds.evaluation.metrics import top1_accuracy
from keras_birds.models.calibration import sigmoid
from keras_birds.nn.metrics import macro_auc
from keras_birds.progress import Reporter
from keras_birds.training.backbone import added_backbone
from keras_birds.training.embeddings import EmbeddingSource, mean_probabilities
from keras_birds.training.network import train_head
from keras_birds.training.run import TrainingRun, prepare_run

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
NEGATIVES = 0.2


@dataclass(frozen=True, eq=False)
class FewClips(TrainingRun):
    """A run whose folds train on `clips` recordings a label, 0 for all, drawn by `seed`."""

    clips: int = 0
    seed: int = 0

    def train_rows(self, fold: int) -> np.ndarray:
        rows = super().train_rows(fold)
        rng, labels = np.random.default_rng([self.seed, fold]), self.targets[rows].argmax(axis=1)
        chosen = [rng.permutation(rows[labels == x])[: self.clips or None] for x in np.unique(labels)]
        return np.sort(np.concatenate(chosen))


def prepare(name: str, folder: Path, settings: list[str]) -> TrainingRun:
    """A run on a data set in `folder`: the recordings where they are, and a column of folds."""
    table = pd.read_csv(SHARED / name / "train.csv", dtype=str, keep_default_na=False)
    if "fold" not in table:
        by_label = table.groupby("primary_label")
        table = table[by_label["primary_label"].transform("size") > 1]
        by_label = table.groupby("primary_label")
        table["fold"] = (by_label.cumcount() + by_label.ngroup()) % 3
    folder.mkdir()
    table.to_csv(folder / "train.csv", index=False)
    taxonomy = pd.read_csv(SHARED / name / "taxonomy.csv", dtype=str, keep_default_na=False)
    taxonomy[taxonomy["primary_label"].isin(table["primary_label"])].to_csv(
        folder / "taxonomy.csv", index=False
    )
    (folder / "train_audio").symlink_to(SHARED / name / "train_audio")
    changes = ["folds.strategy=column", "folds.column=fold", *settings]
    config = Config.load("birdnet-head", changes)
    return prepare_run(config, folder, "all", folder / "run", False, Reporter())


def few(run: TrainingRun, clips: int, seed: int) -> FewClips:
    training = run.config.training.model_copy(update={"seed": seed})
    parts = {x.name: getattr(run, x.name) for x in fields(run)}
    return FewClips(
        **{**parts, "config": run.config.model_copy(update={"training": training})}, clips=clips, seed=seed
    )


def head_scores(run: FewClips, fold: int, rows: np.ndarray) -> np.ndarray:
    import keras

    keras.utils.clear_session()
    keras.utils.set_random_seed(run.seed)
    return mean_probabilities(train_head(run, fold, Reporter()), run.source, rows)


def regression_scores(run: FewClips, fold: int, rows: np.ndarray) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def means(chosen: np.ndarray) -> np.ndarray:
        windows, counts = run.source.windows(chosen)
        return np.add.reduceat(windows, np.cumsum(counts) - counts, axis=0) / counts[:, None]

    learned = run.train_rows(fold)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    model.fit(means(learned), run.targets[learned].argmax(axis=1))
    scores = np.zeros((len(rows), run.targets.shape[1]), np.float32)
    scores[:, model.classes_] = model.predict_proba(means(rows))
    return scores


METHODS: dict[str, Callable[[FewClips, int, np.ndarray], np.ndarray]] = {
    "head": head_scores,
    "regression": regression_scores,
}


def with_error(values: list[float]) -> str:
    return f"{np.mean(values):.4f} ± {1.96 * np.std(values, ddof=1) / len(values) ** 0.5:.4f}"


def table(name: str, run: TrainingRun, clips: list[int], seeds: int) -> None:
    print(
        f"{name}: {len(run.source)} recordings, {len(run.catalog.labels)} labels, {run.split.n_folds} folds"
    )
    print(f"{'clips a label':<15}{'head':<18}{'regression':<18}{'difference':<19}{'top-1: head, regression'}")
    for count in clips:
        areas: dict[str, list[float]] = {x: [] for x in METHODS}
        firsts: dict[str, list[float]] = {x: [] for x in METHODS}
        for seed in range(seeds):
            chosen = few(run, count, seed)
            for fold in range(run.split.n_folds):
                rows = run.validation_rows(fold)
                for method, scores_of in METHODS.items():
                    scores, targets = scores_of(chosen, fold, rows), run.targets[rows]
                    areas[method].append(macro_auc(targets, scores))
                    firsts[method].append(top1_accuracy(targets, scores))
        more = with_error([a - b for a, b in zip(areas["head"], areas["regression"], strict=True)])
        cells = [f"{with_error(areas[x]):<18}" for x in METHODS]
        top1 = ", ".join(f"{np.mean(firsts[x]):.3f}" for x in METHODS)
        print(f"{count or 'all':<15}{''.join(cells)}{more:<19}{top1}", flush=True)


def false_positives(run: TrainingRun) -> None:
    known = pd.read_csv(SHARED / "background" / "background.csv")
    audio, backbone = run.config.audio, added_backbone(run.config.model.pretrained).path
    sources = {
        fold: EmbeddingSource(
            backbone, audio, [str(SHARED / "background" / x) for x in rows["filename"]], Reporter()
        )
        for fold, rows in known.groupby("fold")
    }
    for with_negatives in (False, True):
        shares = []
        for fold in range(run.split.n_folds):
            chosen = few(run, 0, 0)
            if with_negatives:
                names = known["filename"][known["fold"] != fold]
                paths = [str(SHARED / "background" / x) for x in names]
                data = run.config.data.model_copy(update={"background_fraction": NEGATIVES})
                chosen = replace(
                    chosen,
                    background=EmbeddingSource(backbone, audio, paths, Reporter()),
                    config=chosen.config.model_copy(update={"data": data}),
                )
            rows = run.validation_rows(fold)
            import keras

            keras.utils.clear_session()
            keras.utils.set_random_seed(0)
            head = train_head(chosen, fold, Reporter())
            own = mean_probabilities(head, run.source, rows)[run.targets[rows] >= 0.5]
            noise = sources[fold]
            windows, _ = noise.windows(np.flatnonzero(noise.usable))
            highest = sigmoid(head.predict(windows, verbose=0)).max(axis=1)
            shares.append(float(np.mean(highest >= np.median(own))))
        told = "with backgrounds of other folds" if with_negatives else "without negatives"
        each = ", ".join(f"{x:.4f}" for x in shares)
        print(f"background windows at half of the clips, {told}: {np.mean(shares):.4f} ({each})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="*", choices=["animals", "birds"], default=["animals", "birds"])
    parser.add_argument("--clips", type=int, nargs="+", default=[1, 2, 4, 8, 16, 0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--no-background", action="store_true")
    parser.add_argument("--set", dest="settings", action="append", default=[])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for name in args.data:
            run, begun = prepare(name, Path(temporary) / name, args.settings), time.perf_counter()
            few_clips = [x for x in args.clips if name == "animals" or x < 2]
            table(name, run, few_clips, args.seeds)
            print(f"{time.perf_counter() - begun:.0f} s")
            if name == "animals" and not args.no_background:
                false_positives(run)


if __name__ == "__main__":
    main()
