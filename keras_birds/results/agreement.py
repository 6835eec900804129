"""What several models say of the same sound: which of their labels are one species, and which detections agree."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from keras_birds.data.names import match_labels
from keras_birds.labels import Label, LabelSet
from keras_birds.results.detections import detection_schema

if TYPE_CHECKING:
    import pyarrow as pa

_NAMES = {"label": "name", "scientific_name": "scientific_name", "common_name": "common_name"}
_TOLERANCE_S = 1e-6
_UNSAID = -1.0


class CommonLabels:
    """The labels of several models as one set: those of the first, then what each next one knows beside them.

    Labels of two models are one by their names and synonyms, as of `data.names.match_labels`, in either direction: a
    species that was split since agrees with each of its parts.

    Args:
        models: the labels of each.

    Attributes:
        labels: the common set, each with the names of the first model that knows it.
    """

    def __init__(self, models: Sequence[LabelSet]):
        items = list(models[0].items)
        self._places = [np.arange(len(items))]
        for labels in models[1:]:
            known = LabelSet(items)
            places = match_labels(labels, known)
            for k in np.flatnonzero(places < 0):
                name = labels.items[k].name
                if name not in known:
                    items.append(labels.items[k])
                places[k] = known.index(name) if name in known else len(items) - 1
            self._places.append(places)
        self.labels = LabelSet(items)
        self._same = [_pairs(x, y, self.labels) for x, y in zip(models, self._places, strict=True)]
        self._models = tuple(models)

    def only(self, model: int) -> list[str]:
        """A model's labels that no other knows."""
        others = [x for k, same in enumerate(self._same) if k != model for y in same for x in y]
        known = np.isin(np.arange(len(self.labels)), others)
        return [
            x for x, same in zip(self._models[model], self._same[model], strict=True) if not known[same].any()
        ]

    def places(self, model: int, labels: "pa.ChunkedArray") -> np.ndarray:
        """A column of a model's labels as rows of the common set, int `[n]`."""
        column = labels.combine_chunks().dictionary_encode()
        known = [self._places[model][self._models[model].index(x)] for x in column.dictionary.to_pylist()]
        return np.array(known, int)[column.indices.to_numpy()]

    def all_places(self, model: int, labels: "pa.ChunkedArray") -> tuple[np.ndarray, np.ndarray]:
        """Pairs of a row of the column and a common label that it agrees with, int `[pair]` each."""
        column = labels.combine_chunks().dictionary_encode()
        same = [self._same[model][self._models[model].index(x)] for x in column.dictionary.to_pylist()]
        found = [same[k] for k in column.indices.to_numpy()]
        rows = np.repeat(np.arange(len(found)), [len(x) for x in found])
        return rows, np.concatenate([*found, np.zeros(0, int)]).astype(int)


def _pairs(labels: LabelSet, places: np.ndarray, common: LabelSet) -> list[np.ndarray]:
    """Of each label the common ones that it agrees with."""
    back = match_labels(common, labels)
    order = np.argsort(back, kind="stable")
    first, end = (np.searchsorted(back[order], np.arange(len(labels)), side) for side in ("left", "right"))
    return [np.union1d(place, order[a:b]) for place, a, b in zip(places, first, end, strict=True)]


class Spans(NamedTuple):
    """Detections of a recording: `start_s` and `end_s`, float64 `[n]`; `channel` and common `label`, int `[n]`."""

    start_s: np.ndarray
    end_s: np.ndarray
    channel: np.ndarray
    label: np.ndarray

    @classmethod
    def of(cls, table: "pa.Table", label: np.ndarray) -> "Spans":
        """Of a table of `detection_schema`."""
        start_s, end_s, channel = (table[x].to_numpy() for x in ("start_s", "end_s", "channel"))
        return cls(start_s, end_s, channel, label)

    @property
    def group(self) -> np.ndarray:
        """A number for each label and channel."""
        return self.label.astype(np.int64) << 16 | self.channel.astype(np.int64)


