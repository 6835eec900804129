"""What `density` tells of a label: how many of its windows hold a call, where, when, and what a threshold is worth."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic_core import to_jsonable_python

from keras_birds.atomic import write_json
from keras_birds.audio.remote import path_of
from keras_birds.errors import DataError
from keras_birds.evaluation import density
from keras_birds.evaluation.bootstrap import Interval
from keras_birds.evaluation.checked import Answers, Checked, answers
from keras_birds.evaluation.density import Bins, Method, Rates, ThresholdRow
from keras_birds.results.strata import BINS, WindowScores, bin_of, halving_edges
from keras_birds.results.writers.files import new_text
from keras_birds.text import csv_writer

DENSITY_COLUMNS = (
    *("label", "by", "of", "windows", "hours", "prevalence", "prevalence_low", "prevalence_high"),
    *("per_hour", "per_hour_low", "per_hour_high"),
)


@dataclass(frozen=True)
class Group:
    """Windows of all recordings, of a day or of a folder; `per_hour` are windows with a call in an hour of sound."""

    by: str
    of: str
    windows: int
    hours: float
    prevalence: Interval

    @property
    def per_hour(self) -> Interval:
        """Windows with a call in an hour."""
        factor = self.windows / self.hours if self.hours else math.nan
        return Interval(
            *(factor * x for x in (self.prevalence.value, self.prevalence.low, self.prevalence.high))
        )


@dataclass(frozen=True, eq=False)
class LabelDensity:
    """One label's bins and what follows from them; `groups` begins with all recordings."""

    label: str
    bins: Bins
    answers: Answers
    groups: list[Group]
    thresholds: list[ThresholdRow]
    chosen: ThresholdRow | None
    more: np.ndarray
    notes: list[str]


def label_density(
    found: WindowScores, checked: Checked, label: str, method: Method, precision: float
) -> LabelDensity:
    """Estimates one label's density.

    Raises:
        DataError: if no review of it can be used, or it was drawn from other results.
    """
    scores, said = found.scores[label], answers(checked.marks, label, found)
    if not len(said.rows):
        told = ", ".join(_left_out(said)) or "none"
        raise DataError(f"there must be reviews of {label} in windows of the results. Received: {told}")
    if label in checked.strata:
        edges, windows = checked.strata[label]
        if np.bincount(bin_of(edges, scores), minlength=len(windows)).tolist() != windows.tolist():
            rule = f"reviews must be of a draw from these results. Received: {windows.sum()} windows of {label} there"
            raise DataError(
                f"{rule}, {len(scores)} here, or other scores. Give the results that were drawn from"
            )
    else:
        edges = halving_edges(scores, BINS)
    bins = Bins.of(edges, scores, said.rows, said.target)
    rates = density.draw_rates(bins, method)
    calls = density.known_calls(bins, rates)
    hours, n = found.hours, len(scores)
    groups = [Group("all", "", n, float(hours.sum()), density.share_of(calls, n))]
    # Of each recording how many windows of each bin, `[recording, bin]`.
    sizes = np.bincount(found.recording * len(bins) + bin_of(edges, scores), minlength=len(hours) * len(bins))
    sizes = sizes.reshape(len(hours), len(bins))
    for by, names in (("day", _days(found)), ("folder", _folders(found))):
        groups += _groups(by, np.array(names), rates, sizes, hours)
    thresholds = density.at_thresholds(bins, calls)
    chosen = density.threshold_for(precision, thresholds)
    more, notes = density.reviews_to_halve(bins), _notes(bins, said, checked, label)
    return LabelDensity(label, bins, said, groups, thresholds, chosen, more, notes)


def _groups(
    by: str, names: np.ndarray, rates: Rates, sizes: np.ndarray, hours: np.ndarray
) -> Iterator[Group]:
    """Each of several days or folders; recordings without a name are in none."""
    known = np.unique(names)
    for name in known[known != ""] if len(known) > 1 else ():
        is_in = names == name
        windows = sizes[is_in].sum(axis=0)
        share = density.share_of(density.draw_calls(rates, windows), int(windows.sum()))
        yield Group(by, str(name), int(windows.sum()), float(hours[is_in].sum()), share)


def _days(found: WindowScores) -> list[str]:
    times = [x.origin.local for x in found.recordings]
    return ["" if x is None else x.date().isoformat() for x in times]


def _folders(found: WindowScores) -> list[str]:
    return [str(path_of(x.file).parent) for x in found.recordings]


def _left_out(said: Answers) -> list[str]:
    counts = {
        "unsure, left out": said.unsure,
        "left out, on which reviewers disagree": said.disagreements,
        "of windows that aren't in the results": said.elsewhere,
    }
    return [f"{count} {what}" for what, count in counts.items() if count]


def _notes(bins: Bins, said: Answers, checked: Checked, label: str) -> list[str]:
    notes = _left_out(said)
    drawn, told = checked.drawn[label], len(said.rows) + said.unsure + said.disagreements
    if drawn > told:
        notes.append(
            f"{drawn - told} of {drawn} clips without a review: taken as like the others of their bin"
        )
    if label not in checked.strata:
        notes.append(
            "not drawn by `segments --pick stratified`: reviews are taken as a random choice in each bin"
        )
    for k in bins.without_reviews:
        what = f"no review of scores from {bins.edges[k]:.3g} to {bins.edges[k + 1]:.3g} ({bins.windows[k]} windows)"
        notes.append(f"{what}: their rate is taken as anything between those of the bins beside it")
    return notes


def write_density(found: Sequence[LabelDensity], path: Path) -> None:
    """Writes `density.csv`: a row for all recordings of a label, each day and each folder."""
    with new_text(path) as stream:
        rows = csv_writer(stream)
        rows.writerow(DENSITY_COLUMNS)
        for x in found:
            for y in x.groups:
                numbers = (z for w in (y.prevalence, y.per_hour) for z in (w.value, w.low, w.high))
                rows.writerow(
                    (x.label, y.by, y.of, y.windows, f"{y.hours:.4f}", *(f"{z:.6g}" for z in numbers))
                )


def write_thresholds(found: Sequence[LabelDensity], labels: Sequence[str], path: Path) -> None:
    """Writes a table for `detect --threshold`: 1 for labels that nobody reviewed or that don't reach the precision."""
    chosen = {x.label: x.chosen.threshold for x in found if x.chosen}
    with new_text(path) as stream:
        rows = csv_writer(stream)
        rows.writerow(("label", "threshold"))
        rows.writerows((x, f"{chosen.get(x, 1.0):.9g}") for x in labels)


def write_report(found: Sequence[LabelDensity], settings: dict[str, Any], path: Path) -> None:
    """Writes everything as JSON: bins, thresholds, and how many more reviews of each bin would halve the interval."""
    labels = {
        x.label: {
            "bins": _bins(x),
            "density": [asdict(y) | {"per_hour": y.per_hour} for y in x.groups],
            "thresholds": x.thresholds,
            "threshold": None if x.chosen is None else x.chosen.threshold,
            "notes": x.notes,
        }
        for x in found
    }
    # Of no calls none is found: what isn't a number is null.
    write_json(path, to_jsonable_python({"settings": settings, "labels": labels}, inf_nan_mode="null"))


def _bins(found: LabelDensity) -> list[dict[str, float]]:
    names = ("from_score", "windows", "reviewed", "right", "more_to_halve")
    bins = found.bins
    columns = (bins.edges[:-1], bins.windows, bins.reviewed, bins.right, found.more)
    return [dict(zip(names, row, strict=True)) for row in zip(*(x.tolist() for x in columns), strict=True)]
