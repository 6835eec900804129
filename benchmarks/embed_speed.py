"""`keras-birds embed` beside `keras-birds detect` with the same model, and what a window takes on the disk.

    python benchmarks/embed_speed.py [DATA] [--model birdnet] [--minutes 20] [--rounds 5]

Real recordings are joined to one OGG of 32 kHz. Both commands run in turns as whole processes, start-up included, into
new folders; the one that begins changes with the round. Prints the median time of each and, of the pairs, the median of
embed's speed over detect's with its range: by the clock, and by processor time, which other programs change less.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from contention import processor
from predict_speed import SHARED, show, write_recording


def run(command: str, recording: Path, model: str, out: Path) -> tuple[float, float]:
    """Seconds by the clock, and of processors."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    words = [sys.executable, "-m", "keras_birds", command, recording, "--model", model, "--out", out]
    subprocess.run(words, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return time.perf_counter() - began, used_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=SHARED / "soundscapes")
    parser.add_argument("--model", default="birdnet")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print(f"{len(os.sched_getaffinity(0))} processors, {processor()}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_recording(args.data, folder / "long.ogg", args.minutes)
        spent_s: dict[str, list[tuple[float, float]]] = {"detect": [], "embed": []}
        for k in range(args.rounds):
            for command in sorted(spent_s, reverse=bool(k % 2)):
                out = folder / f"{command}{k}"
                spent_s[command].append(run(command, folder / "long.ogg", args.model, out))
        from keras_birds.embeddings.store import EmbeddingStore

        store = EmbeddingStore(folder / "embed0")
        for command, times in spent_s.items():
            took_s = statistics.median(x for x, _ in times)
            print(
                f"{command}: {args.minutes:g} minutes in {took_s:.1f} s, {args.minutes * 60 / took_s:.0f} x realtime"
            )
        pairs = list(zip(spent_s["detect"], spent_s["embed"], strict=True))
        show("embed's speed over detect's", [x[0] / y[0] for x, y in pairs])
        show("the same by processor time", [x[1] / y[1] for x, y in pairs])
        size = sum(x.stat().st_size for x in store.folder.rglob("*") if x.is_file())
        print(
            f"{len(store)} windows of {store.size} numbers: {size / len(store):.0f} bytes a window on the disk"
        )


if __name__ == "__main__":
    main()
