"""Shows progress and training's lines: a bar on a terminal, plain lines elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

    from keras_birds.progress import Reporter


@contextmanager
def progress_bar() -> Iterator["Progress"]:
    """A bar on stderr for tasks to be added to; only on a terminal, and gone when the block ends."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    # Paths may hold `:bird:`, which isn't meant as an emoji.
    console = Console(stderr=True, highlight=False, emoji=False)
    columns = (
        "[progress.description]{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
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

    with progress_bar() as bar:
        yield ConsoleReporter(bar)
