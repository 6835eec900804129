"""Results of several models on the same recordings, joined into one folder of results.

OUT/models/0, 1, ...      a folder of results of each model, in their order; each is gone on with by itself
OUT/journal.jsonl ...     as any folder of results: what `agreement.join_detections` makes of theirs
"""

import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_birds.inference.scorer import RecordingStatus
from keras_birds.labels import LabelSet
from keras_birds.models.metadata import joined_id
from keras_birds.results.agreement import CommonLabels, join_detections, score_columns
from keras_birds.results.detections import DetectionRules, summary_table
from keras_birds.results.journal import read_entries
from keras_birds.results.results import Results
from keras_birds.results.shards import open_shard, readable, shard_path

if TYPE_CHECKING:
    import pyarrow as pa

MODELS = "models"
"""The folder with one of results for each model."""


class JoinedResults(Results):
    """An open folder of results that several models share: it takes what their own folders hold.

    Args:
        folder: new, empty, or left by the same command.
        common: the models' labels.
        rules: of the first model.
        settings: of each model, as of `result_settings`.
        least: so many models must say so, or a detection is left out.

    Attributes:
        said_by: of the rows that were joined in this run, how many each number of models says, int `[models + 1]`.

    Raises:
        ConfigError: if the folder belongs to other settings.
        KerasBirdsError: if it can't be written.
    """

    def __init__(
        self,
        folder: Path,
        common: CommonLabels,
        rules: DetectionRules,
        settings: Sequence[dict[str, Any]],
        least: int,
    ):
        self.common, self.least = common, least
        self.more_columns = score_columns(len(settings))
        self.said_by = np.zeros(len(settings) + 1, np.int64)
        self._nothing: tuple[pa.Table, pa.Table] | None = None  # the tables of a recording without detections
        joined = _joined_settings(settings, least)
        super().__init__(folder, common.labels, joined["model_id"], rules, joined)

    def folder_of(self, model: int) -> Path:
        """Where a model's own results are."""
        return self.folder / MODELS / str(model)

    def join(self, not_seen: Mapping[str, str]) -> Iterator[RecordingStatus]:
        """Takes what is new in the models' folders, a recording at a time: what became of each.

        Args:
            not_seen: recordings that this run didn't see, and why.
        """
        tables = [_Tables(self.folder_of(k)) for k in range(len(self.more_columns))]
        self._gone |= not_seen
        for line, entry in enumerate(read_entries(self.folder_of(0))):
            file, first = entry.recording.file, entry.recording
            if tables[0].lines.get(file) != line:
                continue
            if file not in not_seen:
                self._seen.add(file)
            before = self._journal.by_file.get(file)
            if before and not before.recording.failed and before.recording.fingerprint == first.fingerprint:
                continue
            if all(file in x.lines for x in tables):
                status = next((x.failed[file] for x in tables if file in x.failed), first)
                if status.has_scores:
                    self._write_joined(file, [x.of(file) for x in tables])
                yield self._close(status)

    def _write_joined(self, file: str, tables: "Sequence[pa.Table]") -> None:
        if self._nothing is not None and not any(map(len, tables)):
            joined, summary = self._nothing  # of most recordings, in a thousandth of the time
        else:
            joined = join_detections(tables, self.common, self.least)
            summary = _summary(file, joined, self.common.labels)
            self._nothing = joined.slice(0, 0), summary.slice(0, 0)
        self._write("detections", joined)
        self._write("summary", summary)
        said = sum(joined[x].is_valid().to_numpy().astype(int) for x in self.more_columns)
        self.said_by += np.bincount(said, minlength=len(self.said_by))

    def _end(self, recording: RecordingStatus) -> RecordingStatus:
        return recording


class _Tables:
    """Detections of single recordings of a folder, in any order; quick in the order of its shards.

    Attributes:
        lines: of the journal, from 0, that count for each recording.
        failed: what became of those that couldn't be scored.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self.lines: dict[str, int] = {}
        self.failed: dict[str, RecordingStatus] = {}
        # Of each line the shard, its first row there, and how many; a season has hundreds of thousands.
        self._rows = array("q")
        shard = end = -1
        for line, entry in enumerate(read_entries(folder)):
            recording = entry.recording
            first = end if entry.shard == shard else 0
            if entry.shard >= 0:
                shard, end = entry.shard, first + recording.detections
            self._rows.extend((entry.shard, first, recording.detections))
            if not entry.is_void:
                file = sys.intern(recording.file)
                self.lines[file] = line
                self.failed.pop(file, None)
                if recording.failed:
                    self.failed[file] = recording
        self._shard = lru_cache(1)(self._read)

    def of(self, file: str) -> "pa.Table":
        """A scored recording's."""
        line = self.lines[file]
        shard, first, count = self._rows[3 * line : 3 * line + 3]
        return self._shard(shard).slice(first, count)

    def _read(self, number: int) -> "pa.Table":
        with readable(self._folder, "detect"):
            return open_shard(shard_path(self._folder, "detections", number)).read()


def _summary(file: str, joined: "pa.Table", labels: LabelSet) -> "pa.Table":
    """As that of a model, of rows in place of windows."""
    column = joined["label"].combine_chunks().dictionary_encode()
    places = np.array([labels.index(x) for x in column.dictionary.to_pylist()], int)[
        column.indices.to_numpy()
    ]
    scores = joined["score"].to_numpy()
    order = np.lexsort((-scores, places))
    there, first, counts = np.unique(places[order], return_index=True, return_counts=True)
    best, windows = np.full((2, len(labels)), -np.inf, np.float32), np.zeros(len(labels), np.int64)
    best[:, there] = scores[order[[first, first + (counts > 1)]]]
    windows[there] = counts
    return summary_table(file, labels, best, windows)


def _joined_settings(settings: Sequence[dict[str, Any]], least: int) -> dict[str, Any]:
    """What is the same for all models as it is, else a list; of what others read of one model, what holds for all."""
    values = {name: [x.get(name) for x in settings] for name in settings[0]}
    joined = {name: x[0] if all(y == x[0] for y in x) else x for name, x in values.items()}
    ids = [str(x["model_id"]) for x in settings]
    joined |= {"model_id": joined_id(ids), "models": ids, "agree": least}
    if "thresholds" in joined:
        joined["thresholds"] = float(min(np.min(x["thresholds"]) for x in settings))
        joined["each_thresholds"] = [x["thresholds"] for x in settings]
    if "licence" in joined:
        joined["licence"] = ", ".join(dict.fromkeys(x["licence"] for x in settings if x["licence"]))
    if "band_hz" in joined:
        lows, highs = zip(*(x["band_hz"] for x in settings), strict=True)
        joined["band_hz"] = [min(lows), max(highs)]
    return joined
