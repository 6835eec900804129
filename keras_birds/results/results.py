"""A folder of results: shards of whole recordings, the journal that says which count, and the manifest.

OUT/journal.jsonl         which recordings are done; the same command goes on from it
OUT/manifest.csv          what became of every recording
OUT/detections/N.parquet  rows of `detection_schema`
OUT/summary/N.parquet     a row for each recording and label that was detected in it
OUT/scores/N.parquet      every window's scores as float16, with `keep_scores`
"""

import hashlib
import math
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_birds.audio.remote import file_fingerprint
from keras_birds.errors import DataError, KerasBirdsError
from keras_birds.inference.scorer import RecordingScores, RecordingStatus, ScoreOptions
from keras_birds.labels import LabelSet
from keras_birds.models.ensemble import Ensemble
from keras_birds.results.detections import DetectionRules
from keras_birds.results.digest import Digest
from keras_birds.results.journal import Entry, Journal
from keras_birds.results.shards import ShardReader, ShardWriter
from keras_birds.results.writers.files import new_text
from keras_birds.text import csv_writer, storable

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST_COLUMNS = (
    *("file", "status", "reason", "seconds", "seconds_expected", "sample_rate_hz", "channels"),
    *("windows", "unscored_s", "detections", "place", "week", "unlikely", "voices", "not_seen"),
)
NO_SITE = "no site"
"""In place of where a recording was made."""
NOT_NAMED = "not among the recordings of this run"
_KINDS = ("detections", "summary", "scores")
_SHARD_S = 20.0
_SHARD_BYTES = 1 << 25


