"""Which recordings of a season count, for which site and deployment; what of their clocks can't be so."""

import os
import re
import sys
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

import numpy as np

from keras_birds.audio.recorder import Origin
from keras_birds.inference.scorer import RecordingStatus

ALL = "all"
"""The site of results that tell of none."""

_CLOCK_MS = 1000  # clocks tell whole seconds
_FIRST_DIGIT = re.compile(r"\d|$")


class Place(NamedTuple):
    """A site, and a deployment there; empty where recordings aren't of one."""

    site: str
    deployment: str


class LeftOut(NamedTuple):
    """A recording that doesn't count: `why` is `failed`, `no site` or `no time`."""

    file: str
    why: str
    detail: str


@dataclass(frozen=True, eq=False)
class _Recordings:
    """Of one place: the names, and when they began, UTC where it is known; milliseconds."""

    files: list[str] = field(default_factory=list)
    begin_ms: array = field(default_factory=lambda: array("q"))
    length_ms: array = field(default_factory=lambda: array("q"))


class Places:
    """Tells of a recording its place and when it began, and keeps which don't count and why.

    Args:
        origin_of: where and when a recording was made.
        need_site: whether recordings without a site are left out; else all are of the site `ALL`.

    Attributes:
        found: places, by number.
        degrees: latitude and longitude of sites, as the first recording with a place tells them.
        left_out: what doesn't count.
    """

    def __init__(self, origin_of: Callable[[RecordingStatus], Origin], need_site: bool):
        self._origin_of, self._need_site = origin_of, need_site
        self.found: list[Place] = []
        self.degrees: dict[str, tuple[float, float]] = {}
        self.left_out: list[LeftOut] = []
        self._number: dict[Place, int] = {}
        self._recordings: list[_Recordings] = []

    def __call__(self, recording: RecordingStatus) -> tuple[int, datetime] | None:
        """The number of the recording's place and when it began, local time; `None` where it doesn't count."""
        origin = self._origin_of(recording)
        site = origin.site or origin.deployment or ("" if self._need_site else ALL)
        local = origin.local
        if not site or local is None:
            why = "no time" if site else "no site"
            self.left_out.append(LeftOut(recording.file, why, origin.notes))
            return None
        if origin.latitude is not None and origin.longitude is not None:
            self.degrees.setdefault(site, (origin.latitude, origin.longitude))
        place = Place(site, origin.deployment)
        if place not in self._number:
            self._number[place] = len(self.found)
            self.found.append(place)
            self._recordings.append(_Recordings())
        number = self._number[place]
        kept = self._recordings[number]
        kept.files.append(sys.intern(recording.file))
        minutes = np.timedelta64(origin.utc_offset_min or 0, "m")
        kept.begin_ms.append(int((np.datetime64(local, "ms") - minutes).astype(np.int64)))
        kept.length_ms.append(round(recording.seconds * 1000))
        return number, local

    def problems(self) -> Iterator[str]:
        """A sentence on recordings of a deployment that overlap, and one on clocks that go back."""
        overlaps = [
            (x, file)
            for x, kept in zip(self.found, self._recordings, strict=True)
            if x.deployment
            for file in _overlapping(kept)
        ]
        if overlaps:
            place, file = overlaps[0]
            yield (
                f"{_count(overlaps)} while another one of the same deployment lasts, and what is in both counts twice. "
                f"The first: {file} of {place.deployment}"
            )
        back = [x for kept in self._recordings for x in _going_back(kept)]
        if back:
            yield (
                f"{_count(back)} earlier than those before them by name: a clock was set back, or tells a wrong time. "
                f"The first: {back[0]}"
            )


def _count(files: list) -> str:
    return "1 recording begins" if len(files) == 1 else f"{len(files)} recordings begin"


def _overlapping(kept: _Recordings) -> list[str]:
    begin, length = np.array(kept.begin_ms), np.array(kept.length_ms)
    order = np.argsort(begin, kind="stable")
    until = np.maximum.accumulate((begin + length)[order])
    late = np.flatnonzero(begin[order][1:] < until[:-1] - _CLOCK_MS) + 1
    return [kept.files[order[k]] for k in late]


def _going_back(kept: _Recordings) -> list[str]:
    """Names that are in order while their times aren't: of one folder, and the same up to their first digit."""
    found, before, series = [], 0, None
    for k in sorted(range(len(kept.files)), key=kept.files.__getitem__):
        folder, name = os.path.split(kept.files[k])
        own = folder, name[: _FIRST_DIGIT.search(name).start()]  # type: ignore[union-attr]
        if own == series and kept.begin_ms[k] < before - _CLOCK_MS:
            found.append(kept.files[k])
        before, series = kept.begin_ms[k], own
    return found
