"""One open recording that libsndfile reads: a local file or a URL, whose content decides and not its name."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import soundfile

from keras_birds.audio import ffmpeg
from keras_birds.audio.remote import is_url, open_url
from keras_birds.errors import AudioError

MIN_SECONDS = 0.05
"""Shorter recordings are `too short`: they hold no frame's worth of sound at any sensible setting."""

MIN_RATE_HZ = 1000
SHORTFALL_S = 0.1
"""A smaller difference from the header's length is no truncation: MP3 headers count padding in various ways."""

_BLOCK_SAMPLES = 1 << 18
_SALVAGE_FRAMES = 1024
_OGG_TAIL_BYTES = 1 << 17
# Of these libsndfile counts what the file holds, whatever its header promises.
_TRUE_LENGTH = frozenset({"OGG", "WAV", "WAVEX", "RF64"})
_CUT_OFF = "the file is cut off"


class NeedsFfmpeg(Exception):
    """libsndfile doesn't know the format; ffmpeg may."""


class Reader:
    """One open recording.

    Args:
        name: a path or a URL.

    Raises:
        AudioError: if it can't be opened as audio, or holds less than `MIN_SECONDS`.
        NeedsFfmpeg: if ffmpeg may know the format.
        ConfigError: if a package that a URL needs isn't installed.
    """

    def __init__(self, name: str | Path):
        self.name = check_file(name)
        self._remote = _Guarded(open_url(str(self.name))) if is_url(self.name) else None
        try:
            self._file = self._open()
            self.rate_hz, self.channels = int(self._file.samplerate), int(self._file.channels)
            self.subtype = str(self._file.subtype)
            # Headers without a length (streams) count as libsndfile's largest number.
            self.frames: int | None = int(self._file.frames) if self._file.frames < 1 << 52 else None
            self.cut_off = ""
            self.frames_promised = self.frames
            if self.rate_hz < MIN_RATE_HZ:
                raise AudioError(
                    self.name, f"its header says {self.rate_hz} Hz; at least {MIN_RATE_HZ} Hz is needed"
                )
            if self.frames is not None:
                check_length(self.name, self.frames, self.rate_hz)
            self._find_truncation()
        except BaseException:
            self.close()
            raise

    def _open(self) -> soundfile.SoundFile:
        if self._remote is not None:
            target: Any = self._remote
            suffix = Path(str(self.name)).suffix
        else:
            # soundfile takes a name that ends in .raw for headerless data, but not a descriptor, which it closes;
            # and a name that isn't UTF-8 as bytes only.
            path = Path(self.name)
            suffix = path.suffix
            target = os.open(path, os.O_RDONLY) if suffix.lower() == ".raw" else _raw_name(path)
        try:
            return soundfile.SoundFile(target)
        except soundfile.LibsndfileError as error:
            self._check_remote()
            if ffmpeg.knows(self._head(), suffix):
                if self._remote is not None:
                    raise AudioError(
                        self.name,
                        "needs ffmpeg, which reads local files only: download it first",
                        "unreadable",
                    ) from None
                raise NeedsFfmpeg from None
            raise AudioError(self.name, _open_reason(error)) from None

    def __enter__(self) -> "Reader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; doing so twice is fine."""
        if hasattr(self, "_file"):
            self._file.close()
        if self._remote is not None:
            self._remote.close()

    def length_at(self, sample_rate_hz: int) -> int | None:
        """Samples at another rate, as the header has it."""
        return None if self.frames is None else resampled_length(self.frames, self.rate_hz, sample_rate_hz)

    def reaches_end(self) -> bool:
        """Whether the last frame that the header promises decodes; otherwise the middle lies elsewhere."""
        if self.frames is None or self._file.format in _TRUE_LENGTH:
            return self.frames is not None
        try:
            self._file.seek(self.frames - 1)
            return len(self._file.read(1)) == 1
        except (soundfile.LibsndfileError, RuntimeError):
            return False

    def read(self, start: int, count: int | None) -> np.ndarray:
        """Mono float32 `[n]`, n <= count: all that decodes from frame `start` on."""
        blocks = [mix(x)[:, 0] for x in self.blocks(start, count)]
        if len(blocks) == 1:
            return blocks[0]
        return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)

    def blocks(self, start: int = 0, count: int | None = None) -> Iterator[np.ndarray]:
        """All that decodes from frame `start` on, at most `count` frames, in blocks.

        Where the data are damaged, what lies before the damage comes in small steps from a second reading, so that
        little of it is lost.

        Yields:
            float32 `[n, channels]`.

        Raises:
            AudioError: if a URL can no longer be read.
        """
        stop = start + count if count is not None else self.frames
        place = start
        try:
            if self._file.tell() != start:
                self._file.seek(start)
            for frames in self._raw_blocks(max(1, _BLOCK_SAMPLES // self.channels), start, stop):
                place += len(frames)
                yield frames
        except (soundfile.LibsndfileError, RuntimeError):
            self._check_remote()
        else:
            self._check_remote()
            return
        try:
            with Reader(self.name) as again:
                done = 0
                for frames in again._raw_blocks(_SALVAGE_FRAMES, 0, stop):
                    done += len(frames)
                    if done > place:
                        yield frames[max(0, len(frames) - (done - place)) :]
        except (soundfile.LibsndfileError, RuntimeError):
            self._check_remote()

    def _raw_blocks(self, block: int, start: int, stop: int | None) -> Iterator[np.ndarray]:
        while stop is None or start < stop:
            count = block if stop is None else min(block, stop - start)
            frames = self._file.read(count, "float32", always_2d=True)
            if len(frames) == 0:
                return
            start += len(frames)
            yield frames

    def _find_truncation(self) -> None:
        """Of a truncated WAV or OGG libsndfile counts the frames that are there, without a word."""
        if self._file.format in ("WAV", "WAVEX", "RF64"):
            found = re.search(r"^\s*data : (\d+) \(should be (\d+)\)", self._file.extra_info, re.MULTILINE)
            # Recorders and pipes that never came back to the header leave a number near 2 or 4 GiB.
            if found and self.frames and int(found[2]) < int(found[1]) < 0x7FFF_0000:
                self.frames_promised = self.frames * int(found[1]) // max(1, int(found[2]))
                if self.frames_promised - self.frames > SHORTFALL_S * self.rate_hz:
                    self.cut_off = _CUT_OFF
        elif self._remote is None:
            self.cut_off = cut_off(Path(self.name))
        else:
            place = self._remote.tell()
            self._remote.seek(0)
            self.cut_off = _cut_off(self._remote)
            self._remote.seek(place)
            self._check_remote()

    def _head(self) -> bytes:
        if self._remote is None:
            with Path(self.name).open("rb") as file:
                return file.read(16)
        self._remote.seek(0)
        return self._remote.read(16)

    def _check_remote(self) -> None:
        error = None if self._remote is None else self._remote.error
        if error is not None:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise AudioError(self.name, f"can no longer be read ({reason})", "unreadable") from None


class _Guarded:
    """A file object whose errors are kept: libsndfile calls it from C, where an exception would only be printed."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.error: Exception | None = None

    def read(self, count: int = -1) -> bytes:
        try:
            return b"" if self.error else self._file.read(count)
        except Exception as error:
            self.error = error
            return b""

    def readinto(self, buffer: memoryview) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return 0 if self.error else self._file.seek(offset, whence)
        except Exception as error:
            self.error = error
            return 0

    def tell(self) -> int:
        return 0 if self.error else self._file.tell()

    def close(self) -> None:
        self._file.close()


def mix(frames: np.ndarray) -> np.ndarray:
    """The mean over channels, `[n, channels]` to `[n, 1]`."""
    return frames if frames.shape[1] == 1 else frames.mean(axis=1, dtype=np.float32, keepdims=True)


def resampled_length(frames: int, rate_hz: int, target_hz: int) -> int:
    """Samples that `frames` become at another rate."""
    return (2 * frames * target_hz + rate_hz) // (2 * rate_hz)


def check_file(name: str | Path) -> str | Path:
    """The path or URL, checked as far as that goes without decoding.

    Raises:
        AudioError: if a local file is missing, empty, a folder or not readable.
    """
    if is_url(name):
        return str(name)
    path = Path(name)
    try:
        if not path.exists():
            raise AudioError(path, "no such file", "missing")
        if not path.is_file():
            raise AudioError(path, "is not a file" if not path.is_dir() else "is a folder", "unreadable")
        if path.stat().st_size == 0:
            raise AudioError(path, "is empty (0 bytes)", "empty")
        with path.open("rb"):
            pass
    except OSError as error:
        raise AudioError(path, error.strerror or str(error), "unreadable") from None
    return path


def check_length(name: str | Path, frames: int, rate_hz: int) -> None:
    """Checks that there is a sound.

    Raises:
        AudioError: `empty` or `too short`.
    """
    if frames <= 0:
        raise AudioError(name, "holds no samples", "empty")
    if frames / rate_hz < MIN_SECONDS:
        samples = f"{frames} sample{'s' * (frames != 1)}"
        raise AudioError(name, f"holds {samples}; at least {MIN_SECONDS:g} s is needed", "too short")


def cut_off(path: Path) -> str:
    """Why a local file is partial, if it is an OGG whose last page isn't whole or isn't marked as the last."""
    with path.open("rb") as file:
        return _cut_off(file)


def _cut_off(file: BinaryIO | _Guarded) -> str:
    # The mark is the third bit of a page's sixth byte (RFC 3533, section 6).
    if file.read(4) != b"OggS":
        return ""
    size = file.seek(0, 2)
    file.seek(max(0, size - _OGG_TAIL_BYTES))
    tail = file.read()
    page = tail.rfind(b"OggS")
    if page < 0 or page + 27 > len(tail):
        return _CUT_OFF
    segments = tail[page + 26]
    table = tail[page + 27 : page + 27 + segments]
    is_whole = page + 27 + segments + sum(table) <= len(tail)
    return "" if is_whole and tail[page + 5] & 4 else _CUT_OFF


def _raw_name(path: Path) -> Path | bytes:
    return path if os.name == "nt" else os.fsencode(path)


def _open_reason(error: Exception) -> str:
    text = str(getattr(error, "error_string", error)).rstrip(".")
    if "SF_INFO struct incomplete" in text:
        return "its header is invalid: 0 Hz or no channels"
    if "not recognised" in text:
        return "is not audio"
    # libsndfile says "File does not exist" of an MP3 without a whole frame.
    return "holds no audio that decodes" if "does not exist" in text else f"is damaged ({text})"
