"""Tables of detections, in our own formats and in those of other programs.

One file for all recordings, or one for each. Every file is read from a stream of recordings that is never held in
memory, and is there whole or not at all.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from keras_birds.errors import KerasBirdsError
from keras_birds.inference.recording_status import RecordingStatus
from keras_birds.results.shards import StoredRows
from keras_birds.results.writers.files import new_text, recording_path
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

    Recordings = Iterable[tuple[RecordingStatus, pa.Table | StoredRows]]

__all__ = ["FORMATS", "Submission", "write_submission", "write_tables"]

# Raven's and BirdNET-Analyzer's own endings, by which people and scripts find their files.
_WRITERS: dict[str, tuple[str, Callable[..., None]]] = {
    "parquet": (".parquet", write_parquet),
    "csv": (".csv", write_csv),
    "json": (".json", write_json),
    "raven": (".Table.1.selections.txt", write_raven),
    "audacity": (".audacity.txt", write_audacity),
    "kaleidoscope": (".kaleidoscope.csv", write_kaleidoscope),
    "birdnet": (".BirdNET.results.csv", write_birdnet),
}
FORMATS = tuple(_WRITERS)
"""What `write_tables` writes."""


def write_tables(
    fmt: str, recordings: "Recordings", out: Path, band_hz: tuple[float, float], per_recording: bool = False
) -> list[Path]:
    """Writes detections in one of `FORMATS`.

    Recordings without scores are left out; those without detections have a file with a header, or count with their
    length where times run on (`raven`, `audacity`). The formats are described at `write_csv`, `write_raven` and so
    on.

    Args:
        fmt: one of `FORMATS`.
        recordings: each with its rows of `detection_schema()`, a table or what reads like one in
            batches (`StoredRows`); read once, in order.
        out: a folder, made if missing.
        band_hz: lower and upper edge of Raven's boxes.
        per_recording: write `out/<fmt>/<path of the recording><ending>` for each (see `recording_path`) instead
            of `out/detections<ending>` for all. The ending is `.parquet`, `.csv`, `.json`,
            `.Table.1.selections.txt` (raven), `.audacity.txt`, `.kaleidoscope.csv` or `.BirdNET.results.csv`.

    Returns:
        The files, in the order in which they were written.

    Raises:
        KerasBirdsError: if `fmt` is none of these or a file can't be written.
    """
    if fmt not in _WRITERS:
        raise KerasBirdsError(f"fmt must be one of {', '.join(FORMATS)}. Received: fmt={fmt!r}")
    suffix, write = _WRITERS[fmt]
    options = band_hz if fmt == "raven" else ()
    scored = ((recording, table) for recording, table in recordings if not recording.failed)
    tables: Iterable[tuple[Path, Recordings]] = [(out / f"detections{suffix}", scored)]
    if per_recording:
        tables = ((out / fmt / recording_path(x[0].file, suffix), [x]) for x in scored)
    paths = []
    for path, rows in tables:
        paths.append(path)
        if fmt == "parquet":
            write_parquet(rows, path)
            continue
        # In JSON, bytes that aren't UTF-8 become \\udcXX escapes, which its readers know.
        errors = "backslashreplace" if fmt == "json" else "surrogateescape"
        with new_text(path, errors) as file:
            write(rows, file, *options)
    return paths
