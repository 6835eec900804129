"""Finds what stands in a recording's file beside the sound, however the recorder left the file."""

import struct
from collections.abc import Iterator
from typing import BinaryIO

from keras_birds.audio.wav import MAGIC

_MAX_BLOCK_BYTES = 1 << 22
"""Of which as much is read: nothing that counts stands behind."""

_MAX_CHUNKS = 1 << 10
_WANTED = frozenset({b"guan", b"wamd", b"LIST"})
_KNOWN = _WANTED | set(
    b"fmt ,data,ds64,fact,bext,iXML,JUNK,junk,PAD ,FLLR,cue ,smpl,id3 ,ID3 ,axml,chna".split(b",")
)
_TAIL_BYTES = 1 << 16
_UNKNOWN_SIZE = 0xFFFF_FFFF


def blocks_of(file: BinaryIO, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Name and content of each block of a WAV that may tell of the recording, in the order of the file.

    Args:
        file: opened for reading, at any place.
        size: the file's, in bytes.
    """
    file.seek(0)
    head = file.read(12)
    if head[:4] in MAGIC and head[8:] == b"WAVE":
        yield from _chunks(file, size)


def _chunks(file: BinaryIO, size: int) -> Iterator[tuple[bytes, bytes]]:
    place, data_64 = 12, 0
    for _ in range(_MAX_CHUNKS):
        file.seek(place)
        head = file.read(8)
        if len(head) < 8:
            return
        name, length = struct.unpack("<4sI", head)
        place += 8
        if name in _WANTED:
            yield name, file.read(min(length, _MAX_BLOCK_BYTES))
        elif name == b"ds64":
            data_64 = int.from_bytes(file.read(16)[8:], "little")
        elif name == b"data" and length == _UNKNOWN_SIZE:
            length = data_64
        end = place + length
        if name == b"data" and (not length or end > size):
            # Power failed, or a pipe never came back to write it.
            yield from _tail(file, place, size)
            return
        place = _next(file, end)


def _next(file: BinaryIO, end: int) -> int:
    """Where the next chunk begins: behind a byte that fills an odd length up, unless the writer left that out."""
    if end % 2 == 0:
        return end
    file.seek(end)
    names = file.read(9)
    return end if names[1:5] not in _KNOWN and names[:4] in _KNOWN else end + 1


def _tail(file: BinaryIO, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Chunks at the end of a file whose samples have no known end, each by its name and a length that fits."""
    file.seek(max(start, size - _TAIL_BYTES))
    tail = file.read(_TAIL_BYTES)
    for name in _WANTED:
        found = tail.find(name)
        while found >= 0:
            length = int.from_bytes(tail[found + 4 : found + 8], "little")
            if 0 < length <= len(tail) - found - 8:
                yield name, tail[found + 8 : found + 8 + length]
                break
            found = tail.find(name, found + 1)
