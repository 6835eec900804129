"""Trains one change of a configuration at a time on folds 0 and 1, and prints the table of docs/recipe.md.

    python benchmarks/recipe_screen.py --out DIR [DATA] [--config quick] [--changes NAME ...]

From scratch, with the folds of DATA's `fold` column; macro AUC is of the last epoch's out-of-fold scores. Two folds
train at a time, each on one thread and in a process of its own. Training clips/s are of the process's own processor
time, of everything from its start to the exported model. What is finished in DIR is read: a screening that was stopped
goes on, and its table can be printed again.
"""

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from recommended_recipe import ANIMALS, cpu_minutes, finished, train

FOLDS = (0, 1)
BACKGROUND = str(ANIMALS.parent / "background")
CHANGES: dict[str, tuple[str, ...]] = {
    "as it is": (),
    "averaged weights (EMA, momentum 0.98)": ("training.ema_momentum=0.98",),
    "label smoothing 0.1": ("training.label_smoothing=0.1",),
    "focal loss, gamma 1": ("training.focal_gamma=1.0",),
    "average pooling, no attention": ("model.head=pool",),
    "no time shift": ("augment.time_shift.probability=0.0",),
    "pitch shift of 3 semitones on half of the clips": (
        "augment.pitch_shift.probability=0.5",
        "augment.pitch_shift.semitones=[-3.0, 3.0]",
    ),
    "mixup on half of the batches": ("augment.mixup.probability=0.5",),
    "time stretch on half of the clips": ("augment.time_stretch.probability=0.5",),
    "backgrounds under half of the clips": (
        f"data.background={BACKGROUND}",
        "augment.background.probability=0.5",
    ),
    "no masks, no gain": ("augment.probability=0.0",),
    "stochastic depth 0.2, dropout 0.2": ("model.drop_path=0.2", "model.dropout=0.2"),
    "twice the learning rate": ("training.learning_rate=3e-3",),
    "no warm-up": ("training.warmup_epochs=0.0",),
    "weight decay 5e-2": ("training.weight_decay=5e-2",),
    "MFCC (40 coefficients)": ("mel.feature=mfcc",),
    "128 x 256": ("mel.n_fft=1024", "mel.hop_samples=627", "mel.width=256"),
    "256 x 256, stretched": ("mel.n_fft=1024", "mel.hop_samples=512", "mel.width=256", "mel.height=256"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=ANIMALS)
    parser.add_argument("--config", default="quick", help="What the changes are made to. [default: quick]")
    parser.add_argument("--changes", nargs="+", choices=list(CHANGES), default=list(CHANGES), metavar="NAME")
    parser.add_argument("--out", type=Path, required=True, help="Where the runs go.")
    args = parser.parse_args()

    def one(job: tuple[str, int]) -> None:
        change, fold = job
        train(args.config, args.data, run_folder(args.out, change, fold), fold, CHANGES[change])
        print(f"{change}, fold {fold}: trained", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(len(FOLDS)) as pool:
        list(pool.map(one, [(x, fold) for x in args.changes for fold in FOLDS]))

    report(args.data, args.out, args.changes)


def report(data: Path, out: Path, changes: list[str]) -> None:
    import pandas as pd

    from keras_birds.nn.metrics import macro_auc

    recordings = len(pd.read_csv(data / "train.csv"))
    print("| change | fold 0 | fold 1 | mean | training clips/s of CPU | CPU minutes a fold |")
    print("| --- | --- | --- | --- | --- | --- |")
    for change in changes:
        found = [finished(run_folder(out, change, fold), [fold])[0] for fold in FOLDS]
        auc = [macro_auc(x.oof.targets, x.oof.scores) for x in found]
        clips = sum((recordings - len(x.oof.scores)) * x.metadata.metrics["epochs"] for x in found)
        minutes = sum(cpu_minutes(x.folder) for x in found)
        cells = [f"{x:.4f}" for x in (*auc, sum(auc) / len(auc))]
        cells += [f"{clips / minutes / 60:.0f}", f"{minutes / len(found):.1f}"]
        print(f"| {change} | {' | '.join(cells)} |", flush=True)


def run_folder(out: Path, change: str, fold: int) -> Path:
    """One a fold: two processes don't start one run."""
    return out / f"{''.join(x if x.isalnum() else '_' for x in change)}-fold{fold}"


if __name__ == "__main__":
    main()
