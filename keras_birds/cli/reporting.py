"""What commands tell beside their answers: progress, a bar on a terminal and plain lines elsewhere, and warnings."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from keras_birds.cli.options import ModelChoice, warn
from keras_birds.text import printable

if TYPE_CHECKING:
    from rich.progress import Progress

    from keras_birds.inference.scorer import RecordingScores
    from keras_birds.progress import Reporter


@contextmanager
def progress_bar() -> Iterator["Progress"]:
    """A bar on stderr for tasks to be added to; only on a terminal, and gone when the block ends."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    # Paths may hold `:bird:`, which isn't meant as an emoji.
    console = Console(stderr=True, highlight=False, emoji=False)
    description = "[progress.description]{task.description}"
    columns = (description, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield bar


@contextmanager
def make_reporter() -> Iterator["Reporter"]:
    """A reporter on stderr."""
    from keras_birds.progress import Reporter

    class ConsoleReporter(Reporter):
        def __init__(self, bar: "Progress"):
            self._bar = bar
            self._task = bar.add_task("", visible=False)

        def log(self, line: str) -> None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

        def progress(self, task: str, done: float, total: float) -> None:
            self._bar.update(self._task, description=task, completed=done, total=total, visible=bool(total))

        def problem(self, name: str, reason: str) -> None:
            self.log(printable(f"{name} {reason}"))

    with progress_bar() as bar:
        yield ConsoleReporter(bar)


class OutputRange:
    """A sink that warns where a model of others seems to give probabilities, which are read as logits."""

    def __init__(self, model: ModelChoice):
        self._model, self._least, self._most = model, 1.0, 0.0

    def add(self, scored: "RecordingScores") -> None:
        """Looks at a recording's scores."""
        self._least = float(scored.scores.min(initial=self._least))
        self._most = float(scored.scores.max(initial=self._most))

    def close(self) -> None:
        """Warns if all of them are what logits from 0 to 1 become."""
        is_unasked = self._model.labels is not None and self._model.output == "logits"
        if is_unasked and 0.5 <= self._least <= self._most <= 0.7311:
            rule = "all outputs are from 0 to 1, as probabilities are, and were read as logits"
            reason = f"{rule}: every score is above 0.5. Pass --output probabilities"
            warn(str(self._model.model), reason)
