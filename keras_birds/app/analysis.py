"""Scores a recording for the page: what `predict` computes, with progress, and stopped when no one waits."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from keras_birds.audio.envelope import Envelope, read_envelope
from keras_birds.errors import AudioError
from keras_birds.inference.aggregate import aggregate, top_labels
from keras_birds.inference.classifier import Classifier
from keras_birds.inference.recording_status import RecordingStatus
from keras_birds.inference.scorer import RecordingScores, ScoreOptions, score_recordings
from keras_birds.results.detections import DetectionRules, detect

_POLL_S = 0.1


class _Stopped(Exception):
    """No one waits for the answer any more."""


@dataclass
class _Progress:
    """What the thread is at."""

    what: str = "Reading"
    done_s: float = 0.0
    of_s: float = 0.0


@dataclass(frozen=True, eq=False)
class Analysis:
    """A scored recording.

    Args:
        found: its scores, window by window; its recording has the name that people know it by.
        envelope: the outline of its waveform.
    """

    found: RecordingScores
    envelope: Envelope

    @property
    def recording(self) -> RecordingStatus:
        """What became of the recording."""
        return self.found.recording


def analyse(
    classifier: Classifier,
    path: Path,
    name: str,
    overlap_s: float,
    max_s: float,
    on_progress: Callable[[str, float], object],
) -> Analysis:
    """Outlines and scores a recording in a thread of its own.

    Args:
        classifier: the model.
        path: the file.
        name: what people know it by, for tables and errors.
        overlap_s: how much each window shares with the one before.
        max_s: longer recordings are refused.
        on_progress: is told what is done and how much of it, 0 to 1, some times a second; when it raises, the work
            stops and the exception goes on.

    Raises:
        AudioError: under `name`, if the recording can't be read or is too long.
        KerasBirdsError: if the model or the options can't be used.
    """
    stopped = threading.Event()
    progress = _Progress()

    def check() -> None:
        if stopped.is_set():
            raise _Stopped

    def on_block(seconds: float) -> None:
        check()
        progress.done_s = seconds

    def on_scored(seconds: float) -> None:
        check()
        progress.done_s += seconds

    def work() -> Analysis:
        try:
            envelope = read_envelope(path, classifier.audio.decoder, max_s=max_s, on_block=on_block)
            progress.what, progress.done_s, progress.of_s = "Listening", 0.0, envelope.seconds
            (found,) = score_recordings(classifier, [path], ScoreOptions(overlap_s), on_scored)
        except AudioError as error:
            raise AudioError(name, error.reason, error.status) from None
        if found.recording.failed:
            raise AudioError(name, found.recording.reason, found.recording.status)
        return Analysis(replace(found, recording=replace(found.recording, file=name)), envelope)

    with ThreadPoolExecutor(1, "analysis") as pool:
        future = pool.submit(work)
        try:
            while not wait([future], _POLL_S).done:
                of_s = progress.of_s
                on_progress(progress.what, min(1.0, progress.done_s / of_s) if of_s else 0.0)
        except BaseException:
            stopped.set()
            raise
        return future.result()


def top_table(
    classifier: Classifier, scores: np.ndarray, top_k: int, method: str, threshold: float
) -> pd.DataFrame:
    """The answer for the recording, as `keras-birds predict` gives it, and how the windows voted.

    Args:
        classifier: the model.
        scores: `[window, label]`, at least one window.
        top_k: how many labels.
        method: `"mean"` or `"max"` over windows.
        threshold: least probability of a vote.

    Returns:
        A row a label: rank, label, common_name, scientific_name, class_name, probability, best (its highest window)
        and votes (windows in which it is the most probable, and probable enough).
    """
    ranked = top_labels(classifier.labels, aggregate(scores, method), top_k)
    winners = scores.argmax(axis=1)[scores.max(axis=1) >= threshold]
    votes = np.bincount(winners, minlength=scores.shape[1])
    best = scores.max(axis=0)
    rows = []
    for x in ranked:
        column = classifier.labels.index(x.label.name)
        item = x.label
        texts = (item.name, item.common_name, item.scientific_name, item.class_name)
        rows.append((x.rank, *texts, x.score, float(best[column]), int(votes[column])))
    names = ["rank", "label", "common_name", "scientific_name", "class_name", "probability", "best", "votes"]
    return pd.DataFrame(rows, columns=names)


def detections_table(
    classifier: Classifier, analysis: Analysis, threshold: float, labels: set[str], merge: bool
) -> pd.DataFrame:
    """Detections as `keras-birds detect` finds them, columns as in `detection_schema`.

    Args:
        classifier: the model.
        analysis: the scored recording.
        threshold: least probability.
        labels: which may be detected.
        merge: whether windows that touch become one.
    """
    import pyarrow as pa

    chosen = tuple(x in labels for x in classifier.labels)
    rules = DetectionRules((threshold,) * len(chosen), chosen, merge=merge)
    tables = detect(analysis.found, classifier.labels, rules, classifier.model_id)
    frame: pd.DataFrame = pa.concat_tables(tables).to_pandas()
    return frame.astype(dict.fromkeys(("file", "label", "scientific_name", "common_name", "model_id"), str))
