"""A folder of results: shards of whole recordings, the journal that says which count, and the manifest.

OUT/journal.jsonl         which recordings are done; the same command goes on from it
OUT/manifest.csv          what became of every recording
OUT/detections/N.parquet  rows of `detection_schema`
OUT/summary/N.parquet     a row for each recording and label that was detected in it
OUT/scores/N.parquet      every window's scores as float16, with `keep_scores`
OUT/members/N.parquet     the same of each model, its number from 0 before the label, where `members` are kept
"""

import hashlib
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_birds.audio.clips import window_hop_samples
from keras_birds.audio.recorder import Origin
from keras_birds.checksum import sha256_of
from keras_birds.errors import DataError
from keras_birds.inference.scorer import RecordingScores, RecordingStatus, ScoreOptions
from keras_birds.labels import LabelSet
from keras_birds.models.ensemble import Ensemble
from keras_birds.results.detections import DetectionRules
from keras_birds.results.digest import Digest
from keras_birds.results.hours import HourlyCounts, count_by_hour
from keras_birds.results.journal import RESULTS, Entry, Journal, StreamedJournal
from keras_birds.results.origin import ORIGIN_COLUMNS, origin_cells
from keras_birds.results.shards import ShardReader, place_columns, readable, shard_path
from keras_birds.results.sink import RecordingSink

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST_COLUMNS = (
    *("file", "status", "reason", "seconds", "seconds_expected", "sample_rate_hz", "channels"),
    *(
        "windows",
        "scored_s",
        "unscored_s",
        "detections",
        *ORIGIN_COLUMNS,
        "week",
        "unlikely",
        "voices",
        "not_seen",
    ),
)
_KINDS = ("detections", "summary", "scores", "members")
_PLACE_COLUMNS = 4  # of a table of scores, before the labels: file, channel, start_s, end_s


class Results(RecordingSink):
    """An open folder of results: a sink of scored recordings that knows which of them are still to do.

    Args:
        folder: new, empty, or left by the same command.
        labels: of the model.
        model_id: for the rows.
        rules: what becomes a detection.
        settings: what the results depend on, as plain data; see `result_settings`.
        keep_scores: whether every window's scores are kept.
        members: what is added are scores of so many models, side by side: their mean counts, and all are kept with
            `keep_scores`; 0 where it is the scores that count.

    Raises:
        ConfigError: if the folder belongs to other settings.
        KerasBirdsError: if it can't be written.
    """

    contents, kinds, manifest_columns = RESULTS, dict.fromkeys(_KINDS, ".parquet"), MANIFEST_COLUMNS
    more_columns: Sequence[str] = ()
    """Of the table of detections, behind those of `detection_schema`."""

    def __init__(
        self,
        folder: Path,
        labels: LabelSet,
        model_id: str,
        rules: DetectionRules,
        settings: dict[str, Any],
        keep_scores: bool = False,
        members: int = 0,
    ):
        self.rules, self.members = rules, members
        self.labels, self._model_id, self._keep_scores = labels, model_id, keep_scores
        # Of a recording that comes in parts.
        self._open: Digest | None = None
        self._origin: Origin | None = None
        super().__init__(folder, settings)

    def add(self, scored: RecordingScores) -> RecordingStatus | None:
        """As `RecordingSink.add`, detections counted, and where and when it was made found out."""
        recording = scored.recording
        if self._origin is None:
            self._origin = self.rules.origins.of(recording.file, recording.recorder)
        try:
            return super().add(replace(scored, recording=replace(recording, origin=self._origin)))
        finally:
            if scored.is_last:
                self._open = self._origin = None

    def _digest(self, recording: RecordingStatus) -> Digest:
        if self._open is None:
            self._open = Digest(recording, self.labels, self.rules, self._model_id)
        return self._open

    def _write_part(self, part: RecordingScores) -> None:
        if self.members:
            self._write("members", _score_table(part, _member_labels(self.labels, self.members)))
            each = part.scores.reshape(len(part.scores), self.members, -1)
            part = replace(part, scores=each.mean(axis=1))
        for kept, detections in self._digest(part.recording).add(part):
            self._write("detections", detections)
            if self._keep_scores and len(kept.scores):
                self._write("scores", _score_table(kept, self.labels))

    def _end(self, recording: RecordingStatus) -> RecordingStatus:
        digest = self._digest(recording)
        self._write("summary", digest.summary())
        recording = replace(recording, voices=digest.voices, left_out_s=digest.left_out_s)
        presence = digest.presence
        if presence is None:
            return recording
        return replace(recording, week=presence.week, unlikely=digest.unlikely)

    def _entry(self, recording: RecordingStatus, rows: Mapping[str, int]) -> Entry:
        recording = replace(recording, detections=rows["detections"])
        return Entry(recording, summary_rows=rows["summary"], score_rows=rows["scores"])

    def _manifest_cells(self, recording: RecordingStatus) -> dict[str, Any]:
        return super()._manifest_cells(recording) | origin_cells(recording)

    def read(self, kind: str) -> "Iterator[tuple[RecordingStatus, Iterator[pa.RecordBatch]]]":
        """Every scored recording's rows of a `kind`: `"detections"`, `"summary"`, `"scores"` or `"members"`.

        A recording at a time, in the order in which they were scored. One may have more rows than memory holds: its
        batches are read as they are asked for, before the next recording's.
        """
        for entry, rows in _read(self.folder, self._journal, (kind,)):
            yield entry.recording, rows[kind]

    def by_hour(self) -> HourlyCounts:
        """What was recorded and detected in each hour, of recordings of which it is known when they began."""

        def where(recording: RecordingStatus) -> tuple[int, datetime] | None:
            local = recording.origin.local
            return None if local is None else (0, local)

        return count_by_hour(self.folder, self._journal.shards(), where)

    def _copy(self, number: int) -> Iterator[Entry]:
        import pyarrow as pa

        kinds = _KINDS[: 2 + self._keep_scores + bool(self.members)]
        for entry, rows in _read(self.folder, self._journal, kinds, {number}):
            for kind in kinds:
                for batch in rows[kind]:
                    self._put(kind, pa.Table.from_batches([batch]))
            yield entry


