"""Finds the samples of a WAV, also where recorder or pipe never came back to write the sizes, or 32 bits overflowed."""

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

from keras_birds.audio import mp3
from keras_birds.audio.layout import CUT_OFF, Layout, Part, SeekableFile

MAGIC = (b"RIFF", b"RF64", b"BW64")
_EXTENSIBLE, _MP3 = 0xFFFE, 0x55
_MAX_CHUNK_BYTES = 1 << 26
_ENCODINGS = {
    **{(1, 8): "PCM_U8", (1, 16): "PCM_16", (1, 24): "PCM_24", (1, 32): "PCM_32"},
    **{(3, 32): "FLOAT", (3, 64): "DOUBLE", (6, 8): "ALAW", (7, 8): "ULAW"},
}
_TOLERANCE_S = 0.1  # some writers count their header as samples
_TRAILERS = frozenset(b"LIST,id3 ,ID3 ,bext,wamd,guan,cue ,smpl,junk,JUNK,iXML".split(b","))


@dataclass(frozen=True)
class WavHeader:
    """What stands before the samples.

    Args:
        code: of their format, 1 for integers, 3 for floating-point numbers; an extensible one's own.
        frame_bytes: of a sample of each channel, or of a block of samples.
        start: the first sample's place.
        data_bytes: of all samples, as written; `None` for what recorders and pipes write before they know.
    """

    rate_hz: int
    channels: int
    code: int
    bits: int
    frame_bytes: int
    bytes_s: int
    start: int
    data_bytes: int | None

    @property
    def encoding(self) -> str:
        """As `soundfile` calls it; empty where frames aren't samples side by side."""
        is_plain = self.frame_bytes * 8 == self.bits * self.channels
        return _ENCODINGS.get((self.code, self.bits), "") if is_plain else ""


def read_header(read: Callable[[int], bytes], head: bytes) -> WavHeader | None:
    """Reads on behind the 12 bytes of `head` up to the first sample; `None` where it isn't a header."""
    place, fmt, data_64 = 12, b"", None
    while len(chunk := read(8)) == 8:
        name, size = struct.unpack("<4sI", chunk)
        place += 8
        if name == b"data":
            break
        if size > _MAX_CHUNK_BYTES:
            return None
        content = read(size + size % 2)
        place += len(content)
        if name == b"fmt ":
            fmt = content
        elif name == b"ds64" and len(content) >= 16:
            data_64 = int(struct.unpack("<Q", content[8:16])[0])
    else:
        return None
    if len(fmt) < 16:
        return None
    code, channels, rate_hz, bytes_s, frame_bytes, bits = struct.unpack("<HHIIHH", fmt[:16])
    if code == _EXTENSIBLE and len(fmt) >= 26:
        (code,) = struct.unpack("<H", fmt[24:26])
    if not channels or not rate_hz:
        return None
    if head[:4] != b"RIFF" and size == 0xFFFF_FFFF:
        known = data_64 if data_64 and data_64 < 1 << 62 else None
    else:
        # sox, arecord and others write a number near 2 GiB, ffmpeg one near 4 GiB.
        is_unknown = size == 0 or 0x7F00_0000 <= size <= 0x8000_0000 or size >= 0xFFFF_0000
        known = None if is_unknown else size
    if code in {x for x, _ in _ENCODINGS}:
        bytes_s = rate_hz * frame_bytes
    return WavHeader(rate_hz, channels, code, bits, frame_bytes, bytes_s, place, known)


def layout_of(file: SeekableFile, size: int) -> Layout:
    """Where a WAV's sound lies: by its header where that can be so, else up to the end of the file."""
    file.seek(0)
    header = read_header(file.read, file.read(12))
    if header is None or header.start >= size:
        return Layout(is_exact=True)
    there, told = size - header.start, header.data_bytes
    if header.code == _MP3:
        end = size if told is None else min(size, header.start + told)
        layout = mp3.layout_of(file, end, header.start)
        problem = layout.problem or (CUT_OFF if told is not None and told > there else "")
        return replace(layout, parts=layout.parts or (Part(header.start, end),), problem=problem)
    if told is not None and told > there:
        if told - there <= header.bytes_s * _TOLERANCE_S:
            return Layout(is_exact=True)
        return Layout((), CUT_OFF, told / there, is_exact=True)
    end = size
    if told is None:
        if _is_chunk(file, header.start, size):  # holds no sample, but other chunks
            return Layout(is_exact=True)
    elif there - told >= 1 << 32:
        end = header.start + told + ((there - told) >> 32 << 32)
    elif there - told < header.bytes_s * _TOLERANCE_S or _is_chunk(file, header.start + told, size):
        return Layout(is_exact=True)
    if not header.encoding:
        file.seek(0)
        start = file.read(header.start - 4) + min(end - header.start, 0xFFFF_FFFF).to_bytes(4, "little")
        return Layout((Part(header.start, end, start),), is_exact=True)
    raw = {"samplerate": header.rate_hz, "channels": header.channels, "subtype": header.encoding}
    end -= (end - header.start) % header.frame_bytes
    return Layout((Part(header.start, end, raw={**raw, "format": "RAW", "endian": "LITTLE"}),), is_exact=True)


def _is_chunk(file: SeekableFile, place: int, size: int) -> bool:
    """Whether a chunk follows, with the byte that fills odd lengths up or without."""
    for start in {place, place + place % 2}:
        file.seek(start)
        chunk = file.read(8)
        if len(chunk) == 8:
            name, length = struct.unpack("<4sI", chunk)
            is_name = all(32 <= x < 127 for x in name)
            if name in _TRAILERS or (is_name and start + 8 + length <= size):
                return True
    return False
