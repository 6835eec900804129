"""`keras-birds predict`: score recordings with a trained model."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

if TYPE_CHECKING:
    from keras_birds.inference.classifier import Classifier
    from keras_birds.inference.predict import Prediction
    from keras_birds.inference.report import Writer

_FORMATS = ("table", "csv", "json")
_SUFFIX_FORMATS = {".csv": "csv", ".json": "json"}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument(
    "paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="PATHS..."
)
@click.option(
    "--model",
    type=click.Path(exists=True, path_type=Path),
    metavar="PATH",
    help="A fold's folder, a whole run (the mean of its folds), an .onnx or a .keras file. "
    "[default: the newest run in runs/]",
)
@click.option(
    "--top-k", type=click.IntRange(min=1), default=5, show_default=True, help="Labels per recording."
)
@click.option(
    "--overlap",
    "overlap_s",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    metavar="SECONDS",
    help="How much each window shares with the one before.",
)
@click.option(
    "--aggregate",
    "method",
    type=click.Choice(("mean", "max")),
    default="mean",
    show_default=True,
    help="A recording's answer over its windows; max finds a single call in a long recording.",
)
@click.option(
    "--format", "form", type=click.Choice(_FORMATS), help="[default: by the name of --out, else table]"
)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write here instead."
)
@click.option(
    "--figure",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.png",
    help="Draw waveform, mel spectrogram and top labels of one recording.",
)
@click.option(
    "--engine", type=click.Choice(("onnx", "keras")), help="[default: onnx, unless --model is a .keras file]"
)
@click.option(
    "--decoder",
    type=click.Choice(("soundfile", "tfio")),
    help="What reads the files. [default: as the model was trained]",
)
@click.option("--strict/--no-strict", default=True, show_default=True, help="Exit code 1 if any file fails.")
def predict(
    paths: tuple[Path, ...],
    model: Path | None,
    top_k: int,
    overlap_s: float,
    method: str,
    form: str | None,
    out: Path | None,
    figure: Path | None,
    engine: str | None,
    decoder: str | None,
    strict: bool,
) -> None:
    """Score recordings: files, and the audio files in folders at any depth.

    \b
    keras-birds predict clip.ogg
    keras-birds predict recordings/ --overlap 2.5 --aggregate max --out answers.csv
    keras-birds predict clip.wav --model runs/20250601-101500 --figure clip.png

    Each recording is cut into the model's clips; the last one is filled by repeating what it holds. A file
    that can't be read is named on stderr with its reason, never scored, and the others go on.

    \b
    CSV   a row for each file and rank:
          file,rank,label,scientific_name,common_name,class_name,score
    JSON  a list of files with status, reason, seconds, model_id and top

    Exit code: 0 all scored, 1 some failed (0 with --no-strict), 2 a wrong call.
    """
    _check_place(out, "--out")
    _check_place(figure, "--figure")
    if figure is not None and figure.suffix.lower() != ".png":
        raise click.BadParameter(f"must end in .png. Received: {figure}", param_hint="--figure")

    from keras_birds.audio.files import find_recordings
    from keras_birds.inference.classifier import load
    from keras_birds.inference.predict import predict as predict_all
    from keras_birds.inference.report import printable

    recordings = find_recordings(paths)
    if not recordings:
        raise click.BadParameter(f"no audio files in {', '.join(map(str, paths))}", param_hint="PATHS")
    if figure is not None and len(recordings) > 1:
        raise click.BadParameter(
            f"draws one recording. Received: {len(recordings)} recordings", param_hint="--figure"
        )
    classifier = load(model, engine=engine, decoder=decoder)
    if model is None:
        click.echo(f"Model: {classifier.model_id}", err=True)
    answers = predict_all(classifier, recordings, overlap_s, method, top_k)
    form = form or (_SUFFIX_FORMATS.get(out.suffix.lower(), "table") if out else "table")
    failed = 0
    with _output(out, form) as stream:
        writer = _writer(form, stream, classifier)
        for answer in _with_progress(answers, len(recordings), stream):
            _report_problem(answer)
            writer.add(answer)
            failed += answer.failed
        writer.close()
    if out is not None:
        scored = len(recordings) - failed
        click.echo(f"{scored} recording{'s' * (scored != 1)} scored: {printable(out)}", err=True)
    if figure is not None and not failed:
        from keras_birds.evaluation.prediction_figure import prediction_figure

        prediction_figure(classifier, answer, figure)
        click.echo(f"Figure: {printable(figure)}", err=True)
    if failed:
        click.echo(f"{failed} of {len(recordings)} files failed.", err=True)
        if strict:
            click.get_current_context().exit(1)


def _check_place(path: Path | None, option: str) -> None:
    if path is not None and not path.parent.is_dir():
        raise click.BadParameter(f"there is no folder {path.parent}. Received: {path}", param_hint=option)


def _report_problem(answer: "Prediction") -> None:
    from keras_birds.inference.report import printable

    if answer.failed:
        click.echo(f"Failed: {printable(answer.path)}: {answer.reason} ({answer.status})", err=True)
    elif answer.reason:
        click.echo(f"Warning: {printable(answer.path)}: {answer.reason} ({answer.status})", err=True)


def _writer(form: str, stream: TextIO, classifier: "Classifier") -> "Writer":
    from keras_birds.inference.report import CsvWriter, JsonWriter, TableWriter

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


def _with_progress(answers: Iterable["Prediction"], total: int, stream: TextIO) -> Iterator["Prediction"]:
    """A bar on stderr where it is a terminal, unless tables go to the same screen."""
    if total == 1 or not sys.stderr.isatty() or stream.isatty():
        yield from answers
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(answers, "Scoring", total, console=Console(stderr=True), transient=True)
