"""A folder of results as a season: what was recorded and detected at which site and deployment, hour by hour."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from keras_birds.errors import ConfigError, DataError
from keras_birds.labels import Label
from keras_birds.results.detections import name_parts, read_thresholds
from keras_birds.results.hours import HourlyCounts, count_by_hour
from keras_birds.results.journal import StreamedJournal
from keras_birds.results.origin import Origins
from keras_birds.results.sites import Site, name_of, overlaps, rows_of
from keras_birds.results.writers.files import new_text
from keras_birds.survey.places import ALL, LeftOut, Place, Places
from keras_birds.text import csv_writer

LEFT_OUT_COLUMNS = LeftOut._fields
"""Of `left_out.csv`: recordings that don't count."""


@dataclass(frozen=True, eq=False)
class Season:
    """What was recorded and detected where and when, local time.

    Args:
        counts: by label, place and hour.
        places: of the counts, by number.
        table: sites or deployments, also those without recordings; empty without a table.
        degrees: latitude and longitude of sites, where they are known.
        left_out: recordings that don't count, and why.
        problems: a sentence on whatever can't be so, one each.
        is_chosen: whether labels were asked for by name; else only those that were detected count.
    """

    counts: HourlyCounts
    places: Sequence[Place]
    table: Sequence[Site]
    degrees: dict[str, tuple[float, float]]
    left_out: Sequence[LeftOut]
    problems: Sequence[str]
    is_chosen: bool = False

    @cached_property
    def sites(self) -> list[str]:
        """Names of the sites, in order."""
        return sorted({name_of(x) for x in self.table} | {x.site for x in self.places})

    @cached_property
    def labels(self) -> list[int]:
        """Numbers of the labels that count, by name: those that were detected, or were asked for."""
        if self.is_chosen:
            return list(range(len(self.counts.labels)))
        found: list[int] = np.unique(self.counts.detected.label).tolist()
        return found

    def require_sites(self) -> None:
        """Raises `DataError` if nothing tells which site a recording is of."""
        if self.sites == [ALL]:
            raise DataError(
                "recordings must be of sites. Received: results without any. Give --deployments or --sites"
            )

    def summary(self) -> str:
        """How much counts, in a line."""
        recordings, hours = self.counts.begun.seconds.sum(), self.counts.recorded.seconds.sum() / 3600
        deployments = sum(bool(x.deployment) for x in self.places)
        among = f" in {deployments} deployments" if deployments else ""
        return (
            f"{hours:,.1f} h of {recordings:,.0f} recordings at {len(set(self.site_of.tolist()))} of {len(self.sites)} "
            f"sites{among}; {self.counts.detected.number.sum():,} detections of {len(self.labels)} labels"
        )

    @cached_property
    def site_of(self) -> np.ndarray:
        """Of each place the number of its site, `[place]`."""
        number = {x: k for k, x in enumerate(self.sites)}
        return np.array([number[x.site] for x in self.places], np.int64)

    def told(self) -> list[str]:
        """Problems, and how many recordings don't count."""
        reasons = {
            "failed": "can't be read",
            "no site": "match no site or deployment",
            "no time": "tell no time",
        }
        counts = Counter(x.why for x in self.left_out)
        return [
            *self.problems,
            *(f"{counts[x]} of the recordings {said}: left out" for x, said in reasons.items() if counts[x]),
        ]

    def write_left_out(self, path: Path) -> None:
        """Writes `LEFT_OUT_COLUMNS`."""
        with new_text(path) as stream:
            rows = csv_writer(stream)
            rows.writerow(LEFT_OUT_COLUMNS)
            rows.writerows(self.left_out)


class _Wanted:
    """Tells the score from which a label counts, as `hours.Least`: the names of which are asked for, and thresholds."""

    def __init__(self, thresholds: float | Mapping[str, float], names: Sequence[str] | None):
        self._thresholds = thresholds
        self._names = None if names is None else {x: name_parts(x) for x in names}
        self.unknown = dict.fromkeys(self._names or ())
        """Names of no label that was asked for so far."""

    def __call__(self, label: Label) -> float | None:
        if self._names is not None:
            own = {x.casefold() for x in (label.name, label.scientific_name, label.common_name) if x}
            said = [x for x, parts in self._names.items() if own & parts]
            for x in said:
                self.unknown.pop(x, None)
            if not said:
                return None
        if isinstance(self._thresholds, float):
            return self._thresholds
        if label.name not in self._thresholds:
            raise DataError(
                f"there must be a threshold for every label that counts. Received: none for {label.name}"
            )
        return self._thresholds[label.name]


def read_season(
    folder: Path,
    rows: Sequence[Site] | None = None,
    timezone: str | None = None,
    threshold: float | Path | None = None,
    names: Sequence[str] | None = None,
) -> Season:
    """Reads a folder of results, in memory for what differs by label, place and hour.

    Args:
        folder: that `keras-birds detect` left.
        rows: of a table of sites or deployments, in place of that which `detect` was given; `None` for that.
        timezone: in place of the one that `detect` was given; `None` for that.
        threshold: score from which detections count, or a table of one for each label; `None` for all there are.
        names: labels or names of those that count, as `detections.read_names` reads them; `None` for all.

    Raises:
        DataError: if it is no such folder, its tables are damaged, no recording in it counts, or a label lacks a
            threshold.
        ConfigError: if there is no such timezone, or the folder doesn't hold all detections from such a score on.
    """
    journal = StreamedJournal(folder)
    settings = journal.settings
    wanted = _Wanted(_thresholds(folder, settings, threshold), names)
    table = rows_of(settings["sites"] or ()) if rows is None else tuple(rows)
    places = Places(lambda x: x.origin, bool(table))
    if rows is not None or timezone is not None:
        zone = settings["timezone"] if timezone is None else timezone
        origins = Origins(table, settings["place"], zone, settings["time_pattern"])
        places = Places(lambda x: origins.of(x.file, x.recorder), bool(table))
    failed = [
        LeftOut(x.file, "failed", f"{x.status}: {x.reason}") for x in journal.unscored.values() if x.failed
    ]
    counts = count_by_hour(folder, journal.shards(), places, wanted)
    left_out = sorted([*places.left_out, *failed])
    if not len(counts.recorded.hour):
        first = (
            f". The first, {left_out[0].file}: {left_out[0].why}. {left_out[0].detail}" if left_out else ""
        )
        raise DataError(
            "there must be recordings whose time is known, and whose site is if there is a table. Received: none of "
            f"the {len(journal.lines)} in {folder}{first}"
        )
    problems = [*overlaps(table), *places.problems()]
    if wanted.unknown:
        problems.append(f"no detections of {', '.join(wanted.unknown)}")
    degrees = places.degrees | {name_of(x): (x.latitude, x.longitude) for x in table}
    return Season(counts, places.found, table, degrees, left_out, problems, names is not None)


def _thresholds(
    folder: Path, settings: Mapping[str, Any], threshold: float | Path | None
) -> float | dict[str, float]:
    if threshold is None:
        return 0.0
    least = float(np.min(settings["thresholds"]))
    thresholds = threshold if isinstance(threshold, float) else read_thresholds(threshold)
    lowest = thresholds if isinstance(thresholds, float) else min(thresholds.values(), default=1.0)
    if not least <= lowest <= 1:
        raise ConfigError(
            f"--threshold must be from that of the results, {least:g}, to 1. Received: {lowest:g}. For lower ones, run "
            f"`keras-birds detect` into another folder than {folder}"
        )
    return thresholds
