"""Size, speed and out-of-fold figures of what `keras-birds export` makes of runs: the tables of docs/edge.md.

    python benchmarks/export_table.py RUN [RUN ...] [--data DIR] [--exports onnx:float32 litert:float16 ...]
        [--folds 0 1]

Files take mel images, so that only the network is measured; AUC is of every fold's own validation recordings, scored by
its own file. Speed and size are of the first fold's file, relative to
an (untrained) network of the baseline's 256 x 256 images as float32 ONNX: two clips at a time on one thread, and on two
threads side by side, as prediction does; all files in turn, the median of the rounds. Run it on a quiet machine.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from model_cost import make_engine
from recommended_recipe import ANIMALS

from keras_birds.audio.decode import decode_clip
from keras_birds.audio.mel import MelTransform
from keras_birds.evaluation.run_scores import FoldScores, read_run
from keras_birds.export.exporter import export_model
from keras_birds.export.formats import SUFFIX
from keras_birds.models.calibration import sigmoid
from keras_birds.models.session import open_session
from keras_birds.nn.metrics import macro_auc

EXPORTS = [f"onnx:{x}" for x in ("float32", "float16", "int8-weights")]
BATCH, BATCHES, ROUNDS, CLIPS_COMPARED = 2, 12, 9, 64

Score = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, default=ANIMALS)
    parser.add_argument("--exports", nargs="+", default=EXPORTS, metavar="FORMAT:PRECISION")
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        num_labels = len(read_run(args.runs[0]).labels)
        mel = make_engine("baseline", folder, num_labels).metadata.mel
        rows = {"256 x 256, onnx:float32": Row(folder / "baseline.onnx", (mel.height, mel.width), [])}
        for run in args.runs:
            folds = {x.fold: x for x in read_run(run).folds}
            for export in args.exports:
                name = f"{run.name}, {export}"
                path = folder / name.replace(":", "-") / f"model{SUFFIX[export.split(':')[0]]}"
                path.parent.mkdir()
                auc = [measure_fold(folds, k, args.data, export, path) for k in reversed(args.folds)]
                mel = folds[args.folds[0]].metadata.mel
                rows[name] = Row(path, (mel.height, mel.width), auc[::-1])
                print(name, *(f"{x:.4f}" for x in auc[::-1]), flush=True)
        report(rows, args.folds)


class Row:
    """A file of the table."""

    def __init__(self, path: Path, shape: tuple[int, int], auc: list[float]):
        self.path, self.auc = path, auc
        self.images = np.random.default_rng(0).random((BATCH, *shape, 1), np.float32)
        self.size = sum(x.stat().st_size for x in path.parent.glob(f"{path.stem}*") if x.suffix != ".keras")
        # One each for two threads: an interpreter of LiteRT is no other thread's meanwhile.
        self.scorers = [open_file(path), open_file(path)]
        self.one: list[float] = []
        self.two: list[float] = []


def measure_fold(folds: dict[int, FoldScores], k: int, data: Path, export: str, path: Path) -> float:
    """Writes a fold's file and returns its macro-AUC on the fold's recordings; the last one written stays."""
    fmt, precision = export.split(":")
    fold = folds[k]
    clips = np.stack([decode_clip(data / x, fold.metadata.audio).samples for x in fold.oof.paths])
    export_model([fold.folder / "model.onnx"], path, "mel", precision, clips[:CLIPS_COMPARED], fmt)
    images = MelTransform(fold.metadata.audio, fold.metadata.mel).images(clips)
    score = open_file(path)
    logits = [score(images[x : x + BATCH]) for x in range(0, len(images), BATCH)]
    return macro_auc(fold.oof.targets, sigmoid(np.concatenate(logits)))


def open_file(path: Path) -> Score:
    """Scores on one thread."""
    if path.suffix == ".onnx":
        session = open_session(path, threads=1)
        return lambda images: session.run(["logits"], {"mel": images})[0]
    if path.suffix == ".xml":
        import openvino

        # Of a fixed shape, as docs/edge.md advises: twice as fast. Unpinned, or two threads would share a processor.
        options = {
            "INFERENCE_NUM_THREADS": 1,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,
        }
        core = openvino.Core()
        network = core.read_model(path)
        network.reshape([BATCH, *(x.get_length() for x in network.inputs[0].partial_shape[1:])])
        compiled = core.compile_model(network, "CPU", options)
        return lambda images: compiled(images)[0].copy()
    from ai_edge_litert.interpreter import Interpreter

    interpreter, shapes = Interpreter(str(path), num_threads=1), []

    def score(images: np.ndarray) -> np.ndarray:
        index = interpreter.get_input_details()[0]["index"]
        if shapes != [images.shape]:
            interpreter.resize_tensor_input(index, images.shape)
            interpreter.allocate_tensors()
            shapes[:] = [images.shape]
        interpreter.set_tensor(index, images)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    return score


def report(rows: dict[str, Row], folds: list[int]) -> None:
    with ThreadPoolExecutor(2) as pool:
        for _ in range(ROUNDS + 1):
            for row in rows.values():
                row.one.append(seconds(lambda row=row: work(row, 0)))
                row.two.append(seconds(lambda row=row: list(pool.map(lambda k: work(row, k), range(2)))))
    first = next(iter(rows.values()))
    print(
        "| file | MB | size | clips/s, one thread | two threads | "
        + "".join(f"fold {k} | " for k in folds)
        + "mean |"
    )
    print("| --- " * (len(folds) + 6) + "|")
    for name, row in rows.items():
        speeds = [
            statistics.median(a / b for a, b in zip(x[1:], y[1:], strict=True))
            for x, y in ((first.one, row.one), (first.two, row.two))
        ]
        cells = [f"{row.size / 1e6:.2f}", f"{row.size / first.size:.3f}", *(f"{x:.2f}" for x in speeds)]
        cells += (
            [f"{x:.4f}" for x in (*row.auc, statistics.mean(row.auc))] if row.auc else [""] * (len(folds) + 1)
        )
        print(f"| {name} | {' | '.join(cells)} |")
    for row, times in (("one thread", first.one), ("two threads", first.two)):
        clips = BATCHES * BATCH * (1 if row == "one thread" else 2)
        print(f"256 x 256 on {row}: {clips / statistics.median(times[1:]):.1f} clips/s")


def work(row: Row, thread: int) -> None:
    for _ in range(BATCHES):
        row.scorers[thread](row.images)


def seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
