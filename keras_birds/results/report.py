"""Writes predictions as a table, CSV or JSON."""

import json
from dataclasses import asdict, astuple
from typing import Any, TextIO

from keras_birds.audio.stream import Channel
from keras_birds.inference.aggregate import Prediction, RankedLabel
from keras_birds.inference.classifier import Classifier
from keras_birds.inference.scorer import RecordingStatus
from keras_birds.results.origin import origin_cells
from keras_birds.results.writers.rows import decimal, one_line, six_digits
from keras_birds.text import csv_writer, printable

CSV_COLUMNS = ("file", "rank", "label", "scientific_name", "common_name", "class_name", "score")
"""Of `CsvWriter`: one row for each file and rank; `score` is a probability with 6 significant digits."""

FRAME_COLUMNS = ("file", "start_s", "end_s", "label", "scientific_name", "common_name", "score")
"""Of `FrameWriter`: one row for each file, top label and moment."""


class AnswerSink:
    """Takes predictions one by one."""

    def add(self, prediction: Prediction) -> None:
        """Writes one recording's answer, or keeps it for `close`."""
        raise NotImplementedError

    def close(self) -> None:
        """Writes what is left. The stream stays open."""


def answer_writer(fmt: str, stream: TextIO, model_id: str) -> AnswerSink:
    """What writes answers as `"table"`, `"csv"` or `"json"`."""
    if fmt == "json":
        return JsonWriter(stream, model_id)
    return CsvWriter(stream) if fmt == "csv" else TableWriter(stream)


class CsvWriter(AnswerSink):
    """Rows of `CSV_COLUMNS`, comma-separated, with a header. Files without scores have no row."""

    def __init__(self, stream: TextIO):
        self._rows = csv_writer(stream)
        self._rows.writerow(CSV_COLUMNS)

    def add(self, prediction: Prediction) -> None:
        """Writes a row for each of the top labels."""
        for ranked in prediction.top:
            names = astuple(ranked.label)
            self._rows.writerow((prediction.recording.file, ranked.rank, *names, six_digits(ranked.score)))


class FrameWriter(AnswerSink):
    """Rows of `FRAME_COLUMNS`: what the classifier scores in each frame of a recording for its top labels."""

    def __init__(self, stream: TextIO, classifier: Classifier, channel: Channel = "mix"):
        self._classifier, self._channel = classifier, channel
        self._rows = csv_writer(stream)
        self._rows.writerow(FRAME_COLUMNS)

    def add(self, prediction: Prediction) -> None:
        """Scores a recording's frames; files without scores have no row."""
        if prediction.recording.failed:
            return
        file = prediction.recording.file
        frames = self._classifier.frame_scores(file, self._channel)
        for ranked in prediction.top:
            names = astuple(ranked.label)[:3]
            for start_s, end_s, score in frames[["start_s", "end_s", names[0]]].itertuples(index=False):
                self._rows.writerow((file, decimal(start_s), decimal(end_s), *names, six_digits(score)))


class JsonWriter(AnswerSink):
    """One list of objects: file, status, reason, seconds, unscored_s, windows, model_id and top.

    `top` is a list of objects: rank, label, scientific_name, common_name, class_name and score. Files without
    scores are there, with their status and reason and an empty `top`.
    """

    def __init__(self, stream: TextIO, model_id: str):
        self._stream, self._model_id, self._before = stream, model_id, "[\n"

    def add(self, prediction: Prediction) -> None:
        """Writes one object on one line."""
        x = prediction.recording
        row = {
            **{"file": x.file, "status": x.status, "reason": x.reason},
            **{"seconds": round(x.seconds, 3), "unscored_s": round(x.unscored_s, 3), "windows": x.windows},
            **{"model_id": self._model_id, "top": [_as_dict(ranked) for ranked in prediction.top]},
        }
        self._stream.write(self._before + json.dumps(row, ensure_ascii=False))
        self._before = ",\n"

    def close(self) -> None:
        """Ends the list."""
        self._stream.write("[]\n" if self._before == "[\n" else "\n]\n")


class TableWriter(AnswerSink):
    """A table for each file, in plain text."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def add(self, prediction: Prediction) -> None:
        """Writes a file's table; files without scores have none. Names that no label has get no column."""
        if prediction.recording.failed:
            return
        rows = [
            (str(x.rank), x.label.name, x.label.common_name, x.label.scientific_name, f"{x.score:.4f}")
            for x in prediction.top
        ]
        header = ("Rank", "Label", "Common name", "Scientific name", "Probability")
        cells = []
        for name, *values in zip(header, *rows, strict=True):
            if any(values):
                texts = [one_line(x) for x in (name, *values)]
                width = max(map(len, texts))
                is_number = name in ("Rank", "Probability")
                cells.append([x.rjust(width) if is_number else x.ljust(width) for x in texts])
        lines = [f"{printable(prediction.recording.file)}  {describe_length(prediction.recording)}"]
        lines += ["  " + "  ".join(row).rstrip() for row in zip(*cells, strict=True)]
        self._stream.write("\n".join(lines) + "\n\n")


def describe_problem(recording: RecordingStatus) -> str:
    """What is wrong with a recording, in a line; empty where nothing is."""
    name = printable(recording.file)
    if recording.not_seen:
        return f"Not seen: {name}: {recording.not_seen}; what was found in it before stays"
    if not recording.failed and not (recording.reason and recording.has_scores):
        return ""
    return f"{'Failed' if recording.failed else 'Warning'}: {name}: {recording.reason} ({recording.status})"


def describe_length(recording: RecordingStatus) -> str:
    """For instance `5.0 s, 1 window` or `5.4 s, 1 window, the last 0.4 s not scored`."""
    dropped = f", the last {recording.unscored_s:.1f} s not scored" if recording.unscored_s >= 0.05 else ""
    return f"{recording.seconds:.1f} s, {recording.windows} window{'s' * (recording.windows != 1)}{dropped}"


def describe_origin(recording: RecordingStatus) -> str:
    """For instance `Recorded 2023-05-10 07:30:00 (UTC+02:00), at 48.1, 11.5, by AudioMoth 24F319055FDF2902`, and notes.

    Empty where nothing is known.
    """
    cells = origin_cells(recording)
    time, zone = cells["start_time"].partition(".")[0].replace("T", " "), cells["utc_offset"]
    parts = {
        "": f"{time} (UTC{zone})" if zone else time,
        "at ": f"{cells['latitude']}, {cells['longitude']}" if cells["latitude"] else "",
        "by ": cells["recorder"],
        "gain ": cells["gain"],
    }
    said = ", ".join(x + y for x, y in parts.items() if y)
    return " ".join(x for x in (f"Recorded {said}." if said else "", cells["notes"]) if x)


def _as_dict(ranked: RankedLabel) -> dict[str, Any]:
    names = asdict(ranked.label)
    return {"rank": ranked.rank, "label": names.pop("name"), **names, "score": float(f"{ranked.score:.6g}")}
