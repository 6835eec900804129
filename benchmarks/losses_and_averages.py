"""What soft AUC, averages of weights and models, and scores in their context are worth: prints docs/recipe.md's tables.

    python benchmarks/losses_and_averages.py --out DIR [DATA] [--background FOLDER] [--folds 0 1] [--soup]

From scratch, with the folds of DATA's `fold` column, on one thread, one training after the other; no epoch is chosen.
Two trainings a fold: SWA changes what is kept and not what is learnt, so that the last epoch's weights of the same
training are the row without it. With --soup, soups of two such models, and of two short trainings from one model.
By clips: macro ROC-AUC of out-of-fold scores. By windows: of 60 made soundscapes of a minute, as `keras-birds data
soundscapes` makes them of the fold's own validation recordings over BACKGROUND, with 95 % intervals over soundscapes;
each call is of any label in the first 60, and in others of one of three labels, which go on calling: scores of other
windows tell nothing of a window there, and something here. Models that are averaged are of one fold: none has heard
what it is judged by. What is finished in DIR is read.
"""

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

from recommended_recipe import ANIMALS, COST, SETTINGS, cpu_minutes

KINDS = {"each call of any label": 11, "three labels that go on calling": 3}
COUNT, AT_ONCE = 60, 5
PLAIN, SWA, SOFT = "as it is", "SWA, last 5 epochs", "soft AUC, half of the loss"
TUNED = "4 epochs more from SWA's"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=ANIMALS)
    parser.add_argument("--background", type=Path, default=ANIMALS.parent / "background")
    parser.add_argument("--config", default="quick")
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--soup", action="store_true", help="Two short trainings a fold more, and soups.")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    models = {}
    for fold in args.folds:
        swa = train(args, fold, "swa", "training.swa_epochs=5")
        soft = train(args, fold, "soft-auc", "training.soft_auc=0.5")
        models[fold] = {PLAIN: swa.parent / "plain", SWA: swa, SOFT: soft}
        if args.soup:
            models[fold] |= soups(args, fold, swa.parent, [swa.parent / "plain", soft])
    by_clips(args, models)
    for kind in KINDS:
        by_windows(args, models, kind)


def train(args: argparse.Namespace, fold: int, name: str, *settings: str) -> Path:
    """A fold's folder; beside it `plain`, what the last epoch alone gives."""
    import keras

    import keras_birds
    from keras_birds.progress import Reporter

    class KeepLast(keras.callbacks.Callback):
        """Keeps the model after each epoch: in the end after the last one."""

        def on_epoch_end(self, epoch, logs=None):
            print(f"fold {fold}, {name}, epoch {epoch + 1}", file=sys.stderr, flush=True)
            self.model.save(run / "last.keras")

    run = args.out / f"{name}-fold{fold}"
    folder, plain = run / f"fold{fold}", run / "plain"
    if not (folder / COST).is_file():
        config = keras_birds.Config.load(args.config, [*SETTINGS, *settings])
        began = time.process_time()
        keras_birds.train(config, args.data, fold, run, run.exists(), Reporter(), [KeepLast()])
        plain.mkdir()
        (run / "last.keras").replace(plain / "model.keras")
        as_onnx(plain, folder)
        (folder / COST).write_text(str(time.process_time() - began))
    return folder


def soups(args: argparse.Namespace, fold: int, initial: Path, apart: list[Path]) -> dict[str, Path]:
    """Two short trainings from the same weights, their soup, and that of two models that are long apart."""
    tuned = ("training.epochs=4", "training.warmup_epochs=0", "training.learning_rate=5e-4")
    found = {}
    for seed in (1, 2):
        settings = (*tuned, f"model.initial={initial}", f"training.seed={seed}")
        found[f"{TUNED}, seed {seed}"] = train(args, fold, f"tuned-{seed}", *settings)
    near = soup(args, fold, "near", list(found.values()))
    far = soup(args, fold, "far", apart)
    return {
        **found,
        f"soup of both {TUNED}": near,
        f"soup of '{PLAIN}' and soft AUC, from one random start": far,
    }


