"""Tables of detections, in our own formats and in those of other programs.

One file for all recordings, or one for each. Every file is read from a stream of recordings that is never held in
memory, and is there whole or not at all.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from keras_birds.errors import KerasBirdsError
from keras_birds.inference.recording_status import RecordingStatus
from keras_birds.results.writers.files import new_file, new_text, recording_path
from keras_birds.results.writers.programs import (
    write_audacity,
    write_birdnet,
    write_kaleidoscope,
    write_raven,
)
from keras_birds.results.writers.submission import Submission, write_submission
from keras_birds.results.writers.tables import write_csv, write_json, write_parquet

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FORMATS", "Submission", "write_submission", "write_tables"]

# Raven's and BirdNET-Analyzer's own endings, by which people and scripts find their files.
_SUFFIXES = {
    "parquet": ".parquet",
    "csv": ".csv",
    "json": ".json",
    "raven": ".Table.1.selections.txt",
    "audacity": ".audacity.txt",
    "kaleidoscope": ".kaleidoscope.csv",
    "birdnet": ".BirdNET.results.csv",
}
FORMATS = tuple(_SUFFIXES)
"""What `write_tables` writes."""


def write_tables(
    form: str,
    recordings: Iterable[tuple[RecordingStatus, "pa.Table"]],
    out: Path,
    *,
    per_recording: bool = False,
    f_min_hz: float,
    f_max_hz: float,
) -> list[Path]:
    """Writes detections in one of `FORMATS`.

    Recordings without scores are left out; those without detections have a file with a header, or count with their
    length where times run on (`raven`, `audacity`). The formats are described at `write_csv`, `write_raven` and so
    on.

    Args:
        form: one of `FORMATS`.
        recordings: each with its rows of `detection_schema()`, a table or what reads like one in
            batches (`StoredRows`); read once, in order.
        out: a folder, made if missing.
        per_recording: write `out/<form>/<path of the recording><ending>` for each (see `recording_path`) instead
            of `out/detections<ending>` for all. The ending is `.parquet`, `.csv`, `.json`,
            `.Table.1.selections.txt` (raven), `.audacity.txt`, `.kaleidoscope.csv` or `.BirdNET.results.csv`.
        f_min_hz: lower edge of Raven's boxes.
        f_max_hz: upper edge of Raven's boxes.

    Returns:
        The files, in the order in which they were written.

    Raises:
        KerasBirdsError: if `form` is none of these or a file can't be written.
    """
    if form not in _SUFFIXES:
        raise KerasBirdsError(f"form must be one of {', '.join(FORMATS)}. Received: form={form!r}")
    scored = ((recording, table) for recording, table in recordings if not recording.failed)
    if not per_recording:
        path = out / f"detections{_SUFFIXES[form]}"
        _write(form, path, scored, f_min_hz, f_max_hz)
        return [path]
    paths = []
    for recording, table in scored:
        path = out / form / recording_path(recording.file, _SUFFIXES[form])
        _write(form, path, [(recording, table)], f_min_hz, f_max_hz)
        paths.append(path)
    return paths


def _write(
    form: str,
    path: Path,
    recordings: Iterable[tuple[RecordingStatus, "pa.Table"]],
    f_min_hz: float,
    f_max_hz: float,
) -> None:
    if form == "parquet":
        with new_file(path) as file:
            write_parquet(recordings, file)
    elif form == "json":
        # Bytes that aren't UTF-8 become \udcXX escapes, which JSON readers know.
        with new_text(path, errors="backslashreplace") as stream:
            write_json(recordings, stream)
    elif form == "raven":
        with new_text(path) as stream:
            write_raven(recordings, stream, f_min_hz, f_max_hz)
    else:
        write = {
            "csv": write_csv,
            "audacity": write_audacity,
            "kaleidoscope": write_kaleidoscope,
            "birdnet": write_birdnet,
        }[form]
        with new_text(path) as stream:
            write(recordings, stream)
