"""Tables of sites and of deployments: which recordings are from where, by path, recorder and time."""

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import cached_property, lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from keras_birds.audio.remote import is_url
from keras_birds.csv_table import read_records
from keras_birds.errors import ConfigError, DataError

SITE_COLUMNS = ("pattern", "latitude", "longitude")
"""That a table of sites must have; `site` (its name) and `timezone` may stand beside them."""

DEPLOYMENT_COLUMNS = ("deployment", "site", "latitude", "longitude", "start", "end")
"""That a table of deployments must have, beside `pattern`, `recorder` or both; `timezone` may stand beside them."""

FIRST_YEAR = 2000
"""Clocks that tell an earlier one were never set."""

_FOLDERS_KEPT, _LISTED = 1024, 5
_T = TypeVar("_T", bound="Site")


@dataclass(frozen=True)
class Site:
    """A place, and which recordings are from there.

    Args:
        pattern: of a recording's path: a folder, folders in a row or its name; `*` stands for any text within one of
            them, `?` for a character.
        latitude: degrees north, -90 to 90.
        longitude: degrees east, -180 to 180.
        timezone: in which clocks there run, see `zone_of`; empty where that isn't known.
        site: its name.

    Raises:
        ConfigError: if there is no such place or timezone.
    """

    pattern: str
    latitude: float
    longitude: float
    timezone: str = ""
    site: str = ""

    def __post_init__(self) -> None:
        check_place(self.latitude, self.longitude)
        if self.timezone:
            zone_of(self.timezone)

    def has(self, file: str) -> bool:
        """Whether the path of a recording, or its URL, fits the pattern."""
        return self._regex.search(_slashed(file)) is not None

    @property
    def row(self) -> list[Any]:
        """All its fields, as plain data."""
        values = [getattr(self, x.name) for x in fields(self)]
        return [x.isoformat() if isinstance(x, datetime) else x for x in values]

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        return re.compile(f"(?:^|/){'/'.join(self._parts)}(?:/|$)")

    @cached_property
    def _parts(self) -> list[str]:
        """An expression of each part of the pattern."""
        text = self.pattern.replace(os.sep, "/").removeprefix("./").rstrip("/")
        return [re.escape(x).replace(r"\*", "[^/]*").replace(r"\?", "[^/]") for x in text.split("/")]


@dataclass(frozen=True)
class Deployment(Site):
    """A recorder at a site for a time.

    Args:
        deployment: its name, one of its own in a table.
        start: when it began, in local time, without zone.
        end: when it was over; recordings that begin earlier are its own.
        recorder: serial number or name, as its files tell it; empty where it doesn't matter.

    Raises:
        ConfigError: as `Site`, or if it ends before it starts.
    """

    deployment: str = ""
    start: datetime = datetime.min
    end: datetime = datetime.max
    recorder: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start >= self.end:
            raise ConfigError(f"A deployment must end after its start. Received: {_span(self)}")

    @property
    def is_by_path(self) -> bool:
        """Whether its pattern tells it from others."""
        return self.pattern != "*"

    def is_recorder(self, told: str) -> bool:
        """Whether a recorder, as a file tells it, is the one of this deployment."""
        words = f" {' '.join(re.split(r'[^0-9a-z]+', told.casefold()))} "
        own = f" {' '.join(re.split(r'[^0-9a-z]+', self.recorder.casefold()))} "
        return bool(own.strip()) and own in words


