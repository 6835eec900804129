"""Size, speed and out-of-fold figures of what `keras-birds export` makes of a run's folds, precision by precision.

    python benchmarks/export_table.py RUN [DATA] [--clips 64]

The graphs take mel images, so that only the network is measured. int8 is calibrated on clips of other folds. Speed is
of fold 0, batches of 4 on one thread, and on two threads side by side as prediction uses them; all precisions in turn,
the median of five rounds, relative to float32.
"""

import argparse
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from recommended_recipe import ANIMALS

from keras_birds.audio.decode import decode_clip
from keras_birds.audio.mel import MelTransform
from keras_birds.evaluation.run_scores import read_run
from keras_birds.export.exporter import export_model
from keras_birds.export.logits import sigmoid
from keras_birds.inference.engines import OnnxEngine
from keras_birds.nn.metrics import macro_auc

PRECISIONS = ("float32", "float16", "int8-weights", "int8")
BATCH, ROUNDS = 4, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path, nargs="?", default=ANIMALS)
    parser.add_argument("--clips", type=int, default=64, help="To calibrate int8 with.")
    args = parser.parse_args()
    run = read_run(args.run)
    auc: dict[str, list[float]] = {x: [] for x in PRECISIONS}
    engines: dict[str, OnnxEngine] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for fold in run.folds:
            others = [path for x in run.folds if x is not fold for path in x.oof.paths]
            calibration = clips_of(
                args.data, others[:: max(1, len(others) // args.clips)][: args.clips], fold
            )
            images = images_of(clips_of(args.data, fold.oof.paths, fold), fold)
            for precision in PRECISIONS:
                path = Path(temporary, f"{precision}-{fold.fold}.onnx")
                export_model([fold.folder / "model.onnx"], path, "mel", precision, calibration)
                engine = OnnxEngine(path)
                logits = [engine.logits(images[x : x + BATCH]) for x in range(0, len(images), BATCH)]
                auc[precision].append(macro_auc(fold.oof.targets, sigmoid(np.concatenate(logits))))
                engines.setdefault(precision, engine)
        report(auc, engines, images)


def clips_of(data: Path, paths, fold) -> np.ndarray:
    return np.stack([decode_clip(data / x, fold.metadata.audio).samples for x in paths])


def images_of(clips: np.ndarray, fold) -> np.ndarray:
    return MelTransform(fold.metadata.audio, fold.metadata.mel).images(clips)


def report(auc: dict[str, list[float]], engines: dict[str, OnnxEngine], images: np.ndarray) -> None:
    batches = [images[x : x + BATCH] for x in range(0, 32, BATCH)]
    one: dict[str, list[float]] = {x: [] for x in engines}
    two: dict[str, list[float]] = {x: [] for x in engines}
    with ThreadPoolExecutor(2) as pool:
        for _ in range(ROUNDS + 1):
            for name, engine in engines.items():
                one[name].append(seconds(lambda engine=engine: [engine.logits(x) for x in batches]))
                two[name].append(seconds(lambda engine=engine: list(pool.map(engine.logits, batches))))
    folds = len(next(iter(auc.values())))
    print(
        "| precision | MB | clips/s on one thread | on two | "
        + " | ".join(f"fold {k}" for k in range(folds))
        + " | mean |"
    )
    print("| --- " * (folds + 5) + "|")
    for name, engine in engines.items():
        speeds = [
            statistics.median(a / b for a, b in zip(x["float32"][1:], x[name][1:], strict=True))
            for x in (one, two)
        ]
        cells = [f"{engine.path.stat().st_size / 1e6:.1f}", *(f"{x:.2f} ×" for x in speeds)]
        cells += [f"{x:.4f}" for x in (*auc[name], statistics.mean(auc[name]))]
        print(f"| {name} | {' | '.join(cells)} |")
    rate = len(batches) * BATCH / statistics.median(one["float32"][1:])
    print(f"float32 on one thread: {rate:.0f} clips/s")


def seconds(call) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
