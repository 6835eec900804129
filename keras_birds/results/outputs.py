"""Writes the tables that people open, from a folder of results, a recording at a time; when labels were detected."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from keras_birds.inference.classifier import Classifier
from keras_birds.results.detections import SUMMARY_COLUMNS
from keras_birds.results.hours import Activity
from keras_birds.results.results import Results
from keras_birds.results.windows import final_windows
from keras_birds.results.writers.files import new_text
from keras_birds.results.writers.rows import six_digits
from keras_birds.results.writers.submission import Submission, write_submission
from keras_birds.results.writers.tables import write_tables
from keras_birds.text import csv_writer

ACTIVITY_COLUMNS = ("label", "scientific_name", "common_name", "hour", "detections", "recorded_h")
"""Of `activity.csv`, a row for each detected label and hour of day in which something was recorded."""


def write_activity(activity: Activity, stream: TextIO) -> None:
    """Writes `ACTIVITY_COLUMNS`, by label."""
    rows = csv_writer(stream)
    rows.writerow(ACTIVITY_COLUMNS)
    for item, detections in zip(activity.labels, activity.detections, strict=True):
        for hour in np.flatnonzero(activity.recorded_s):
            counts = (int(hour), int(detections[hour]), f"{activity.recorded_s[hour] / 3600:.6g}")
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
            rows, more = results.read("detections"), results.more_columns
            files += write_tables(fmt, rows, results.folder, band_hz, per_recording, more)
    files.append(results.folder / "summary.csv")
    with new_text(files[-1]) as stream:
        table = csv_writer(stream)
        table.writerow(SUMMARY_COLUMNS)
        for recording, summary in results.read("summary"):
            for row in (x for batch in summary for x in batch.to_pylist()):
                digits = {x: six_digits(row[x]) for x in ("max", "mean_top2")}
                table.writerow((row | digits | {"file": recording.file}).values())
    activity = Activity.of(results.by_hour())
    if activity.detections.any():
        files.append(results.folder / "activity.csv")
        with new_text(files[-1]) as stream:
            write_activity(activity, stream)
    return Outputs(files, activity, submission)
