"""How long the app lets a visitor wait: the first view, and the answer to a clip; and the README's pictures.

    python benchmarks/app_speed.py [--repeats 3] [--screenshots DIR]

A server of its own and a headless Chromium, both on this machine: the browser takes its share of the processors. The
first view is from the address to the example's last table; the first of all includes what the server does once.
An answer is from the choice of a 10 s clip that no one has asked for to its last table.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from app_browser import Visitor, serve  # noqa: E402

from keras_birds.app.example import write_example  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--screenshots", type=Path, help="Where app.png goes.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        clips = [write_clip(folder, k) for k in range(args.repeats)]
        with serve(folder) as address:
            first = []
            for _ in range(args.repeats + 1):
                with Visitor(address, folder) as visitor:
                    first.append(seconds(lambda visitor=visitor: (visitor.open(), visitor.wait_done())))
            answers = []
            with Visitor(address, folder) as visitor:
                for clip in clips:
                    visitor.open("?from=Upload")
                    answers.append(seconds(lambda clip=clip: (visitor.upload(clip), visitor.wait_done())))
                if args.screenshots:
                    visitor.driver.set_window_size(1400, 1930)
                    visitor.open()
                    visitor.wait_done()
                    visitor.click_detection(2)
                    time.sleep(3)
                    visitor.driver.save_screenshot(str(args.screenshots / "app.png"))
        print(f"the first view of all      {first[0]:.1f} s")
        print(f"a first view after it      {statistics.median(first[1:]):.1f} s (median of {args.repeats})")
        print(f"the answer to a 10 s clip  {statistics.median(answers):.1f} s (median of {args.repeats})")


def write_clip(folder: Path, k: int) -> Path:
    """Ten seconds of the example, each a little other."""
    write_example(folder / "example.flac")
    sound, rate_hz = soundfile.read(folder / "example.flac", dtype="float32")
    first = (k + 1) * rate_hz
    path = folder / f"clip{k}.ogg"
    soundfile.write(path, np.asarray(sound[first : first + 10 * rate_hz]), rate_hz)
    return path


def seconds(call) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
