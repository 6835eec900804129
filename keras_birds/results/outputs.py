"""Writes the tables that people open, from a folder of results, a recording at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from keras_birds.inference.classifier import Classifier
from keras_birds.results.activity import Activity
from keras_birds.results.results import Results
from keras_birds.results.writers import Submission, write_submission, write_tables
from keras_birds.results.writers.files import new_text
from keras_birds.text import csv_writer

SUMMARY_COLUMNS = ("file", "label", "scientific_name", "common_name", "max", "mean_top2", "windows")
"""Of `summary.csv`: a row for each recording and label detected in it, by `detections.summarise`."""


@dataclass(frozen=True)
class Outputs:
    """What was written.

    Args:
        files: in the order in which they were written.
        activity: for a figure.
        submission: where one was asked for.
    """

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
    """Writes detections in each of `formats`, the summary and the activity.

    Args:
        results: with all that is to be written.
        classifier: the model; its mel settings give Raven's boxes their height.
        formats: of `writers.FORMATS` or `"birdclef"`.
        per_recording: one table for each recording instead of one for all.
        sample_submission: for `"birdclef"`, as `write_submission` has it.

    Raises:
        DataError: if a submission can't be written from these recordings.
        KerasBirdsError: if the disk is full.
    """
    files, submission = [], None
    for fmt in formats:
        if fmt == "birdclef":
            unscored = [x.file for x in results.recordings if x.failed]
            submission = write_submission(
                results.read("scores"),
                classifier.labels,
                classifier.audio.clip_s,
                results.folder,
                sample_submission,
                unscored,
            )
            files.append(submission.path)
        else:
            files += write_tables(
                fmt,
                results.read("detections"),
                results.folder,
                (classifier.mel.f_min_hz, classifier.mel.f_max_hz),
                per_recording,
            )
    files.append(results.folder / "summary.csv")
    with new_text(files[-1]) as stream:
        table = csv_writer(stream)
        table.writerow(SUMMARY_COLUMNS)
        for recording, summary in results.read("summary"):
            for row in summary.to_table().to_pylist():
                values = (f"{row['max']:.6g}", f"{row['mean_top2']:.6g}", row["windows"])
                names = (row["label"], row["scientific_name"], row["common_name"])
                table.writerow((recording.file, *names, *values))
    activity = Activity(classifier.labels, results.rules.time_pattern)
    for recording, rows in results.read("detections"):
        activity.add(recording, rows)
    if not activity.is_empty:
        files.append(results.folder / "activity.csv")
        with new_text(files[-1]) as stream:
            activity.write_csv(stream)
    return Outputs(files, activity, submission)