def read_detections(
    folder: Path, journal: StreamedJournal | None = None
) -> "Iterator[tuple[RecordingStatus, Iterator[pa.RecordBatch]]]":
    """As `Results.read`, the detections of a folder of any settings; changes nothing in it.

    Args:
        folder: of results.
        journal: of the folder, where it is read already.

    Raises:
        DataError: if it is no such folder, or its tables are damaged or vanish, as when another process goes on.
    """
    return _rows_of(folder, "detections", journal=journal)


def score_labels(folder: Path) -> list[str]:
    """The labels whose scores were kept in a folder of results, in the model's order.

    Raises:
        DataError: if it is no such folder, or there are none.
    """
    import pyarrow.parquet as pq

    settings = Journal(folder, None).settings
    shard = next(iter(sorted(folder.glob("scores/*.parquet"))), None)
    if shard is None:
        mend = "Run the same `keras-birds detect` with --keep-scores into another folder"
        if "models" in settings and settings.get(
            "keep_scores"
        ):  # what they say is joined, their scores aren't
            mend = f"Each model's are in a folder of its own: take {folder / 'models' / '0'}, 1, ..."
        raise DataError(
            f"results must hold the scores of every window, also of those below the threshold. Received: {folder}, "
            f"without scores/. {mend}"
        )
    return list(pq.read_schema(shard).names[_PLACE_COLUMNS:])


def read_scores(
    folder: Path, labels: Sequence[str]
) -> "Iterator[tuple[RecordingStatus, Iterator[pa.RecordBatch]]]":
    """As `read_detections`, the scores of some of `score_labels`: columns channel, start_s, end_s and the labels."""
    return _rows_of(folder, "scores", ("channel", "start_s", "end_s", *labels))


def _rows_of(
    folder: Path, kind: str, columns: Sequence[str] | None = None, journal: StreamedJournal | None = None
) -> "Iterator[tuple[RecordingStatus, Iterator[pa.RecordBatch]]]":
    journal = journal or StreamedJournal(folder)
    with readable(folder, "detect"):
        for entry, rows in _read(folder, journal, (kind,), columns=columns):
            yield entry.recording, rows[kind]


def _read(
    folder: Path,
    journal: Journal | StreamedJournal,
    kinds: Sequence[str],
    shards: Collection[int] | None = None,
    columns: Sequence[str] | None = None,
) -> "Iterator[tuple[Entry, dict[str, Iterator[pa.RecordBatch]]]]":
    for number, entries in journal.shards():
        if shards is not None and number not in shards:
            continue
        readers = {x: ShardReader(shard_path(folder, x, number), columns) for x in kinds}
        for entry, is_current in entries:
            counts = (entry.recording.detections, entry.summary_rows, entry.score_rows, entry.score_rows)
            num_rows = dict(zip(_KINDS, counts, strict=True))
            rows = {x: readers[x].take(num_rows[x]) for x in kinds}
            if is_current:
                yield entry, rows
            for x in rows.values():
                deque(x, maxlen=0)  # passes what nobody asked for


def result_settings(
    ensemble: Ensemble, options: ScoreOptions, rules: DetectionRules, keep_scores: bool, members: int = 0
) -> dict[str, Any]:
    """All that a recording's rows depend on, as plain data: results of other settings aren't mixed with these.

    Raises:
        ConfigError: if the overlap can't be used.
    """
    window_hop_samples(ensemble.audio, options.overlap_s)  # before a folder is made
    digest = hashlib.sha256()
    for engine in ensemble.engines:
        digest.update(bytes.fromhex(sha256_of(engine.path)))
    chosen = [x for x, is_chosen in zip(ensemble.labels, rules.species, strict=True) if is_chosen]
    return {
        "model_id": ensemble.model_id,
        "model_sha256": digest.hexdigest(),
        "licence": ", ".join(
            dict.fromkeys(x.metadata.licence for x in ensemble.engines if x.metadata.licence)
        ),
        "band_hz": list(ensemble.audio.band_hz(ensemble.mel)),
        "calibrated": ensemble.calibration is not None,
        "sensitivity": ensemble.sensitivity,
        "decoder": ensemble.audio.decoder,
        "overlap_s": options.overlap_s,
        "channel": options.channel,
        **({} if options.plan is None else options.plan.schedule.settings),
        "keep_scores": keep_scores,
        **({"average": "rank"} if members else {}),
        **{x.name: getattr(rules, x.name) for x in fields(rules) if x.name not in ("occurrence", "origins")},
        "thresholds": rules.thresholds if len(set(rules.thresholds)) > 1 else rules.thresholds[0],
        "species": "all" if all(rules.species) else chosen,
        **rules.origins.settings,
        **({} if rules.occurrence is None else rules.occurrence.settings),
    }


def _member_labels(labels: Sequence[str], members: int) -> list[str]:
    return [f"{k}/{label}" for k in range(members) for label in labels]


def _score_table(found: RecordingScores, labels: Sequence[str]) -> "pa.Table":
    """Columns file, channel, start_s, end_s, then float16 probabilities, a column a label."""
    import pyarrow as pa

    columns = place_columns(found)
    scores = found.scores.astype(np.float16).T.copy()
    return pa.table([*columns.values(), *scores], [*columns, *labels])
