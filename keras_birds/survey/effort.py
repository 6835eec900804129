"""Hours recorded by site and deployment: by hour of day, day or month."""

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from keras_birds.results.hours import Tally
from keras_birds.results.sites import Deployment
from keras_birds.results.writers.files import new_text
from keras_birds.survey.places import Place
from keras_birds.survey.season import Season
from keras_birds.text import csv_writer

EFFORT_COLUMNS = ("site", "deployment", "", "recordings", "recorded_h")
"""Of `effort_<bin>.csv`, with the bin's name in the gap: a row for each site, deployment and bin with a recording, and
for each day of a deployment in the table."""


def bin_of(hour: np.ndarray, by: str) -> np.ndarray:
    """The bin of each hour since 1970: hour of day, day since 1970 or month since then."""
    if by == "hour":
        return hour % 24
    return (
        hour // 24 if by == "day" else hour.astype("datetime64[h]").astype("datetime64[M]").astype(np.int64)
    )


def bin_name(code: int, by: str) -> str:
    """A bin as text: `5`, `2023-05-10` or `2023-05`."""
    if by == "hour":
        return str(code)
    return str(np.datetime64(code, "D") if by == "day" else np.datetime64(code, "M"))


def grouped(columns: tuple[np.ndarray, ...], weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of weights by the numbers in columns, `[row]` each: the combinations, `[sum, column]` in order, and sums."""
    tally = Tally(len(columns))
    tally.add(columns, weights)
    numbers, sums = tally.sums()
    return np.stack(numbers, axis=1), sums


def recorded_by_day(season: Season) -> tuple[int, np.ndarray]:
    """The first day since 1970, and the hours recorded by site and day from then on, `[site, day]`."""
    recorded = season.counts.recorded
    day = recorded.hour // 24
    first = int(day.min())
    hours = np.zeros((len(season.sites), int(day.max()) - first + 1))
    np.add.at(hours, (season.site_of[recorded.place], day - first), recorded.seconds / 3600)
    return first, hours


def effort_rows(season: Season, by: str) -> Iterator[tuple[str, str, str, int, float]]:
    """Rows of `EFFORT_COLUMNS`, by site, deployment and bin."""
    found: dict[tuple[Place, int], list[float]] = {}
    for k, part in enumerate((season.counts.begun, season.counts.recorded)):
        keys, sums = grouped((part.place, bin_of(part.hour, by)), part.seconds)
        for (place, code), value in zip(keys.tolist(), sums.tolist(), strict=True):
            found.setdefault((season.places[place], code), [0.0, 0.0])[k] = value
    if by == "day":
        for key in _days_of(season):
            found.setdefault(key, [0.0, 0.0])
    for (place, code), (recordings, seconds) in sorted(found.items()):
        yield (*place, bin_name(code, by), round(recordings), seconds / 3600)


def _days_of(season: Season) -> Iterator[tuple[Place, int]]:
    """Days of the deployments in the table, until the last on which anything was recorded anywhere."""
    last = date(1970, 1, 1) + timedelta(days=int(season.counts.recorded.hour.max()) // 24)
    for x in season.table:
        if isinstance(x, Deployment):
            day = x.start.date()
            while day <= min(last, (x.end - timedelta(microseconds=1)).date()):
                yield Place(x.site, x.deployment), (day - date(1970, 1, 1)).days
                day += timedelta(days=1)


def write_effort(season: Season, by: str, path: Path) -> None:
    """Writes `EFFORT_COLUMNS`."""
    with new_text(path) as stream:
        rows = csv_writer(stream)
        rows.writerow(x or by for x in EFFORT_COLUMNS)
        rows.writerows((*x, f"{hours:.6g}") for *x, hours in effort_rows(season, by))
