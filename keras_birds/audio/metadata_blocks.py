"""Finds what stands in a recording's file beside the sound, however the recorder left the file."""

import struct
from collections.abc import Iterator
from io import BytesIO
from typing import BinaryIO, NamedTuple

from keras_birds.audio import wav

TAGS = b"tags"
"""Of a block of Vorbis comments, which FLAC and Ogg hold; all other blocks have the names of a WAV's chunks."""

_MAX_BLOCK_BYTES = 1 << 25  # as much is read of a larger one
_MAX_BLOCKS = 1 << 10
_WANTED = frozenset({b"guan", b"wamd", b"LIST"})
_KNOWN = _WANTED | set(
    b"fmt ,data,ds64,fact,bext,iXML,JUNK,junk,PAD ,FLLR,cue ,smpl,id3 ,ID3 ,axml,chna".split(b",")
)
_TAIL_BYTES = 1 << 16
_FLAC_APPLICATION, _FLAC_TAGS = 2, 4  # RFC 9639, section 8.1
_OGG_HEAD_BYTES = 1 << 18
_OGG_FLAC_START = 51  # of the second block of its header; RFC 9639, section 10.1


class Block(NamedTuple):
    """What is told of a recording beside its sound.

    Args:
        name: of the WAV's chunk, or `TAGS`.
        data: its content.
        is_whole: whether that is all of it.
    """

    name: bytes
    data: bytes
    is_whole: bool = True


def blocks_of(file: BinaryIO, size: int) -> Iterator[Block]:
    """The blocks of a WAV, FLAC or Ogg that may tell of the recording, in the order of the file.

    Args:
        file: opened for reading, at any place.
        size: the file's, in bytes.
    """
    file.seek(0)
    head = file.read(12)
    if head[:4] in wav.MAGIC and head[8:] == b"WAVE":
        yield from _wav_chunks(file, size)
    elif head[:4] == b"fLaC":
        yield from _flac_blocks(file, 4)
    elif head[:4] == b"OggS":
        yield from _ogg_tags(file)


def _wav_chunks(file: BinaryIO, size: int) -> Iterator[Block]:
    """Chunks before and behind the samples.

    Recorders that lost power leave any length of the samples (0, 44, 4 GiB), and others zeros behind them: where no
    chunk follows, the end of the file is searched.
    """
    places, data_64 = [12], 0
    for _ in range(_MAX_BLOCKS):
        # Of the places that may be meant one with a known name counts first.
        heads = [(x, *_head(file, x)) for x in places]
        fitting = [x for x in heads if _fits(*x, size)]
        place, name, length = min(fitting, key=lambda x: x[1] not in _KNOWN, default=(places[0], b"", 0))
        if not name:
            yield from _wav_tail(file, place, size)
            return
        file.seek(place + 8)
        if name in _WANTED:
            yield _block(file, name, length)
        elif name == b"ds64":
            data_64 = int.from_bytes(file.read(16)[8:], "little")
        elif name == b"data" and length == 0xFFFF_FFFF:
            length = data_64
        end = place + 8 + length
        if end > size:
            end = place + 8
        # A byte fills an odd length up, unless the writer left it out.
        places = [end + 1, end] if end % 2 else [end]


def _block(file: BinaryIO, name: bytes, length: int) -> Block:
    data = file.read(min(length, _MAX_BLOCK_BYTES))
    return Block(name, data, len(data) == length)


def _head(file: BinaryIO, place: int) -> tuple[bytes, int]:
    file.seek(place)
    name, length = struct.unpack("<4sI", file.read(8).ljust(8, b"\0"))
    return name, length


def _fits(place: int, name: bytes, length: int, size: int) -> bool:
    return name in _KNOWN or (all(32 <= x < 127 for x in name) and place + 8 + length <= size)


def _wav_tail(file: BinaryIO, start: int, size: int) -> Iterator[Block]:
    """Chunks within the end of a file, each by its name and a length that fits."""
    file.seek(max(start, size - _TAIL_BYTES))
    tail = file.read(_TAIL_BYTES)
    for name in _WANTED:
        place = tail.find(name)
        while place >= 0:
            length = int.from_bytes(tail[place + 4 : place + 8], "little")
            if 0 < length <= len(tail) - place - 8:
                yield Block(name, tail[place + 8 : place + 8 + length])
                break
            place = tail.find(name, place + 1)


def _flac_blocks(file: BinaryIO, place: int) -> Iterator[Block]:
    """Comments, and a WAV's chunks as `flac --keep-foreign-metadata` keeps them."""
    for _ in range(_MAX_BLOCKS):
        file.seek(place)
        head = file.read(4)
        if len(head) < 4:
            return
        kind, length = head[0] & 0x7F, int.from_bytes(head[1:], "big")
        if kind == _FLAC_TAGS:
            yield _block(file, TAGS, length)
        elif kind == _FLAC_APPLICATION:
            _, data, is_whole = _block(file, b"", length)
            if data[:4] == b"riff" and data[4:8] in _WANTED:
                yield Block(data[4:8], data[12:], is_whole)
        if head[0] & 0x80:
            return
        place += 4 + length


def _ogg_tags(file: BinaryIO) -> Iterator[Block]:
    """Comments of the first stream, whose pages are put together."""
    file.seek(0)
    head = file.read(_OGG_HEAD_BYTES)
    pieces, place = [], 0
    while head[place : place + 4] == b"OggS" and len(head) >= place + 27:
        table = head[place + 27 : place + 27 + head[place + 26]]
        begin = place + 27 + len(table)
        if head[place + 14 : place + 18] == head[14:18]:
            pieces.append(head[begin : begin + sum(table)])
        place = begin + sum(table)
    stream = b"".join(pieces)
    if stream[:5] == b"\x7fFLAC":
        yield from _flac_blocks(BytesIO(stream), _OGG_FLAC_START)
    for mark in (b"\x03vorbis", b"OpusTags"):
        found = stream.find(mark)
        if found >= 0:
            yield Block(TAGS, stream[found + len(mark) :])
