"""`keras-birds predict`: one answer for each recording."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from keras_birds.cli.options import (
    ANY_PATH,
    COUNT,
    NEW_FILE,
    ModelChoice,
    check_folder_of,
    choice_option,
    find_files,
    inputs_argument,
    model_options,
    score_options,
    strict_option,
)
from keras_birds.cli.origin_options import OriginCounter
from keras_birds.cli.rules_options import PlaceChoice, place_options
from keras_birds.cli.streams import encode_output
from keras_birds.text import printable

if TYPE_CHECKING:
    import numpy as np

    from keras_birds.inference.classifier import Classifier
    from keras_birds.inference.scorer import RecordingStatus, ScoreOptions

_FORMATS = {".txt": "table", ".csv": "csv", ".json": "json"}
_WORTH_TELLING = 0.25  # as detect's threshold


@click.command()
@inputs_argument
@model_options
@score_options
@place_options
@click.option("--top-k", type=COUNT, default=5, help="How many labels to give for each recording.")
@choice_option(
    "--aggregate",
    ("mean", "max"),
    "How windows make an answer; max finds one call in a long recording.",
    "method",
)
@click.option(
    "--figure", type=NEW_FILE, metavar="FILE.png", help="Draw the one recording with its top labels."
)
@click.option(
    "--frames",
    type=NEW_FILE,
    metavar="FILE.csv",
    help="Write where in clips the labels are; needs an attention head.",
)
@click.option("--out", type=ANY_PATH, metavar="FILE", help="Write the answers to this file, not to stdout.")
@click.option(
    "--format",
    "fmt",
    type=click.Choice(tuple(_FORMATS.values())),
    help="Form of the answers. [default: by the name of --out: .txt, .csv or .json; else table]",
)
@strict_option
def predict(
    inputs: tuple[str, ...],
    model: ModelChoice,
    score: "ScoreOptions",
    place: PlaceChoice,
    top_k: int,
    method: str,
    figure: Path | None,
    frames: Path | None,
    out: Path | None,
    fmt: str | None,
    strict: bool,
) -> int:
    """Name what is in recordings: one answer for each.

    \b
    keras-birds predict clip.ogg                               # a table of the top 5 labels
    keras-birds predict clip.wav --model runs/all --figure clip.png
    keras-birds predict recordings/ --aggregate max --out answers.csv
    keras-birds predict 'plots/*/2025*.wav' --format json
    keras-birds predict clip.ogg --lat 37.0 --lon -6.4 --week 19   # what occurs there in May
    keras-birds predict clip.wav --occurrence 0.03     # where and when its recorder says
    keras-birds predict stereo.wav --channel 2 --frames where.csv

    All detections, with their times, of a disk of recordings: keras-birds detect.

    INPUTS are files, folders (searched at any depth), globs, a .csv list with a column file, path or filename,
    URLs, and - for a list on stdin. Each recording is cut into the model's clips; the last one is filled as in the
    model's training: by repeating what it holds, or with silence (BirdNET). A file that can't be read is named on
    stderr with its reason, never scored, and the others go on.

    \b
    csv   a row for each file and rank:
          file,rank,label,scientific_name,common_name,class_name,score
    json  a list of files with status, reason, seconds, model_id and top

    Exit code: 0 all scored, 1 some failed (0 with --no-strict), 2 a wrong call.
    """
    fmt = _check(out, fmt, figure, frames, model, score)
    files, _ = find_files(inputs)
    if figure is not None and len(files) > 1:
        rule = f"draws one recording. Received: {len(files)} recordings"
        raise click.BadParameter(rule, param_hint="--figure")
    classifier = model.load()
    where = _Where(place, classifier)
    if frames is not None:
        classifier.frame_engines()
    from keras_birds.cli.reporting import progress_bar
    from keras_birds.inference.aggregate import aggregated, answer
    from keras_birds.inference.scorer import PART_WINDOWS, score_recordings
    from keras_birds.results.report import FrameWriter, answer_writer, describe_problem

    failed = 0
    with ExitStack() as stack:
        stream = stack.enter_context(_output(out, fmt))
        sinks = [answer_writer(fmt, stream, classifier.model_id)]
        if frames is not None:
            table = stack.enter_context(_output(frames, "csv"))
            sinks.append(FrameWriter(table, classifier, score.channel))
        # No bar where tables go to the same screen.
        bar = stack.enter_context(progress_bar(len(files) > 1 and not stream.isatty()))
        parts = score_recordings(classifier, files, replace(score, part_windows=PART_WINDOWS))
        for recording, scores in bar.track(aggregated(parts, method), len(files), description="Scoring"):
            if problem := describe_problem(recording):
                bar.console.print(problem, soft_wrap=True)
            prediction = answer(recording, scores, classifier.labels, top_k, where.allowed(recording, scores))
            for sink in sinks:
                sink.add(prediction)
            failed += recording.failed
        for sink in sinks:
            sink.close()
    if figure is not None and not failed:
        from keras_birds.plots.prediction import prediction_figure

        prediction_figure(classifier, prediction, figure, score.channel)
    scored_files = len(files) - failed
    said = f"{scored_files} recording{'s' * (scored_files != 1)} scored"
    for what, path in {said: out, "Frames": frames, "Figure": None if failed else figure}.items():
        if path is not None:
            click.echo(f"{what}: {printable(path)}", err=True)
    failures = [f"{failed} of {len(files)} files failed."] if failed else []
    for line in (*where.told(), *failures):
        click.echo(line, err=True)
    return int(bool(failed) and strict)


class _Where:
    """Tells which labels may occur where and when a recording was made, and counts what isn't known of that."""

    def __init__(self, place: PlaceChoice, classifier: "Classifier"):
        from keras_birds.results.origin import Origins

        self._occurrence, self._origins = place.read(classifier), Origins(place=place.degrees)
        self._labels = classifier.labels
        self._counter = OriginCounter(self._occurrence is not None)
        self._ruled_out: list[str] = []

    def allowed(self, recording: "RecordingStatus", scores: "np.ndarray | None") -> "np.ndarray | None":
        if self._occurrence is None or recording.failed:
            return None
        recording = replace(recording, origin=self._origins.of(recording.file, recording.recorder))
        presence = self._occurrence.of(recording.origin)
        self._counter.add(replace(recording, week=presence.week if presence else 0))
        if presence is None:
            return None
        if scores is not None and not presence.allowed[best := int(scores.argmax())]:
            label, likely = self._labels.items[best], presence.probabilities[best]
            name = label.common_name or label.scientific_name or label.name
            told = f"{name} in {printable(recording.file)}, score {scores[best]:.2f}, occurrence {likely:.2g}"
            if scores[best] >= _WORTH_TELLING:
                self._ruled_out.append(told)
        return presence.allowed

    def told(self) -> Iterator[str]:
        """A line for each thing that isn't known, and one of answers that the place ruled out."""
        yield from self._counter.told()
        if self._ruled_out:
            yield (
                f"The best label of {len(self._ruled_out)} recordings was left out as it hardly occurs there and then: "
                f"{self._ruled_out[0]}{', ...' * (len(self._ruled_out) > 1)}. Answers without a place show it"
            )


