"""What averaging over shifted copies of each clip does to a run's out-of-fold figures.

    python benchmarks/test_time_shifts.py RUN [DATA] [--folds 0 1] [--shifts 4]

Each validation clip's image is rotated in time, as training does at random, and the probabilities are averaged: as many
times the cost in prediction. Printed for the image as it is, and for the average.
"""

import argparse
from pathlib import Path

import numpy as np
from recommended_recipe import ANIMALS, finished

from keras_birds.audio.decode import decode_clip
from keras_birds.audio.mel import MelTransform
from keras_birds.evaluation.metrics import top1_accuracy
from keras_birds.models.calibration import sigmoid
from keras_birds.models.engines import OnnxEngine
from keras_birds.nn.metrics import macro_auc


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path, nargs="?", default=ANIMALS)
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--shifts", type=int, default=4)
    args = parser.parse_args()
    print(f"fold  macro AUC, then of {args.shifts} shifts  top-1 accuracy, then of {args.shifts} shifts")
    for fold in finished(args.run, args.folds):
        metadata, targets = fold.metadata, fold.oof.targets
        clips = [decode_clip(args.data / x, metadata.audio).samples for x in fold.oof.paths]
        images = MelTransform(metadata.audio, metadata.mel).images(clips)
        engine = OnnxEngine(fold.folder / "model.onnx")
        step = images.shape[2] // args.shifts
        shifted = [scores(engine, np.roll(images, k * step, axis=2)) for k in range(args.shifts)]
        plain, mean = shifted[0], np.mean(shifted, axis=0)
        figures = [macro_auc(targets, x) for x in (plain, mean)] + [
            top1_accuracy(targets, x) for x in (plain, mean)
        ]
        print(f"{fold.fold:>4}  {figures[0]:.4f} {figures[1]:.4f}  {figures[2]:.3f} {figures[3]:.3f}")


def scores(engine: OnnxEngine, images: np.ndarray) -> np.ndarray:
    size = engine.batch_size
    logits = [engine.logits(np.ascontiguousarray(images[x : x + size])) for x in range(0, len(images), size)]
    return sigmoid(np.concatenate(logits))


if __name__ == "__main__":
    main()
