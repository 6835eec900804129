"""Decodes a recording of any length block by block, in flat memory."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

from keras_birds.audio import ffmpeg, tfio
from keras_birds.audio.reader import (
    MIN_SECONDS,
    SHORTFALL_S,
    NeedsFfmpeg,
    Reader,
    check_file,
    check_length,
    cut_off,
    mix,
)
from keras_birds.audio.remote import is_url
from keras_birds.errors import AudioError

NAN_REASON, SILENT_REASON = "holds NaN samples", "all samples are zero"

Channel = str | int
"""`"mix"` (the mean over channels), `"all"` (each by itself) or a number from 1."""


@dataclass
class RecordingStream:
    """A recording that is being decoded. What became of it is known when `blocks` has ended.

    Args:
        name: its path or URL.
        sample_rate_hz: as recorded.
        channels: as recorded.
        numbers: what the columns of the blocks are: channels from 1, or 0 for the mean.
        seconds_expected: what the header promises; NaN where it doesn't say.
        seconds_read: what decoded so far.
        status: `"ok"`, `"partial"` (truncated or damaged: what decodes is kept) or `"silent"` (all zeros).
        reason: why the status isn't ok.
    """

    name: str | Path
    sample_rate_hz: int
    channels: int
    numbers: tuple[int, ...]
    seconds_expected: float
    blocks: Iterator[np.ndarray]
    seconds_read: float = 0.0
    status: str = "ok"
    reason: str = ""


@contextmanager
def open_stream(
    name: str | Path, sample_rate_hz: int, decoder: str = "soundfile", channel: Channel = "mix"
) -> Iterator[RecordingStream]:
    """Opens a recording; its `blocks` are float32 `[n, len(numbers)]` at `sample_rate_hz`.

    Args:
        name: a path or a URL.
        sample_rate_hz: rate of the blocks; other rates are resampled by soxr (HQ).
        decoder: `"soundfile"`, or `"tfio"`, which holds the whole recording in memory.
        channel: which channels.

    Raises:
        AudioError: when it is opened or while it is read, if nothing decodes, the channel doesn't exist, samples
            are NaN, or a URL breaks off.
        ConfigError: if the decoder or a package that a URL needs can't be loaded.
    """
    name = check_file(name)
    if decoder == "tfio":
        if is_url(name):
            raise AudioError(name, "the decoder tfio reads local files only", "unreadable")
        native, rate_hz = tfio.read(Path(name))
        check_length(name, len(native), rate_hz)
        blocks, seconds = iter([native[:, None]]), len(native) / rate_hz
        yield _stream(name, rate_hz, 1, seconds, blocks, sample_rate_hz, channel, cut_off(Path(name)))
        return
    try:
        reader = Reader(name)
    except NeedsFfmpeg:
        with ffmpeg.stream(Path(name)) as (blocks, rate_hz, channels, expected_s):
            yield _stream(name, rate_hz, channels, expected_s, blocks, sample_rate_hz, channel)
        return
    with reader:
        yield stream_of(reader, sample_rate_hz, channel)


def stream_of(reader: Reader, sample_rate_hz: int, channel: Channel = "mix") -> RecordingStream:
    """As `open_stream`, of a recording that is open."""
    promised = reader.frames_promised
    # Where an OGG is cut off, its header's length is only what is there.
    is_known = promised is not None and not (reader.cut_off and promised == reader.frames)
    expected_s = promised / reader.rate_hz if is_known and promised is not None else math.nan
    return _stream(
        reader.name,
        reader.rate_hz,
        reader.channels,
        expected_s,
        reader.blocks(),
        sample_rate_hz,
        channel,
        reader.cut_off,
    )


def _stream(
    name: str | Path,
    rate_hz: int,
    channels: int,
    expected_s: float,
    native: Iterator[np.ndarray],
    sample_rate_hz: int,
    channel: Channel,
    cut: str = "",
) -> RecordingStream:
    if channel == "all":
        numbers = tuple(range(1, channels + 1))
    elif channel == "mix":
        numbers = (0,)
    else:
        numbers = (int(channel),)
        if not 1 <= numbers[0] <= channels:
            raise AudioError(name, f"has no channel {channel}: it has {channels}", "unreadable")
    stream = RecordingStream(name, rate_hz, channels, numbers, expected_s, iter(()))
    stream.blocks = _blocks(stream, native, sample_rate_hz, cut)
    return stream


def _blocks(
    stream: RecordingStream, native: Iterator[np.ndarray], sample_rate_hz: int, cut: str
) -> Iterator[np.ndarray]:
    rate_hz, numbers = stream.sample_rate_hz, stream.numbers
    resampler = None
    if rate_hz != sample_rate_hz:
        resampler = soxr.ResampleStream(rate_hz, sample_rate_hz, len(numbers), dtype="float32", quality="HQ")
    frames, is_silent = 0, True
    for block in native:
        frames += len(block)
        picked = _pick(block, numbers)
        # One NaN or infinity makes the sum one; finite float32 samples overflow only far beyond any audio.
        if not np.isfinite(picked.sum()) and not np.isfinite(picked).all():
            raise AudioError(stream.name, NAN_REASON, "corrupt")
        is_silent = is_silent and not picked.any()
        stream.seconds_read = frames / rate_hz
        if resampler is not None:
            picked = _resample(resampler, picked, last=False)
        if len(picked):
            yield picked
    if resampler is not None:
        rest = _resample(resampler, np.zeros((0, len(numbers)), np.float32), last=True)
        if len(rest):
            yield rest
    if frames / rate_hz < MIN_SECONDS:
        expected = "" if math.isnan(stream.seconds_expected) else f" of {stream.seconds_expected:.1f}"
        raise AudioError(stream.name, f"nothing decodes: read {frames / rate_hz:.2f}{expected} s", "corrupt")
    stream.reason = partial_reason(stream.seconds_expected, stream.seconds_read, cut)
    if stream.reason:
        stream.status = "partial"
    elif is_silent:
        stream.status, stream.reason = "silent", SILENT_REASON


def partial_reason(expected_s: float, read_s: float, cut: str) -> str:
    """Why a recording is partial; empty where it is whole.

    Args:
        expected_s: what the header promises; NaN where it doesn't say.
        read_s: what decoded.
        cut: what the reader found at the file's end.
    """
    if expected_s - read_s > SHORTFALL_S:
        return f"read {read_s:.1f} of {expected_s:.1f} s"
    return f"read {read_s:.1f} s: {cut}" if cut else ""


def _pick(frames: np.ndarray, numbers: tuple[int, ...]) -> np.ndarray:
    """`[n, channels]` to `[n, len(numbers)]`."""
    if numbers == (0,):
        return mix(frames)
    return frames if len(numbers) == frames.shape[1] else frames[:, numbers[0] - 1 : numbers[0]]


def _resample(resampler: soxr.ResampleStream, frames: np.ndarray, last: bool) -> np.ndarray:
    if frames.shape[1] == 1:  # soxr wants vectors then
        vector: np.ndarray = resampler.resample_chunk(np.ascontiguousarray(frames[:, 0]), last=last)
        return vector[:, None]
    resampled: np.ndarray = resampler.resample_chunk(np.ascontiguousarray(frames), last=last)
    return resampled
