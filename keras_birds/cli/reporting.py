"""What commands tell beside their answers: progress, a bar on a terminal and plain lines elsewhere, and tables."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keras_birds.progress import Reporter
from keras_birds.text import printable

if TYPE_CHECKING:
    from rich.progress import Progress


@contextmanager
def progress_bar(is_wanted: bool = True) -> Iterator["Progress"]:
    """A bar on stderr for tasks to be added to; only on a terminal, and gone when the block ends."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    # Paths may hold `:bird:` and `[red]`, which are meant as they are.
    console = Console(stderr=True, highlight=False, emoji=False, markup=False)
    columns = (
        "[progress.description]{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    is_hidden = not (is_wanted and console.is_terminal)
    with Progress(*columns, console=console, transient=True, disable=is_hidden) as bar:
        yield bar


class _BarReporter(Reporter):
    def __init__(self, bar: "Progress"):
        self._bar, self._task = bar, bar.add_task("", visible=False)

    def log(self, line: str) -> None:
        self._bar.console.print(line, soft_wrap=True)

    def progress(self, task: str, done: float, total: float) -> None:
        self._bar.update(self._task, description=task, completed=done, total=total, visible=bool(total))

    def problem(self, name: str, reason: str) -> None:
        self.log(printable(f"{name} {reason}"))


@contextmanager
def make_reporter() -> Iterator[Reporter]:
    """A reporter on stderr."""
    with progress_bar() as bar:
        yield _BarReporter(bar)


def report(lines: Sequence[str], files: Sequence[Path]) -> None:
    """Tells what was found on stderr, and which files were written on stdout, the first 20."""
    for line in lines:
        click.echo(printable(line), err=True)
    more = [f"... and {len(files) - 20} more"] if len(files) > 20 else []
    click.echo("\n".join([*map(printable, files[:20]), *more]))


def text_table(*rows: Sequence[object]) -> str:
    """Rows under the first one's headings: numbers to the right, floats with four digits, text to the left."""
    columns = []
    shown = [
        [("–" if isnan(x) else f"{x:.4f}") if isinstance(x, float) else str(x) for x in row] for row in rows
    ]
    for heading, *cells in zip(*shown, strict=True):
        width = max(map(len, (heading, *cells)))
        is_number = all(re.fullmatch(r"[+-]?[\d./]+|–|", x) for x in cells)
        columns.append([x.rjust(width) if is_number else x.ljust(width) for x in (heading, *cells)])
    return "\n".join("  ".join(row).rstrip() for row in zip(*columns, strict=True))
