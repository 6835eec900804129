"""Reads recordings of any format, rate and channel count as mono float32 at the asked rate.

The content decides how a file is read, not its name: libsndfile reads WAV, FLAC, OGG, MP3, AIFF and more,
ffmpeg where it is installed reads what libsndfile can't (M4A, AAC, WMA, ...). A file either gives samples
that it really holds or an `AudioError` with its reason; nothing is made up.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soxr

from keras_birds.audio import ffmpeg
from keras_birds.audio.clips import crop_start, fill
from keras_birds.audio.reader import NeedsFfmpeg, Reader, check_file
from keras_birds.audio.stream import (
    NAN_REASON,
    SILENT_REASON,
    RecordingStream,
    open_stream,
    partial_reason,
    stream_of,
)
from keras_birds.config import AudioConfig
from keras_birds.errors import AudioError

_RESAMPLE_MARGIN_S = 0.05


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says.

    Args:
        seconds: length; NaN where the header leaves it out.
        sample_rate_hz: as recorded.
        channels: as recorded.
    """

    seconds: float
    sample_rate_hz: int
    channels: int


@dataclass(frozen=True)
class Decoded:
    """Samples that a file really holds.

    Args:
        samples: float32 `[n]`, mono: the mean over channels.
        sample_rate_hz: of `samples`, as asked.
        seconds_expected: what the header promises of the asked part; NaN where it doesn't say.
        seconds_read: what decoded.
        status: `"ok"`, `"partial"` (truncated or damaged: what decodes is kept) or `"silent"` (all zeros).
        reason: why the status isn't ok, for instance "read 3.2 of 5.0 s".
    """

    samples: np.ndarray
    sample_rate_hz: int
    seconds_expected: float
    seconds_read: float
    status: str = "ok"
    reason: str = ""


def probe(path: str | Path) -> AudioInfo:
    """Reads a file's header.

    Raises:
        AudioError: if the file can't be opened as audio, or holds less than `MIN_SECONDS`.
    """
    path = check_file(path)
    try:
        with Reader(path) as reader:
            seconds = math.nan if reader.frames is None else reader.frames / reader.rate_hz
            return AudioInfo(seconds, reader.rate_hz, reader.channels)
    except NeedsFfmpeg:
        return AudioInfo(*ffmpeg.probe(Path(path)))


def decode(
    path: str | Path,
    sample_rate_hz: int,
    decoder: str = "soundfile",
    start_s: float | None = None,
    duration_s: float | None = None,
) -> Decoded:
    """Reads a recording or a part of it.

    A part is sought, not decoded up to, where the format allows.

    Args:
        path: the file.
        sample_rate_hz: rate of the answer; other rates are resampled by soxr (HQ).
        decoder: `"soundfile"`, or `"tfio"` for tensorflow-io, which reads OGG and needs the `tfio` extra.
        start_s: where to begin, from 0.
        duration_s: how much to read; `None` for all that follows. What lies beyond the end isn't filled.

    Raises:
        AudioError: if nothing decodes; `status` says why: `missing`, `unreadable`, `empty`, `too short` or
            `corrupt`.
        ConfigError: if `decoder` can't be loaded here.
    """
    path = check_file(path)
    start = round((start_s or 0.0) * sample_rate_hz)
    count = None if duration_s is None else round(duration_s * sample_rate_hz)
    if start < 0 or (count is not None and count < 1):
        raise ValueError(f"a part must begin at 0 or later and last. Received: {start_s=}, {duration_s=}")
    is_part = start > 0 or count is not None
    if is_part and decoder == "soundfile":
        try:
            with Reader(path) as reader:
                return _read_part(reader, sample_rate_hz, start, count)
        except NeedsFfmpeg:
            pass
    with open_stream(path, sample_rate_hz, decoder) as stream:
        whole = _gather(stream, sample_rate_hz)
    if not is_part:
        return whole
    samples = whole.samples[start:][:count]
    seconds = len(samples) / sample_rate_hz
    reason = whole.reason if whole.status == "partial" else ""
    return _checked(path, Decoded(samples, sample_rate_hz, seconds, seconds, reason=reason))


