"""Writes the tables that people open, from a folder of results, a recording at a time; when labels were detected."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np

from keras_birds.inference.classifier import Classifier
from keras_birds.inference.scorer import RecordingStatus
from keras_birds.labels import LabelSet
from keras_birds.results.detections import SUMMARY_COLUMNS
from keras_birds.results.results import Results
from keras_birds.results.windows import final_windows
from keras_birds.results.writers.files import new_text
from keras_birds.results.writers.rows import six_digits
from keras_birds.results.writers.submission import Submission, write_submission
from keras_birds.results.writers.tables import write_tables
from keras_birds.text import csv_writer

if TYPE_CHECKING:
    import pyarrow as pa

ACTIVITY_COLUMNS = ("label", "scientific_name", "common_name", "hour", "detections", "recorded_h")
"""Of `activity.csv`, a row for each detected label and hour of day in which something was recorded."""


class Activity:
    """Counts detections by label and hour of day, beside how long was recorded in that hour, in local time."""

    def __init__(self, labels: LabelSet):
        self.labels = labels
        self.detections = np.zeros((len(labels), 24), np.int64)
        """`[label, hour]`."""
        self.recorded_s = np.zeros(24)
        """`[hour]`, of recordings of which it is known when they began."""

    def add(self, recording: RecordingStatus, batches: "Iterable[pa.RecordBatch]") -> None:
        """Counts one recording; nothing where it isn't known when it began."""
        began = recording.origin.local
        if began is None:
            return
        at, end = began, began + timedelta(seconds=recording.seconds)
        while at < end:
            until = min(end, at.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1))
            self.recorded_s[at.hour] += (until - at).total_seconds()
            at = until
        for batch in batches:
            labels = batch["label"].dictionary_encode()
            known = np.array([self.labels.index(x) for x in labels.dictionary.to_pylist()], np.int64)
            hours = batch["start_time"].to_numpy(zero_copy_only=False).astype("datetime64[h]")
            np.add.at(self.detections, (known[labels.indices.to_numpy()], hours.astype(np.int64) % 24), 1)

    def write_csv(self, stream: TextIO) -> None:
        """Writes `ACTIVITY_COLUMNS`, labels in the model's order."""
        rows = csv_writer(stream)
        rows.writerow(ACTIVITY_COLUMNS)
        for k in np.flatnonzero(self.detections.any(axis=1)):
            item = self.labels.items[int(k)]
            for hour in np.flatnonzero(self.recorded_s):
                counts = (int(hour), int(self.detections[k, hour]), f"{self.recorded_s[hour] / 3600:.6g}")
                rows.writerow((item.name, item.scientific_name, item.common_name, *counts))


@dataclass(frozen=True)
class Outputs:
    """What was written: files in order, the activity for a figure, and the submission where one was asked for."""

    files: list[Path]
    activity: Activity
    submission: Submission | None


def write_outputs(
    results: Results,
    classifier: Classifier,
    formats: Sequence[str],
    per_recording: bool = False,
    sample_submission: Path | None = None,
) -> Outputs:
    """Writes detections in each of `formats`, of `FORMATS` or `"birdclef"`, the summary and the activity.

    Raven's boxes have the height of the classifier's mel band. `sample_submission` is for `"birdclef"`, as
    `write_submission` has it.

    Raises:
        DataError: if a submission can't be written from these recordings.
        KerasBirdsError: if the disk is full.
    """
    files, submission = [], None
    for fmt in formats:
        if fmt == "birdclef":
            unscored = [x.file for x in results.recordings if x.failed]
            scores, window_s = final_windows(results, classifier.labels), classifier.audio.window_s
            submission = write_submission(
                scores, classifier.labels, window_s, results.folder, sample_submission, unscored
            )
            files.append(submission.path)
        else:
            band_hz = classifier.audio.band_hz(classifier.mel)
            files += write_tables(fmt, results.read("detections"), results.folder, band_hz, per_recording)
    files.append(results.folder / "summary.csv")
    with new_text(files[-1]) as stream:
        table = csv_writer(stream)
        table.writerow(SUMMARY_COLUMNS)
        for recording, summary in results.read("summary"):
            for row in (x for batch in summary for x in batch.to_pylist()):
                digits = {x: six_digits(row[x]) for x in ("max", "mean_top2")}
                table.writerow((row | digits | {"file": recording.file}).values())
    activity = Activity(classifier.labels)
    for recording, batches in results.read("detections"):
        activity.add(recording, batches)
    if activity.detections.any():
        files.append(results.folder / "activity.csv")
        with new_text(files[-1]) as stream:
            activity.write_csv(stream)
    return Outputs(files, activity, submission)
