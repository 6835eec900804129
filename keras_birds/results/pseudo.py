"""Pseudo labels: a folder in which models say what they hear in recordings that nobody labelled.

PSEUDO/labels.parquet          windows: path, start_s, end_s, target/LABEL of each label; the mean of the models
PSEUDO/labels_fold_K.parquet   the same by the model of fold K alone, which learnt from nothing that fold K validates on
PSEUDO/pseudo.json             the teacher, the rules that made labels of probabilities, and counts; written last
PSEUDO/split.csv               of the teacher's run: in which fold each recording of its data set validates
PSEUDO/labels.png              windows and sums by label: what a person looks at before training
PSEUDO/manifest.csv            what became of every recording
PSEUDO/scores/N.npy            float16 [window, model x label]: probabilities as the models gave them
PSEUDO/windows/N.parquet       file, channel, start_s and end_s of the same windows
PSEUDO/journal.jsonl           the models, how recordings were cut, then which are done, as of a folder of results

Paths are absolute. All tables have the models' labels in their order.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_birds.atomic import atomic_path, write_json
from keras_birds.data.soft_labels import TARGET, SoftLabels
from keras_birds.data.tables import load_table
from keras_birds.errors import DataError
from keras_birds.labels import LabelSet
from keras_birds.results.journal import Contents
from keras_birds.results.shards import ShardWriter
from keras_birds.run_layout import MANIFEST, SPLIT

if TYPE_CHECKING:
    import pyarrow as pa

# Models of the same SHA-256 may lie elsewhere, and have the same labels and audio settings.
PSEUDO = Contents("pseudo labels", "pseudo", 1, may_differ=frozenset({"paths", "labels", "audio"}))
MEAN_TABLE, SUMMARY, FIGURE = "labels.parquet", "pseudo.json", "labels.png"
_FORMAT_VERSION = 1
_SURE = 0.5  # what counts as a window of a label
_SCORED = ("ok", "partial", "silent")


def fold_table(fold: int) -> str:
    """The name of the table of a fold's model."""
    return f"labels_fold_{fold}.parquet"


@dataclass(frozen=True)
class LabelRules:
    """How probabilities become soft labels: power, then floor, then cap; and of which windows.

    Args:
        power: each probability is raised to it: above 1 what is unsure becomes less.
        floor: what is less then is 0.
        cap: where a window's labels sum to more, all are scaled so that they sum to it; `None` is no limit.
        min_confidence: windows in which no label has this probability, before all else, are left out.
    """

    power: float = 1.0
    floor: float = 0.0
    cap: float | None = None
    min_confidence: float = 0.0

    def keep(self, probabilities: np.ndarray) -> np.ndarray:
        """Of probabilities `[window, label]` bool `[window]`: which windows stay."""
        kept: np.ndarray = probabilities.max(axis=1) >= self.min_confidence
        return kept

    def labels(self, probabilities: np.ndarray) -> np.ndarray:
        """Of probabilities `[window, label]` the labels, float32 of the same shape."""
        labels = probabilities.astype(np.float32) ** np.float32(self.power)
        labels[labels < self.floor] = 0
        if self.cap is not None:
            sums = labels.sum(axis=1, keepdims=True)
            labels *= np.minimum(1, self.cap / np.maximum(sums, self.cap))
        return labels


@dataclass(frozen=True)
class Teacher:
    """The models that gave pseudo labels.

    Args:
        model_ids: of each.
        folds: of each, where they are folds of a run; else none.
        run: the folder of this run, where it lay then; `None` where they are of none that knows its split.
    """

    model_ids: tuple[str, ...]
    folds: tuple[int, ...] = ()
    run: Path | None = None


