"""Trains configurations fold by fold, side by side, and prints what each reaches and what it costs.

    python benchmarks/recommended_recipe.py [DATA] [--configs quick baseline] [--folds 0 1 2 3 4] [--out DIR]

From scratch, with the folds of DATA's `fold` column. The configurations of a fold train at the same time, each on one
thread and in a process of its own: the machine is as fast for one as for the other. CPU minutes are the process's own,
of everything from its start to the exported model. macro AUC and top-1 accuracy are of the kept epoch's out-of-fold
scores: the last one of `recommended` and `quick`, the best one of `baseline`. Folds that are finished in DIR are read.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keras_birds.evaluation.run_scores import FoldScores

ANIMALS = Path(__file__).resolve().parents[2] / "shared" / "data" / "animals"
SETTINGS = ("model.pretrained=none", "folds.strategy=column", "folds.column=fold", "training.workers=1")
COST = "cpu_seconds.json"


def train(config: str, data: Path, run: Path, fold: int, changes: Sequence[str] = ()) -> None:
    """Trains a fold on one thread of a process of its own, unless it is finished."""
    folder = run / f"fold{fold}"
    if (folder / "model.onnx").is_file():
        return
    command = [sys.executable, "-m", "keras_birds", "train", "--data", str(data), "--config", config]
    command += ["--fold", str(fold), "--out", str(run)]
    command += [x for setting in (*SETTINGS, *changes) for x in ("--set", setting)]
    command += ["--resume"] if run.exists() else []
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{run}, fold {fold}: exit status {status}")
    (folder / COST).write_text(json.dumps(usage.ru_utime + usage.ru_stime))


def cpu_minutes(folder: Path) -> float:
    """Of the process that trained a fold."""
    return json.loads((folder / COST).read_text()) / 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=ANIMALS)
    parser.add_argument("--configs", nargs="+", default=["quick", "baseline"])
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, help="Where the runs go. [default: nowhere]")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = args.out or Path(temporary)
        for fold in args.folds:
            with ThreadPoolExecutor(len(args.configs)) as pool:
                list(pool.map(lambda x, fold=fold: train(x, args.data, out / x, fold), args.configs))
            print(f"fold {fold} trained", flush=True)
        report(args.configs, args.folds, out)


def finished(run: Path, folds: Sequence[int]) -> list["FoldScores"]:
    from keras_birds.evaluation.run_scores import read_run

    found = {x.fold: x for x in read_run(run).folds}
    return [found[x] for x in folds]


def report(configs: list[str], folds: list[int], out: Path) -> None:
    from keras_birds.evaluation.metrics import top1_accuracy
    from keras_birds.nn.metrics import macro_auc

    print(f"{'configuration':<14}{'':<16}" + "".join(f"{f'fold {x}':>9}" for x in folds) + f"{'mean':>9}")
    for config in configs:
        chosen = finished(out / config, folds)
        rows = {
            "macro AUC": [macro_auc(x.oof.targets, x.oof.scores) for x in chosen],
            "top-1 accuracy": [top1_accuracy(x.oof.targets, x.oof.scores) for x in chosen],
            "epochs": [x.metadata.metrics["epochs"] for x in chosen],
            "CPU minutes": [cpu_minutes(x.folder) for x in chosen],
        }
        for name, values in rows.items():
            digits = {"macro AUC": 4, "top-1 accuracy": 3, "epochs": 0, "CPU minutes": 2}[name]
            cells = "".join(f"{x:>9.{digits}f}" for x in [*values, sum(values) / len(values)])
            print(f"{config:<14}{name:<16}{cells}")


if __name__ == "__main__":
    main()
