"""Finds the logical streams of an Ogg file, of which libsndfile reads the first only."""

from typing import NamedTuple

from keras_birds.audio.layout import CUT_OFF, DAMAGED, Layout, Part, SeekableFile

_HEADER_BYTES = 27  # then a table of at most 255 lengths (RFC 3533, section 6)
_TAIL_BYTES = 1 << 17
_BEGINS, _ENDS = 2, 4
_MAX_WALKED_BYTES = 1 << 23  # a larger remote file would be fetched twice


class _Page(NamedTuple):
    flags: int
    serial: bytes
    number: int
    length: int


def layout_of(file: SeekableFile, size: int, is_remote: bool) -> Layout:
    """Where the streams of an Ogg lie that follow each other, and whether each is whole."""
    if is_remote and size > _MAX_WALKED_BYTES and (layout := _by_ends(file, size)) is not None:
        return layout
    starts: list[int] = []
    problem, place, last_place, is_opening = "", 0, 0, False
    last: dict[bytes, _Page] = {}
    while place < size:
        file.seek(place)
        page = _page(file.read(_HEADER_BYTES + 255))
        if page is not None:
            begins = bool(page.flags & _BEGINS)
            if begins and not is_opening:
                problem = problem or _unended(last)
                starts.append(place)
                last = {}
            elif page.serial in last and page.number != last[page.serial].number + 1:
                problem = problem or DAMAGED
            is_opening = begins
            last[page.serial] = page
            last_place, place = place, place + page.length
        if page is None or place > size:
            # The page before may be cut off, and the next begin within what it should have been.
            place = last_place = _next_page(file, last_place + 4, size)
            if place < size:
                problem = problem or DAMAGED
            elif page is not None:
                problem = problem or CUT_OFF
    problem = problem or _unended(last)
    if len(starts) < 2:
        return Layout((), problem, is_exact=True)
    ends = [*starts[1:], size]
    return Layout(tuple(map(Part, starts, ends)), problem, is_exact=True)


def _page(data: bytes) -> _Page | None:
    if data[:4] != b"OggS" or len(data) < _HEADER_BYTES:
        return None
    length = _HEADER_BYTES + data[26] + sum(data[_HEADER_BYTES : _HEADER_BYTES + data[26]])
    return _Page(data[5], data[14:18], int.from_bytes(data[18:22], "little"), length)


def _next_page(file: SeekableFile, place: int, size: int) -> int:
    while place < size:
        file.seek(place)
        block = file.read(_TAIL_BYTES)
        found = block.find(b"OggS")
        if found >= 0 or len(block) < 4:
            return place + found if found >= 0 else size
        place += len(block) - 3
    return size


def _unended(last: dict[bytes, _Page]) -> str:
    return CUT_OFF if any(not x.flags & _ENDS for x in last.values()) else ""


def _by_ends(file: SeekableFile, size: int) -> Layout | None:
    """By the first and the last page alone; `None` where they are of different streams."""
    file.seek(0)
    first = _page(file.read(_HEADER_BYTES + 255))
    file.seek(max(0, size - _TAIL_BYTES))
    tail = file.read(_TAIL_BYTES)
    place = tail.rfind(b"OggS")
    last = _page(tail[place:]) if place >= 0 else None
    if first is None or last is None:
        return Layout((), CUT_OFF, is_exact=True)
    if first.serial != last.serial:
        return None
    is_whole = place + last.length <= len(tail) and last.flags & _ENDS
    return Layout((), "" if is_whole else CUT_OFF, is_exact=True)