def soup(args: argparse.Namespace, fold: int, name: str, folders: list[Path]) -> Path:
    """The folder of a model with the mean of several models' weights, and statistics of the fold's training batches."""
    import keras_birds
    from keras_birds.models.keras_engine import load_keras_model
    from keras_birds.training.averaging import renew_statistics
    from keras_birds.training.run import open_run
    from keras_birds.training.soup import mean_of

    folder, run = args.out / f"soup-{name}-fold{fold}", args.out / f"swa-fold{fold}"
    if not (folder / "model.onnx").is_file():
        folder.mkdir(exist_ok=True)
        model = mean_of([load_keras_model(x / "model.keras") for x in folders])
        config = keras_birds.Config.load(run / "config.toml")
        training = open_run(run, config, args.data, None).training_data(fold)
        renew_statistics(model, (training[x][0] for x in range(len(training))))
        model.save(folder / "model.keras")
        as_onnx(folder, folders[0])
    return folder


def as_onnx(folder: Path, like: Path) -> None:
    """Writes `model.onnx` of a folder's Keras model, with another's metadata."""
    from keras_birds.models.metadata import ModelMetadata
    from keras_birds.models.onnx_export import export_onnx

    metadata = ModelMetadata.read_onnx(like / "model.onnx")
    export_onnx(folder / "model.keras", folder / "model.onnx", metadata)


