"""A step of pretraining beside two steps of training, in turns in one process.

    python benchmarks/contrastive_speed.py                    # 64 clips, views of 128 x 128, 5 rounds
    python benchmarks/contrastive_speed.py --batch-size 16 --rounds 9

A step of pretraining takes two views of each clip; two steps of training take as many images of the same size, each
with its own weights' update. Both are Keras' `train_on_batch` with the loss, the metric and the optimizer of the
commands, on random images: reading and augmenting isn't measured. Wanted: at least 0.85 of the clips per second.
"""

import argparse
import os
import platform
import statistics
import time
from pathlib import Path


def processor() -> str:
    """As Linux calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (x.partition(":")[2].strip() for x in lines if x.startswith("model name")), platform.machine()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=64, metavar="CLIPS")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--labels", type=int, default=206)
    args = parser.parse_args()

    import numpy as np

    import keras_birds
    from keras_birds.nn.contrastive import contrastive_model
    from keras_birds.nn.views import view_columns
    from keras_birds.training.memory import keep_freed_memory
    from keras_birds.training.network import compile_model
    from keras_birds.training.pretrain import compile_contrastive

    keep_freed_memory()
    config = keras_birds.Config.load("contrastive")
    columns, rng = view_columns(config), np.random.default_rng(0)
    shape = config.mel.height, columns, 1
    mel = config.mel.model_copy(update={"width": columns})
    supervised = keras_birds.build_model(config.model_copy(update={"mel": mel}), args.labels)
    compile_model(supervised, config, steps_per_epoch=1000)
    contrastive = contrastive_model(config)
    compile_contrastive(contrastive, config, steps_per_epoch=1000)
    clips, nothing = (
        rng.random((args.batch_size, *shape), np.float32),
        np.zeros((2 * args.batch_size, 1), np.float32),
    )
    views = rng.random((2 * args.batch_size, *shape), np.float32)
    targets = (rng.random((args.batch_size, args.labels)) < 0.01).astype(np.float32)

    def two_steps() -> None:
        supervised.train_on_batch(clips, targets)
        supervised.train_on_batch(clips, targets)

    def one_step() -> None:
        contrastive.train_on_batch(views, nothing)

    def seconds_of(step) -> float:
        started = time.perf_counter()
        step()
        return time.perf_counter() - started

    for step in (two_steps, one_step):
        step()
    ratios, ours, theirs = [], [], []
    for k in range(args.rounds):
        order = (one_step, two_steps) if k % 2 else (two_steps, one_step)
        took_s = {step: seconds_of(step) for step in order}
        ours.append(args.batch_size / took_s[one_step])
        theirs.append(args.batch_size / took_s[two_steps])
        ratios.append(ours[-1] / theirs[-1])
        print(f"round {k + 1}: {ours[-1]:.1f} / {theirs[-1]:.1f} clips/s = {ratios[-1]:.2f}x", flush=True)
    print(
        f"{processor()}, {os.environ['KERAS_BACKEND']}, {args.batch_size} clips of {shape[0]} x {shape[1]}: a step of "
        f"pretraining {statistics.median(ours):.1f} clips/s, two of training {statistics.median(theirs):.1f}: "
        f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
