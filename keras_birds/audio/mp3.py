"""Counts the frames of an MP3: what its header promises, and what libsndfile guesses without one, is not its length.

Formats of frames: ISO/IEC 11172-3 and 13818-3; of the first frame's table: http://gabriel.mp3-tech.org/mp3infotag.html.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from keras_birds.audio.layout import CUT_OFF, DAMAGED, Layout, Part, SeekableFile

_BLOCK_BYTES = 1 << 20
_SEARCH_BYTES = 1 << 18
_RATES_HZ = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_KBPS = {  # by version 1 or 2 and by layer
    (1, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
# Encoders count their table's own frame or not, and tools that tag a file change its last bytes.
_FRAMES_TOLERANCE = 3
_FRAMES_IN_A_ROW = 3
_MAX_FRAME_BYTES = 2881  # MPEG-1 layer I and II at most


class _Frame(NamedTuple):
    length: int
    kind: tuple[int, int, int, bool]  # of all frames of a stream: version, layer, rate, is mono

    @property
    def table_start(self) -> int:
        """Where the first frame's table lies, behind the side information."""
        version, _, _, is_mono = self.kind
        return 4 + ((17 if is_mono else 32) if version == 3 else (9 if is_mono else 17))


@dataclass
class _Run:
    """Frames of one kind that follow each other."""

    start: int
    first: _Frame
    end: int = 0
    frames: int = 0


def may_be(head: bytes) -> bool:
    """Whether a file begins as MP3 does."""
    return head[:3] == b"ID3" or _frame_at(head, 0) is not None


