"""Detections against annotations with times: which are right, and which sounds were found.

Two counts, both per label and with one rule of what belongs together (`data.annotations.holds`):

- many to many, as the intersection criteria of Bilen et al. 2020 (arXiv:1910.08440, PSDS) count: a detection is right
  if it holds an annotation, an annotation is found if a detection holds it. So windows of fixed length and merged
  events are both judged fairly, and precision and recall have a value at every threshold;
- one to one, as sed_eval's event-based metrics (Mesaros et al. 2016, Applied Sciences 6(6):162): touching detections
  become one event, and as many pairs are made as can be (`event_matching_type="optimal"`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from keras_birds.data.annotations import Annotation, holds
from keras_birds.results.detections import merge

_MOST_POINTS = 500


@dataclass(frozen=True)
class EventRules:
    """When a detection counts, from which score on, and what it holds: `share` and `tolerance_s` as for `holds`."""

    threshold: float = 0.25
    share: float = 0.5
    tolerance_s: float = 0.2


@dataclass(frozen=True)
class EventFigures:
    """Of a label, or of all together.

    `precision` and `recall` count many to many, `f1` one to one: `matched` pairs of `events` and `annotations`. These
    are for the threshold, `average_precision` is the area under precision over recall; not numbers where undefined.
    """

    annotations: int
    average_precision: float
    precision: float
    recall: float
    events: int
    matched: int
    f1: float


class EventTally:
    """Counts detections and annotations of one label, a recording at a time."""

    def __init__(self, rules: EventRules):
        self.rules = rules
        self.events = self.matched = 0
        self._scores: list[np.ndarray] = []
        self._right: list[np.ndarray] = []
        self._found: list[np.ndarray] = []

    def add(
        self, start_s: np.ndarray, end_s: np.ndarray, scores: np.ndarray, rows: Sequence[Annotation]
    ) -> None:
        """Takes a recording's detections of the label, each `[n]` of any score, and annotations of it.

        A detection that touches an annotation and holds none is neither right nor wrong.
        """
        rules = self.rules
        held, touched = holds(start_s, end_s, rows, rules.share, rules.tolerance_s)
        right = np.any(held, axis=1)
        is_counted = right | ~touched.any(axis=1)
        self._scores.append(scores[is_counted])
        self._right.append(right[is_counted])
        self._found.append(np.where(held, scores[:, None], -np.inf).max(axis=0, initial=-np.inf))
        is_there: np.ndarray = scores >= rules.threshold
        same = np.zeros(int(is_there.sum()), int)
        start_s, end_s, *_ = merge([start_s[is_there], end_s[is_there], same, same, scores[is_there]])
        self.events += len(start_s)
        if len(start_s) and len(rows):
            pairs, _ = holds(start_s, end_s, rows, rules.share, rules.tolerance_s)
            self.matched += int((maximum_bipartite_matching(csr_array(pairs)) >= 0).sum())

    def curve(self) -> pd.DataFrame:
        """`threshold` from the highest score down, `precision` and `recall`; a row for each score, of at most 500."""
        scores, right, found = self.joined()
        order = np.argsort(-scores, kind="stable")
        scores, right = scores[order], right[order]
        last = np.append(scores[1:] != scores[:-1], True)[: len(scores)]
        precision = (np.cumsum(right) / np.arange(1, len(right) + 1))[last]
        recall = (
            np.searchsorted(np.sort(-found), -scores[last], side="right") / len(found)
            if len(found)
            else np.full(int(last.sum()), np.nan)
        )
        return pd.DataFrame({"threshold": scores[last], "precision": precision, "recall": recall})

    def figures(self) -> EventFigures:
        """All in all."""
        return together([self])

    def average_precision(self) -> float:
        """Area under the curve of all scores; not a number without annotations."""
        curve = self.curve()
        steps = np.diff(curve["recall"].to_numpy(), prepend=0.0)
        return float((steps * curve["precision"]).sum()) if any(map(len, self._found)) else np.nan

    def joined(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Score of each detection, whether it is right, and of each annotation the best score that found it."""
        return (
            np.concatenate([np.zeros(0), *self._scores]),
            np.concatenate([np.zeros(0, bool), *self._right]),
            np.concatenate([np.zeros(0), *self._found]),
        )


def together(tallies: Sequence[EventTally]) -> EventFigures:
    """Of one label or several: the mean of their average precisions, and the counts of all."""
    scores, right, found = (np.concatenate(x) for x in zip(*(x.joined() for x in tallies), strict=True))
    threshold, areas = tallies[0].rules.threshold, pd.Series([x.average_precision() for x in tallies])
    is_there = scores >= threshold
    precision = float(right[is_there].mean()) if is_there.any() else np.nan
    recall = float((found >= threshold).mean()) if len(found) else np.nan
    events, matched = sum(x.events for x in tallies), sum(x.matched for x in tallies)
    total = events + len(found)
    f1 = 2 * matched / total if total else np.nan
    return EventFigures(len(found), float(areas.mean()), precision, recall, events, matched, f1)


def thinned(curve: pd.DataFrame) -> pd.DataFrame:
    """At most 500 rows of a curve, its ends among them."""
    if len(curve) <= _MOST_POINTS:
        return curve
    return curve.iloc[np.unique(np.linspace(0, len(curve) - 1, _MOST_POINTS).round().astype(int))]