class Sites:
    """Finds the site, or the deployment, that a recording is from; in the time of a look-up.

    Of sites the first whose pattern fits counts. Deployments must also fit the recording's beginning and recorder,
    where these are known, and of several that fit none counts.

    Args:
        rows: of a table.
    """

    def __init__(self, rows: Sequence[Site]):
        self.rows = tuple(rows)
        self._folders: dict[str, tuple[set[int], list[tuple[int, re.Pattern[str]]]]] = {}

    @property
    def settings(self) -> list[list[Any]]:
        """All that it depends on, as plain data."""
        return [x.row for x in self.rows]

    def find(self, file: str, local: datetime | None = None, recorder: str = "") -> tuple[Site | None, str]:
        """The site or deployment of a recording, and a sentence on what contradicts or why there is none.

        Args:
            file: the recording, a path or a URL.
            local: when it began, in local time.
            recorder: as the file tells it.
        """
        fitting = [self.rows[k] for k in self._fitting(file)]
        deployments = [x for x in fitting if isinstance(x, Deployment)]
        if deployments:
            return _choose(deployments, local, recorder)
        if fitting:
            return fitting[0], ""
        is_table = any(isinstance(x, Deployment) for x in self.rows)
        return None, f"No {'deployment' if is_table else 'site'} has such a path."

    def _fitting(self, file: str) -> list[int]:
        # Patterns mostly name folders, and a folder holds many recordings.
        folder, _, name = _slashed(file).rpartition("/")
        kept = self._folders.get(folder)
        if kept is None:  # threads may look up at the same time
            if len(self._folders) >= _FOLDERS_KEPT:
                self._folders.clear()
            kept = self._folders[folder] = self._of_folder(folder)
        whole, by_name = kept
        if not by_name:
            return sorted(whole)
        return sorted(whole | {k for k, regex in by_name if regex.fullmatch(name)})

    def _of_folder(self, folder: str) -> tuple[set[int], list[tuple[int, re.Pattern[str]]]]:
        whole = {k for k, x in enumerate(self.rows) if folder and x._regex.search(folder)}
        by_name = []
        for k, site in enumerate(self.rows):
            *head, last = site._parts
            if k not in whole and (not head or re.search(f"(?:^|/){'/'.join(head)}$", folder)):
                by_name.append((k, re.compile(last)))
        return whole, by_name


def _choose(
    fitting: Sequence[Deployment], local: datetime | None, recorder: str
) -> tuple[Deployment | None, str]:
    """Of deployments whose patterns fit, the one that begin and recorder leave."""
    known = [x for x in fitting if x.is_by_path or x.is_recorder(recorder)]
    if not known:
        why = f"no deployment has the recorder {recorder!r}" if recorder else "it tells no recorder"
        return None, f"No pattern fits it, and {why}."
    then = known if local is None else [x for x in known if x.start <= local < x.end]
    if not then:
        near = min(known, key=lambda x: min(abs(x.start - local), abs(x.end - local)))  # type: ignore[operator]
        return None, f"Its time is outside the deployment's, {near.deployment}: {_span(near)}."
    ours = [x for x in then if x.is_recorder(recorder)] or [x for x in then if not x.recorder] or then
    if len(ours) > 1:
        why = "It fits" if local else "It tells no time and fits"
        return None, f"{why} several deployments: {_some([x.deployment for x in ours])}."
    other = ours[0].recorder and recorder and not ours[0].is_recorder(recorder)
    return ours[0], f"Its recorder is {recorder!r}, the deployment's {ours[0].recorder!r}." if other else ""


def name_of(site: Site) -> str:
    """What a site is called: by its name, or its pattern where it has none."""
    return site.site or site.pattern


def rows_of(settings: Sequence[Sequence[Any]]) -> tuple[Site, ...]:
    """What `Sites.settings` were made of."""
    return tuple(
        Deployment(*x[:6], *map(datetime.fromisoformat, x[6:8]), *x[8:])
        if len(x) > len(fields(Site))
        else Site(*x)
        for x in settings
    )


def overlaps(rows: Sequence[Site]) -> list[str]:
    """A sentence on each two deployments that have the same recordings by pattern and recorder, at the same time."""
    told = []
    alike: dict[tuple[str, str], list[Deployment]] = {}
    for x in sorted((x for x in rows if isinstance(x, Deployment)), key=lambda x: x.start):
        keys = {("pattern", x.pattern)} if x.is_by_path else set()
        for key in keys | ({("recorder", x.recorder.casefold())} if x.recorder else set()):
            alike.setdefault(key, []).append(x)
    for (what, value), same in alike.items():
        for first, second in combinations(same, 2):
            differ = what == "pattern" and first.recorder and second.recorder
            if second.start < first.end and not differ:
                until = min(first.end, second.end)
                span = f"from {_minute(second.start)} to {_minute(until)}"
                names = f"{first.deployment} and {second.deployment}"
                told.append(f"the deployments {names} have the same {what} {value} {span}")
    return list(dict.fromkeys(told))


def read_sites(path: Path) -> tuple[Site, ...]:
    """Reads a CSV with `SITE_COLUMNS`.

    Raises:
        DataError: naming the rows, if the table can't be read or used, or has none.
    """

    def site(cells: dict[str, str]) -> Site:
        if not cells["pattern"].strip("/"):
            raise ConfigError("a site must have a pattern. Received: none. * is every recording")
        return Site(cells["pattern"], *_degrees(cells), cells.get("timezone", ""), cells.get("site", ""))

    return _read(path, "sites", SITE_COLUMNS, site)


