"""Trains `recommended` on few labelled clips from pretrained weights and from scratch, and prints the gain.

    python benchmarks/pretraining.py [DATA] [--clips 2 4 8 all] [--folds 0 1 2] [--epochs 24] [--set KEY=VALUE ...]

Of each fold of DATA's `fold` column, the other folds' recordings, without their labels, and those of the `--more`
folders are what `keras-birds pretrain` learns from. So many clips of each label of the other folds, drawn with the fold
as the seed, are then labelled: the network learns from them, each several times an epoch, so that any number of clips
makes as many steps; once for `--epochs` from the pretrained weights, and once from scratch for as many more epochs as
make the CPU minutes equal, pretraining counted. The fold is for validation alone. macro AUC and top-1 accuracy are of
the last epoch's out-of-fold scores, CPU minutes of the whole commands, two on one thread each at a time; intervals are
Student's, of 95 %, over folds. What is finished in DIR is read.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from birdnet_teacher import few_clips
from recommended_recipe import ANIMALS, cpu_minutes, finished, train

# 64 x 128 images: a sixth of the work of `recommended`'s own
SMALL = ("mel.n_fft=2048", "mel.hop_samples=1255", "mel.height=64", "mel.width=128")
MORE = [ANIMALS.parent / "background", ANIMALS.parent / "soundscapes"]
PRETRAINED, SCRATCH = "pretrained", "scratch"


def pretrain(data: Path, more: Sequence[Path], fold: int, out: Path, changes: Sequence[str]) -> float:
    """Pretrains on all but a fold, unless it is finished; CPU minutes."""
    cost = out / "cpu_minutes.txt"
    if not cost.is_file():
        command = [
            sys.executable,
            "-m",
            "keras_birds",
            "pretrain",
            "--config",
            "contrastive",
            "--out",
            str(out),
        ]
        command += ["--labelled", str(data), "--fold", str(fold), *(["--resume"] if out.exists() else [])]
        command += [x for folder in (data, *more) for x in ("--data", str(folder))]
        settings = ("folds.strategy=column", "folds.column=fold", "training.workers=1", *SMALL, *changes)
        command += [x for setting in settings for x in ("--set", setting)]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{out}: exit status {status}")
        cost.write_text(str((usage.ru_utime + usage.ru_stime) / 60))
    return float(cost.read_text())


def compare(args: argparse.Namespace, fold: int, out: Path) -> None:
    """Trains both ways on each number of clips."""
    before = pretrain(args.data, args.more, fold, out / f"pretraining{fold}", args.pretraining)
    changes = (*SMALL, f"training.seed={fold}", *args.changes)
    for clips in args.clips:
        data = args.data
        if clips != "all":
            data = (
                few_clips(args.data, fold, int(clips), out / f"data{fold}-{clips}", seed=fold)[0] / "repeated"
            )
        run = out / f"{PRETRAINED}{fold}-{clips}"
        begin = f"model.initial={out / f'pretraining{fold}'}", f"training.epochs={args.epochs}"
        train("recommended", data, run, fold, (*changes, *begin))
        fine_tuning = cpu_minutes(run / f"fold{fold}")
        epochs = f"training.epochs={round(args.epochs * (before + fine_tuning) / fine_tuning)}"
        train("recommended", data, out / f"{SCRATCH}{fold}-{clips}", fold, (*changes, epochs))


def report(args: argparse.Namespace, out: Path) -> None:
    """Prints a row for each number of clips and way."""
    import numpy as np
    from scipy import stats

    from keras_birds.evaluation.metrics import top1_accuracy
    from keras_birds.nn.metrics import macro_auc

    before = [float((out / f"pretraining{x}" / "cpu_minutes.txt").read_text()) for x in args.folds]
    print(f"pretraining: {', '.join(f'{x:.1f}' for x in before)} CPU minutes")
    for clips in args.clips:
        aucs = {}
        for way in (SCRATCH, PRETRAINED):
            found = [finished(out / f"{way}{x}-{clips}", [x])[0] for x in args.folds]
            aucs[way] = [macro_auc(x.oof.targets, x.oof.scores) for x in found]
            top1 = np.mean([top1_accuracy(x.oof.targets, x.oof.scores) for x in found])
            minutes = np.mean([cpu_minutes(x.folder) for x in found]) + (way == PRETRAINED) * np.mean(before)
            cells = ", ".join(f"{x:.4f}" for x in aucs[way])
            told = f"{cells}, mean {np.mean(aucs[way]):.4f}, top-1 {top1:.3f}, {minutes:.1f} CPU minutes"
            print(f"{clips:>3} clips, {way:<10} {told}")
        gains = np.subtract(aucs[PRETRAINED], aucs[SCRATCH])
        width = stats.t.ppf(0.975, len(gains) - 1) * stats.sem(gains) if len(gains) > 1 else np.nan
        print(f"{clips:>3} clips, pretraining gives {gains.mean():+.4f} ± {width:.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=ANIMALS)
    parser.add_argument("--more", type=Path, nargs="*", default=MORE, help="Other recordings to pretrain on.")
    parser.add_argument("--clips", nargs="+", default=["2", "4", "8", "all"], help="Of each label.")
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=24, help="Of fine-tuning. [default: 24]")
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE")
    parser.add_argument(
        "--pretraining", action="append", default=[], metavar="KEY=VALUE", help="Settings of it."
    )
    parser.add_argument("--out", type=Path, help="Where the runs go. [default: nowhere]")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = args.out or Path(temporary)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda fold: compare(args, fold, out), args.folds))
        report(args, out)


if __name__ == "__main__":
    main()
