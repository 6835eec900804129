"""What commands share that take a whole disk of recordings into a folder: here or on a cluster, counted and told."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from keras_birds.cli.options import ModelChoice

if TYPE_CHECKING:
    from rich.progress import Progress

    from keras_birds.distributed.worker import Scorer
    from keras_birds.inference.classifier import Classifier
    from keras_birds.inference.scorer import RecordingStatus, ScoreOptions, WindowScorer
    from keras_birds.results.sink import RecordingSink

Score = Callable[..., Any]
"""As `score_recordings`."""

_BAR_EVERY_S, _LINE_EVERY_S = 0.1, 30.0


def connection_to(ray_address: str | None) -> AbstractContextManager[None]:
    """To a cluster, whose address is checked at once; none where there is no address."""
    if ray_address is None:
        return nullcontext()
    from keras_birds.distributed.cluster import check_address, connect

    check_address(ray_address)
    return connect(ray_address)


@contextmanager
def scoring(
    classifier: "Classifier",
    model: ModelChoice,
    options: "ScoreOptions",
    ray_address: str | None,
    scorer: "Scorer | None" = None,
) -> Iterator[Score]:
    """What scores recordings, or with `scorer` gives other numbers of them: this machine, or a cluster's workers."""
    from keras_birds.inference.scorer import score_recordings

    if ray_address is None:
        yield score_recordings
        return
    from keras_birds.distributed.predict import ClusterScorer

    say = partial(click.echo, err=True)
    with ClusterScorer(classifier, model.provider, options.workers, say, scorer) as score:
        yield score


class Counter:
    """Counts, and writes problems and, where there is no bar, a line now and then."""

    done = "scored"
    """What becomes of a recording."""

    def __init__(self, sink: "RecordingSink", total: int, bar: "Progress"):
        self.scored = self.skipped = self.failed = self.gone = 0
        self._sink, self._total, self._bar, self._scored_s = sink, total, bar, 0.0
        self._began = self._told_at = time.monotonic()
        self._task = bar.add_task("", total=total)

    def take(
        self, score: Score, scorer: "WindowScorer", files: Iterator[str], options: "ScoreOptions"
    ) -> None:
        """Scores recordings into the sink."""
        from keras_birds.inference.scorer import PART_WINDOWS

        options = replace(options, part_windows=PART_WINDOWS)
        for scored in score(scorer, files, options, self.on_scored):
            if recording := self._sink.add(scored):
                self.add(recording)

    def on_scored(self, seconds: float) -> None:
        """Takes how much sound was scored."""
        self._scored_s += seconds
        self._show()

    def add(self, recording: "RecordingStatus") -> None:
        """Takes what became of a recording."""
        from keras_birds.results.report import describe_problem

        is_scored = recording.has_scores and not recording.not_seen
        self.gone += bool(recording.not_seen)
        self.failed += recording.failed and not recording.not_seen
        self.skipped += not (is_scored or recording.failed or recording.not_seen)
        self.scored += is_scored
        if is_scored:
            self.count(recording)
        if problem := describe_problem(recording):
            self._bar.console.print(problem, soft_wrap=True)
        self._show()

    def count(self, recording: "RecordingStatus") -> None:
        """Takes a scored recording."""

    def new(self) -> str:
        """What is new, for instance `12 new detections`."""
        raise NotImplementedError

    def summary(self) -> str:
        """For instance `6 recordings: 5 scored, 1 failed; 12 new detections; 2.31 h of audio, 210 × realtime; ...`."""
        from keras_birds.results.sink import NOT_NAMED

        counts = {f"{self.done} before": self._sink.done_before}
        counts |= {"skipped, as nothing of them is wanted": self.skipped, "failed": self.failed}
        counts["not seen this time, of which what was found before stays"] = self.gone
        parts = [f"{self.scored} {self.done}", *(f"{n} {what}" for what, n in counts.items() if n)]
        text = f"{self._total} recordings: {', '.join(parts)}"
        if kept := sum(x.not_seen == NOT_NAMED for x in self._sink.recordings):
            text += f" (and {kept} of earlier runs, which stay)"
        if self.scored:
            spent_s = time.monotonic() - self._began
            text += f"; {self.new()}; {self._speed()}; {spent_s:.1f} s in all"
        return text

    def _speed(self) -> str:
        spent_s = max(1e-3, time.monotonic() - self._began)
        return f"{self._scored_s / 3600:.2f} h of audio, {self._scored_s / spent_s:.0f} × realtime"

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._told_at < (_LINE_EVERY_S if self._bar.disable else _BAR_EVERY_S):
            return
        self._told_at = now
        done = self.scored + self.skipped + self.failed + self.gone + self._sink.done_before
        if not self._bar.disable:
            self._bar.update(self._task, description=self._speed(), completed=done)
        else:
            click.echo(f"{done} of {self._total} files, {self._speed()}", err=True)


class WindowCounter(Counter):
    """Counts windows as well; `done` is what becomes of a recording."""

    def __init__(self, sink: "RecordingSink", total: int, bar: "Progress", done: str = Counter.done):
        super().__init__(sink, total, bar)
        self.done, self.windows = done, 0

    def count(self, recording: "RecordingStatus") -> None:
        """Takes a recording."""
        self.windows += recording.windows

    def new(self) -> str:
        """How many windows."""
        return f"{self.windows} new windows"
