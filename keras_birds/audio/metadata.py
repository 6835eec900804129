"""Reads what a recorder wrote into a recording's file beside the sound."""

import os
import stat
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from keras_birds.audio import audiomoth, guano, vorbis_tags, wamd
from keras_birds.audio.metadata_blocks import TAGS, Block, blocks_of
from keras_birds.audio.recorder import UNTOLD, RecorderMetadata
from keras_birds.audio.remote import is_url

_ORDER = (guano.SOURCE, wamd.SOURCE, audiomoth.SOURCE, vorbis_tags.SOURCE)
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_TOLERANCE_S = 60
_RANGES = (("temperature_c", "temperature", -90, 100), ("battery_v", "battery voltage", 0, 100))


def read_recorder_metadata(path: str | Path) -> RecorderMetadata:
    """What a local file tells of its recording: GUANO, WAMD or AudioMoth's comment in a WAV, comments in FLAC or Ogg.

    A damaged block stops nothing: the others are read, and `problems` tells of it. What several blocks tell is taken
    from the first of GUANO, WAMD, AudioMoth and Frontier Labs that tells it. Places at 0, 0 and times before 2000 or
    more than a day ahead are left out.

    Args:
        path: a recording; a URL tells nothing, nor does what can't be read.
    """
    if is_url(path):
        return UNTOLD
    try:
        status = os.stat(path)  # noqa: PTH116 - a name may hold what Path refuses or changes
        if not stat.S_ISREG(status.st_mode):  # a pipe gives its bytes once
            return UNTOLD
        with open(path, "rb") as file:  # noqa: PTH123 - as above
            blocks = list(blocks_of(file, status.st_size))
    except (OSError, ValueError):
        return UNTOLD
    found = [_possible(x) for block in blocks for x in _read(block)]
    return _merged(sorted(found, key=lambda x: _ORDER.index(x.source)))


def _read(block: Block) -> list[RecorderMetadata]:
    if block.name == TAGS:
        return vorbis_tags.read(block.data)
    if block.name == b"LIST":
        comment = audiomoth.read(block.data)
        return [] if comment is None else [comment]
    if block.name == b"wamd":
        told = wamd.read(block.data)
    else:  # a line that is cut off may end within a number
        told = guano.read(block.data if block.is_whole else block.data.rpartition(b"\n")[0])
    cut_off = "" if block.is_whole else f"{told.source} is cut off."
    return [replace(told, problems=" ".join(x for x in (cut_off, told.problems) if x))]


def _possible(told: RecorderMetadata) -> RecorderMetadata:
    """Without what can't be so."""
    problems = [told.problems] if told.problems else []
    if clock := told.clock:
        utc = clock if clock.tzinfo else clock.replace(tzinfo=UTC)
        when = told.began.replace("T", " ")
        if utc < _EARLIEST:
            problems.append(f"{told.source}'s time, {when}, is before 2000: the clock wasn't set.")
        elif utc > datetime.now(UTC) + timedelta(days=1):
            problems.append(f"{told.source}'s time, {when}, is in the future.")
        else:
            when = ""
        told = replace(told, began="") if when else told
    latitude, longitude = told.latitude, told.longitude
    if latitude is not None and longitude is not None:
        is_place = abs(latitude) <= 90 and abs(longitude) <= 180
        if not is_place or not (latitude or longitude):
            problems.append(f"{told.source}'s place, {latitude:g}, {longitude:g}, can't be.")
            told = replace(told, latitude=None, longitude=None)
    for name, what, low, high in _RANGES:
        number = getattr(told, name)
        if number is not None and not low <= number <= high:
            problems.append(f"{told.source}'s {what}, {number:g}, can't be.")
            nothing: dict[str, Any] = {name: None}
            told = replace(told, **nothing)
    return replace(told, problems=" ".join(problems))


def _merged(found: list[RecorderMetadata]) -> RecorderMetadata:
    """What all of them tell, each from the first that tells it; where their times contradict each other, a problem."""
    if not found:
        return UNTOLD
    first, *others = found
    problems = [x.problems for x in found if x.problems]
    for other in others:
        if first.clock and other.clock and _contradict(first.clock, other.clock):
            times = f"{first.began} and {other.began}".replace("T", " ")
            problems.append(f"{first.source} and {other.source} tell different times: {times}.")
        lacking = {x.name for x in fields(first) if getattr(first, x.name) in ("", None)}
        first = replace(first, **{x: getattr(other, x) for x in lacking})
    return replace(first, problems=" ".join(problems))


def _contradict(a: datetime, b: datetime) -> bool:
    if a.tzinfo is None or b.tzinfo is None:
        a, b = a.replace(tzinfo=None), b.replace(tzinfo=None)
    return abs((a - b).total_seconds()) > _TOLERANCE_S
