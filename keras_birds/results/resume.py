"""Scores many recordings into a folder of results, and goes on where an earlier run of the same command stopped."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from keras_birds.audio.remote import stamp
from keras_birds.inference.classifier import Classifier
from keras_birds.inference.recording_status import RecordingStatus
from keras_birds.inference.scorer import (
    DEFAULT_OPTIONS,
    RecordingScores,
    ScoreOptions,
    score_recordings,
)
from keras_birds.results.detections import DetectionRules
from keras_birds.results.results import Results

Score = Callable[
    [Classifier, Iterable[str], ScoreOptions, Callable[[float], None]], Iterable[RecordingScores]
]
"""What scores: `score_recordings` on this machine, `distributed.predict.ClusterScorer` on a cluster."""


class Listener:
    """Is told of a batch's progress; this one doesn't listen."""

    def on_scored(self, seconds: float) -> None:
        """So many seconds of audio were scored. Called by several threads."""

    def on_done_before(self, name: str) -> None:
        """A recording was left as an earlier run scored it."""

    def on_recording(self, recording: RecordingStatus) -> None:
        """A recording is done."""


def score_into(
    results: Results,
    classifier: Classifier,
    names: Iterable[str],
    options: ScoreOptions = DEFAULT_OPTIONS,
    listener: Listener | None = None,
    score: Score = score_recordings,
) -> list[str]:
    """Scores recordings that `results` doesn't hold yet, or that have changed since.

    Args:
        results: takes the scores.
        classifier: the model.
        names: paths or URLs, read as they are needed.
        options: how they are cut and scored.
        listener: is told of progress.
        score: does it; gives every recording, in order.

    Returns:
        Names of the recordings that failed.

    Raises:
        KerasBirdsError: if the model gives no numbers, or results can't be written.
    """
    listener = listener or Listener()
    failed = []

    def waiting() -> Iterable[str]:
        for name in names:
            # On an object store a stamp is a request.
            if name in results and results.is_done(name, *stamp(name)):
                listener.on_done_before(name)
            else:
                yield name

    for found in score(classifier, waiting(), options, listener.on_scored):
        recording = results.add(found)
        listener.on_recording(recording)
        if recording.failed:
            failed.append(recording.file)
    return failed


def result_settings(
    classifier: Classifier, options: ScoreOptions, rules: DetectionRules, keep_scores: bool
) -> dict[str, Any]:
    """All that a recording's rows depend on, as plain data: results of other settings aren't mixed with these."""
    digest = hashlib.sha256()
    for engine in classifier.engines:
        with engine.path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    same = len(set(rules.thresholds)) == 1
    chosen = [x for x, is_chosen in zip(classifier.labels, rules.species, strict=True) if is_chosen]
    return {
        "model_id": classifier.model_id,
        "model_sha256": digest.hexdigest(),
        "calibrated": classifier.calibration is not None,
        "decoder": classifier.audio.decoder,
        "overlap_s": options.overlap_s,
        "channel": options.channel,
        "keep_scores": keep_scores,
        **asdict(rules),
        "thresholds": rules.thresholds[0] if same else rules.thresholds,
        "species": "all" if all(rules.species) else chosen,
    }
