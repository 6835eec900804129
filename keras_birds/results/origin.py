"""Where and when recordings were made, by all that tells it: the files themselves, a table of sites, their names."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from keras_birds.audio.recorder import UNTOLD, Origin, RecorderMetadata
from keras_birds.inference.scorer import RecordingStatus
from keras_birds.results.recording_time import check_time_pattern, named_place, start_clock
from keras_birds.results.sites import FIRST_YEAR, Site, Sites, check_place, name_of, zone_of

ORIGIN_COLUMNS = (
    *("start_time", "utc_offset", "latitude", "longitude", "site", "deployment"),
    *("recorder", "gain", "temperature_c", "battery_v", "notes"),
)
"""Of a manifest: where, when and with what a recording was made."""

_AGREE_S, _AGREE_KM = 60, 1.0
_ZONE_STEP_S, _ZONE_MOST_S = 1800, 14 * 3600
_EARTH_KM = 6371.0


class Origins:
    """Tells of recordings where and when they were made, in the time of a look-up.

    What a file's own metadata tell comes first, then the table, then the name; a place that is given for all comes
    before any. A timezone is that of the place: a clock that tells its offset is converted to it, and one that tells
    none is taken to run on it. Without any a clock counts as it is, and UTC is known only where it tells its offset.

    Args:
        rows: of a table of sites or of deployments, with the timezones of the places, where these are known.
        place: latitude and longitude of all recordings, whatever else tells; `None` where they aren't given.
        timezone: of places without one of their own, as of `zone_of`; empty where it isn't given.
        time_pattern: how names tell the time, as of `start_clock`.

    Raises:
        ConfigError: if there is no such timezone or place, or the time pattern can't be used.
    """

    def __init__(
        self,
        rows: Sequence[Site] = (),
        place: tuple[float, float] | None = None,
        timezone: str = "",
        time_pattern: str | None = None,
    ):
        self._sites = Sites(rows) if rows else None
        self._place, self._timezone, self._time_pattern = place, timezone, time_pattern
        if place is not None:
            check_place(*place)
        if time_pattern is not None:
            check_time_pattern(time_pattern)
        self._zone = zone_of(timezone) if timezone else None
        self._zones = list(dict.fromkeys(map(self._zone_of, rows)))

    @property
    def settings(self) -> dict[str, Any]:
        """All that it depends on, as plain data."""
        return {
            "time_pattern": self._time_pattern,
            "timezone": self._timezone,
            "place": None if self._place is None else list(self._place),
            "sites": None if self._sites is None else self._sites.settings,
        }

    def of(self, file: str, recorder: RecorderMetadata = UNTOLD) -> Origin:
        """Where and when a recording was made; what contradicts itself, or can't be so, is in its notes.

        Args:
            file: its path or URL.
            recorder: what the file itself tells.
        """
        notes: list[str] = []
        own, named = recorder.clock, self._named(file, notes)
        clock = own or named
        site, zone = self._find(file, clock, recorder.recorder, notes)
        local, utc_offset_min = _local(clock, zone), _utc_offset_min(clock, zone, notes)
        if own and named:
            notes.append(_compare_times(own, named, local))
        own_place, told = _place(recorder) or _named_place(file, notes), self._place or _place(site)
        if own_place and told:
            notes.append(_compare_places(own_place, told))
        latitude, longitude = self._place or _place(recorder) or told or own_place or (None, None)
        return Origin(
            local.isoformat() if local else "",
            utc_offset_min,
            latitude,
            longitude,
            site=name_of(site) if site else "",
            deployment=getattr(site, "deployment", ""),
            notes=" ".join(x[0].upper() + x[1:] for x in notes if x),
        )

    def _named(self, file: str, notes: list[str]) -> datetime | None:
        named = start_clock(file, self._time_pattern)
        if named is None:
            return None
        ahead = (named if named.tzinfo else named.replace(tzinfo=UTC)) - datetime.now(UTC)
        if named.year >= FIRST_YEAR and ahead <= timedelta(days=1):
            return named
        why = "in the future" if ahead > timedelta(days=1) else f"before {FIRST_YEAR}"
        notes.append(f"its name tells {_text(named)}, which is {why} and counts for nothing.")
        return None

    def _zone_of(self, site: Site) -> tzinfo | None:
        return zone_of(site.timezone) if site.timezone else self._zone

    def _find(
        self, file: str, clock: datetime | None, recorder: str, notes: list[str]
    ) -> tuple[Site | None, tzinfo | None]:
        """The row of the table that a recording is from, and the timezone there."""
        if self._sites is None:
            return None, self._zone
        # The local time, by which deployments are found, depends on the place: each of its timezones is tried.
        whys = []
        for zone in self._zones:
            site, note = self._sites.find(file, _local(clock, zone), recorder)
            if site is not None and self._zone_of(site) == zone:
                notes.append(note)
                return site, zone
            whys.append(note)
        notes.append(next((x for x in whys if x), ""))
        return None, self._zone


def origin_cells(recording: RecordingStatus) -> dict[str, str]:
    """What a manifest has in `ORIGIN_COLUMNS`; empty where nothing tells it."""
    origin, recorder = recording.origin, recording.recorder
    place = (
        "" if x is None else f"{x:.6f}".rstrip("0").rstrip(".") for x in (origin.latitude, origin.longitude)
    )
    numbers = ("" if x is None else f"{x:g}" for x in (recorder.temperature_c, recorder.battery_v))
    cells = (
        *(origin.began, offset_text(origin.utc_offset_min), *place, origin.site, origin.deployment),
        *(recorder.recorder, recorder.gain, *numbers, notes_on(recording)),
    )
    return dict(zip(ORIGIN_COLUMNS, cells, strict=True))


def notes_on(recording: RecordingStatus) -> str:
    """What contradicts itself or can't be so of where and when a recording was made, and what its recorder notes."""
    return " ".join(x for x in (recording.recorder.problems, recording.origin.notes) if x)


