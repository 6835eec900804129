"""Scores a recording for the page: what `predict` computes, with progress, and stopped when no one waits."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

import keras_birds
from keras_birds.app import charts
from keras_birds.app.session import SessionFolder
from keras_birds.audio.decode import read_part
from keras_birds.audio.envelope import Envelope, read_envelope
from keras_birds.errors import AudioError, KerasBirdsError
from keras_birds.inference.aggregate import aggregate, top_labels
from keras_birds.inference.classifier import Classifier
from keras_birds.inference.scorer import RecordingScores, ScoreOptions, score_recordings
from keras_birds.results.detections import DetectionRules, detection_schema
from keras_birds.results.digest import Digest
from keras_birds.results.occurrence import Occurrence

_POLL_S = 0.1


class _Stopped(Exception):
    """No one waits any more."""


@dataclass(frozen=True, eq=False)
class Analysis:
    """A recording's scores, window by window, under the name that people know it by; and its waveform's outline."""

    found: RecordingScores
    envelope: Envelope


def analyse(
    classifier: Classifier,
    path: Path,
    name: str,
    overlap_s: float,
    max_s: float,
    on_progress: Callable[[str, float], object],
) -> Analysis:
    """Outlines and scores a recording, known to people by `name`, in a thread of its own.

    `on_progress` is told some times a second what is done and how much of it, 0 to 1; what it raises stops the work.

    Raises:
        AudioError: under `name`, if the recording can't be read or is longer than `max_s`.
        KerasBirdsError: if the model or the overlap can't be used.
    """
    stopped = threading.Event()
    what, done_s, of_s = "Reading", 0.0, 0.0

    def on_seconds(seconds: float) -> None:
        nonlocal done_s
        if stopped.is_set():
            raise _Stopped
        done_s += seconds

    def work() -> Analysis:
        nonlocal what, done_s, of_s
        try:
            envelope = read_envelope(path, classifier.audio, max_s=max_s, on_block=on_seconds)
            what, done_s, of_s = "Listening", 0.0, envelope.seconds
            (found,) = score_recordings(classifier, [path], ScoreOptions(overlap_s), on_seconds)
        except AudioError as error:
            raise AudioError(name, error.reason, error.status) from None
        if found.recording.failed:
            raise AudioError(name, found.recording.reason, found.recording.status)
        return Analysis(replace(found, recording=replace(found.recording, file=name)), envelope)

    with ThreadPoolExecutor(1, "analysis") as pool:
        future = pool.submit(work)
        try:
            while not wait([future], _POLL_S).done:
                on_progress(what, min(1.0, done_s / of_s) if of_s else 0.0)
        except BaseException:
            stopped.set()
            raise
        return future.result()


def top_table(
    classifier: Classifier, scores: np.ndarray, top_k: int, method: str, threshold: float
) -> pd.DataFrame:
    """The answer for the recording, as `keras-birds predict` gives it, and how the windows voted.

    Of scores `[window, label]`, at least one window. A window votes for the label that is the most probable in it, if
    that reaches the threshold.
    """
    ranked = top_labels(classifier.labels, aggregate(scores, method), top_k)
    winners = scores.argmax(axis=1)[scores.max(axis=1) >= threshold]
    votes = np.bincount(winners, minlength=scores.shape[1])
    best = scores.max(axis=0)
    rows = []
    for x in ranked:
        item, column = x.label, classifier.labels.index(x.label.name)
        texts = (item.name, item.common_name, item.scientific_name, item.class_name)
        rows.append((x.rank, *texts, x.score, float(best[column]), int(votes[column])))
    names = ["rank", "label", "common_name", "scientific_name", "class_name", "probability", "best", "votes"]
    return pd.DataFrame(rows, columns=names)


def detections_table(
    classifier: Classifier,
    analysis: Analysis,
    threshold: float,
    labels: set[str],
    merge: bool,
    occurrence: Occurrence | None = None,
) -> pd.DataFrame:
    """Detections of some labels as `keras-birds detect` finds them, columns as in `detection_schema`.

    With `occurrence` only what occurs where and when the recording was made.
    """
    import pyarrow as pa

    chosen = tuple(x in labels for x in classifier.labels)
    rules = DetectionRules((threshold,) * len(chosen), chosen, merge=merge, occurrence=occurrence)
    digest = Digest(analysis.found.recording, classifier.labels, rules, classifier.model_id)
    tables = [table for _, table in digest.add(analysis.found)]
    # Plain texts: a dictionary may hold the name that several labels lack more than once.
    frame: pd.DataFrame = pa.concat_tables(tables).cast(detection_schema()).to_pandas()
    return frame.astype(dict.fromkeys(("file", "label", "scientific_name", "common_name", "model_id"), str))


def warm_up(model: str | None) -> None:
    """Does once what the first visitor would wait for: scores the example, by default with `load()`, and draws it."""
    folder = SessionFolder()
    # What is wrong with a model is told on the page, where another can be chosen.
    with closing(folder), suppress(KerasBirdsError):
        classifier = keras_birds.load(model)
        analysis = analyse(classifier, folder.example(), "example", 0.0, 60, lambda *_: None)
        found = detections_table(classifier, analysis, 0.5, set(classifier.labels), merge=False)
        top = top_table(classifier, analysis.found.scores, 5, "mean", 0.5)
        samples = read_part(folder.example(), 0, 30, classifier.audio)
        charts.part_picture(samples, 0.0, classifier, found, None)
        for chart in (charts.bars(top), charts.timeline(analysis.found.start_s, {}, 0.5, 30)):
            chart.to_dict()
