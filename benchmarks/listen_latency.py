"""How long after a window has ended `keras-birds listen` tells what is in it, with sound that comes in real time.

    python benchmarks/listen_latency.py [--seconds 120] [--overlap 4]

The bundled model, 48 kHz of 16 bits on a pipe, written every 20 ms as a sound card would. Every window is a detection
(threshold 0). The delay is from the writing of a window's last sample to its line.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import soundfile
import soxr

from keras_birds.app.example import write_example

RATE_HZ, TICK_S = 48_000, 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--overlap", type=float, default=4.0)
    args = parser.parse_args()
    raw = samples(args.seconds)
    command = [
        sys.executable,
        "-m",
        "keras_birds",
        "listen",
        "-",
        "--model",
        "animals",
        "--rate",
        str(RATE_HZ),
    ]
    command += ["--overlap", str(args.overlap), "--threshold", "0", "--format", "json"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    came: dict[float, float] = {}

    def take() -> None:
        for line in process.stdout:
            came.setdefault(json.loads(line)["end_s"], time.perf_counter())

    reader = threading.Thread(target=take)
    reader.start()
    # Once it has begun: what it takes to load the model is no delay of a window.
    tick = round(TICK_S * RATE_HZ)
    process.stdin.write(raw[:tick].tobytes())
    process.stdin.flush()
    time.sleep(5)
    began = time.perf_counter()
    for k in range(1, len(raw) // tick):
        pause = began + k * TICK_S - time.perf_counter()
        if pause > 0:
            time.sleep(pause)
        process.stdin.write(raw[k * tick : (k + 1) * tick].tobytes())
        process.stdin.flush()
    end_s = (len(raw) // tick) * TICK_S
    process.stdin.close()
    process.wait()
    reader.join()
    # The sample at `x` seconds was written with its tick.
    delays = [
        at - (began + np.ceil(x / TICK_S - 1e-6) * TICK_S - TICK_S)
        for x, at in came.items()
        if x < end_s - 0.1
    ]
    low, middle, high = np.percentile(delays, [5, 50, 95])
    print(
        f"{len(delays)} windows of {args.seconds:g} s: 5 % within {low:.2f} s, half {middle:.2f} s, 95 % {high:.2f} s"
    )


def samples(seconds: float) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "example.flac")
        write_example(path)
        sound, rate_hz = soundfile.read(path, dtype="float32")
    sound = soxr.resample(sound, rate_hz, RATE_HZ)
    return (np.resize(sound, round(seconds * RATE_HZ)) * 32767).astype("<i2")


if __name__ == "__main__":
    main()
