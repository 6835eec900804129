"""`submission.csv` as BirdCLEF's judges want it: a row for each window, a column for each label."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

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


class Submission(NamedTuple):
    """What was written: `path`; `unscored_rows` have no scores and hold what the sample submission has for them.

    `absent` are recordings without scores that the sample submission doesn't list either: they have no row.
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

    A row is named `{stem}_{end_second}`, as in the sample_submission.csv of BirdCLEF 2025, the second being where the
    window ends. Only full windows count. Scores are probabilities with 6 significant digits. Judges refuse a table that
    lacks a row: what the sample lists of a recording and has no score, because the recording can't be read or breaks
    off, comes last, as it stands in the sample.

    Args:
        recordings: each with batches of its windows: start_s and end_s, then a column for each label.
        labels: of the model.
        window_s: length of a full window.
        out: a folder, made if missing.
        sample_submission: a file whose header gives the columns and their order, `labels` where there is none. Labels
            that it lacks are left out.
        unscored: recordings that have no scores.

    Raises:
        ModelError: if the sample has labels that the model lacks.
        DataError: if a row would be there twice, a full window ends between two seconds, or the sample is no sample
            submission.
    """
    columns = list(labels) if sample_submission is None else _sample_labels(sample_submission, labels)
    path = out / "submission.csv"
    # By a recording's name without folder and extension: its file, and the seconds that have a row.
    files: dict[str, str] = {}
    seconds: dict[str, set[int]] = {}
    filled = 0
    with new_text(path) as stream:
        writer = csv_writer(stream)
        writer.writerow(["row_id", *columns])
        for recording, batches in recordings:
            if not recording.failed:
                stem = _stem(recording.file)
                known = seconds.setdefault(stem, set())
                for end_s, row in _full_windows(batches, columns, window_s):
                    _check(files.setdefault(stem, recording.file), recording.file, end_s, known)
                    known.add(round(end_s))
                    writer.writerow([f"{stem}_{round(end_s)}", *map(six_digits, row)])
        absent = {_stem(x): x for x in unscored}
        for stem in absent:
            seconds.setdefault(stem, set())
        if sample_submission is not None:
            for line in _unscored_rows(sample_submission, len(columns), seconds):
                writer.writerow(line)
                filled += 1
    return Submission(path, filled, tuple(file for stem, file in absent.items() if not seconds[stem]))


def _full_windows(
    batches: "Iterable[pa.RecordBatch]", labels: list[str], window_s: float
) -> Iterator[tuple[float, list[float]]]:
    """End and scores of each."""
    for batch in batches:
        columns = (x.to_pylist() for x in batch.select(["start_s", "end_s", *labels]).columns)
        for start_s, end_s, *row in zip(*columns, strict=True):
            if end_s - start_s > window_s - _TOLERANCE_S:
                yield end_s, row


def _check(first: str, file: str, end_s: float, seconds: set[int]) -> None:
    if first != file:
        raise DataError(
            "BirdCLEF names rows by a recording's name without folder and extension, which must differ. "
            f"Received: {printable(first)} and {printable(file)}. Leave one of them out"
        )
    is_whole = abs(end_s - round(end_s)) < _TOLERANCE_S
    if not is_whole or round(end_s) in seconds:
        raise DataError(
            "BirdCLEF names rows by the whole second at which a window ends, one row a second. Received: "
            f"{printable(file)} has {'two windows that end' if is_whole else 'a window that ends'} "
            f"at {decimal(end_s)} s. Choose an overlap of whole seconds, and one channel or their mean"
        )


def _unscored_rows(sample: Path, num_labels: int, seconds: dict[str, set[int]]) -> Iterator[list[str]]:
    """What the sample lists of these recordings and has no row yet, which is added to `seconds`."""
    for line, _ in read_csv(sample, "a sample submission")[1]:
        stem, _, second = line[0].rpartition("_")
        if stem not in seconds or not second.isdecimal() or int(second) in seconds[stem]:
            continue
        if len(line) != num_labels + 1:
            raise DataError(
                f"a sample submission has a value for each label. Received: {printable(sample)}: {line[0]} has "
                f"{len(line) - 1} for {num_labels} labels"
            )
        seconds[stem].add(int(second))
        yield line


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
    wanted, known = header[1:], set(labels)
    if unknown := [x for x in wanted if x not in known]:
        named = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise ModelError(
            f"the model must know every label of the sample submission. Received: {printable(path)} has "
            f"{len(unknown)} that it lacks: {named}. Choose a model trained on this competition's labels"
        )
    return wanted
