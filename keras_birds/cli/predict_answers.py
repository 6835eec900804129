"""`keras-birds predict` without a folder: one answer for each recording."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

import click

from keras_birds.inference.classifier import Classifier
from keras_birds.inference.predict import Prediction, predict
from keras_birds.inference.scorer import ScoreOptions
from keras_birds.results.report import (
    CsvWriter,
    FrameWriter,
    JsonWriter,
    TableWriter,
    Writer,
    describe_problem,
)
from keras_birds.text import printable


def predict_answers(
    classifier: Classifier,
    names: list[str],
    options: ScoreOptions,
    method: str,
    top_k: int,
    form: str,
    out: Path | None,
    figure: Path | None,
    frames: Path | None,
) -> int:
    """Writes the most probable labels of each recording; how many recordings failed."""
    if figure is not None and len(names) > 1:
        raise click.BadParameter(
            f"draws one recording. Received: {len(names)} recordings", param_hint="--figure"
        )
    if frames is not None:
        classifier.frame_engines()
    answers = predict(classifier, names, options, method, top_k)
    failed = 0
    with _output(out, form) as stream, _frames(frames, classifier) as add_frames:
        writer = _writer(form, stream, classifier)
        for answer in _with_progress(answers, len(names), stream):
            if problem := describe_problem(answer.recording):
                click.echo(problem, err=True)
            writer.add(answer)
            add_frames(answer)
            failed += answer.recording.failed
        writer.close()
    if out is not None:
        scored = len(names) - failed
        click.echo(f"{scored} recording{'s' * (scored != 1)} scored: {printable(out)}", err=True)
    if frames is not None:
        click.echo(f"Frames: {printable(frames)}", err=True)
    if figure is not None and not failed:
        from keras_birds.plots.prediction import prediction_figure

        prediction_figure(classifier, answer, figure)
        click.echo(f"Figure: {printable(figure)}", err=True)
    if failed:
        click.echo(f"{failed} of {len(names)} files failed.", err=True)
    return failed


def _writer(form: str, stream: TextIO, classifier: Classifier) -> Writer:
    if form == "csv":
        return CsvWriter(stream)
    if form == "json":
        return JsonWriter(stream, classifier.model_id)
    return TableWriter(stream)


@contextmanager
def _output(out: Path | None, form: str) -> Iterator[TextIO]:
    # File names may hold bytes that aren't UTF-8: CSV gives them back, in JSON they become \udcXX escapes.
    errors = {"csv": "surrogateescape", "json": "backslashreplace"}.get(form, "replace")
    if out is None:
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(encoding=None if form == "table" else "utf-8", errors=errors)
        yield sys.stdout
        sys.stdout.flush()
        return
    from keras_birds.atomic import atomic_path

    with (
        atomic_path(out) as temporary,
        temporary.open("w", encoding="utf-8", errors=errors, newline="") as file,
    ):
        yield file


@contextmanager
def _frames(path: Path | None, classifier: Classifier) -> Iterator[Callable[[Prediction], None]]:
    """What adds an answer's frames to `--frames`; nothing without it."""
    if path is None:
        yield lambda _: None
        return
    with _output(path, "csv") as stream:
        yield FrameWriter(stream, classifier).add


def _with_progress(answers: Iterable[Prediction], total: int, stream: TextIO) -> Iterator[Prediction]:
    """A bar on stderr where it is a terminal, unless tables go to the same screen."""
    if total == 1 or not sys.stderr.isatty() or stream.isatty():
        yield from answers
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(answers, "Scoring", total, console=Console(stderr=True), transient=True)
