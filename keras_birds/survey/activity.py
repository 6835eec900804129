"""When labels were detected at each site, beside how long was recorded then."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from keras_birds.results.writers.files import new_text
from keras_birds.survey.effort import bin_name, bin_of, grouped
from keras_birds.survey.season import Season
from keras_birds.text import csv_writer

ACTIVITY_COLUMNS = ("label", "scientific_name", "common_name", "site", "", "detections", "recorded_h")
"""Of `activity_<bin>.csv`, with the bin's name in the gap: for each label and site where it was detected, a row for
each bin in which something was recorded there."""


def activity_rows(season: Season, by: str) -> Iterator[tuple[int, str, str, int, float]]:
    """Number of the label, site, bin, detections and hours recorded, by these in order."""
    recorded, detected = season.counts.recorded, season.counts.detected
    site_of = season.site_of
    keys, seconds = grouped((site_of[recorded.place], bin_of(recorded.hour, by)), recorded.seconds)
    hours: dict[int, dict[int, float]] = {}
    for (site, code), value in zip(keys.tolist(), seconds.tolist(), strict=True):
        hours.setdefault(site, {})[code] = value / 3600
    columns = (detected.label, site_of[detected.place], bin_of(detected.hour, by))
    keys, sums = grouped(columns, detected.number)
    pairs = np.unique(keys[:, :2], axis=0, return_index=True)
    ends = [*pairs[1][1:].tolist(), len(keys)]
    for (label, site), first, end in zip(pairs[0].tolist(), pairs[1].tolist(), ends, strict=True):
        counts = dict(zip(keys[first:end, 2].tolist(), sums[first:end].tolist(), strict=True))
        # A window that a voice is left out beside may begin in an hour of which nothing else counts.
        for code in sorted(counts.keys() | hours.get(site, {}).keys()):
            value = hours.get(site, {}).get(code, 0.0)
            yield label, season.sites[site], bin_name(code, by), round(counts.get(code, 0)), value


def write_activity(season: Season, by: str, path: Path) -> None:
    """Writes `ACTIVITY_COLUMNS`."""
    with new_text(path) as stream:
        rows = csv_writer(stream)
        rows.writerow(x or by for x in ACTIVITY_COLUMNS)
        for label, *cells, hours in activity_rows(season, by):
            item = season.counts.labels[label]
            names = (item.name, item.scientific_name, item.common_name)
            rows.writerow((*names, *cells, f"{hours:.6g}"))