def read_deployments(path: Path) -> tuple[Deployment, ...]:
    """Reads a CSV with `DEPLOYMENT_COLUMNS` and `pattern`, `recorder` or both.

    Start and end are local times, `2023-05-10 18:30` or `2023-05-10`; an end without a time is the end of that day. One
    with an offset is converted to the row's timezone; without any, the clock counts as it is.

    Raises:
        DataError: naming the rows, if the table can't be read or used, or has none.
    """
    names: set[str] = set()

    def deployment(cells: dict[str, str]) -> Deployment:
        name, pattern, recorder = (cells.get(x, "") for x in ("deployment", "pattern", "recorder"))
        if not name or name in names:
            raise ConfigError(f"a deployment must have a name of its own. Received: {name or 'none'}")
        names.add(name)
        if not (pattern.strip("/*") or recorder):
            raise ConfigError("a deployment must have a pattern or a recorder. Received: none")
        zone = cells.get("timezone", "")
        start, end = (_local(cells, x, zone) for x in ("start", "end"))
        site = cells["site"] or name
        return Deployment(pattern or "*", *_degrees(cells), zone, site, name, start, end, recorder)

    return _read(path, "deployments", DEPLOYMENT_COLUMNS, deployment)


def _read(
    path: Path, what: str, columns: Sequence[str], row_of: Callable[[dict[str, str]], _T]
) -> tuple[_T, ...]:
    found, problems = [], []
    for row, cells in read_records(path, columns, what):
        try:
            found.append(row_of({x: y.strip() for x, y in cells.items()}))
        except ConfigError as error:
            problems.append(f"row {row}: {error}")
    if problems:
        raise DataError(f"{path}: {_some(problems, '; ')}")
    if not found:
        raise DataError(f"{path}: {what} must have at least one row. Received: none")
    return tuple(found)


def _degrees(cells: dict[str, str]) -> tuple[float, float]:
    texts = cells["latitude"], cells["longitude"]
    try:
        latitude, longitude = map(float, texts)
    except ValueError:
        rule = "latitude and longitude must be numbers of degrees"
        raise ConfigError(f"{rule}. Received: {', '.join(texts)}") from None
    if latitude == longitude == 0:
        raise ConfigError(
            "latitude and longitude must be those of the place. Received: 0, 0, in the Atlantic"
        )
    return latitude, longitude


def _local(cells: dict[str, str], column: str, zone: str) -> datetime:
    text = cells[column]
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        rule = f"{column} must be a time such as 2023-05-10 18:30"
        raise ConfigError(f"{rule}. Received: {text or 'none'}") from None
    if found.tzinfo is not None and zone:
        found = found.astimezone(zone_of(zone))
    found = found.replace(tzinfo=None)
    if found.year < FIRST_YEAR:
        raise ConfigError(f"{column} must be in {FIRST_YEAR} or later. Received: {text}")
    is_day = column == "end" and re.fullmatch(r"\d{4}-?\d\d-?\d\d", text)
    return found + timedelta(days=1) if is_day else found


def check_place(latitude: float, longitude: float) -> None:
    """Raises `ConfigError` if there is no such place."""
    for name, value, most in (("latitude", latitude, 90), ("longitude", longitude, 180)):
        if not (math.isfinite(value) and abs(value) <= most):
            raise ConfigError(f"A {name} must be from -{most} to {most} degrees. Received: {value:g}")


@lru_cache
def zone_of(name: str) -> tzinfo:
    """A timezone by its name: `Europe/Berlin`, `UTC`, or an offset that never changes: `+02:00`.

    Raises:
        ConfigError: if there is none.
    """
    if name.upper() in ("UTC", "Z"):
        return UTC
    offset = re.fullmatch(r"(?:UTC|GMT)?([+-])(\d\d?)(?::?([0-5]\d))?", name.strip())
    if offset:
        sign, hours, minutes = offset.groups()
        delta = timedelta(hours=int(hours), minutes=int(minutes or 0))
        if delta <= timedelta(hours=14):
            return timezone(delta if sign == "+" else -delta)
    else:
        try:
            return ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            pass
    raise ConfigError(f"A timezone must be one such as Europe/Berlin, UTC or +02:00. Received: {name}")


def _slashed(file: str) -> str:
    return file.partition("?")[0] if is_url(file) else file.replace(os.sep, "/")


def _span(x: Deployment) -> str:
    return f"{_minute(x.start)} to {_minute(x.end)}"


def _minute(time: datetime) -> str:
    return time.isoformat(" ", "minutes")


def _some(items: Sequence[str], between: str = ", ") -> str:
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return between.join(items[:_LISTED]) + more
