"""Detection histories for occupancy models: by site and occasion 1, 0, or NA where too little was recorded."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from keras_birds.errors import ConfigError, DataError
from keras_birds.results.sites import Deployment
from keras_birds.results.writers.files import new_text, safe_name
from keras_birds.survey.effort import grouped
from keras_birds.survey.places import Place
from keras_birds.survey.season import Season
from keras_birds.text import csv_writer

SITES_COLUMNS = ("site", "latitude", "longitude", "deployments", "occasions", "recorded_h")
"""Of `sites.csv`; `occasions` counts those that aren't NA."""
OCCASIONS_COLUMNS = ("occasion", "begin", "end", "sites", "recorded_h")
"""Of `occasions.csv`: local time; `sites` counts those that aren't NA."""
OCCUPANCY_COLUMNS = (
    *("label", "scientific_name", "common_name", "sites", "sites_detected", "naive_occupancy"),
    *("occasions", "occasions_detected", "detections"),
)
"""Of `occupancy.csv`, a row for each label; `occasions` are of all sites, without NA."""

_EPOCH = date(1970, 1, 1)
_MOST_OCCASIONS = 1000
_MISSING = -1


@dataclass(frozen=True)
class Occasions:
    """How a season is divided.

    Args:
        days: length of an occasion.
        begin_hour: of day at which occasions begin and end: 12 keeps nights whole.
        min_hours: with less recorded, an occasion is NA at a site; anything is enough at 0.
        first, last: days with which the first occasion begins and after which nothing counts, also of an occasion that
            began before; `None` for the first and last on which anything was recorded.

    Raises:
        ConfigError: if a number is out of range, or the last day is before the first.
    """

    days: int = 1
    begin_hour: int = 0
    min_hours: float = 0.0
    first: date | None = None
    last: date | None = None

    def __post_init__(self) -> None:
        if self.days < 1 or not 0 <= self.begin_hour < 24 or not self.min_hours >= 0:
            raise ConfigError(
                "occasions must have a day at least, begin at an hour from 0 to 23 and need 0 hours or more. Received: "
                f"{self.days} days, hour {self.begin_hour}, {self.min_hours:g} hours"
            )
        if self.first and self.last and self.last < self.first:
            raise ConfigError(f"--to must not be before --from. Received: {self.last} and {self.first}")


