"""How long a BirdCLEF submission takes: one-minute soundscapes to submission.csv, against the competition's 90 minutes.

    python benchmarks/kaggle_time.py [DATA] [--recordings 70] [--model FILE]

Links the recordings of DATA, again and again, to as many one-minute soundscapes, and scores them with `keras-birds
detect --format birdclef` in a process of its own: start-up, decoding, mel, model and writing, all counted. The model
is an untrained EfficientNet-B0 of 206 labels at 256×256. Prints seconds, processor-seconds, and what 700 soundscapes
take at that rate.
"""

import argparse
import csv
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import soundfile
from predict_speed import SHARED, write_model

SOUNDSCAPES, LIMIT_MIN, WINDOWS = 700, 90, 12


def link_soundscapes(data: Path, folder: Path, count: int) -> None:
    files = [x for x in sorted(data.rglob("*.ogg")) if soundfile.info(x).duration == 60]
    if not files:
        sys.exit(f"{data}: there must be OGG recordings of one minute")
    folder.mkdir()
    for k in range(count):
        (folder / f"soundscape_{k}.ogg").symlink_to(files[k % len(files)].resolve())


def check_submission(path: Path, recordings: int) -> None:
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    names = {f"soundscape_{k}_{5 * w}" for k in range(recordings) for w in range(1, WINDOWS + 1)}
    if {x[0] for x in rows[1:]} != names or len(rows) != len(names) + 1:
        sys.exit(f"{path}: there must be {WINDOWS} rows for each recording")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=SHARED / "soundscapes")
    parser.add_argument("--recordings", type=int, default=70)
    parser.add_argument("--model", type=Path, help="Another model, or a run for the mean of its folds.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        link_soundscapes(args.data, folder / "soundscapes", args.recordings)
        model = args.model.resolve() if args.model else write_model(folder)
        command = [sys.executable, "-m", "keras_birds", "detect", folder / "soundscapes", "--model", model]
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(
            [*map(str, command), "--format", "birdclef", "--out", str(folder / "out")],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        seconds = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        check_submission(folder / "out" / "submission.csv", args.recordings)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    times = SOUNDSCAPES / args.recordings
    minutes = times * seconds / 60
    print(f"{args.recordings} one-minute soundscapes, {len(os.sched_getaffinity(0))} processors")
    print(f"{'seconds':<28}{seconds:>8.1f}")
    print(f"{'processor-seconds':<28}{cpu_s:>8.1f}")
    print(f"{f'{SOUNDSCAPES} soundscapes, × {times:g}':<28}{minutes:>8.1f} minutes of {LIMIT_MIN}")


if __name__ == "__main__":
    main()
