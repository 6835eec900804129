"""`submission.csv` as BirdCLEF's judges want it: a row for each window, a column for each label."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from keras_birds.csv_table import read_csv
from keras_birds.errors import DataError, ModelError
from keras_birds.inference.scorer import RecordingStatus
from keras_birds.results.writers.files import new_text
from keras_birds.results.writers.rows import decimal, six_digits
from keras_birds.text import csv_writer, printable

if TYPE_CHECKING:
    import pyarrow as pa

# Windows are whole samples: what differs by less is the same number of seconds.
_TOLERANCE_S = 1e-4


@dataclass(frozen=True)
class Submission:
    """What was written.

    Args:
        path: of `submission.csv`.
        unscored_rows: how many rows have no scores and hold what the sample submission has for them.
        absent: recordings without scores that the sample submission doesn't list either: they have no row.
    """

    path: Path
    unscored_rows: int
    absent: tuple[str, ...]


def write_submission(
    recordings: "Iterable[tuple[RecordingStatus, Iterable[pa.RecordBatch]]]",
    labels: Sequence[str],
    window_s: float,
    out: Path,
    sample_submission: Path | None = None,
    unscored: Iterable[str] = (),
) -> Submission:
    """Writes `submission.csv` into the folder `out`; recordings are read once, never held in memory.

    A row is named `{stem}_{end_second}`, as in the sample_submission.csv of BirdCLEF 2025, the second being where
    the window ends. Only full windows count. Scores are probabilities
    with 6 significant digits. Judges refuse a table that lacks a row: what the sample lists of a recording and has
    no score, because the recording can't be read or breaks off, comes last, as it stands in the sample.

    Args:
        recordings: each with batches of its windows: start_s and end_s, then a column for each label.
        labels: of the model.
        window_s: length of a full window.
        out: a folder, made if missing.
        sample_submission: a file whose header gives the columns and their order; without one, `labels` does.
            Labels that it lacks are left out.
        unscored: recordings that have no scores.

    Returns:
        Where it is, and what of it has no scores.

    Raises:
        ModelError: if the sample has labels that the model lacks.
        DataError: if a row would be there twice, a full window ends between two seconds, or the sample is no
            sample submission.
    """
    columns = list(labels) if sample_submission is None else _sample_labels(sample_submission, labels)
    path = out / "submission.csv"
    with new_text(path) as stream:
        rows = _Rows(stream, columns, window_s)
        for recording, batches in recordings:
            if not recording.failed:
                rows.add(recording.file, batches)
        for file in unscored:
            rows.add_unscored(file)
        unscored_rows = 0 if sample_submission is None else rows.fill_from(sample_submission)
    return Submission(path, unscored_rows, rows.absent())


class _Rows:
    """Rows of full windows."""

    def __init__(self, stream: TextIO, columns: Sequence[str], window_s: float):
        self._columns, self._window_s = columns, window_s
        # By a recording's name without folder and extension: the seconds that have a row.
        self._seconds: dict[str, set[int]] = {}
        self._unscored: dict[str, str] = {}
        self._files: dict[str, str] = {}
        self._writer = csv_writer(stream)
        self._writer.writerow(["row_id", *columns])

    def add_unscored(self, file: str) -> None:
        self._unscored[_stem(file)] = file
        self._seconds.setdefault(_stem(file), set())

    def add(self, file: str, batches: "Iterable[pa.RecordBatch]") -> None:
        stem = _stem(file)
        seconds = self._seconds.setdefault(stem, set())
        for end_s, row in self._full_windows(batches):
            if self._files.setdefault(stem, file) != file:
                raise DataError(
                    "BirdCLEF names rows by a recording's name without folder and extension, which must differ. "
                    f"Received: {printable(self._files[stem])} and {printable(file)}. Leave one of them out"
                )
            second = round(end_s)
            is_whole = abs(end_s - second) < _TOLERANCE_S
            if not is_whole or second in seconds:
                raise DataError(
                    "BirdCLEF names rows by the whole second at which a window ends, one row a second. Received: "
                    f"{printable(file)} has {'two windows that end' if is_whole else 'a window that ends'} "
                    f"at {decimal(end_s)} s. Choose an overlap of whole seconds, and one channel or their mean"
                )
            seconds.add(second)
            self._writer.writerow([f"{stem}_{second}", *map(six_digits, row)])

    def fill_from(self, sample: Path) -> int:
        """Adds what the sample lists of these recordings and has no row yet; how many rows."""
        filled = 0
        for line, _ in read_csv(sample, "a sample submission")[1]:
            stem, _, second = line[0].rpartition("_")
            if stem not in self._seconds or not second.isdecimal() or int(second) in self._seconds[stem]:
                continue
            if len(line) != len(self._columns) + 1:
                raise DataError(
                    f"a sample submission has a value for each label. Received: {printable(sample)}: {line[0]} has "
                    f"{len(line) - 1} for {len(self._columns)} labels"
                )
            self._seconds[stem].add(int(second))
            self._writer.writerow(line)
            filled += 1
        return filled

    def absent(self) -> tuple[str, ...]:
        """Recordings without scores and without a row."""
        return tuple(file for stem, file in self._unscored.items() if not self._seconds[stem])

    def _full_windows(self, batches: "Iterable[pa.RecordBatch]") -> Iterator[tuple[float, list[float]]]:
        """End and scores, the latter in the order of the submission's columns."""
        names = ["start_s", "end_s", *self._columns]
        for batch in batches:
            columns = (x.to_pylist() for x in batch.select(names).columns)
            for start_s, end_s, *row in zip(*columns, strict=True):
                if end_s - start_s > self._window_s - _TOLERANCE_S:
                    yield end_s, row


def _stem(file: str) -> str:
    path = file.partition("?")[0] if "://" in file else file
    return Path(path).stem


def _sample_labels(path: Path, labels: Sequence[str]) -> list[str]:
    header, _ = read_csv(path, "a sample submission")
    if len(header) < 2 or header[0] != "row_id":
        raise DataError(
            "a sample submission's first line is row_id and the labels. Received: "
            f"{printable(path)} begins with {','.join(header[:3])!r}. Choose the competition's sample_submission.csv"
        )
    wanted = header[1:]
    known = set(labels)
    if unknown := [x for x in wanted if x not in known]:
        named = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise ModelError(
            f"the model must know every label of the sample submission. Received: {printable(path)} has "
            f"{len(unknown)} that it lacks: {named}. Choose a model trained on this competition's labels"
        )
    return wanted
