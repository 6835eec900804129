"""The whole of BirdNET fine-tuned (`--config birdnet`) beside its head alone, on few labelled clips of `animals`.

    python benchmarks/birdnet_whole.py [--clips 4] [--folds 0 3] [--seeds 0] [--set KEY=VALUE ...]

Given folds; each trains on so many clips a label, drawn anew for each seed as `birdnet_few.py` draws them, and is
measured on its held-out recordings: macro AUC and top-1 of the out-of-fold scores, which are those of `predict`.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from birdnet_few import few, head_scores, prepare

from keras_birds.config import Config
from keras_birds.evaluation.metrics import top1_accuracy
from keras_birds.nn.metrics import macro_auc
from keras_birds.progress import Reporter
from keras_birds.run_layout import OOF
from keras_birds.training.oof import OutOfFold
from keras_birds.training.run import prepare_run
from keras_birds.training.train import train_fold


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=4, help="Of each label, 0 for all. [default: 4]")
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", dest="settings", action="append", default=[])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        on_embeddings = prepare("animals", folder / "data", [])
        changes = ["folds.strategy=column", "folds.column=fold", *args.settings]
        config = Config.load("birdnet", changes)
        on_sound = prepare_run(config, folder / "data", "all", folder / "run", False, Reporter())
        print(f"{'seed':<6}{'fold':<6}{'macro AUC: head, whole':<26}{'top-1: head, whole':<22}seconds")
        for seed in args.seeds:
            for fold in args.folds:
                rows = on_embeddings.validation_rows(fold)
                targets = on_embeddings.targets[rows]
                whole = replace(few(on_sound, args.clips, seed), out=folder / f"seed{seed}")
                result = train_fold(whole, fold, Reporter())
                scores = (
                    head_scores(few(on_embeddings, args.clips, seed), fold, rows),
                    OutOfFold.read(result.folder / OOF).scores,
                )
                areas = ", ".join(f"{macro_auc(targets, x):.4f}" for x in scores)
                firsts = ", ".join(f"{top1_accuracy(targets, x):.3f}" for x in scores)
                print(f"{seed:<6}{fold:<6}{areas:<26}{firsts:<22}{result.seconds:.0f}", flush=True)


if __name__ == "__main__":
    main()
