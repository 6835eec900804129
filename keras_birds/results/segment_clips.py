"""Cuts detections out of their recordings, to audio files and a table for reviewers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePath

import numpy as np
import soundfile

from keras_birds.audio.reader import MIN_SECONDS
from keras_birds.audio.remote import file_fingerprint, is_url, url_path
from keras_birds.audio.segment_reader import SegmentReader
from keras_birds.errors import AudioError, ConfigError, KerasBirdsError
from keras_birds.inference.recording_status import RecordingStatus
from keras_birds.results.segments import Segment
from keras_birds.results.writers.files import new_file, new_text, safe_name
from keras_birds.results.writers.rows import decimal, six_digits
from keras_birds.text import csv_writer

CLIP_FORMATS = ("flac", "wav")
SEGMENT_COLUMNS = (
    *("clip", "label", "scientific_name", "common_name", "score"),
    *("file", "channel", "start_s", "end_s", "clip_start_s", "clip_end_s", "review"),
)
"""Of `segments.csv`, a row for each clip. `file` to `end_s` are the detection's, as in the other tables; `clip` is the
path below the folder of the table; `review` is empty, for the reviewer."""

_DEEP = frozenset({"PCM_24", "PCM_32", "FLOAT", "DOUBLE"})
_FLOAT = frozenset({"FLOAT", "DOUBLE"})


@dataclass(frozen=True)
class Cut:
    """What `cut_segments` did.

    Args:
        clips: how many are written.
        failed_clips: how many aren't.
        failed_files: of so many recordings.
        table: the CSV.
    """

    clips: int
    failed_clips: int
    failed_files: int
    table: Path


def check_new_folder(out: Path) -> None:
    """Checks that clips may be written there.

    Raises:
        ConfigError: if it is a file, or a folder that holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out must be a new or an empty folder. Received: {out}, which holds something")


def cut_segments(
    segments: Sequence[Segment],
    out: Path,
    seconds: float = 5.0,
    fmt: str = "flac",
    on_problem: Callable[[str, str, int], None] = lambda *_: None,
    on_done: Callable[[int], None] = lambda _: None,
) -> Cut:
    """Writes `out/<label>/<score>_<recording>_<start>s.flac` for each segment, and `out/segments.csv`.

    A clip has `seconds` around the detection's middle, fewer at the recording's ends, with the recording's rate and
    channels. Samples stay as they are: 16 bits, or 24 of recordings that have more; floating-point numbers in `wav`.
    Recordings are sought, not decoded up to the place, where the format allows.

    Args:
        segments: what to cut, in the order of the table.
        out: a new or empty folder; names of labels and recordings are written as in `recording_path`.
        seconds: length of the clips.
        fmt: one of `CLIP_FORMATS`.
        on_problem: is told of a recording that is gone, has changed or can't be read: its name, why, and how many
            clips are lost. The others go on.
        on_done: is told how many clips more are done or lost.

    Raises:
        ConfigError: if `out` holds something, the format is unknown, or a package that a URL needs isn't installed.
        KerasBirdsError: if a file can't be written. The table holds what was cut until then.
    """
    if fmt not in CLIP_FORMATS:
        raise ConfigError(f"--format must be one of {', '.join(CLIP_FORMATS)}. Received: {fmt}")
    check_new_folder(out)
    names = _clip_names(segments, fmt)
    by_file: dict[str, list[int]] = {}
    for k, segment in enumerate(segments):
        by_file.setdefault(segment.recording.file, []).append(k)
    spans_s: dict[int, tuple[float, float]] = {}
    failed_files = 0
    try:
        for file, places in sorted(by_file.items()):
            done = len(spans_s)
            try:
                for k, span_s, data in _cut_recording([(k, segments[k]) for k in places], seconds, fmt):
                    with new_file(out / names[k]) as stream:
                        stream.write(data)
                    spans_s[k] = span_s
                    on_done(1)
            except AudioError as error:
                failed_files += 1
                lost = len(places) - (len(spans_s) - done)
                on_problem(file, error.reason, lost)
                on_done(lost)
    finally:
        table = out / "segments.csv"
        _write_table(table, [(segments[k], names[k], *spans_s[k]) for k in sorted(spans_s)])
    return Cut(len(spans_s), len(segments) - len(spans_s), failed_files, table)


