"""Prints how long `keras-birds --help` takes from a cold process: `python benchmarks/start_time.py [RUNS]`.

The goal is a median under 0.3 s; the exit code is 1 above it.
"""

import statistics
import subprocess
import sys
import time

GOAL_S = 0.3


def start_times(runs: int) -> list[float]:
    """Wall times in seconds of so many processes, after one that warms the file cache."""
    seconds = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", "from keras_birds.cli.main import main; main()", "--help"],
            stdout=subprocess.DEVNULL,
            check=True,
        )
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def main() -> None:
    """Measures and prints."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    seconds = start_times(runs)
    median = statistics.median(seconds)
    print(
        f"keras-birds --help: median {median:.3f} s of {runs} runs "
        f"({min(seconds):.3f} to {max(seconds):.3f}); goal {GOAL_S} s"
    )
    sys.exit(median > GOAL_S)


if __name__ == "__main__":
    main()
