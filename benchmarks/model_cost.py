"""What a clip costs the models of several configurations in prediction, beside the baseline's.

    python benchmarks/model_cost.py [--configs recommended quick] [--rounds 15]

Untrained networks of 206 labels, exported, in ONNX Runtime as `keras-birds predict` runs them: one thread, two clips at
a time. Rounds take turns, so that the machine is as fast for one as for the other; the ratio is the median of theirs.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from keras_birds.config import Config
from keras_birds.labels import LabelSet
from keras_birds.models.engines import OnnxEngine
from keras_birds.models.metadata import ModelMetadata
from keras_birds.models.onnx_export import export_onnx
from keras_birds.nn.build import build_model

CLIPS_A_ROUND, NUM_LABELS = 60, 206


def make_engine(name: str, folder: Path, num_labels: int = NUM_LABELS) -> OnnxEngine:
    config = Config.load(name)
    build_model(config, num_labels).save(folder / f"{name}.keras")
    labels = LabelSet([f"label{i}" for i in range(num_labels)])
    metadata = ModelMetadata(name, labels, config.audio, config.mel)
    export_onnx(folder / f"{name}.keras", folder / f"{name}.onnx", metadata)
    return OnnxEngine(folder / f"{name}.onnx")


def clip_ms(engine: OnnxEngine) -> float:
    """Milliseconds a clip, over some clips."""
    mel = engine.metadata.mel
    images = np.random.default_rng(0).random((engine.batch_size, mel.height, mel.width, 1), np.float32)
    began = time.perf_counter()
    for _ in range(CLIPS_A_ROUND // engine.batch_size):
        engine.logits(images)
    return 1000 * (time.perf_counter() - began) / CLIPS_A_ROUND


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", nargs="+", default=["recommended", "quick"])
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    names = ["baseline", *args.configs]
    with tempfile.TemporaryDirectory() as temporary:
        engines = {name: make_engine(name, Path(temporary)) for name in names}
    for engine in engines.values():
        clip_ms(engine)
    rounds = [{name: clip_ms(engine) for name, engine in engines.items()} for _ in range(args.rounds)]
    for name, engine in engines.items():
        mel = engine.metadata.mel
        ratio = median(x[name] / x["baseline"] for x in rounds)
        cost = median(x[name] for x in rounds)
        print(f"{name:<14} {mel.height} x {mel.width}   {cost:6.1f} ms a clip   {ratio:.2f} x the baseline's")


if __name__ == "__main__":
    main()