def _clip_names(segments: Sequence[Segment], fmt: str) -> list[PurePath]:
    """Below the folder, each once, also where a file system doesn't tell capitals."""
    names: list[PurePath] = []
    known: set[str] = set()
    for x in segments:
        path = url_path(x.recording.file) if is_url(x.recording.file) else x.recording.file
        start = f"_{decimal(round(x.start_s, 3)).removesuffix('.0')}s"
        stem = f"{x.score:.3f}_{safe_name(PurePath(path).stem)}{start}"
        name, count = PurePath(safe_name(x.label), f"{stem}.{fmt}"), 1
        while str(name).casefold() in known:
            count += 1
            name = name.with_name(f"{stem}_{count}.{fmt}")
        known.add(str(name).casefold())
        names.append(name)
    return names


def _check_unchanged(recording: RecordingStatus) -> None:
    """Raises AudioError if the recording isn't the one that was scored; whether it is there is for the reader."""
    now = file_fingerprint(recording.file)
    if now != (-1, -1) and now != (recording.size_bytes, recording.mtime_ns):
        raise AudioError(
            recording.file,
            "has changed since it was scored: run the same `keras-birds detect` again",
            "changed",
        )


def _cut_recording(
    wanted: Sequence[tuple[int, Segment]], seconds: float, fmt: str
) -> Iterator[tuple[int, tuple[float, float], bytes]]:
    """Gives number, begin and end in seconds, and the file's bytes of each clip of a recording.

    Raises:
        AudioError: whatever is wrong with the recording; the reason is for people.
    """
    recording = wanted[0][1].recording
    file = recording.file
    try:
        _check_unchanged(recording)
        with SegmentReader(file) as source:
            places = []
            for k, segment in wanted:
                begin_s, end_s = segment.clip_span_s(seconds)
                places.append((round(begin_s * source.rate_hz), -round(end_s * source.rate_hz), k))
            for first, minus_last, k in sorted(places):
                frames = source.segment(first, -minus_last)
                if len(frames) < MIN_SECONDS * source.rate_hz:
                    raise AudioError(file, f"nothing decodes at {first / source.rate_hz:.1f} s", "corrupt")
                span_s = first / source.rate_hz, (first + len(frames)) / source.rate_hz
                yield k, span_s, _encode(file, frames, source, fmt)
    except AudioError as error:
        if error.status != "missing" or is_url(file) or Path(file).is_absolute():
            raise
        reason = f"{error.reason}: relative names count from the folder in which detect ran"
        raise AudioError(file, reason, error.status) from None
    except KerasBirdsError:
        raise
    except Exception as error:  # whatever a damaged file sets off in a decoder: the others go on
        raise AudioError(file, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from None


def _encode(file: str, frames: np.ndarray, source: SegmentReader, fmt: str) -> bytes:
    subtype = "PCM_24" if source.subtype in _DEEP else "PCM_16"
    if fmt == "wav" and source.subtype in _FLOAT:
        subtype, samples = "FLOAT", frames
    else:
        # By ourselves: libsndfile reads a 16-bit sample as x / 32768 but writes x * 32767.
        scale = float(1 << (23 if subtype == "PCM_24" else 15))
        whole = np.clip(np.rint(frames * np.float64(scale)), -scale, scale - 1)
        samples = whole.astype(np.int32) << 8 if subtype == "PCM_24" else whole.astype(np.int16)
    buffer = BytesIO()
    try:
        options = {"subtype": subtype, "format": fmt.upper()}
        with soundfile.SoundFile(buffer, "w", source.rate_hz, frames.shape[1], **options) as clip:
            clip.write(samples)
    except soundfile.LibsndfileError:
        what = f"{frames.shape[1]} channels at {source.rate_hz} Hz"
        raise AudioError(file, f"{what} can't be written as {fmt}: pass --format wav", "unreadable") from None
    return buffer.getvalue()


def _write_table(path: Path, clips: Sequence[tuple[Segment, PurePath, float, float]]) -> None:
    with new_text(path) as stream:
        rows = csv_writer(stream)
        rows.writerow(SEGMENT_COLUMNS)
        for x, name, begin_s, end_s in clips:
            names = (x.label, x.scientific_name, x.common_name, six_digits(x.score))
            place = (x.recording.file, x.channel, *(decimal(t) for t in (x.start_s, x.end_s, begin_s, end_s)))
            rows.writerow((name.as_posix(), *names, *place, ""))
