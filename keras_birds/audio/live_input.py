"""Sound that comes as it is made: raw samples or WAV on a pipe, or a microphone; float32 blocks at a model's rate."""

import io
import math
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal

import numpy as np

from keras_birds.audio import wav
from keras_birds.errors import AudioError, ConfigError
from keras_birds.packages import require_packages

SampleFormat = Literal["s16", "s24", "s32", "f32"]
"""Little-endian: signed integers of 16, 24 or 32 bits, or float32."""

_BYTES = {"s16": 2, "s24": 3, "s32": 4, "f32": 4}
_BLOCK_S = 0.1
_FORMATS: dict[str, SampleFormat] = {"PCM_16": "s16", "PCM_24": "s24", "PCM_32": "s32", "FLOAT": "f32"}


class LiveBuffer:
    """Blocks between the thread that hears and the one that listens; never more than `max_s` of them.

    A full buffer makes the hearing thread wait, as a pipe can, or, if it doesn't, the oldest sound is lost, and silence
    of the same length stands for it, so that times stay true.
    """

    def __init__(self, rate_hz: int, max_s: float = 60.0, waits: bool = True):
        self.lost_s, self._rate_hz = 0.0, rate_hz
        self._max_samples, self._waits = round(max_s * rate_hz), waits
        self._blocks: deque[np.ndarray] = deque()
        self._held = self._lost = 0
        self._error: BaseException | None = None
        self._is_closed = False
        self._changed = threading.Condition()

    def put(self, block: np.ndarray) -> bool:
        """Adds float32 `[n, channels]`; false when no one listens any more."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_closed or not self._waits or self._held < self._max_samples
            )
            if self._is_closed:
                return False
            self._blocks.append(block)
            self._held += len(block)
            while self._held > self._max_samples and len(self._blocks) > 1:
                oldest = len(self._blocks.popleft())
                self._held -= oldest
                self._lost += oldest
                self.lost_s += oldest / self._rate_hz
            self._changed.notify_all()
            return True

    def close(self, error: BaseException | None = None) -> None:
        """Ends the sound, or the listening."""
        with self._changed:
            self._error = self._error or error
            self._is_closed = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[np.ndarray]:
        while True:
            with self._changed:
                while not self._blocks and not self._is_closed:
                    # With a time limit, or Ctrl-C would wait for the next block.
                    self._changed.wait(0.2)
                if not self._blocks:
                    break
                block, lost = self._blocks.popleft(), self._lost
                self._held -= len(block)
                self._lost = 0
                self._changed.notify_all()
            if lost:
                yield np.zeros((lost, block.shape[1]), np.float32)
            yield block
        if self._error is not None:
            raise self._error


def pipe_blocks(
    stream: BinaryIO | io.RawIOBase, rate_hz: int | None, channels: int | None, fmt: SampleFormat | None
) -> tuple[int, Iterator[np.ndarray]]:
    """The rate of samples on a pipe, and float32 blocks `[n, channels]` in [-1, 1] of a tenth of a second each.

    A WAV header says what they are, else the arguments: `channels` is 1 and `fmt` `"s16"` where it is `None`.

    Raises:
        AudioError: if a WAV header can't be used, or there is nothing.
        ConfigError: if raw samples come without a rate.
    """
    head, data_bytes = _read(stream, 12), math.inf
    if head[:4] in wav.MAGIC and head[8:12] == b"WAVE":
        header = wav.read_header(lambda count: _read(stream, count), head)
        if header is None:
            raise AudioError("-", "its WAV header is invalid", "corrupt")
        fmt = _FORMATS.get(header.encoding)
        if fmt is None:
            reason = f"WAV of format {header.code} with {header.bits} bits can't be streamed"
            raise AudioError("-", reason, "unreadable")
        head, rate_hz, channels = b"", header.rate_hz, header.channels
        data_bytes = math.inf if header.data_bytes is None else header.data_bytes
    elif not head:
        raise AudioError("-", "nothing came", "empty")
    elif rate_hz is None:
        raise ConfigError(
            "--rate must tell the rate of raw samples on stdin; WAV says it itself. Received: none"
        )
    return rate_hz, _blocks(stream, head, rate_hz, channels or 1, fmt or "s16", data_bytes)


def hear(blocks: Iterator[np.ndarray], buffer: LiveBuffer) -> threading.Thread:
    """Moves blocks into a buffer in a thread of its own, which ends with them or when no one listens any more."""

    def work() -> None:
        try:
            for block in blocks:
                if not buffer.put(block):
                    return
            buffer.close()
        except BaseException as error:
            buffer.close(error)

    thread = threading.Thread(target=work, daemon=True, name="hearing")
    thread.start()
    return thread


def open_microphone(device: str | None) -> tuple[int, LiveBuffer, Any]:
    """Starts a microphone, by its name or number or the system's: its own rate, what it hears, and what to `close()`.

    Raises:
        ConfigError: if the package sounddevice or the device isn't there.
    """
    require_packages("A microphone", "live", ["sounddevice"])
    try:
        import sounddevice
    except OSError as error:
        raise ConfigError(
            f"A microphone needs the library PortAudio. Received: {error}. Install it with the system's packages "
            "(apt install libportaudio2)"
        ) from None
    name = int(device) if device is not None and device.isdecimal() else device
    try:
        rate_hz = int(sounddevice.query_devices(name, "input")["default_samplerate"])
        buffer = LiveBuffer(rate_hz, waits=False)
        form = (rate_hz, round(_BLOCK_S * rate_hz), name, 1, "float32")
        stream = sounddevice.InputStream(*form, callback=lambda x, *_: buffer.put(x.copy()))
        stream.start()
    except (sounddevice.PortAudioError, ValueError) as error:
        raise ConfigError(f"--device must be an input of this machine. Received: {device}: {error}") from None
    return rate_hz, buffer, stream


def _read(stream: BinaryIO | io.RawIOBase, count: int) -> bytes:
    """`count` bytes, fewer at the end."""
    parts = b""
    while len(parts) < count and (part := stream.read(count - len(parts))):
        parts += part
    return parts


def _blocks(
    stream: BinaryIO | io.RawIOBase, head: bytes, rate_hz: int, channels: int, fmt: SampleFormat, left: float
) -> Iterator[np.ndarray]:
    """Up to the end, or to what follows the samples of a WAV, which is read as well, or the writer would fail."""
    frame_bytes = _BYTES[fmt] * channels
    block_bytes = max(1, round(_BLOCK_S * rate_hz)) * frame_bytes
    while data := head + _read(stream, block_bytes - len(head)):
        head = b""
        whole = int(min(left, len(data))) // frame_bytes * frame_bytes
        left -= whole
        if whole:
            yield _samples(data[:whole], fmt).reshape(-1, channels)


def _samples(data: bytes, fmt: SampleFormat) -> np.ndarray:
    if fmt == "f32":
        return np.frombuffer(data, "<f4")
    # The bytes become the upper ones of 32 bits.
    padded = np.zeros((len(data) // _BYTES[fmt], 4), np.uint8)
    padded[:, 4 - _BYTES[fmt] :] = np.frombuffer(data, np.uint8).reshape(-1, _BYTES[fmt])
    return (padded.view("<i4")[:, 0] / np.float32(1 << 31)).astype(np.float32)
