"""Speed beside busy programs, and what forced numbers of threads reach beside them, in one run.

    python benchmarks/contention.py                         # a training step, scoring a recording, whole commands
    python benchmarks/contention.py --only train --seconds 8 --rounds 2
    python benchmarks/contention.py --before ../old         # and undisturbed beside another checkout
    python benchmarks/contention.py --only demo             # keras-birds demo beside one busy program

A busy program is a loop in Python that does nothing else, at normal priority unless it says `nice`; `session` is one in
a session of its own, as of another terminal, with which Linux shares the processors half and half whatever its
priority. A training step is EfficientNet-B0, batch 16 of `[256, 256, 1]`, 206 labels, by `fit` with the callbacks of
training. The yardstick beside it is `benchmarks/torch_baseline.py speed`. One warmed-up process measures keras-birds as
it is and with forced numbers of threads, in turns.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
BATCH_SIZE, NUM_LABELS = 16, 206
# Name: programs, their nice value, whether in a session of their own.
LOADS = {
    "alone": (0, 0, False),
    "1 busy": (1, 0, False),
    "2 busy": (2, 0, False),
    "3 nice": (3, 19, False),
    "2 nice, session": (2, 19, True),
}


@contextlib.contextmanager
def busy(load: str) -> Iterator[None]:
    count, nice, own_session = LOADS[load]
    command = ["nice", "-n", str(nice), sys.executable, "-c", "while True: pass"]
    programs = [subprocess.Popen(command, start_new_session=own_session) for _ in range(count)]
    try:
        time.sleep(0.2)
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def make_training(_: Path):
    """A function of seconds and forced threads, if any, that trains for as long and returns clips/s."""
    import keras
    import numpy as np
    import torch

    from keras_birds import Config, build_model
    from keras_birds.training.memory import keep_freed_memory
    from keras_birds.training.network import compile_model

    try:
        from keras_birds.training.callbacks import ShareProcessors
    except ImportError:  # the code before
        ShareProcessors = keras.callbacks.Callback
    keep_freed_memory()
    rng = np.random.default_rng(0)
    images = rng.random((BATCH_SIZE, 256, 256, 1), np.float32)
    targets = (rng.random((BATCH_SIZE, NUM_LABELS)) < 0.01).astype(np.float32)
    model = build_model(Config(), NUM_LABELS)
    compile_model(model, Config(), steps_per_epoch=1000)

    class Clock(keras.callbacks.Callback):
        def __init__(self, seconds):
            super().__init__()
            self.seconds = seconds

        def on_train_batch_begin(self, batch, logs=None):
            if batch == 0:
                self.started = time.perf_counter()

        def on_train_batch_end(self, batch, logs=None):
            spent_s = time.perf_counter() - self.started
            self.clips_per_s = BATCH_SIZE * (batch + 1) / spent_s
            self.model.stop_training = spent_s >= self.seconds

    class Repeat(keras.utils.PyDataset):
        def __len__(self):
            return 100_000

        def __getitem__(self, index):
            return images, targets

    most = torch.get_num_threads()

    def run(seconds: float, threads: int | None) -> float:
        torch.set_num_threads(threads or most)
        clock = Clock(seconds)
        shared = [] if threads else [ShareProcessors()]
        model.fit(Repeat(), shuffle=False, verbose=0, callbacks=[*shared, clock])
        return clock.clips_per_s

    return run


def make_scoring(folder: Path):
    """A function of seconds and forced threads, if any, that scores a recording for as long and returns clips/s."""
    import keras_birds
    from keras_birds.inference.scorer import ScoreOptions, score_recordings

    classifier = keras_birds.load(folder / "model.onnx")

    def run(seconds: float, threads: int | None) -> float:
        scored, started = 0, time.perf_counter()
        names = iter(lambda: folder / "one.ogg" if time.perf_counter() < started + seconds else None, None)
        for found in score_recordings(classifier, names, ScoreOptions(workers=threads)):
            scored += len(found.scores)
        return scored / (time.perf_counter() - started)

    return run


def make_command(command: str):
    """A function of forced threads, if any, that runs a whole command over three recordings of an hour."""

    def make(folder: Path):
        code = "from keras_birds.cli.main import main; main()"
        model = ["--model", str(folder / "model.onnx")]

        def run(_: float, threads: int | None) -> float:
            given = [sys.executable, "-c", code, command, str(folder / "season"), *model]
            given += ["--out", tempfile.mkdtemp(dir=folder)] if command == "detect" else []
            given += ["--workers", str(threads)] if threads else []
            started = time.perf_counter()
            subprocess.run(given, check=True, capture_output=True)
            return 3 * 720 / (time.perf_counter() - started)

        return run

    return make


JOBS = {
    "train": make_training,
    "score": make_scoring,
    "predict": make_command("predict"),
    "detect": make_command("detect"),
}


class Worker:
    """A process that does one job whenever it is told to."""

    def __init__(self, job: str, checkout: Path, folder: Path):
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker", job, "--folder", str(folder)],
            env={**os.environ, "PYTHONPATH": str(checkout)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.run(1.0, None)

    def run(self, seconds: float, threads: int | None) -> float:
        self.process.stdin.write(f"{seconds} {threads or 0}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"the worker ended with {self.process.wait()}")
        return float(answer)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def work(job: str, folder: Path) -> None:
    run = JOBS[job](folder)
    for line in sys.stdin:
        seconds, threads = line.split()
        print(run(float(seconds), int(threads) or None), flush=True)


def compare(job: str, args: argparse.Namespace, folder: Path) -> None:
    worker = Worker(job, HERE.parent, folder)
    before = Worker(job, args.before.resolve(), folder) if args.before else worker
    ways = {"keras-birds": (worker, None), "1 thread": (worker, 1), "2 threads": (worker, 2)}
    alone = 0.0
    for load in args.loads:
        chosen = ways | ({"before": (before, None)} if args.before and load == "alone" else {})
        found = {x: [] for x in chosen}
        for round_ in range(args.rounds):
            for name in list(chosen)[:: -1 if round_ % 2 else 1]:
                way, threads = chosen[name]
                with busy(load):
                    found[name].append(way.run(args.seconds, threads))
        speeds = {x: statistics.median(v) for x, v in found.items()}
        ours, best = speeds["keras-birds"], max(speeds["1 thread"], speeds["2 threads"])
        alone = alone or ours
        columns = "  ".join(f"{x} {v:.1f}" for x, v in speeds.items())
        print(
            f"{job:<6}{load:<16} {columns} clips/s: {ours / best:.2f} x the better, {ours / alone:.2f} x alone",
            flush=True,
        )
    for x in {worker, before}:
        x.close()


def yardstick() -> None:
    command = [sys.executable, str(HERE / "torch_baseline.py"), "speed"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = {x["what"]: x["clips_per_s"] for x in map(json.loads, printed.splitlines())}
    print(f"plain PyTorch alone: training {found['train']}, inference {found['infer']} clips/s", flush=True)


def demo(load: str) -> None:
    code = "from keras_birds.cli.main import main; main()"
    with tempfile.TemporaryDirectory() as folder, busy(load):
        started = time.perf_counter()
        command = [sys.executable, "-c", code, "demo", "--out", folder]
        subprocess.run(command, check=True, capture_output=True)
        print(f"demo  {load:<16} {time.perf_counter() - started:.0f} s", flush=True)


def processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=[*JOBS, "demo"])
    parser.add_argument("--loads", nargs="+", choices=list(LOADS), default=list(LOADS), metavar="LOAD")
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--before", type=Path, help="another checkout, measured alone")
    parser.add_argument("--worker", choices=list(JOBS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker, args.folder)
        return
    print(f"{len(os.sched_getaffinity(0))} processors, {processor()}", flush=True)
    if args.only == "demo":
        for load in args.loads:
            demo(load)
        return
    yardstick()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if args.only != "train":
            from predict_speed import SHARED, write_model, write_recording

            write_recording(SHARED / "soundscapes", folder / "one.ogg", 1)
            (folder / "season").mkdir()
            for x in range(3):
                write_recording(SHARED / "soundscapes", folder / "season" / f"{x}.ogg", 60)
            write_model(folder)
        for job in [args.only] if args.only else JOBS:
            compare(job, args, folder)


if __name__ == "__main__":
    main()
