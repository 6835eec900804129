"""Reads recordings of any format, rate and channel count as mono float32 at the asked rate.

The content decides how a file is read, not its name: libsndfile reads WAV, FLAC, OGG, MP3, AIFF and more,
ffmpeg where it is installed reads what libsndfile can't (M4A, AAC, WMA, ...). A file either gives samples
that it really holds or an `AudioError` with its reason; nothing is made up.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import soxr

from keras_birds.audio.chain import resampled_length
from keras_birds.audio.clips import crop_start, fill
from keras_birds.audio.reader import Reader
from keras_birds.audio.remote import file_fingerprint
from keras_birds.audio.stream import NAN_REASON, SILENT_REASON, open_stream, partial_reason
from keras_birds.config import AudioConfig
from keras_birds.errors import AudioError

_RESAMPLE_MARGIN_S = 0.05


@dataclass(frozen=True)
class Decoded:
    """Samples that a file really holds: float32 `[n]`, mono, the mean over channels.

    Status and reason as in `RecordingStream`; of what is partial, what decodes is kept.
    """

    samples: np.ndarray
    status: str = "ok"
    reason: str = ""


def header_seconds(path: str | Path) -> float:
    """Length by a file's header; NaN where it leaves it out. Raises what `Reader` does."""
    with Reader(path) as reader:
        return reader.seconds_promised if reader.frames is None else reader.frames / reader.rate_hz


def decode(path: str | Path, sample_rate_hz: int, decoder: str = "soundfile") -> Decoded:
    """Reads a whole recording into memory; `open_stream` reads any length in flat memory.

    Other rates than `sample_rate_hz` are resampled by soxr (HQ). The decoder is `"soundfile"`, or `"tfio"` for
    tensorflow-io, which reads OGG and needs the `tfio` extra.

    Raises:
        AudioError: if nothing decodes; `status` says why: `missing`, `unreadable`, `empty`, `too short` or
            `corrupt`.
        ConfigError: if `decoder` can't be loaded here.
    """
    with open_stream(path, sample_rate_hz, decoder) as stream:
        blocks = [x[:, 0] for x in stream.blocks]
    samples = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    return Decoded(samples, stream.status, stream.reason)


def decode_clip(
    path: str | Path,
    audio: AudioConfig,
    position: float | None = None,
    snap_samples: int = 1,
    context_samples: int = 0,
) -> Decoded:
    """Reads one clip of a recording; shorter recordings are repeated until they fill it.

    Args:
        path: a path or a URL.
        audio: rate, clip length and decoder.
        position: as in `crop_start`, and so `snap_samples`.
        context_samples: so many samples more before and after the clip, zeros where the recording has none.

    Returns:
        Exactly `audio.clip_samples + 2 * context_samples` samples.

    Raises:
        AudioError, ConfigError: as `decode`.
    """
    clip_samples, rate_hz = audio.clip_samples, audio.sample_rate_hz
    if audio.decoder == "soundfile":
        with Reader(path) as reader:
            frames = reader.frames if reader.reaches_end() else _count_frames(path, *file_fingerprint(path))
            n_samples = resampled_length(frames or 0, reader.rate_hz, rate_hz)
            if n_samples >= clip_samples:
                start = crop_start(n_samples, clip_samples, position, snap_samples)
                begin, end = max(0, start - context_samples), start + clip_samples + context_samples
                part = _exact_part(reader, rate_hz, begin, min(end, n_samples), n_samples)
                pads = (begin - start + context_samples, end - begin - len(part.samples))
                return replace(part, samples=np.pad(part.samples, pads)) if any(pads) else part
    whole = decode(path, rate_hz, audio.decoder)
    start = crop_start(len(whole.samples), clip_samples, position, snap_samples)
    padded = np.pad(fill(whole.samples, clip_samples, audio.fill), context_samples)
    return replace(whole, samples=padded[start : start + clip_samples + 2 * context_samples])


def read_part(name: str | Path, begin_s: float, end_s: float, sample_rate_hz: int) -> np.ndarray:
    """Part of a recording, float32 `[n]`: the mean over channels, resampled by soxr (HQ), shorter at the end.

    Raises what `Reader` does.
    """
    with Reader(name) as reader:
        first, last = round(begin_s * reader.rate_hz), round(end_s * reader.rate_hz)
        samples = reader.read(first, last - first)
        return _resample(samples, reader.rate_hz, sample_rate_hz)


def _resample(samples: np.ndarray, rate_hz: int, target_hz: int) -> np.ndarray:
    if rate_hz == target_hz or not len(samples):
        return samples
    return np.asarray(soxr.resample(samples, rate_hz, target_hz, quality="HQ"))


@lru_cache(maxsize=4096)
def _count_frames(path: str | Path, *fingerprint: int) -> int:  # noqa: ARG001 - of the cache
    """Frames that decode, of a recording whose header doesn't say, or not the truth."""
    with Reader(path) as reader:
        return sum(len(x) for x in reader.blocks())


def _exact_part(reader: Reader, sample_rate_hz: int, start: int, end: int, n_samples: int) -> Decoded:
    """Reads from `start` to before `end` of `n_samples`, at the asked rate; a part equals that part of the whole."""
    rate_hz, count = reader.rate_hz, end - start
    # Both rates share every `period`-th native frame: parts that begin there fall on the whole's samples.
    period = rate_hz // math.gcd(rate_hz, sample_rate_hz)
    margin = 0 if rate_hz == sample_rate_hz else math.ceil(_RESAMPLE_MARGIN_S * rate_hz)
    begin = max(0, start * rate_hz // sample_rate_hz - margin) // period * period
    skip = start - begin * sample_rate_hz // rate_hz
    wanted = math.ceil((skip + count) * rate_hz / sample_rate_hz) + margin
    samples = _resample(reader.read(begin, wanted), rate_hz, sample_rate_hz)[skip:][:count]
    # One NaN or infinity makes the sum one; finite float32 samples overflow only far beyond any audio.
    if not np.isfinite(samples.sum()) and not np.isfinite(samples).all():
        raise AudioError(reader.name, NAN_REASON, "corrupt")
    reason = partial_reason(
        reader.seconds_promised, n_samples / sample_rate_hz, reader.problem, reader.shortfall_s
    )
    if not reason and len(samples) < count:
        reason = f"read {len(samples) / sample_rate_hz:.1f} of {count / sample_rate_hz:.1f} s"
    if not reason and not samples.any():
        return Decoded(samples, "silent", SILENT_REASON)
    return Decoded(samples, "partial" if reason else "ok", reason)