class Results:
    """An open folder of results: a sink of scored recordings that knows which of them are still to do.

    Args:
        folder: new, empty, or left by the same command.
        labels: of the model.
        model_id: for the rows.
        rules: what becomes a detection.
        settings: what the results depend on, as plain data; see `result_settings`.
        keep_scores: whether every window's scores are kept.

    Raises:
        ConfigError: if the folder belongs to other settings.
        KerasBirdsError: if it can't be written.
    """

    def __init__(
        self,
        folder: Path,
        labels: LabelSet,
        model_id: str,
        rules: DetectionRules,
        settings: dict[str, Any],
        keep_scores: bool = False,
    ):
        self.folder, self.rules = folder, rules
        self.done_before = 0
        """Recordings that `to_do` left out."""
        self._labels, self._model_id, self._keep_scores = labels, model_id, keep_scores
        self._journal = Journal(folder, settings)
        self._open: Digest | None = None  # of a recording that comes in parts
        self._rows = dict.fromkeys(_KINDS, 0)
        self._seen: set[str] = set()
        self._gone: dict[str, str] = {}  # why recordings weren't seen
        self._remove_unlisted()
        self._begin_shard(1 + max((x for x, _ in self._journal.shards()), default=0))

    def _begin_shard(self, number: int) -> None:
        self._next = number
        self._waiting: list[Entry] = []
        self._writers = {x: ShardWriter(self.folder / x / _shard_name(self._next)) for x in _KINDS}
        self._waiting_bytes = 0
        self._begun_at = time.monotonic()

    def __enter__(self) -> "Results":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Writes what is scored, also after Ctrl-C."""
        try:
            if not isinstance(error, KerasBirdsError):
                self.flush()
        finally:
            for writer in self._writers.values():
                writer.discard()
            self._journal.close()

    @property
    def recordings(self) -> Iterator[RecordingStatus]:
        """Every recording in the folder, in the order in which they were first done; `not_seen` tells of this run."""
        for file, entry in self._journal.by_file.items():
            not_seen = "" if file in self._seen else self._gone.get(file, NOT_NAMED)
            yield replace(entry.recording, not_seen=not_seen)

    def to_do(self, files: Iterable[str]) -> Iterator[str]:
        """Those paths and URLs that haven't been scored, or have changed since. Failed ones are tried again."""
        for file in files:
            entry = self._journal.by_file.get(file)
            # On an object store a fingerprint is a request.
            known = None if entry is None or entry.recording.failed else entry.recording.fingerprint
            if known is None or known != file_fingerprint(file):
                yield file
            else:
                self._seen.add(file)
                self.done_before += 1

    def add(self, scored: RecordingScores) -> RecordingStatus | None:
        """Takes a recording's scores, whole or in parts, which are written with the next shard.

        What an earlier run scored of a recording that is out of reach now, as on a disk that isn't there, stays.

        Returns:
            What became of it, detections counted; `None` where more parts follow.
        """
        recording, digest = scored.recording, self._open
        if digest is None:
            digest = Digest(recording.file, self._labels, self.rules, self._model_id)
        if not recording.failed:
            self._write_part(digest, scored)
        self._open = None if scored.is_last else digest
        return self._close(recording, digest) if scored.is_last else None

    def _write_part(self, digest: Digest, part: RecordingScores) -> None:
        for kept, detections in digest.add(part):
            self._rows["detections"] += len(detections)
            self._write("detections", detections)
            if self._keep_scores and len(kept.scores):
                self._rows["scores"] += len(kept.scores)
                self._write("scores", _score_table(kept, self._labels))

    def _close(self, recording: RecordingStatus, digest: Digest) -> RecordingStatus:
        """Enters a recording, of which there are no more parts."""
        rows, self._rows = self._rows, dict.fromkeys(_KINDS, 0)
        before = self._journal.by_file.get(recording.file)
        if recording.failed and any(rows.values()):
            partial = replace(recording, detections=rows["detections"])
            self._waiting.append(Entry(partial, self._next, 0, rows["scores"], is_void=True))
        if before and not before.recording.failed and _is_gone(recording, before.recording):
            self._gone[recording.file] = recording.reason
            return replace(before.recording, not_seen=recording.reason)
        self._seen.add(recording.file)
        if recording.failed:
            self._waiting.append(Entry(recording))
            return recording
        summary = digest.summary()
        self._write("summary", summary)
        recording = replace(
            recording,
            detections=rows["detections"],
            voices=digest.voices,
            left_out_s=digest.left_out_s,
            **self._where_and_when(recording, digest),
        )
        self._waiting.append(Entry(recording, self._next, len(summary), rows["scores"]))
        if self._waiting_bytes > _SHARD_BYTES or time.monotonic() - self._begun_at > _SHARD_S:
            self.flush()
        return recording

    def _where_and_when(self, recording: RecordingStatus, digest: Digest) -> dict[str, Any]:
        """What the rules know of where and when a recording was made, as fields of its status."""
        if self.rules.occurrence is None:
            return {}
        found = self.rules.presence(recording.file)
        if found is None:
            return {"place": NO_SITE}
        place = f"{found.latitude:g}, {found.longitude:g}"
        return {"place": place, "week": found.week, "unlikely": digest.unlikely}

    def _write(self, kind: str, table: "pa.Table") -> None:
        self._writers[kind].write(table)
        self._waiting_bytes += table.nbytes

    def flush(self) -> None:
        """Ends a shard, and then writes the journal's lines for it."""
        if not self._waiting:
            return
        for writer in self._writers.values():
            writer.finish()
        self._journal.append(self._waiting)
        self._begin_shard(self._next + 1)

    def _remove_unlisted(self) -> None:
        """Removes half-written files, and shards that no entry of the journal counts on."""
        known = {_shard_name(number) for number, _ in self._journal.shards()}
        stale = [*self.folder.glob(".*.tmp"), *self.folder.glob("*/.*.parquet*.tmp")]
        stale += [x for kind in _KINDS for x in self.folder.glob(f"{kind}/*.parquet") if x.name not in known]
        for path in stale:
            path.unlink()

    def read(self, kind: str) -> "Iterator[tuple[RecordingStatus, Iterator[pa.RecordBatch]]]":
        """Every scored recording's rows of a `kind`: `"detections"`, `"summary"` or `"scores"`.

        A recording at a time, in the order in which they were scored. One may have more rows than memory holds: its
        batches are read as they are asked for, before the next recording's.
        """
        for entry, rows in _read(self.folder, self._journal, (kind,)):
            yield entry.recording, rows[kind]

    def finish(self) -> Path:
        """Writes what waits, drops rows of recordings that were scored again, and writes the manifest: its path."""
        import pyarrow as pa

        self.flush()
        outdated = [x for x, entries in self._journal.shards() if not all(current for _, current in entries)]
        kinds = _KINDS[: 2 + self._keep_scores]
        for number in outdated:
            for entry, rows in _read(self.folder, self._journal, kinds, {number}):
                for kind in kinds:
                    for batch in rows[kind]:
                        self._write(kind, pa.Table.from_batches([batch]))
                self._waiting.append(replace(entry, shard=self._next))
            self.flush()
        self._remove_unlisted()
        path = self.folder / "manifest.csv"
        with new_text(path) as file:
            rows = csv_writer(file)
            rows.writerow(MANIFEST_COLUMNS)
            for x in self.recordings:
                cells = (getattr(x, name) for name in MANIFEST_COLUMNS)
                rows.writerow(_milliseconds(c) if isinstance(c, float) else c for c in cells)
        return path


