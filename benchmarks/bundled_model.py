"""Makes the shipped model of a run on all recordings, and prints the figures of its card.

    keras-birds train --data ANIMALS --fold all  --config recommended --out runs/folds --set ...
    keras-birds train --data ANIMALS --fold full --config recommended --out runs/full  --set ...
    python benchmarks/bundled_model.py runs/folds runs/full [--data ANIMALS] [--out assets]

The figures and the calibration are of the folds' out-of-fold scores; the weights are of the run on everything, stored
in float16. What that changes is measured on the recordings themselves.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from keras_birds.config import DataConfig
from keras_birds.data.catalog import read_catalog
from keras_birds.evaluation.bootstrap import interval, macro_auc_draws
from keras_birds.evaluation.calibrate import fit_calibration
from keras_birds.evaluation.metrics import fold_figures, label_table
from keras_birds.evaluation.run_scores import read_run
from keras_birds.export.weight_compression import halve_weights
from keras_birds.inference.classifier import load
from keras_birds.models.metadata import ModelMetadata
from keras_birds.nn.metrics import macro_auc

ANIMALS = Path(__file__).resolve().parents[2] / "shared" / "data" / "animals"
LICENCE = "CC BY-NC 3.0 (non-commercial)"
MAX_AUC_LOSS = 0.005
NAME = "animals"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folds", type=Path, help="Run of all folds.")
    parser.add_argument("full", type=Path, help="Run on all recordings.")
    parser.add_argument("--data", type=Path, default=ANIMALS)
    parser.add_argument("--out", type=Path, default=Path("assets"))
    args = parser.parse_args()

    run = read_run(args.folds)
    folds, mean = fold_figures(run, 0.25, lambda *_: None)
    source = args.full / "full" / "model.onnx"
    metadata = replace(
        ModelMetadata.read_onnx(source),
        model_id=NAME,
        licence=LICENCE,
        metrics={
            "macro_auc": mean.macro_auc.value,
            "top1_accuracy": mean.top1_accuracy,
            "folds": float(len(folds)),
        },
        calibration=fit_calibration(run, "platt", 0.9, lambda *_: None),
    )
    model = onnx.load(source)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata.onnx_props())
    path = args.out / f"{NAME}.onnx"
    onnx.save(halve_weights(model), path)

    for x in [*folds, mean]:
        name = "mean" if x.fold is None else f"fold {x.fold}"
        print(f"{name:<8} macro AUC {x.macro_auc}   top-1 {x.top1_accuracy:.3f}   cmAP {x.cmap:.3f}")
    print(label_table(run, 0.25)[["label", "positives", "auc", "average_precision"]].to_string(index=False))
    calibration = metadata.calibration
    print(
        f"expected calibration error {calibration.error_before:.4f} -> {calibration.error_after:.4f} (Platt, 0.9)"
    )

    catalog = read_catalog(args.data, DataConfig())
    targets = catalog.targets(DataConfig())
    scores = [_scores(load(x), catalog.recordings["path"]) for x in (source, path)]
    areas = [macro_auc(targets, x) for x in scores]
    spread = interval(areas[1], macro_auc_draws(targets, scores[1]))
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, of float32 {source.stat().st_size / 1e6:.1f} MB")
    print(
        f"on its own recordings: macro AUC {areas[0]:.4f} in float32, {spread} in float16; scores differ by at most "
        f"{np.abs(scores[1] - scores[0]).max():.4f}"
    )
    assert areas[1] > areas[0] - MAX_AUC_LOSS


def _scores(classifier, paths) -> np.ndarray:
    return np.stack([classifier.score_file(x).scores.mean(axis=0) for x in paths])


if __name__ == "__main__":
    main()
