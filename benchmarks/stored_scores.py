"""How fast `keras-birds detect` scores stored embeddings: windows a second, and minutes for 10,000 hours.

    python benchmarks/stored_scores.py STORE --model MODEL [MODEL ...] [--windows 200000] [--folder DIR]

STORE is a small one of real recordings, of the model or of what MODEL was joined to. A larger store is made of its
windows, repeated with noise; an hour of windows is a recording. Told are wall time and processor time of whole
commands, which begin with an empty folder of results each.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from keras_birds.embeddings.store import EmbeddingStore
from keras_birds.embeddings.writer import StoreWriter
from keras_birds.inference.scorer import RecordingScores, RecordingStatus

HOURS = 10_000


def repeat(store: EmbeddingStore, folder: Path, windows: int) -> None:
    rng, real = np.random.default_rng(0), store.vectors(np.arange(len(store)))
    clip_s, hour = store.audio.clip_s, round(3600 / store.audio.clip_s)
    with StoreWriter(folder, store.settings) as writer:
        for first in range(0, windows, hour):
            count = min(hour, windows - first)
            chosen = real[rng.integers(len(real), size=count)]
            noise = rng.standard_normal(chosen.shape, np.float32) * 0.1 * chosen.std()
            start_s = clip_s * np.arange(count)
            status = RecordingStatus(f"hour{first // hour:06d}.wav", "ok", seconds=3600.0, windows=count)
            channel = np.zeros(count, np.int16)
            writer.add(RecordingScores(status, start_s, start_s + clip_s, channel, chosen + noise))
        writer.finish()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--model", nargs="+", required=True)
    parser.add_argument("--windows", type=int, default=200_000)
    parser.add_argument(
        "--folder", type=Path, help="where the large store goes. [default: a temporary folder]"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        large, store = Path(name, "large.emb"), EmbeddingStore(options.store)
        repeat(store, large, options.windows)
        for k, model in enumerate(options.model):
            command = [
                sys.executable,
                "-m",
                "keras_birds",
                "detect",
                large,
                "--model",
                model,
                "--threshold",
                "0.5",
            ]
            began, before = time.perf_counter(), os.times()
            subprocess.run([*command, "--out", Path(name, f"out{k}")], check=True, stdout=-3, stderr=-3)
            spent_s, after = time.perf_counter() - began, os.times()
            cpu_s = (
                after.children_user + after.children_system - before.children_user - before.children_system
            )
            rate, season = options.windows / spent_s, HOURS * 3600 / store.audio.clip_s
            print(
                f"{model}: {options.windows} windows in {spent_s:.1f} s ({cpu_s:.1f} s of processors), {rate:,.0f} a "
                f"second; {HOURS:,} h in {season / rate / 60:.0f} minutes",
                flush=True,
            )


if __name__ == "__main__":
    main()