def read_detections(folder: Path) -> "Iterator[tuple[RecordingStatus, Iterator[pa.RecordBatch]]]":
    """As `Results.read`, the detections of a folder of any settings; changes nothing in it.

    Raises:
        DataError: if it is no such folder, or its tables are damaged or vanish, as when another process goes on.
    """
    import pyarrow as pa

    journal = Journal(folder, None)
    try:
        for entry, rows in _read(folder, journal, ("detections",)):
            yield entry.recording, rows["detections"]
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(
            f"{folder} must hold the tables that its journal names. Received: {error}. If `keras-birds detect` is at "
            "work in it, wait for its end"
        ) from None


def _read(
    folder: Path, journal: Journal, kinds: Sequence[str], shards: Collection[int] | None = None
) -> "Iterator[tuple[Entry, dict[str, Iterator[pa.RecordBatch]]]]":
    for number, entries in journal.shards():
        if shards is not None and number not in shards:
            continue
        readers = {x: ShardReader(folder / x / _shard_name(number)) for x in kinds}
        for entry, is_current in entries:
            counts = (entry.recording.detections, entry.summary_rows, entry.score_rows)
            num_rows = dict(zip(_KINDS, counts, strict=True))
            rows = {x: readers[x].take(num_rows[x]) for x in kinds}
            if is_current:
                yield entry, rows
            for x in rows.values():
                deque(x, maxlen=0)  # passes what nobody asked for


def _shard_name(number: int) -> str:
    return f"{number:06d}.parquet"


def result_settings(
    ensemble: Ensemble, options: ScoreOptions, rules: DetectionRules, keep_scores: bool
) -> dict[str, Any]:
    """All that a recording's rows depend on, as plain data: results of other settings aren't mixed with these."""
    digest = hashlib.sha256()
    for engine in ensemble.engines:
        with engine.path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    chosen = [x for x, is_chosen in zip(ensemble.labels, rules.species, strict=True) if is_chosen]
    return {
        "model_id": ensemble.model_id,
        "model_sha256": digest.hexdigest(),
        "calibrated": ensemble.calibration is not None,
        "sensitivity": ensemble.sensitivity,
        "decoder": ensemble.audio.decoder,
        "overlap_s": options.overlap_s,
        "channel": options.channel,
        "keep_scores": keep_scores,
        **{x.name: getattr(rules, x.name) for x in fields(rules) if x.name != "occurrence"},
        "thresholds": rules.thresholds if len(set(rules.thresholds)) > 1 else rules.thresholds[0],
        "species": "all" if all(rules.species) else chosen,
        **({} if rules.occurrence is None else rules.occurrence.settings),
    }


def _milliseconds(seconds: float) -> str:
    return "" if math.isnan(seconds) else f"{seconds:.3f}"


def _is_gone(now: RecordingStatus, before: RecordingStatus) -> bool:
    """Whether a scored recording is out of reach, and not changed to one that can't be read."""
    return now.status in ("missing", "unreadable") and now.fingerprint in ((-1, -1), before.fingerprint)


def _score_table(found: RecordingScores, labels: LabelSet) -> "pa.Table":
    """Columns file, channel, start_s, end_s, then float16 probabilities, a column a label."""
    import pyarrow as pa

    names = pa.array([storable(found.recording.file)])
    columns = {
        "file": pa.DictionaryArray.from_arrays(np.zeros(len(found.scores), np.int32), names),
        "channel": pa.array(found.channel, pa.int16()),
        "start_s": pa.array(found.start_s, pa.float64()),
        "end_s": pa.array(found.end_s, pa.float64()),
    }
    scores = found.scores.astype(np.float16).T.copy()
    return pa.table([*columns.values(), *scores], [*columns, *labels])
