"""Tells whether a FLAC that doesn't say its length, as one written to a pipe, ends with a whole frame."""

from keras_birds.audio.layout import CUT_OFF, Layout, SeekableFile

_TAIL_BYTES = 1 << 17
_POLYNOMIAL = 0x8005  # RFC 9639, section 9.3: a frame with its checksum behind it gives 0


def layout_of(file: SeekableFile, size: int) -> Layout:
    """Where the length is written, libsndfile finds what is missing."""
    file.seek(0)
    head = file.read(26)
    # The number of samples is the lower 36 bits.
    if len(head) < 26 or int.from_bytes(head[18:26], "big") & 0xF_FFFF_FFFF:
        return Layout()
    file.seek(max(0, size - _TAIL_BYTES))
    tail = file.read(_TAIL_BYTES)
    place = len(tail)
    while (place := max(tail.rfind(b"\xff\xf8", 0, place), tail.rfind(b"\xff\xf9", 0, place))) >= 0:
        if _checksum(tail[place:]) == 0:
            return Layout()
    return Layout((), CUT_OFF)


def _checksum(data: bytes) -> int:
    crc = 0
    for x in data:
        crc = (crc << 8 & 0xFFFF) ^ _TABLE[crc >> 8 ^ x]
    return crc


def _entry(crc: int) -> int:
    for _ in range(8):
        crc = crc << 1 ^ (_POLYNOMIAL if crc & 0x8000 else 0)
    return crc & 0xFFFF


_TABLE = [_entry(x << 8) for x in range(256)]
