"""What the bytes of a file say of its sound, where libsndfile would take a header's word for it.

libsndfile reads as many frames as a header tells or its own guess says, and the first stream of several, and calls
that the whole. Here the file itself is looked through: the pages of an Ogg, the frames of an MP3, the chunks of a WAV.
"""

import io
from dataclasses import dataclass
from typing import Any, Protocol

CUT_OFF = "the file is cut off"
DAMAGED = "the file is damaged"


class SeekableFile(Protocol):
    """What is needed of a file."""

    def read(self, count: int = -1, /) -> bytes: ...  # noqa: D102
    def seek(self, offset: int, whence: int = 0, /) -> int: ...  # noqa: D102


@dataclass(frozen=True)
class Part:
    """Bytes that libsndfile reads as a file of its own.

    Args:
        start: the first of them in the file; `end` is behind the last.
        prefix: bytes that stand before them, for instance a header that is right.
        raw: rate, channels and encoding of samples that have no header, as arguments of `soundfile.SoundFile`.
    """

    start: int
    end: int
    prefix: bytes = b""
    raw: dict[str, Any] | None = None


@dataclass(frozen=True)
class Layout:
    """Where a file's sound lies.

    Args:
        parts: one after the other; none where libsndfile reads the file as it is.
        problem: why not all of the sound is there; empty where it is.
        promised: how many times as long as what is there the sound was, by its header; 1 where it doesn't say.
        is_exact: whether libsndfile's length is true: all of its frames are there.
    """

    parts: tuple[Part, ...] = ()
    problem: str = ""
    promised: float = 1.0
    is_exact: bool = False


class Window(io.RawIOBase):
    """A part of a file as a file for libsndfile; several may share one."""

    def __init__(self, file: SeekableFile, part: Part):
        self._file, self._part = file, part
        self._place = 0
        self._length = len(part.prefix) + part.end - part.start

    def readinto(self, buffer: Any) -> int:
        """As files do."""
        count = max(0, min(len(buffer), self._length - self._place))
        data = self._part.prefix[self._place : self._place + count]
        if len(data) < count:
            self._file.seek(self._part.start + max(0, self._place - len(self._part.prefix)))
            data += self._file.read(count - len(data))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        """As files do."""
        self._place = max(0, offset + (0, self._place, self._length)[whence])
        return self._place