def by_clips(args: argparse.Namespace, models: dict[int, dict[str, Path]]) -> None:
    """The first table: what is trained."""
    from keras_birds.nn.metrics import macro_auc
    from keras_birds.progress import Reporter
    from keras_birds.training.oof import OutOfFold, score_whole

    heading = [f"fold {x}" for x in models]
    print("\n| trained | " + " | ".join([*heading, "mean", "CPU minutes a fold"]) + " |")
    print("|" + " --- |" * (len(models) + 3))
    for name in (PLAIN, SWA, SOFT):
        areas, minutes = [], []
        for each in models.values():
            oof = OutOfFold.read(each[SWA] / "oof.parquet")
            paths = [str(args.data / x) for x in oof.paths]
            areas.append(macro_auc(oof.targets, score_whole(each[name] / "model.onnx", paths, Reporter())))
            minutes.append(cpu_minutes(each[SWA if name == PLAIN else name]))
        cells = [
            *(f"{x:.4f}" for x in (*areas, sum(areas) / len(areas))),
            f"{sum(minutes) / len(minutes):.1f}",
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def by_windows(args: argparse.Namespace, models: dict[int, dict[str, Path]], kind: str) -> None:
    """A table of what becomes of scores."""
    import numpy as np

    from keras_birds.evaluation.bootstrap import interval, macro_auc_draws
    from keras_birds.nn.metrics import macro_auc

    found = {fold: variants(args, fold, each, kind) for fold, each in models.items()}
    print(
        f"\n| {kind} | " + " | ".join([*(f"fold {x}" for x in models), "mean", "95 % interval of it"]) + " |"
    )
    print("|" + " --- |" * (len(models) + 3))
    for name in next(iter(found.values()))[1]:
        areas, draws = [], []
        for targets, scores, recordings in found.values():
            areas.append(macro_auc(targets, scores[name]))
            draws.append(macro_auc_draws(targets, scores[name], recordings=recordings))
        mean = interval(float(np.mean(areas)), np.mean(draws, axis=0))
        cells = [f"{x:.4f}" for x in (*areas, mean.value)]
        print(f"| {name} | {' | '.join(cells)} | {mean.low:.4f} to {mean.high:.4f} |", flush=True)


def variants(args: argparse.Namespace, fold: int, models: dict[str, Path], kind: str):
    """Targets `[window, label]` of a fold's soundscapes, each variant's scores, and which soundscape a window is of."""
    import numpy as np

    from keras_birds.data.annotations import covered, read_annotations
    from keras_birds.inference.aggregate import rank_average
    from keras_birds.inference.members import MemberScorer
    from keras_birds.inference.scorer import ScoreOptions, score_recordings
    from keras_birds.models.engines import load_engine
    from keras_birds.models.ensemble import Ensemble
    from keras_birds.results.context import Context

    rows = {}
    for made in soundscapes(args, fold, kind):
        annotations = read_annotations(made / "annotations.csv", sorted(made.glob("*.flac")))
        rows |= {x: [y for y in annotations.rows if y.file == x] for x in annotations.recordings}
    ensemble = Ensemble([load_engine(x / "model.onnx") for x in models.values()])
    found = list(score_recordings(MemberScorer(ensemble), list(rows), ScoreOptions(workers=1)))
    targets = [covered(rows[x.recording.file], x.start_s, x.end_s, ensemble.labels, 0.5) for x in found]
    recordings = np.repeat(np.arange(len(found)), [len(x.scores) for x in found])
    every = [x.scores.reshape(len(x.scores), len(models), -1) for x in found]
    scores = {name: np.concatenate([x[:, k] for x in every]) for k, name in enumerate(models)}
    first = [replace(x, scores=y[:, 0]) for x, y in zip(found, every, strict=True)]
    members = np.stack([scores[x] for x in (PLAIN, SWA, SOFT)], axis=1)
    if args.soup:
        both = [scores[f"{TUNED}, seed {x}"] for x in (1, 2)]
        scores[f"both {TUNED}, mean of probabilities"] = np.mean(both, axis=0)
    scores["the first three, mean of probabilities"] = members.mean(axis=1)
    scores["the first three, average by rank"] = rank_average(members)

    def in_context(change):
        return np.concatenate([change(x) for x in first])

    for context in (Context(3), Context(5), Context(1, 1), Context(1, 4), Context(3, 1)):
        said = [f"--smooth {context.smooth_windows}"] * (context.smooth_windows > 1)
        said += [f"--file-level {context.file_level}"] * (context.file_level is not None)
        scores[f"{PLAIN}, {' '.join(said)}"] = in_context(context.scores)
    for weights in ((1, 4, 1), (1, 1, 1), (1, 1, 1, 1, 1)):
        name = f"{PLAIN}, neighbours weighted {':'.join(map(str, weights))}"
        scores[name] = in_context(lambda x, w=weights: weighted(x.scores, w))
    name = f"{PLAIN}, mean with the file's best window in place of the product"
    scores[name] = in_context(lambda x: (x.scores + x.scores.max(axis=0)) / 2)
    return np.concatenate(targets), scores, recordings


def weighted(scores, weights):
    """The mean of neighbours `[window, label]` by weights, over fewer at the ends."""
    import numpy as np
    from scipy.ndimage import correlate1d

    def total(x):
        return correlate1d(x.astype(float), weights, axis=0, mode="constant")

    return total(scores) / total(np.ones_like(scores))


def soundscapes(args: argparse.Namespace, fold: int, kind: str) -> list[Path]:
    """Folders of what is made of the recordings that a fold is measured on."""
    import numpy as np

    from keras_birds.audio.files import recordings_in
    from keras_birds.config import Config
    from keras_birds.data.catalog import read_catalog
    from keras_birds.data.folds import make_split
    from keras_birds.data.soundscape_folder import make_soundscapes
    from keras_birds.data.soundscapes import Scene, SoundscapeMaker

    config, rng = Config.load(args.config, SETTINGS), np.random.default_rng(fold)
    catalog = read_catalog(args.data, config.data)
    rows, backgrounds = (
        make_split(catalog, config.folds).validation_rows(fold),
        recordings_in(args.background),
    )
    of_row, folders = catalog.recordings["label"].to_numpy(), []
    for k in range(1 if KINDS[kind] == len(catalog.labels) else COUNT // AT_ONCE):
        chosen = rng.choice(list(catalog.labels), KINDS[kind], replace=False)
        count = COUNT if KINDS[kind] == len(catalog.labels) else AT_ONCE
        folders.append(args.out / f"made-fold{fold}-{KINDS[kind]}-{k}")
        if not (folders[-1] / "annotations.csv").is_file():
            scene = Scene(count=count, seed=k, calls=(3, 12) if count == COUNT else (8, 16))
            heard = rows[np.isin(of_row[rows], chosen)]
            maker = SoundscapeMaker(catalog, heard, backgrounds, scene, config.audio.sample_rate_hz)
            make_soundscapes(maker, catalog, folders[-1])
    return folders


if __name__ == "__main__":
    main()