def _check(
    out: Path | None,
    fmt: str | None,
    figure: Path | None,
    frames: Path | None,
    model: ModelChoice,
    score: "ScoreOptions",
) -> str:
    """Refuses what can't be done before anything is read; the format of the answers."""
    for option, path in (("--figure", figure), ("--frames", frames)):
        check_folder_of(path, option)
        if path is not None and score.channel == "all":
            raise click.BadParameter(
                "shows one channel or their mean: pass --channel mix or a number. Received: --channel all",
                param_hint=option,
            )
    if frames is not None and model.calibrated:
        raise click.BadParameter("gives scores as they are, without --calibrated", param_hint="--frames")
    if figure is not None and figure.suffix.lower() != ".png":
        raise click.BadParameter(f"must end in .png. Received: {figure}", param_hint="--figure")
    if out is None:
        return fmt or "table"
    check_folder_of(out, "--out")
    is_device = out.exists() and not out.is_file() and not out.is_dir()
    known = fmt or _FORMATS.get(out.suffix.lower(), "table" if is_device else "")
    if out.is_dir() or not known:
        raise click.BadParameter(
            f"must be a file that ends in {', '.join(_FORMATS)}, or --format must say what it holds. Received: {out}. "
            "All detections, in a folder: `keras-birds detect INPUTS --out FOLDER`",
            param_hint="--out",
        )
    return known


@contextmanager
def _output(out: Path | None, fmt: str) -> Iterator[TextIO]:
    # File names may hold bytes that aren't UTF-8: CSV gives them back, in JSON they become \udcXX escapes.
    errors = {"csv": "surrogateescape", "json": "backslashreplace"}.get(fmt, "replace")
    if out is None:
        encode_output(errors, None if fmt == "table" else "utf-8")
        yield sys.stdout
        sys.stdout.flush()
        return
    from keras_birds.results.writers.files import new_text

    with new_text(out, errors) as file:
        yield file
