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

from keras_birds.audio.band import in_band, reach_samples
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


def decode(path: str | Path, audio: AudioConfig) -> Decoded:
    """Reads a whole recording into memory, as `open_stream`, which reads any length in flat memory, gives it.

    The decoder is `"soundfile"`, or `"tfio"` for tensorflow-io, which reads OGG and needs the `tfio` extra.

    Raises:
        AudioError: if nothing decodes; `status` says why: `missing`, `unreadable`, `empty`, `too short` or
            `corrupt`.
        ConfigError: if the decoder can't be loaded here.
    """
    with open_stream(path, audio) as stream:
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
        audio: rate, speed, band, clip length and decoder.
        position: as in `crop_start`, and so `snap_samples`.
        context_samples: so many samples more before and after the clip, zeros where the recording has none.

    Returns:
        Exactly `audio.clip_samples + 2 * context_samples` samples.

    Raises:
        AudioError, ConfigError: as `decode`.
    """
    clip_samples = audio.clip_samples
    if audio.decoder == "soundfile":
        with Reader(path) as reader:
            frames = reader.frames if reader.reaches_end() else _count_frames(path, *file_fingerprint(path))
            n_samples = resampled_length(frames or 0, reader.rate_hz, audio.resample_hz)
            if n_samples >= clip_samples:
                start = crop_start(n_samples, clip_samples, position, snap_samples)
                begin, end = max(0, start - context_samples), start + clip_samples + context_samples
                part = _exact_part(reader, audio, begin, min(end, n_samples), n_samples)
                pads = (begin - start + context_samples, end - begin - len(part.samples))
                return replace(part, samples=np.pad(part.samples, pads)) if any(pads) else part
    whole = decode(path, audio)
    start = crop_start(len(whole.samples), clip_samples, position, snap_samples)
    padded = np.pad(fill(whole.samples, clip_samples, audio.fill), context_samples)
    return replace(whole, samples=padded[start : start + clip_samples + 2 * context_samples])


def read_part(name: str | Path, begin_s: float, end_s: float, audio: AudioConfig) -> np.ndarray:
    """Part of a recording, in its own seconds, as a model takes it: float32 `[n]`, shorter at the recording's end.

    The mean over channels. Raises what `Reader` does.
    """
    with Reader(name) as reader:
        rate_hz = reader.rate_hz
        first, last = round(begin_s * rate_hz), round(end_s * rate_hz)
        margin = math.ceil(reach_samples(audio) / audio.resample_hz * rate_hz)
        begin = max(0, first - margin)
        found = reader.read(begin, last + margin - begin)
        count = resampled_length(min(len(found), last - begin) - (first - begin), rate_hz, audio.resample_hz)
        skip = resampled_length(first - begin, rate_hz, audio.resample_hz)
        samples = in_band(_resample(found, rate_hz, audio.resample_hz), audio)
        return samples[skip : skip + max(0, count)]


def _resample(samples: np.ndarray, rate_hz: int, target_hz: int) -> np.ndarray:
    if rate_hz == target_hz or not len(samples):
        return samples
    return np.asarray(soxr.resample(samples, rate_hz, target_hz, quality="HQ"))


@lru_cache(maxsize=4096)
def _count_frames(path: str | Path, *fingerprint: int) -> int:  # noqa: ARG001 - of the cache
    """Frames that decode, of a recording whose header doesn't say, or not the truth."""
    with Reader(path) as reader:
        return sum(len(x) for x in reader.blocks())


def _exact_part(reader: Reader, audio: AudioConfig, start: int, end: int, n_samples: int) -> Decoded:
    """Reads from `start` to before `end` of `n_samples`, as a model takes them; a part equals that of the whole."""
    reach, target_hz = reach_samples(audio), audio.resample_hz
    begin, behind = max(0, start - reach), min(n_samples, end + reach)
    samples = in_band(_resampled_part(reader, target_hz, begin, behind - begin), audio)[start - begin :][
        : end - start
    ]
    # One NaN or infinity makes the sum one; finite float32 samples overflow only far beyond any audio.
    if not np.isfinite(samples.sum()) and not np.isfinite(samples).all():
        raise AudioError(reader.name, NAN_REASON, "corrupt")
    reason = partial_reason(
        reader.seconds_promised, n_samples / target_hz, reader.problem, reader.shortfall_s
    )
    if not reason and len(samples) < end - start:
        reason = f"read {len(samples) / target_hz:.1f} of {(end - start) / target_hz:.1f} s"
    if not reason and not samples.any():
        return Decoded(samples, "silent", SILENT_REASON)
    return Decoded(samples, "partial" if reason else "ok", reason)


def _resampled_part(reader: Reader, target_hz: int, start: int, count: int) -> np.ndarray:
    """`count` samples at a rate from `start` on."""
    rate_hz = reader.rate_hz
    # Both rates share every `period`-th native frame: parts that begin there fall on the whole's samples.
    period = rate_hz // math.gcd(rate_hz, target_hz)
    margin = 0 if rate_hz == target_hz else math.ceil(_RESAMPLE_MARGIN_S * rate_hz)
    begin = max(0, start * rate_hz // target_hz - margin) // period * period
    skip = start - begin * target_hz // rate_hz
    wanted = math.ceil((skip + count) * rate_hz / target_hz) + margin
    return _resample(reader.read(begin, wanted), rate_hz, target_hz)[skip:][:count]
