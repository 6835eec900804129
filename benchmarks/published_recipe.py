"""The published recipe from scratch on five folds, without mixup and with it, beside the plain PyTorch yardstick.

    python benchmarks/published_recipe.py [DATA] [--folds 0 1 2 3 4] [--out DIR]

Each fold is `keras-birds train --config baseline --set model.pretrained=none` with the folds of DATA's `fold` column:
ten epochs, seed 42, first run. The figure is the macro ROC-AUC of the best epoch. `YARDSTICK` is what
`torch_baseline.py train DATA --fold N` prints for the real recordings beside the checkout, of which it has no mixup
figures but for fold 0.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ANIMALS = Path(__file__).resolve().parents[2] / "shared" / "data" / "animals"
YARDSTICK = {"mixup off": (0.807, 0.823, 0.873, 0.854, 0.867), "mixup on": (0.777,)}
SETTINGS = ("model.pretrained=none", "folds.strategy=column", "folds.column=fold")


def macro_aucs(data: Path, run: Path, folds: list[int], mixup: bool) -> list[float]:
    """Best macro ROC-AUC of each fold; folds that are finished already are read."""
    from keras_birds.models.metadata import ModelMetadata

    settings = [*SETTINGS, *([] if mixup else ["augment.mixup.probability=0"])]
    for fold in folds:
        command = [sys.executable, "-m", "keras_birds", "train", "--data", str(data), "--fold", str(fold)]
        command += ["--out", str(run), *(x for setting in settings for x in ("--set", setting))]
        command += ["--resume"] if run.exists() else []
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found = [ModelMetadata.read_json(run / f"fold{fold}" / "model.json") for fold in folds]
    return [metadata.metrics["macro_auc"] for metadata in found]


def row(name: str, values: list[float] | tuple[float, ...]) -> str:
    cells = "".join(f"{value:>8.3f}" for value in values)
    return f"{name:<24}{cells}" + (f"   mean {sum(values) / len(values):.3f}" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=ANIMALS)
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, help="Where the two runs go. [default: nowhere]")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = args.out or Path(temporary)
        for name, mixup in (("mixup off", False), ("mixup on", True)):
            ours = macro_aucs(args.data, out / name.replace(" ", "-"), args.folds, mixup)
            print(row(f"keras-birds, {name}", ours), flush=True)
            there = [YARDSTICK[name][fold] for fold in args.folds if fold < len(YARDSTICK[name])]
            if args.data == ANIMALS and there:
                print(row(f"yardstick, {name}", there), flush=True)


if __name__ == "__main__":
    main()