class PseudoLabels:
    """A finished folder of pseudo labels, as training takes it.

    Args:
        folder: that `keras-birds pseudo` wrote.

    Attributes:
        teacher: whose labels they are.
        split: the teacher's `split.csv`, kept in the folder; `None` where its models are of no run.
        rules: by which they were made.
        overlap_s: of the windows.
        about: all that `pseudo.json` holds.

    Raises:
        DataError: if it isn't such a folder, or the command hasn't ended.
    """

    def __init__(self, folder: str | Path):
        self.folder = folder = Path(folder)
        rule = (
            f"{folder} must be a folder of pseudo labels, which `keras-birds pseudo --out` writes to its end"
        )
        try:
            about: dict[str, Any] = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
            if (version := about["format_version"]) != _FORMAT_VERSION:
                raise ValueError(f"format_version {version}, not {_FORMAT_VERSION}")
            teacher = about["teacher"]
            run = teacher["run"] and Path(teacher["run"])
            self.teacher = Teacher(tuple(teacher["model_ids"]), tuple(teacher["folds"]), run)
            self.rules, self.overlap_s = LabelRules(**about["rules"]), float(about["overlap_s"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            told = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            raise DataError(f"{rule}. Received: {SUMMARY}: {told}; run the command again") from None
        self.about = about
        self.split = folder / SPLIT if self.teacher.run else None

    def read(self, labels: LabelSet, fold: int | None) -> SoftLabels:
        """Labels of windows by the model of one fold alone, or with `None` by the mean of all.

        Raises:
            DataError: if the models have other labels than these, or none is of the fold.
        """
        if fold is not None and fold not in self.teacher.folds:
            known = ", ".join(map(str, self.teacher.folds)) or "none, as its models are no folds"
            raise DataError(
                f"{self.folder}: fold {fold} must have pseudo labels by its own fold's model. Received: folds {known}. "
                "Label with a --model RUN that has this fold, or pass --set data.pseudo_teachers=all"
            )
        return SoftLabels.read(self.folder / (MEAN_TABLE if fold is None else fold_table(fold)), labels)

    @property
    def recordings(self) -> list[str]:
        """Absolute paths, in order, of all recordings that were labelled, also of those of which no window stayed."""
        table = load_table(self.folder / MANIFEST, "a manifest", ["file", "status"])
        return sorted(table["file"][table["status"].isin(_SCORED)])


class LabelTables:
    """The tables of pseudo labels and what is told of them, written a block of windows at a time.

    ```python
    tables = LabelTables(folder, labels, teacher, rules)
    tables.add(paths, start_s, end_s, probabilities)
    about = tables.finish(overlap_s)
    tables.discard()  # in any case
    ```

    Args:
        folder: where they go, which exists.
        labels: of the models.
        teacher: the models. Each that is a fold has a table of its own, besides that of the mean of all.
        rules: what makes labels of probabilities.
    """

    def __init__(self, folder: Path, labels: LabelSet, teacher: Teacher, rules: LabelRules):
        self._folder, self._labels, self._teacher, self._rules = folder, labels, teacher, rules
        names = [MEAN_TABLE, *map(fold_table, teacher.folds)]
        self._tables = {x: _LabelTable(folder / x, labels, rules) for x in names}

    def add(
        self, paths: Sequence[str], start_s: np.ndarray, end_s: np.ndarray, probabilities: np.ndarray
    ) -> None:
        """Adds windows of recordings, by each model float32 `[window, model, label]`."""
        mean, *others = self._tables.values()
        mean.add(paths, start_s, end_s, probabilities.mean(axis=1))
        for k, table in enumerate(others):
            table.add(paths, start_s, end_s, probabilities[:, k])

    def finish(self, overlap_s: float) -> dict[str, Any]:
        """Replaces the folder's tables and then its `pseudo.json`, whose content this returns.

        Raises:
            DataError: if the rules left no window of a table; what was in the folder stays.
        """
        for table in self._tables.values():
            table.require_windows()
        # From here on a kill leaves no finished folder, whose tables might be of two rules.
        (self._folder / SUMMARY).unlink(missing_ok=True)
        for table in self._tables.values():
            table.writer.finish()
        if run := self._teacher.run:
            with atomic_path(self._folder / SPLIT) as temporary:
                shutil.copyfile(run / SPLIT, temporary)
        about = {
            "format_version": _FORMAT_VERSION,
            "teacher": {**asdict(self._teacher), "run": run and str(run)},
            "rules": asdict(self._rules),
            "overlap_s": overlap_s,
            "tables": {name: table.about() for name, table in self._tables.items()},
        }
        write_json(self._folder / SUMMARY, about)
        return about

    def discard(self) -> None:
        """Leaves nothing of tables that aren't finished."""
        for table in self._tables.values():
            table.writer.discard()


class _LabelTable:
    """One table, and the sums that are told of it."""

    def __init__(self, path: Path, labels: LabelSet, rules: LabelRules):
        self._path, self._labels, self._rules = path, labels, rules
        self.writer = ShardWriter(path)
        self._windows = self._left_out = 0
        self._surest = 0.0
        self._sums, self._sure = np.zeros(len(labels)), np.zeros(len(labels), int)

    def add(
        self, paths: Sequence[str], start_s: np.ndarray, end_s: np.ndarray, probabilities: np.ndarray
    ) -> None:
        kept = np.flatnonzero(self._rules.keep(probabilities))
        self._left_out += len(probabilities) - len(kept)
        self._surest = max(self._surest, float(probabilities.max(initial=0)))
        if not len(kept):
            return
        labels = self._rules.labels(probabilities[kept])
        self._windows += len(kept)
        self._sums += labels.sum(axis=0, dtype=float)
        self._sure += (labels >= _SURE).sum(axis=0)
        self.writer.write(
            _table([paths[int(k)] for k in kept], start_s[kept], end_s[kept], self._labels, labels)
        )

    def require_windows(self) -> None:
        if not self._windows:
            least = self._rules.min_confidence
            raise DataError(
                f"{self._path}: --min-confidence must leave windows to learn from. Received: {least:g}, and no label "
                f"of {self._left_out} windows has more than {self._surest:.3g}; the scores are kept: the same command "
                "with another takes seconds"
                if self._left_out
                else f"{self._path}: there must be recordings that can be read. Received: none; see {MANIFEST}"
            )

    def about(self) -> dict[str, Any]:
        by_label = zip(self._labels, self._sums, self._sure, strict=True)
        return {
            "windows": self._windows,
            "left_out": self._left_out,
            "mean_sum": float(self._sums.sum()) / self._windows,
            "labels": {label: {"sum": float(x), "windows": int(n)} for label, x, n in by_label},
        }


def _table(
    paths: Sequence[str], start_s: np.ndarray, end_s: np.ndarray, labels: LabelSet, targets: np.ndarray
) -> "pa.Table":
    """Columns as `SoftLabels.read` takes them."""
    import pyarrow as pa

    columns = {"path": pa.array(paths).dictionary_encode(), "start_s": start_s, "end_s": end_s}
    columns |= {TARGET + label: targets[:, k] for k, label in enumerate(labels)}
    return pa.table(columns)
