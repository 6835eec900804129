"""What a model answers of labelled recordings, beside what their labels say, in memory that the data's labels take."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from keras_birds.config import DataConfig
from keras_birds.data.catalog import Catalog
from keras_birds.data.names import match_labels
from keras_birds.data.tables import first_of
from keras_birds.errors import DataError
from keras_birds.inference.aggregate import METHODS, aggregate
from keras_birds.inference.scorer import RecordingStatus, score_recordings
from keras_birds.labels import Label, LabelSet
from keras_birds.models.ensemble import Ensemble

TOP = 5
"""How many of a recording's best labels are kept."""

Allowed = Callable[[int], np.ndarray]
"""Whether each of the model's labels may be in a recording, bool `[label]`, by the catalog's row."""


@dataclass(frozen=True, eq=False)
class Truth:
    """What a data set says of its recordings, for a model with labels of its own.

    Args:
        rows: int `[recording]`, those of the catalog whose label the model knows.
        labels: as the data calls them, joined by ` + ` where several are one label of the model.
        columns: int `[label]`, the model's output of each.
        targets: float32 `[recording, label]`, 0 to 1 or -1, as `Catalog.targets`.
        unknown: how many recordings have each label that the model doesn't know.
    """

    rows: np.ndarray
    labels: LabelSet
    columns: np.ndarray
    targets: np.ndarray
    unknown: dict[str, int]


def read_truth(catalog: Catalog, data: DataConfig, known: LabelSet) -> Truth:
    """Reads what a catalog says for a model with the labels `known`; a `DataError` if they have none in common."""
    matched, found = match_labels(catalog.labels, known), catalog.recordings["label"]
    place = dict(zip(catalog.labels, matched, strict=True))
    has_match = np.array([place[x] >= 0 for x in found], bool)
    unknown = dict(Counter(sorted(found[~has_match])))
    if not has_match.any():
        raise DataError(
            f"{catalog.root}: the model must know a label of the data. Received: {first_of(list(unknown))}, by no name "
            f"among its {len(known)}, such as {first_of(known.names)}. Scientific or common names match best"
        )
    columns = np.array(list(dict.fromkeys(matched[matched >= 0])))  # in the data's order
    members = [np.flatnonzero(matched == x) for x in columns]
    every = catalog.targets(data)[has_match]
    targets = np.stack([_merged(every[:, x]) for x in members], axis=1)
    labels = LabelSet(_joined([catalog.labels.items[i] for i in x]) for x in members)
    return Truth(np.flatnonzero(has_match), labels, columns, targets, unknown)


def _merged(targets: np.ndarray) -> np.ndarray:
    """Of labels `[recording, label]` that are one: a positive counts before a masked one, that before a negative."""
    most = targets.max(axis=1)
    return np.where(most > 0, most, targets.min(axis=1))


def _joined(labels: Sequence[Label]) -> Label:
    first = labels[0]
    name = " + ".join(x.name for x in labels)
    return Label(name, first.scientific_name, first.common_name, first.class_name)


@dataclass(frozen=True, eq=False)
class Answers:
    """One way to answer of each recording from its windows.

    Args:
        name: `"mean"` or `"max"` over windows; `"mean, in range"` where labels that aren't allowed are no answer.
        scores: float32 `[recording, label]` of the data's labels.
        ranks: float64 `[recording]`, from 1, the best place of a label that is there among all labels of the model; not
            a number where none of them is allowed.
        best: int `[recording, 5]`, the model's labels with the highest scores; -1 where there are fewer.
        best_scores: float32 `[recording, 5]`.
    """

    name: str
    scores: np.ndarray
    ranks: np.ndarray
    best: np.ndarray
    best_scores: np.ndarray


@dataclass(eq=False)
class _Rows:
    """An `Answers` as it grows."""

    scores: list[np.ndarray] = field(default_factory=list)
    ranks: list[float] = field(default_factory=list)
    best: list[np.ndarray] = field(default_factory=list)
    best_scores: list[np.ndarray] = field(default_factory=list)

    def add(self, answer: np.ndarray, allowed: np.ndarray, columns: np.ndarray, is_there: np.ndarray) -> None:
        """Takes an answer `[model label]`; `is_there` tells of the data's labels, whose `columns` those are."""
        candidates = np.where(allowed, answer, -np.inf)
        order = np.argsort(-candidates, kind="stable")
        places = np.empty(len(order), int)
        places[order] = np.arange(1, len(order) + 1)
        there = columns[is_there]
        there = there[allowed[there]]
        best = np.resize(order, TOP) if len(order) < TOP else order[:TOP]
        is_answer = allowed[best] & (np.arange(TOP) < len(order))
        self.scores.append(np.where(allowed, answer, 0)[columns].astype(np.float32))
        self.ranks.append(float(places[there].min()) if len(there) else np.nan)
        self.best.append(np.where(is_answer, best, -1))
        self.best_scores.append(np.where(is_answer, answer[best], np.nan).astype(np.float32))

    def done(self, name: str) -> Answers:
        """What was taken."""
        return Answers(name, *map(np.array, (self.scores, self.ranks, self.best, self.best_scores)))


def answer_recordings(
    ensemble: Ensemble,
    paths: Sequence[str | Path],
    truth: Truth,
    allowed: Allowed | None,
    on_scored: Callable[[int, RecordingStatus], None],
) -> tuple[np.ndarray, list[Answers]]:
    """Scores the recordings of `truth`, `paths`, each whole, and keeps their answers.

    Labels that a recording's targets mask are no answer, right or wrong.

    Args:
        ensemble: the model.
        paths: of the recordings.
        truth: what is known of them.
        allowed: which labels may be in them; `None` for all.
        on_scored: told how many are done and what became of one.

    Returns:
        Whether each recording could be scored, bool `[recording]`, and the answers of those, by mean and by max.
    """
    suffixes = [""] if allowed is None else ["", ", in range"]
    growing = {method + suffix: _Rows() for suffix in suffixes for method in METHODS}
    is_scored = np.zeros(len(paths), bool)
    for i, found in enumerate(score_recordings(ensemble, paths)):
        is_scored[i] = len(found.scores) > 0
        if is_scored[i]:
            is_open = np.ones(len(ensemble.labels), bool)
            is_open[truth.columns[truth.targets[i] < 0]] = False
            for suffix in suffixes:
                if suffix and allowed is not None:
                    is_open = is_open & allowed(int(truth.rows[i]))
                for method in METHODS:
                    answer = aggregate(found.scores, method)
                    growing[method + suffix].add(answer, is_open, truth.columns, truth.targets[i] >= 0.5)
        on_scored(i + 1, found.recording)
    return is_scored, [rows.done(name) for name, rows in growing.items()]
