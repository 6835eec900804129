"""Decodes a recording of any length block by block, in flat memory."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from keras_birds.audio.band import band_passed, reach_samples
from keras_birds.audio.chain import mix, resampled, resampled_length
from keras_birds.audio.reader import MIN_SECONDS, Reader
from keras_birds.audio.tfio import TfioReader
from keras_birds.config import AudioConfig
from keras_birds.errors import AudioError

NAN_REASON, SILENT_REASON = "holds NaN samples", "all samples are zero"
CANCELLED_DB = 20.0
"""Channels that are louder than their mean by more than this cancel each other out: two without anything in common are
3 dB louder, eight 9 dB."""

Channel = str | int
"""`"mix"` (the mean over channels), `"all"` (each by itself) or a number from 1."""


@dataclass
class RecordingStream:
    """A recording that is being decoded. What became of it is known when `blocks` has ended, or `parts` in its place.

    Args:
        sample_rate_hz: as recorded, as are the `channels`.
        channel_ids: what the columns of the blocks are: channels from 1, or 0 for the mean.
        seconds_expected: what the header promises; NaN where it doesn't say.
        n_samples: how many the blocks will have; `None` where that isn't known before.
        parts: gives the blocks of some spans alone, of each in turn, begin and end in samples, in order; `None` where
            the file can't be entered in its middle.
        status: `"ok"`; `"partial"` where sound is missing or the channels cancel each other out; or `"silent"`.
        reason: why the status isn't ok.
    """

    name: str | Path
    sample_rate_hz: int
    channels: int
    channel_ids: tuple[int, ...]
    seconds_expected: float
    blocks: Iterator[np.ndarray]
    n_samples: int | None = None
    parts: Callable[[Iterable[tuple[int, int]]], Iterator[Iterator[np.ndarray]]] | None = None
    seconds_read: float = 0.0
    status: str = "ok"
    reason: str = ""


@contextmanager
def open_stream(name: str | Path, audio: AudioConfig, channel: Channel = "mix") -> Iterator[RecordingStream]:
    """Opens a recording; its `blocks` are float32 `[n, len(channel_ids)]` as a model takes them.

    Args:
        name: a path or a URL.
        audio: rate, speed and band of the blocks, as of `as_taken`; the decoder `"tfio"` holds the whole recording in
            memory.
        channel: which channels.

    Raises:
        AudioError: when it is opened or while it is read, if nothing decodes, the channel doesn't exist, samples
            are NaN, or a URL breaks off.
        ConfigError: if the decoder or a package that a URL needs can't be loaded.
    """
    with nullcontext(TfioReader(name)) if audio.decoder == "tfio" else Reader(name) as reader:
        channel_ids = _channel_ids(reader.name, channel, reader.channels)
        stream = RecordingStream(
            reader.name, reader.rate_hz, reader.channels, channel_ids, reader.seconds_promised, iter(())
        )
        listener = _Listener(stream, reader)
        stream.blocks = as_taken(listener.whole(), reader.rate_hz, audio, len(channel_ids))
        if isinstance(reader, Reader) and reader.knows_length:
            stream.n_samples = resampled_length(reader.frames or 0, reader.rate_hz, audio.resample_hz)
            if reader.seeks:
                stream.parts = partial(listener.parts, reader, audio)
        yield stream


def as_taken(
    blocks: Iterable[np.ndarray], rate_hz: int, audio: AudioConfig, channels: int = 1
) -> Iterator[np.ndarray]:
    """Blocks `[n, channels]` of a sound of `rate_hz` as a model takes them: slowed, resampled, of its band.

    A sound at a tenth of its speed and then at 32 kHz is, sample by sample, one resampled to `audio.resample_hz`, 320
    kHz: a second of the recording holds so many of the samples that are given. Resampling is soxr's (HQ), the band
    `band_passed`.
    """
    return band_passed(resampled(blocks, rate_hz, audio.resample_hz, channels), audio, channels)


def _channel_ids(name: str | Path, channel: Channel, channels: int) -> tuple[int, ...]:
    if channel == "all":
        return tuple(range(1, channels + 1))
    if channel == "mix":
        return (0,)
    if not 1 <= int(channel) <= channels:
        raise AudioError(name, f"has no channel {channel}: it has {channels}", "unreadable")
    return (int(channel),)


class _Listener:
    """Reads blocks at the recording's rate, and finds out what became of the recording."""

    def __init__(self, stream: RecordingStream, reader: Reader | TfioReader):
        self._stream, self._reader = stream, reader
        self._is_silent, self._channels_power, self._mean_power = True, 0.0, 0.0

    def whole(self) -> Iterator[np.ndarray]:
        """All of it."""
        yield from self._read(self._reader.blocks(), 0)
        self._end()

    def parts(
        self, reader: Reader, audio: AudioConfig, spans: Iterable[tuple[int, int]]
    ) -> Iterator[Iterator[np.ndarray]]:
        """Of each span, begin and end in samples, its blocks, as of `as_taken`; take them all in turn."""
        rate_hz, target_hz, channels = reader.rate_hz, audio.resample_hz, len(self._stream.channel_ids)
        margin_s = 1 + math.ceil(reach_samples(audio) / target_hz)
        frames = reader.frames or 0
        for begin, end in spans:
            # Both rates have a sample at whole seconds; what lies around the span is for the filters.
            first_s, last_s = max(0, begin // target_hz - margin_s), -(-end // target_hz) + margin_s
            first, last = first_s * rate_hz, min(last_s * rate_hz, frames)
            read = self._read(reader.blocks(first, last - first), first)
            found = as_taken(read, rate_hz, audio, channels)
            yield _between(found, begin - first_s * target_hz, end - first_s * target_hz)
            if round(self._stream.seconds_read * rate_hz) < last:
                break  # the rest doesn't decode
        else:
            self._stream.seconds_read = frames / rate_hz
        self._end()

    def _read(self, blocks: Iterable[np.ndarray], frames: int) -> Iterator[np.ndarray]:
        stream = self._stream
        rate_hz, channel_ids = stream.sample_rate_hz, stream.channel_ids
        for block in blocks:
            frames += len(block)
            picked = mix(block) if channel_ids == (0,) else block[:, channel_ids[0] - 1 : channel_ids[-1]]
            # One NaN or infinity makes the sum one; finite float32 samples overflow only far beyond any audio.
            if not np.isfinite(picked.sum()) and not np.isfinite(picked).all():
                raise AudioError(stream.name, NAN_REASON, "corrupt")
            self._is_silent = self._is_silent and not picked.any()
            if channel_ids == (0,) and stream.channels > 1:
                self._channels_power += float(np.vdot(block, block)) / stream.channels
                self._mean_power += float(np.vdot(picked, picked))
            stream.seconds_read = frames / rate_hz
            yield picked

    def _end(self) -> None:
        stream, reader = self._stream, self._reader
        read_s, expected_s = stream.seconds_read, stream.seconds_expected
        if read_s < MIN_SECONDS:
            expected = "" if math.isnan(expected_s) else f" of {expected_s:.1f}"
            raise AudioError(stream.name, f"nothing decodes: read {read_s:.2f}{expected} s", "corrupt")
        missing = partial_reason(expected_s, read_s, reader.problem, reader.shortfall_s)
        reasons = [x for x in (missing, _cancelling(self._channels_power, self._mean_power)) if x]
        stream.reason = "; ".join(reasons) or (SILENT_REASON if self._is_silent else "")
        stream.status = "silent" if self._is_silent and not missing else "partial" if reasons else "ok"


def _between(blocks: Iterable[np.ndarray], begin: int, end: int) -> Iterator[np.ndarray]:
    """Samples from `begin` to before `end` of blocks `[n, channels]`, all of which are taken."""
    at = 0
    for block in blocks:
        found = block[max(0, begin - at) : max(0, end - at)]
        at += len(block)
        if len(found):
            yield found


def _cancelling(channels_power: float, mean_power: float) -> str:
    """What is wrong with a mean that has little of the power that the channels have on average."""
    if channels_power <= 0 or mean_power > channels_power * 10 ** (-CANCELLED_DB / 10):
        return ""
    if mean_power <= 0:
        return "its channels cancel each other out in the mean: choose one with --channel"
    below_db = 10 * math.log10(channels_power / mean_power)
    return f"its channels nearly cancel each other out ({below_db:.0f} dB): choose one with --channel"


def partial_reason(expected_s: float, read_s: float, problem: str, shortfall_s: float) -> str:
    """Why a recording is partial, by what its header promises (or NaN) and the file's problem; empty where it isn't."""
    if expected_s - read_s > shortfall_s:
        return f"read {read_s:.1f} of {expected_s:.1f} s"
    return f"read {read_s:.1f} s: {problem}" if problem else ""
