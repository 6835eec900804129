"""`keras-birds predict --out FOLDER`: detections of many recordings, resumable."""

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keras_birds.inference.classifier import Classifier
from keras_birds.inference.recording_status import RecordingStatus
from keras_birds.inference.scorer import ScoreOptions, score_recordings
from keras_birds.plots.activity import activity_figure
from keras_birds.results.detections import DetectionRules
from keras_birds.results.outputs import write_outputs
from keras_birds.results.recording_time import check_time_pattern
from keras_birds.results.report import describe_problem
from keras_birds.results.results import Results
from keras_birds.results.resume import Listener, Score, result_settings, score_into
from keras_birds.results.writers import Submission
from keras_birds.text import printable

if TYPE_CHECKING:
    from rich.progress import Progress

_BAR_EVERY_S, _LINE_EVERY_S = 0.1, 30.0


@dataclass(frozen=True)
class FolderRequest:
    """What the folder shall hold; the fields are the command's options."""

    out: Path
    forms: tuple[str, ...]
    per_recording: bool
    threshold: float | Path
    species: Path | None
    top_k: int | None
    smooth_windows: int
    merge: bool
    keep_scores: bool
    time_pattern: str | None
    sample_submission: Path | None
    ray_address: str | None
    provider: str | None


def predict_into_folder(
    classifier: Classifier, names: list[str], options: ScoreOptions, request: FolderRequest
) -> int:
    """Scores what isn't scored yet and writes the tables; how many of `names` failed."""
    if request.time_pattern is not None:
        check_time_pattern(request.time_pattern)
    rules = DetectionRules.of(
        classifier.labels,
        request.threshold,
        request.species,
        request.top_k,
        request.smooth_windows,
        request.merge,
        request.time_pattern,
    )
    keep_scores = request.keep_scores or "birdclef" in request.forms
    settings = result_settings(classifier, options, rules, keep_scores)
    began = time.monotonic()
    with (
        _connection(request.ray_address),
        Results(request.out, classifier.labels, classifier.model_id, rules, settings, keep_scores) as results,
    ):
        with _scorer(classifier, options, request) as score, _listener(len(names)) as listener:
            failed = score_into(results, classifier, names, options, listener, score)
        manifest = results.finish()
        outputs = write_outputs(
            results, classifier, request.forms, request.per_recording, request.sample_submission
        )
    files = [manifest, *outputs.files]
    if not outputs.activity.is_empty:
        files.append(request.out / "activity.png")
        activity_figure(outputs.activity, files[-1])
    click.echo(_describe(listener, len(names), len(failed), time.monotonic() - began), err=True)
    if outputs.submission:
        for line in _describe_gaps(outputs.submission):
            click.echo(line, err=True)
    for path in files[:20]:
        click.echo(printable(path))
    if len(files) > 20:
        click.echo(f"... and {len(files) - 20} more")
    return len(failed)


def _connection(ray_address: str | None) -> AbstractContextManager[None]:
    """First of all, so that a cluster out of reach leaves no folder behind."""
    if ray_address is None:
        return nullcontext()
    from keras_birds.distributed.cluster import connect

    return connect(ray_address)


def _scorer(
    classifier: Classifier, options: ScoreOptions, request: FolderRequest
) -> AbstractContextManager[Score]:
    if request.ray_address is None:
        return nullcontext(score_recordings)
    from keras_birds.distributed.predict import ClusterScorer

    say = partial(click.echo, err=True)
    return ClusterScorer(classifier, request.provider, options.workers, say)


class _Counter(Listener):
    """Counts, and writes problems and, where there is no bar, a line now and then."""

    def __init__(self, total: int, bar: "Progress"):
        self.scored_s, self.files, self.before, self.detections = 0.0, 0, 0, 0
        self._total, self._bar, self._lock = total, bar, threading.Lock()
        self._began = self._said = time.monotonic()
        self._task = bar.add_task("", total=total)

    def on_scored(self, seconds: float) -> None:
        with self._lock:
            self.scored_s += seconds
        self._show()

    def on_done_before(self, name: str) -> None:
        self.before += 1
        self._show()

    def on_recording(self, recording: RecordingStatus) -> None:
        self.files += 1
        self.detections += recording.detections
        if problem := describe_problem(recording):
            self._bar.console.print(problem, markup=False, highlight=False, soft_wrap=True)
        self._show()

    def state(self) -> str:
        """For instance `2.31 h of audio, 210 × realtime`."""
        spent_s = max(1e-3, time.monotonic() - self._began)
        return f"{self.scored_s / 3600:.2f} h of audio, {self.scored_s / spent_s:.0f} × realtime"

    def _show(self) -> None:
        done = self.files + self.before
        now = time.monotonic()
        if now - self._said < (_LINE_EVERY_S if self._bar.disable else _BAR_EVERY_S):
            return
        self._said = now
        if not self._bar.disable:
            self._bar.update(self._task, description=self.state(), completed=done)
        else:
            click.echo(f"{done} of {self._total} files, {self.state()}", err=True)


@contextmanager
def _listener(total: int) -> Iterator[_Counter]:
    from keras_birds.cli.reporting import progress_bar

    with progress_bar() as bar:
        yield _Counter(total, bar)


def _describe_gaps(submission: Submission) -> Iterator[str]:
    if count := submission.unscored_rows:
        rows = "row has no scores and holds" if count == 1 else "rows have no scores and hold"
        yield f"submission.csv: {count} {rows} what the sample submission has there"
    if count := len(submission.absent):
        named = ", ".join(map(printable, submission.absent[:3])) + (", ..." if count > 3 else "")
        yield (
            f"submission.csv: no row for {named}, which can't be read; --sample-submission gives the rows that "
            "judges expect, if it lists them"
        )


def _describe(counter: _Counter, total: int, failed: int, seconds: float) -> str:
    parts = [f"{total} recordings: {counter.files - failed} scored"]
    parts += [f"{counter.before} scored before"] if counter.before else []
    parts += [f"{failed} failed"] if failed else []
    text = ", ".join(parts)
    if counter.files > failed:
        text += f"; {counter.detections} new detections; {counter.state()}; {seconds:.1f} s in all"
    return text
