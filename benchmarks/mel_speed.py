"""Speed of our log-mel beside librosa's, on one thread, in one run.

    python benchmarks/mel_speed.py [DATA] [--clips 40] [--rounds 7]

Both turn the same 5 s clips into min-max normalised dB with the published settings, one clip at a time, in turns;
librosa is warmed up first. DATA is a folder of recordings; by default the real clips beside the checkout, else
synthetic ones. Prints the median over rounds and its range: clips/s of ours over clips/s of librosa's.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"  # before NumPy loads

import librosa  # noqa: E402
import numpy as np  # noqa: E402

from keras_birds.audio.decode import decode_clip  # noqa: E402
from keras_birds.audio.mel import MelTransform  # noqa: E402
from keras_birds.config import AudioConfig, MelConfig  # noqa: E402

ANIMALS = Path(__file__).resolve().parents[2] / "shared" / "data" / "animals"
AUDIO, MEL = AudioConfig(), MelConfig()


def load_clips(data: Path, count: int) -> np.ndarray:
    """float32 `[count, samples]`, spread evenly over the folder's recordings."""
    files = sorted(data.rglob("*.ogg"))
    if not files:
        return np.random.default_rng(0).normal(0, 0.1, (count, AUDIO.clip_samples)).astype(np.float32)
    return np.stack([decode_clip(files[i * len(files) // count], AUDIO).samples for i in range(count)])


def librosa_mel(clip: np.ndarray) -> np.ndarray:
    """The published recipe by librosa."""
    power = librosa.feature.melspectrogram(
        y=clip,
        sr=AUDIO.sample_rate_hz,
        n_fft=MEL.n_fft,
        hop_length=MEL.hop_samples,
        n_mels=MEL.n_mels,
        fmin=MEL.f_min_hz,
        fmax=MEL.f_max_hz,
    )
    decibels = librosa.power_to_db(power, ref=np.max, top_db=MEL.top_db)
    return (decibels - decibels.min()) / (decibels.max() - decibels.min())


def clips_per_s(clips: np.ndarray, transform: MelTransform) -> tuple[float, float]:
    """Ours and librosa's, in turns: the medians over clips."""
    ours, theirs = [], []
    for clip in clips:
        began = time.perf_counter()
        transform.native(clip[None])
        halfway = time.perf_counter()
        librosa_mel(clip)
        ours.append(halfway - began)
        theirs.append(time.perf_counter() - halfway)
    return 1 / statistics.median(ours), 1 / statistics.median(theirs)


def main() -> None:
    """Prints one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", type=Path, default=ANIMALS)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    clips, transform = load_clips(options.data, options.clips), MelTransform(AUDIO, MEL)

    difference = max(np.abs(transform.native(clip[None])[0] - librosa_mel(clip)).max() for clip in clips)
    rates = [clips_per_s(clips, transform) for _ in range(options.rounds)]
    ratios = [ours / theirs for ours, theirs in rates]
    ours, theirs = (statistics.median(rate) for rate in zip(*rates, strict=True))
    print(
        f"mel: {statistics.median(ratios):.2f} x librosa's clips/s ({min(ratios):.2f} to {max(ratios):.2f} in "
        f"{len(ratios)} rounds; {ours:.0f} and {theirs:.0f} clips/s), images differ by {difference:.0e} at most"
    )


if __name__ == "__main__":
    main()