def decode_clip(
    path: str | Path,
    audio: AudioConfig,
    position: float | None = None,
    snap_samples: int = 1,
    context_samples: int = 0,
) -> Decoded:
    """Reads one clip of a recording; shorter recordings are repeated until they fill it.

    Args:
        path: the file.
        audio: rate, clip length and decoder.
        position: `None` for the centre, else 0 to 1, spread evenly over the possible starts.
        snap_samples: starts are multiples of this, for instance a mel hop.
        context_samples: so many samples more before and after the clip, zeros where the recording has none.

    Returns:
        Exactly `audio.clip_samples + 2 * context_samples` samples.

    Raises:
        AudioError: as `decode`.
        ConfigError: as `decode`.
    """
    path = check_file(path)
    clip_samples, rate_hz = audio.clip_samples, audio.sample_rate_hz
    if audio.decoder == "soundfile":
        try:
            with Reader(path) as reader:
                n_samples = reader.length_at(rate_hz)
                if n_samples is not None and n_samples >= clip_samples and reader.reaches_end():
                    start = crop_start(n_samples, clip_samples, position, snap_samples)
                    begin, end = max(0, start - context_samples), start + clip_samples + context_samples
                    part = _read_part(reader, rate_hz, begin, min(end, n_samples) - begin)
                    if len(part.samples) == min(end, n_samples) - begin:
                        pads = (begin - start + context_samples, end - min(end, n_samples))
                        return replace(part, samples=np.pad(part.samples, pads)) if any(pads) else part
        except NeedsFfmpeg:
            pass
    whole = decode(path, rate_hz, audio.decoder)
    start = crop_start(len(whole.samples), clip_samples, position, snap_samples)
    if len(whole.samples) <= clip_samples:
        padded = np.pad(fill(whole.samples, clip_samples), context_samples)
    else:
        padded = np.pad(whole.samples, context_samples)[start : start + clip_samples + 2 * context_samples]
    return replace(whole, samples=padded)


def _gather(stream: RecordingStream, sample_rate_hz: int) -> Decoded:
    blocks = [x[:, 0] for x in stream.blocks]
    samples = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    lengths_s = stream.seconds_expected, stream.seconds_read
    return Decoded(samples, sample_rate_hz, *lengths_s, stream.status, stream.reason)


def _read_part(reader: Reader, sample_rate_hz: int, start: int, count: int | None) -> Decoded:
    """Reads `count` samples from `start`, both at the asked rate; a part equals that part of the whole."""
    rate_hz = reader.rate_hz
    n_samples = reader.length_at(sample_rate_hz)
    if start == 0 and (count is None or (n_samples is not None and count >= n_samples)):
        return _gather(stream_of(reader, sample_rate_hz), sample_rate_hz)
    # Both rates share every `period`-th native frame: parts that begin there fall on the whole's samples.
    period = rate_hz // math.gcd(rate_hz, sample_rate_hz)
    margin = 0 if rate_hz == sample_rate_hz else math.ceil(_RESAMPLE_MARGIN_S * rate_hz)
    begin = max(0, start * rate_hz // sample_rate_hz - margin) // period * period
    skip = start - begin * sample_rate_hz // rate_hz
    wanted = None if count is None else math.ceil((skip + count) * rate_hz / sample_rate_hz) + margin
    native = reader.read(min(begin, reader.frames or begin), wanted)
    if rate_hz != sample_rate_hz and len(native):
        native = soxr.resample(native, rate_hz, sample_rate_hz, quality="HQ")
    samples = native[skip:][:count]
    available = n_samples if n_samples is not None else start + len(samples)
    end = min(start + count if count is not None else available, available)
    expected_s = max(0, end - start) / sample_rate_hz
    read_s = len(samples) / sample_rate_hz
    reason = partial_reason(expected_s, read_s, reader.cut_off)
    return _checked(reader.name, Decoded(samples, sample_rate_hz, expected_s, read_s, reason=reason))


def _checked(path: str | Path, decoded: Decoded) -> Decoded:
    samples = decoded.samples
    # One NaN or infinity makes the sum one; finite float32 samples overflow only far beyond any audio.
    if len(samples) and not np.isfinite(samples.sum()) and not np.isfinite(samples).all():
        raise AudioError(path, NAN_REASON, "corrupt")
    if decoded.reason:
        return replace(decoded, status="partial")
    if len(samples) and not samples.any():
        return replace(decoded, status="silent", reason=SILENT_REASON)
    return decoded