class Histories:
    """The histories of a season's labels: sites in rows, also those where nothing was recorded, occasions in columns.

    Args:
        season: what was recorded and detected.
        occasions: how it is divided.

    Attributes:
        season: as given.
        begins: of the occasions; and the end of the last.
        effort_h: hours recorded, float64 `[site, occasion]`.
        is_known: whether enough was recorded, bool `[site, occasion]`.
        lost: detections that are left out since less was recorded.

    Raises:
        DataError: if nothing was recorded in that time, or there would be more than 1,000 occasions.
    """

    def __init__(self, season: Season, occasions: Occasions):
        self.season = season
        recorded, detected = season.counts.recorded, season.counts.detected
        day = (recorded.hour - occasions.begin_hour) // 24
        self._first = int(day.min()) if occasions.first is None else (occasions.first - _EPOCH).days
        self._last = int(day.max()) if occasions.last is None else (occasions.last - _EPOCH).days
        self._occasions = occasions
        num = (self._last - self._first) // occasions.days + 1
        rows, occasion = self._occasion_of(recorded.hour)
        if num < 1 or not len(rows):
            raise DataError(
                "something must be recorded between the first and the last day. Received: nothing from "
                f"{self._day(self._first)} to {self._day(self._last)}"
            )
        if num > _MOST_OCCASIONS:
            raise DataError(
                f"histories must have at most {_MOST_OCCASIONS} occasions. Received: {num}, from "
                f"{self._day(self._first)} to {self._day(self._last)}. Give longer occasions, or --from and --to if a "
                "clock was wrong"
            )
        midnight = [datetime.combine(self._day(self._first + k * occasions.days), time()) for k in range(num)]
        self.begins = [x + timedelta(hours=occasions.begin_hour) for x in midnight]
        end = datetime.combine(self._day(self._last + 1), time()) + timedelta(hours=occasions.begin_hour)
        self.begins.append(end)
        self.effort_h = np.zeros((len(season.sites), num))
        np.add.at(
            self.effort_h, (season.site_of[recorded.place[rows]], occasion), recorded.seconds[rows] / 3600
        )
        self.is_known = (self.effort_h > 0) & (self.effort_h >= occasions.min_hours - 1e-9)
        rows, occasion = self._occasion_of(detected.hour)
        site = season.site_of[detected.place[rows]]
        counts = self.is_known[site, occasion]
        self.lost = int(detected.number[rows][~counts].sum())
        columns = tuple(x[counts] for x in (detected.label[rows], site, occasion))
        self._cells, self._counts = grouped(columns, detected.number[rows][counts])

    def _day(self, number: int) -> date:
        return _EPOCH + timedelta(days=number)

    def _occasion_of(self, hour: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which rows of hours since 1970 lie within the occasions, and in which."""
        day = (hour - self._occasions.begin_hour) // 24
        rows = np.flatnonzero((day >= self._first) & (day <= self._last))
        return rows, (day[rows] - self._first) // self._occasions.days

    def counts_of(self, label: int) -> np.ndarray:
        """Detections of a label by its number, int64 `[site, occasion]`; -1 where too little was recorded."""
        first, end = np.searchsorted(self._cells[:, 0], [label, label + 1])
        counts = np.where(self.is_known, 0, _MISSING)
        counts[self._cells[first:end, 1], self._cells[first:end, 2]] = self._counts[first:end]
        return counts

    @property
    def names(self) -> list[str]:
        """Of the occasions: o1, o2, ... R makes others of dates."""
        return [f"o{k}" for k in range(1, len(self.begins))]

    def told(self) -> Iterator[str]:
        """What may surprise."""
        silent = [x for x, known in zip(self.season.sites, self.is_known, strict=True) if not known.any()]
        if silent:
            yield (
                f"{len(silent)} of {len(self.season.sites)} sites are NA on every occasion: "
                f"{', '.join(silent[:3])}{', ...' if len(silent) > 3 else ''}. Some models refuse such rows"
            )
        if self.lost:
            yield f"{self.lost} detections are in occasions that are NA, with less than --min-hours recorded: left out"
        days = (self.begins[-1] - self.begins[-2]).days
        if days < self._occasions.days:
            yield f"the last occasion has {days} of {self._occasions.days} days"

    def summary(self) -> str:
        """What was made, in a line."""
        labels, sites = len(self.season.labels), len(self.season.sites)
        return (
            f"{labels} histories of {sites} sites on {len(self.names)} occasions, {self.begins[0]:%Y-%m-%d} to "
            f"{self.begins[-1]:%Y-%m-%d}: {self.is_known.mean():.0%} of the cells are 0 or 1"
        )


def write_histories(histories: Histories, folder: Path) -> list[Path]:
    """Writes `sites.csv`, `occasions.csv`, `effort.csv`, `occupancy.csv` and `history/LABEL.csv`; the paths."""
    season = histories.season
    sites = season.sites
    files = [folder / f"{x}.csv" for x in ("sites", "occasions", "effort", "occupancy")]
    _write(files[0], SITES_COLUMNS, _site_rows(histories))
    spans = zip(histories.begins, histories.begins[1:], histories.names, strict=False)
    known, hours = histories.is_known.sum(axis=0), histories.effort_h.sum(axis=0)
    rows = [(name, f"{a:%Y-%m-%d %H:%M}", f"{b:%Y-%m-%d %H:%M}") for a, b, name in spans]
    _write(
        files[1], OCCASIONS_COLUMNS, ((*x, k, f"{h:.6g}") for x, k, h in zip(rows, known, hours, strict=True))
    )
    header = ("site", *histories.names)
    efforts = zip(sites, histories.effort_h, strict=True)
    _write(files[2], header, ((site, *(f"{x:.6g}" for x in row)) for site, row in efforts))
    totals = []
    for k in season.labels:
        item, counts = season.counts.labels[k], histories.counts_of(k)
        cells = np.where(counts < 0, "NA", np.where(counts > 0, "1", "0"))
        path = folder / "history" / safe_name(item.name, ".csv")
        _write(path, header, ((site, *row) for site, row in zip(sites, cells, strict=True)))
        files.append(path)
        names = (item.name, item.scientific_name, item.common_name)
        totals.append((*names, *_totals(counts, histories.is_known)))
    _write(files[3], OCCUPANCY_COLUMNS, iter(totals))
    return files


def _site_rows(histories: Histories) -> Iterator[tuple[Any, ...]]:
    season = histories.season
    deployments = {x for x in season.places if x.deployment}
    deployments |= {Place(x.site, x.deployment) for x in season.table if isinstance(x, Deployment)}
    known, hours = histories.is_known.sum(axis=1), histories.effort_h.sum(axis=1)
    for site, occasions, recorded_h in zip(season.sites, known, hours, strict=True):
        degrees = (f"{x:.6f}".rstrip("0").rstrip(".") for x in season.degrees.get(site, ()))
        place = tuple(degrees) or ("NA", "NA")
        yield site, *place, sum(x.site == site for x in deployments), occasions, f"{recorded_h:.6g}"


def _totals(counts: np.ndarray, is_known: np.ndarray) -> tuple[Any, ...]:
    sites, found = is_known.any(axis=1).sum(), (counts > 0).any(axis=1).sum()
    share = f"{found / sites:.4g}" if sites else "NA"
    return sites, found, share, is_known.sum(), (counts > 0).sum(), counts[counts > 0].sum()


def _write(path: Path, header: tuple[str, ...], rows: Iterator[tuple[Any, ...]]) -> None:
    with new_text(path) as stream:
        table = csv_writer(stream)
        table.writerow(header)
        table.writerows(rows)