def agreeing(first: Spans, second: Spans) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of detections that agree: of one label and channel, with at least half of the shorter one in common.

    So each window of 3 s agrees with one of 5 s where these follow each other without a gap.

    Returns:
        Rows of `first`, and of `second`, int `[pair]` each.
    """
    # Each label and channel on a stretch of its own of one line.
    stretch_s = max((float(x.end_s.max()) for x in (first, second) if len(x.end_s)), default=0.0) + 1
    groups = np.unique(np.concatenate([first.group, second.group]))
    at_s = [np.searchsorted(groups, x.group) * stretch_s for x in (first, second)]
    order = np.argsort(at_s[1] + second.start_s, kind="stable")
    starts, ends = (at_s[1] + second.start_s)[order], np.maximum.accumulate((at_s[1] + second.end_s)[order])
    begin = np.searchsorted(ends, at_s[0] + first.start_s, "right")
    count = np.maximum(0, np.searchsorted(starts, at_s[0] + first.end_s, "left") - begin)
    one = np.repeat(np.arange(len(begin)), count)
    two = order[np.arange(len(one)) - np.repeat(np.cumsum(count) - count - begin, count)]
    (start_s, end_s, _, _), (other_start_s, other_end_s, _, _) = first, second
    common_s = np.minimum(end_s[one], other_end_s[two]) - np.maximum(start_s[one], other_start_s[two])
    shorter_s = np.minimum((end_s - start_s)[one], (other_end_s - other_start_s)[two])
    agree = (first.group[one] == second.group[two]) & (common_s >= shorter_s / 2 - _TOLERANCE_S)
    return one[agree], two[agree]


def join_detections(tables: "Sequence[pa.Table]", common: CommonLabels, least: int = 1) -> "pa.Table":
    """One recording's detections by several models as one table.

    A detection of the first model takes up those of the others that agree with it, as of `agreeing`; what no model
    before says has a row of its own. Times, score and model id are those of the row's own model, labels and names
    common ones.

    Args:
        tables: of `detection_schema`, one of each model.
        common: the models' labels.
        least: so many models must say so, or the row is left out.

    Returns:
        Columns of `detection_schema`, then `score_1`, `score_2`, ...: the best score of each model there, null where
        it doesn't say so. By start, then channel, then score from the highest.
    """
    import pyarrow as pa

    tables = [x.cast(detection_schema()) for x in tables]
    scores = [x["score"].to_numpy() for x in tables]
    is_taken = [np.zeros(len(x), bool) for x in tables]
    kept, said = [], []
    for k, table in enumerate(tables):
        places = common.places(k, table["label"])
        best = np.full((len(table), len(tables)), _UNSAID, np.float32)
        best[:, k] = scores[k]
        for other in range(k + 1, len(tables)):
            rows, labels = common.all_places(other, tables[other]["label"])
            one, two = agreeing(Spans.of(table, places), Spans.of(tables[other].take(rows), labels))
            is_new = ~is_taken[k][one]
            one, two = one[is_new], rows[two[is_new]]
            np.maximum.at(best[:, other], one, scores[other][two])
            is_taken[other][two] = True
        rows = np.flatnonzero(~is_taken[k] & ((best > _UNSAID).sum(axis=1) >= least))
        kept.append(_renamed(table.take(rows), [common.labels.items[x] for x in places[rows]]))
        said.append(best[rows])
    joined = pa.concat_tables(kept)
    for name, column in zip(score_columns(len(tables)), np.concatenate(said).T, strict=True):
        joined = joined.append_column(name, pa.array(column, pa.float32(), mask=column == _UNSAID))
    start_s, channel, score = (joined[x].to_numpy() for x in ("start_s", "channel", "score"))
    return joined.take(np.lexsort((-score, channel, start_s)))


def score_columns(models: int) -> list[str]:
    """Names of the columns that hold each model's score."""
    return [f"score_{k}" for k in range(1, models + 1)]


def _renamed(table: "pa.Table", items: Sequence[Label]) -> "pa.Table":
    import pyarrow as pa

    for column, field in _NAMES.items():
        values = pa.array([getattr(x, field) for x in items], pa.string())
        table = table.set_column(table.schema.get_field_index(column), column, values)
    return table