def offset_text(utc_offset_min: int | None) -> str:
    """Local time less UTC as `+02:00`; empty where it isn't known."""
    if utc_offset_min is None:
        return ""
    hours, minutes = divmod(abs(utc_offset_min), 60)
    return f"{'-' if utc_offset_min < 0 else '+'}{hours:02d}:{minutes:02d}"


def _local(clock: datetime | None, zone: tzinfo | None) -> datetime | None:
    """Local time of the place, without zone."""
    if clock is not None and clock.tzinfo is not None and zone is not None:
        clock = clock.astimezone(zone)
    return clock and clock.replace(tzinfo=None)


def _place(x: RecorderMetadata | Site | None) -> tuple[float, float] | None:
    return None if x is None or x.latitude is None or x.longitude is None else (x.latitude, x.longitude)


def _named_place(file: str, notes: list[str]) -> tuple[float, float] | None:
    found = named_place(file)
    if found is None or (any(found) and abs(found[0]) <= 90 and abs(found[1]) <= 180):
        return found
    notes.append(f"its name tells the place {found[0]:g}, {found[1]:g}, which can't be.")
    return None


def _utc_offset_min(clock: datetime | None, zone: tzinfo | None, notes: list[str]) -> int | None:
    """Local time less UTC; in the hour that a change to winter time repeats, or to summer time skips, as before it."""
    if clock is None or (clock.tzinfo is None and zone is None):
        return None
    if clock.tzinfo is None:
        clock = clock.replace(tzinfo=zone)
        if clock.utcoffset() != clock.replace(fold=1).utcoffset():
            notes.append(f"its clock tells {_text(clock)}, when {zone} changes: taken as before the change.")
    else:
        clock = clock.astimezone(zone) if zone else clock
    offset = clock.utcoffset()
    return None if offset is None else round(offset.total_seconds() / 60)


def _compare_times(own: datetime, named: datetime, local: datetime | None) -> str:
    """A sentence on a name that tells another time than the file's own clock, in local time or UTC; else nothing."""
    wall, named_wall = own.replace(tzinfo=None), named.replace(tzinfo=None)
    same = [wall, *([local] if local else [])]
    if own.tzinfo is not None:
        same.append(own.astimezone(UTC).replace(tzinfo=None))
        same += [named_wall] if named.tzinfo and abs((named - own).total_seconds()) <= _AGREE_S else []
    if min(abs((named_wall - x).total_seconds()) for x in same) <= _AGREE_S:
        return ""
    apart_s = abs((named_wall - wall).total_seconds())
    rest_s = apart_s % _ZONE_STEP_S
    is_zone = apart_s <= _ZONE_MOST_S and min(rest_s, _ZONE_STEP_S - rest_s) <= _AGREE_S
    apart = (
        f"{round(apart_s / _ZONE_STEP_S) / 2:g} h apart, as in another timezone"
        if is_zone
        else _length(apart_s)
    )
    return f"its metadata tell {_text(wall)}, its name {_text(named)}: {apart}."


def _compare_places(own: tuple[float, float], told: tuple[float, float]) -> str:
    """A sentence on two places that aren't one; else nothing."""
    apart_km = distance_km(*own, *told)
    if apart_km <= _AGREE_KM:
        return ""
    texts = (f"{latitude:g}, {longitude:g}" for latitude, longitude in (own, told))
    return f"it tells the place {next(texts)} itself, not {next(texts)}: {apart_km:,.0f} km apart."


def distance_km(latitude: float, longitude: float, other_latitude: float, other_longitude: float) -> float:
    """Between two places, over a round Earth."""
    south, north = math.radians(latitude), math.radians(other_latitude)
    half = math.sin((north - south) / 2) ** 2
    east = math.radians(other_longitude - longitude)
    half += math.cos(south) * math.cos(north) * math.sin(east / 2) ** 2
    return 2 * _EARTH_KM * math.asin(min(1.0, math.sqrt(half)))


def _length(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:,.1f} {name} apart"
    return f"{seconds:.0f} s apart"


def _text(time: datetime) -> str:
    return time.replace(tzinfo=None, microsecond=0).isoformat(" ")