def layout_of(file: SeekableFile, size: int, start: int = 0) -> Layout:
    """Where the frames of an MP3 lie that goes from `start` to `size` in a file.

    As the first frame's table says, where this tells just the bytes that are there; else they are counted.
    """
    start, end = _without_tags(file, start, size)
    found = _find(file, start, min(end, start + _SEARCH_BYTES // 2), end)
    if found is None:
        return Layout()
    place, frame = found
    file.seek(place)
    opening = file.read(4096)
    table = _table(opening, frame)
    told_frames, told_bytes = table or (0, 0)
    if told_frames and told_bytes == end - place:
        return Layout(is_exact=True)
    runs, is_cut, is_damaged = _walk(file, place, end)
    if not runs:
        return Layout()
    count = sum(x.frames for x in runs) - (table is not None)
    missing = told_frames - count if told_frames else 0
    all_there = 0 < told_bytes <= end - place
    problem = ""
    if (missing > _FRAMES_TOLERANCE and not all_there) or (is_cut and (missing > 0 or not told_frames)):
        problem = CUT_OFF
    elif is_damaged and (missing > _FRAMES_TOLERANCE or not told_frames):
        problem = DAMAGED
    promised = (count + missing) / max(1, count) if problem and missing > 0 else 1.0
    if frame.kind[1] != 3:  # without a table, at a constant rate: libsndfile's guess is right
        return Layout((), problem, promised)
    parts = [_part(x, opening if i == 0 and table else b"", missing) for i, x in enumerate(runs)]
    return Layout(tuple(parts), problem, promised, is_exact=True)


def _part(run: _Run, opening: bytes, missing: int) -> Part:
    """The run's frames behind a table that says how many they are, as libsndfile believes."""
    head = bytearray(opening[: run.first.length])
    has_table = bool(head)
    place = run.first.table_start
    if not has_table or head[place : place + 4] == b"VBRI" or not head[place + 7] & 1:
        head = _blank(run.first)
    flags = head[place + 7]
    start = run.start + (run.first.length if has_table else 0)
    head[place + 8 : place + 12] = (run.frames - has_table).to_bytes(4, "big")
    if flags & 2:
        head[place + 12 : place + 16] = (run.end - start + len(head)).to_bytes(4, "big")
    # The encoder's filling at the end, 12 bits, counts only where the end is there.
    filling = place + 8 + sum(n for bit, n in ((1, 4), (2, 4), (4, 100), (8, 4)) if flags & bit) + 22
    if has_table and missing and filling + 2 <= len(head):
        head[filling] &= 0xF0
        head[filling + 1] = 0
    return Part(start, run.end, bytes(head))


def _blank(frame: _Frame) -> bytearray:
    """A frame of silence with an empty table for frames and bytes."""
    version, _, rate_hz, is_mono = frame.kind
    rate = _RATES_HZ[version].index(rate_hz)
    kbps = 5 if version == 3 else 8  # 64 kbit/s: room for the table at any rate
    word = (
        0xFFE0_0000 | version << 19 | 1 << 17 | 1 << 16 | kbps << 12 | rate << 10 | (3 if is_mono else 0) << 6
    )
    head = bytearray((144 if version == 3 else 72) * 64_000 // rate_hz)
    head[:4] = word.to_bytes(4, "big")
    place = frame.table_start
    head[place : place + 8] = b"Xing\0\0\0\3"
    return head


def _frame_at(data: bytes, place: int) -> _Frame | None:
    # Copyright, emphasis and the like may change from frame to frame.
    return _frame(int.from_bytes(data[place : place + 4], "big") & 0xFFFE_FEC0)


@lru_cache(maxsize=4096)
def _frame(word: int) -> _Frame | None:
    """What the 32 bits that begin a frame say; `None` where they don't begin one of known length."""
    version, layer = word >> 19 & 3, 4 - (word >> 17 & 3)
    kbps, rate = word >> 12 & 15, word >> 10 & 3
    if word >> 21 != 0x7FF or version == 1 or layer == 4 or kbps in (0, 15) or rate == 3:
        return None
    rate_hz = _RATES_HZ[version][rate]
    bits_s = 1000 * _KBPS[1 if version == 3 else 2, layer if version == 3 else min(layer, 2)][kbps]
    padding = word >> 9 & 1
    samples = 384 if layer == 1 else 576 if layer == 3 and version != 3 else 1152
    length = (
        (12 * bits_s // rate_hz + padding) * 4 if layer == 1 else samples // 8 * bits_s // rate_hz + padding
    )
    return _Frame(length, (version, layer, rate_hz, word >> 6 & 3 == 3))


def _table(opening: bytes, frame: _Frame) -> tuple[int, int] | None:
    """Frames and bytes that the first frame tells, 0 where it doesn't; `None` where it is sound."""

    def number(place: int) -> int:
        return int.from_bytes(opening[place : place + 4], "big")

    place = frame.table_start
    if frame.kind[1] == 3 and opening[place : place + 4] in (b"Xing", b"Info"):
        flags = number(place + 4)
        has_frames = flags & 1
        return has_frames and number(place + 8), number(place + 8 + 4 * has_frames) if flags & 2 else 0
    return (number(50), number(46)) if opening[36:40] == b"VBRI" else None


def _without_tags(file: SeekableFile, start: int, end: int) -> tuple[int, int]:
    """The place behind the tags at the beginning, and that before those at the end: ID3, APE and Lyrics3."""
    file.seek(start)
    while length := _tag_length(file.read(10)):
        start += length
        file.seek(start)
    while end > start:
        file.seek(max(start, end - 128))
        tail = file.read(end - max(start, end - 128))
        if tail[-128:][:3] == b"TAG" and len(tail) == 128:
            end -= 128
        elif tail[-32:][:8] == b"APETAGEX":
            has_header = tail[-32 + 23] & 0x80
            end -= int.from_bytes(tail[-20:-16], "little") + (32 if has_header else 0)
        elif tail[-9:] == b"LYRICS200" and tail[-15:-9].isdigit():
            end -= int(tail[-15:-9]) + 15
        else:
            break
    return start, max(start, end)


def _tag_length(head: bytes) -> int:
    if head[:3] == b"TAG":
        return 128
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    length = sum((x & 0x7F) << 7 * (9 - i) for i, x in enumerate(head[6:10], 6))
    return 10 + length + (10 if head[5] & 0x10 else 0)


def _find(file: SeekableFile, start: int, stop: int, end: int) -> tuple[int, _Frame] | None:
    """The first place before `stop` where three frames of a kind follow each other or all up to `end`; the frame."""
    while start < stop:
        file.seek(start)
        data = file.read(min(_SEARCH_BYTES, end - start))
        place = data.find(b"\xff")
        while 0 <= place < stop - start:
            count, following, first = 0, place, _frame_at(data, place)
            while (frame := _frame_at(data, following)) is not None and first is not None:
                if frame.kind != first.kind or count == _FRAMES_IN_A_ROW:
                    break
                count, following = count + 1, following + frame.length
            is_last = count > 0 and (start + following == end or (count > 1 and start + following > end))
            if first is not None and (count == _FRAMES_IN_A_ROW or is_last):
                return start + place, first
            place = data.find(b"\xff", place + 1)
        start += max(1, len(data) - _FRAMES_IN_A_ROW * _MAX_FRAME_BYTES)
    return None


def _walk(file: SeekableFile, place: int, end: int) -> tuple[list[_Run], bool, bool]:
    """Runs of frames, whether the last frame isn't whole, and whether something lies between that is none."""
    runs: list[_Run] = []
    is_cut = is_damaged = False
    data, offset = b"", place
    while place < end:
        if place + 4 > offset + len(data):
            file.seek(place)
            data, offset = file.read(min(_BLOCK_BYTES, end - place)), place
            if len(data) < 4:
                is_cut = data[:1] == b"\xff"
                break
        frame, tag = _frame_at(data, place - offset), 0
        if frame is None or (runs and frame.kind != runs[-1].first.kind):
            file.seek(place)
            tag = _tag_length(file.read(10))
            found = _find(file, place + tag, end, end)
            if found is None:
                break
            is_damaged = is_damaged or found[0] - place - tag > (runs[-1].first.length if runs else 0)
            place, frame = found
            offset, data = place, b""
        if not runs or frame.kind != runs[-1].first.kind or tag:
            runs.append(_Run(place, frame))
        if place + frame.length > end:
            is_cut = True
            break
        place += frame.length
        runs[-1].frames += 1
        runs[-1].end = place
    return [x for x in runs if x.frames], is_cut, is_damaged
