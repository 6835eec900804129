"""Training speed and memory on the CPU beside plain PyTorch, each run in a process of its own.

    python benchmarks/train_speed.py              # 7 interleaved pairs
    python benchmarks/train_speed.py --pairs 3

Both train EfficientNet-B0 on `[16, 256, 256, 1]` float32 with dropout and drop path, 206 labels, AdamW, without
torch.compile, on all threads. The yardstick is `benchmarks/torch_baseline.py speed`. Ours is Keras'
`train_on_batch` with the loss, the metric and the schedule of training, in a process set up as training sets it up.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
BATCH_SIZE, NUM_LABELS = 16, 206


def ours(steps: int) -> None:
    import numpy as np

    from keras_birds import Config, build_model
    from keras_birds.training.memory import keep_freed_memory
    from keras_birds.training.network import compile_model

    keep_freed_memory()
    rng = np.random.default_rng(0)
    images = rng.random((BATCH_SIZE, 256, 256, 1), np.float32)
    targets = (rng.random((BATCH_SIZE, NUM_LABELS)) < 0.01).astype(np.float32)
    config = Config()
    model = build_model(config, NUM_LABELS)
    compile_model(model, config, steps_per_epoch=1000)
    times = []
    for _ in range(steps + 2):
        started = time.perf_counter()
        model.train_on_batch(images, targets)
        times.append(time.perf_counter() - started)
    print(json.dumps({"what": "train", "clips_per_s": BATCH_SIZE / statistics.median(times[2:])}))


def run(command: list[str]) -> tuple[float, float]:
    """Clips/s of the training step and peak memory in MB of one process."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed")
    rows = [json.loads(x) for x in output.splitlines() if x.startswith("{")]
    return next(x["clips_per_s"] for x in rows if x["what"] == "train"), usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--ours", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ours:
        ours(args.steps)
        return
    own = [sys.executable, __file__, "--ours", "--steps", str(args.steps)]
    yardstick = [sys.executable, str(HERE / "torch_baseline.py"), "speed", "--steps", str(args.steps)]
    speeds, memories = [], []
    for pair in range(args.pairs):
        first, second = (own, yardstick) if pair % 2 else (yardstick, own)
        results = {id(x): run(x) for x in (first, second)}
        (speed, memory), (base_speed, base_memory) = results[id(own)], results[id(yardstick)]
        speeds.append(speed / base_speed)
        memories.append(memory / base_memory)
        print(
            f"pair {pair + 1}: {speed:.1f} / {base_speed:.1f} clips/s = {speeds[-1]:.2f}x, "
            f"{memory:.0f} / {base_memory:.0f} MB = {memories[-1]:.2f}x",
            flush=True,
        )
    print(
        f"median of {args.pairs}: {statistics.median(speeds):.2f}x the clips/s, "
        f"{statistics.median(memories):.2f}x the peak memory of plain PyTorch"
    )


if __name__ == "__main__":
    main()
