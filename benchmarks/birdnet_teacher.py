"""Trains `recommended` on few clips a label with BirdNET as its teacher and without, and prints what it gains.

    keras-birds models add birdnet
    python benchmarks/birdnet_teacher.py [DATA] [--clips 4] [--folds 0 1 2 3 4] [--set KEY=VALUE ...] [--out DIR]

From scratch, with the folds of DATA's `fold` column: so many clips of each label (0 for all), drawn with seed 0 from
the other folds, to train on, and the whole fold to validate. Both ways train side by side, each on one thread and in a
process of its own. macro AUC and top-1 accuracy are of the last epoch's out-of-fold scores. What is finished in DIR is
read.
"""

import argparse
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from recommended_recipe import ANIMALS, finished, train

WAYS = {"without": (), "with a teacher": ("training.teacher=birdnet",)}


def few_clips(data: Path, fold: int, clips: int, folder: Path) -> Path:
    """A data set of a fold whole, and so many clips of each label of the others; 0 for all."""
    import pandas as pd

    table = pd.read_csv(data / "train.csv")
    held_out = table["fold"] == fold
    if clips:
        drawn = table[~held_out].groupby("primary_label").sample(clips, random_state=0)
        table = table[held_out | table.index.isin(drawn.index)]
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "train.csv", index=False)
    for name in ("taxonomy.csv", "train_audio"):
        if not (folder / name).exists():
            (folder / name).symlink_to(data.resolve() / name)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=ANIMALS)
    parser.add_argument("--clips", type=int, default=4, help="Of each label, 0 for all. [default: 4]")
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, help="Where the runs go. [default: nowhere]")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        compare(args.data, args.clips, args.folds, args.changes, args.out or Path(temporary))


def compare(data: Path, clips: int, folds: Sequence[int], changes: Sequence[str], out: Path) -> None:
    """Prints a line a fold, as it goes, and the means."""
    from keras_birds.evaluation.metrics import top1_accuracy
    from keras_birds.nn.metrics import macro_auc

    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    print(f"{clips or 'all'} clips a label: macro AUC (top-1 accuracy)")
    for fold in folds:
        chosen = few_clips(data, fold, clips, out / f"data{fold}")
        settings = ("training.seed=0", *changes)
        runs = {way: out / f"{way.replace(' ', '-')}{fold}" for way in WAYS}
        with ThreadPoolExecutor(len(WAYS)) as pool:
            jobs = [
                pool.submit(train, "recommended", chosen, runs[way], fold, (*settings, *extra))
                for way, extra in WAYS.items()
            ]
            for job in jobs:
                job.result()
        for way, run in runs.items():
            oof = finished(run, [fold])[0].oof
            found[way].append((macro_auc(oof.targets, oof.scores), top1_accuracy(oof.targets, oof.scores)))
        told = ", ".join(f"{way} {found[way][-1][0]:.4f} ({found[way][-1][1]:.3f})" for way in WAYS)
        print(f"fold {fold}: {told}", flush=True)
    means = {way: [sum(x) / len(x) for x in zip(*values, strict=True)] for way, values in found.items()}
    told = ", ".join(f"{way} {auc:.4f} ({top1:.3f})" for way, (auc, top1) in means.items())
    gain = means["with a teacher"][0] - means["without"][0]
    print(f"mean: {told}; the teacher gives {gain:+.4f}")


if __name__ == "__main__":
    main()
