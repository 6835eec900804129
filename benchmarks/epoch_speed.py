"""A whole training epoch beside the yardstick's, on real or synthetic recordings, each in a process of its own.

    python benchmarks/epoch_speed.py [DATA] [--pairs 3]

Ours is the second epoch of `fit` as `train` runs it: loader, augmentation, mixup, loss, metric and validation, 32
clips a batch, images kept in memory since the first epoch. The yardstick's is `torch_baseline.py train --mixup`,
whose images are computed before the clock starts. DATA is a BirdCLEF-shaped folder with a `fold` column.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ANIMALS = HERE.parents[1] / "shared" / "data" / "animals"
EPOCHS = 3


def ours(data: Path) -> float:
    """Seconds of the second and later epochs, the mean."""
    import pandas as pd

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        settings = [
            "model.pretrained=none",
            "folds.strategy=column",
            "folds.column=fold",
            f"training.epochs={EPOCHS}",
        ]
        command = [
            sys.executable,
            "-m",
            "keras_birds",
            "train",
            "--data",
            str(data),
            "--fold",
            "0",
            "--out",
            str(run),
        ]
        for setting in settings:
            command += ["--set", setting]
        subprocess.run(command, check=True, capture_output=True)
        return float(pd.read_csv(run / "fold0" / "history.csv")["seconds"][1:].mean())


def yardstick(data: Path) -> float:
    command = [sys.executable, str(HERE / "torch_baseline.py"), "train", str(data), "--fold", "0"]
    command += ["--epochs", str(EPOCHS), "--mixup"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    ends = [float(x) for x in re.findall(r"^epoch \d+ .* (\d+)s$", output, re.MULTILINE)]
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=ANIMALS)
    parser.add_argument("--pairs", type=int, default=3)
    args = parser.parse_args()
    ratios = []
    for pair in range(args.pairs):
        measured = {f: f(args.data) for f in ((ours, yardstick) if pair % 2 else (yardstick, ours))}
        ratios.append(measured[yardstick] / measured[ours])
        print(
            f"pair {pair + 1}: epoch {measured[ours]:.1f} s, yardstick {measured[yardstick]:.1f} s, "
            f"{ratios[-1]:.2f}x as fast",
            flush=True,
        )
    print(f"median of {args.pairs}: {statistics.median(ratios):.2f}x as fast as plain PyTorch's epoch")


if __name__ == "__main__":
    main()
