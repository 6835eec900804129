"""`keras-birds evaluate`: how good a run is, or any model on labelled recordings, and where it fails."""

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from keras_birds.cli.context_options import ContextChoice, context_options
from keras_birds.cli.options import (
    ANY_PATH,
    EXISTING_FOLDER,
    NEW_FOLDER,
    SHARE,
    ModelChoice,
    config_options,
    model_options,
    resolve_data_dir,
    strict_option,
    warn,
)
from keras_birds.cli.reporting import make_reporter, text_table

if TYPE_CHECKING:
    from keras_birds.config import Config
    from keras_birds.evaluation.evaluate import Evaluation
    from keras_birds.evaluation.evaluate_model import ModelEvaluation

_LISTED = 20
_RUN, _MODEL, _ANNOTATIONS = "a RUN", "--model", "--annotations"
_OF_RUNS = frozenset({"run", "against", "data_dir", "out", "threshold"})
_CONTEXT = frozenset({"smooth_windows", "file_level", "average"})
_NOT_OF_MODELS = frozenset({"run", "against", "annotations", "tolerance"}) | _CONTEXT


@click.command()
@click.argument("run", type=ANY_PATH, metavar="[RUN|DETECTIONS]", required=False)
@click.option(
    "--data",
    "data_dir",
    type=EXISTING_FOLDER,
    help="The data set's folder. [default of a run: as in training]",
)
@click.option(
    "--out",
    type=NEW_FOLDER,
    help="Folder for the report. [default: RUN/evaluation; DATA-evaluation, in this folder]",
)
@click.option("--threshold", type=SHARE, default=0.25, help="Least score with which a label counts as there.")
@click.option(
    "--annotations",
    type=click.Path(exists=True, path_type=Path),
    help="What is there, with times: a table of annotations, or a folder of them.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=0.2,
    metavar="SECONDS",
    help="By how much a detection may miss an annotation.",
    show_default=True,
)
@click.option("--against", type=ANY_PATH, metavar="RUN", help="Compare with this run under other folds.")
@model_options
@context_options
@click.option(
    "--range",
    "in_range",
    is_flag=True,
    help="Judge a model also without labels that don't occur where recordings were made (columns latitude, longitude).",
)
@config_options
@strict_option
@click.pass_context
def evaluate(
    context: click.Context,
    run: Path | None,
    data_dir: Path | None,
    out: Path | None,
    threshold: float,
    annotations: Path | None,
    tolerance: float,
    against: Path | None,
    model: ModelChoice,
    in_context: ContextChoice,
    in_range: bool,
    config_name: str,
    overrides: tuple[str, ...],
    strict: bool,
) -> int:
    """Tell how good a run is, from its out-of-fold scores; or any model, on recordings that it didn't learn from.

    \b
    keras-birds evaluate runs/all
    keras-birds evaluate runs/all --against runs/grouped     # how much do shared recordists flatter?
    keras-birds evaluate --model birdnet --data my-clips --range
    keras-birds evaluate --model birdnet --data season1 --annotations tables
    keras-birds evaluate --model runs/all --data season1 --annotations tables --file-level 1 --average rank
    keras-birds evaluate results --annotations tables        # what detect wrote, or any table of detections

    Of a RUN: report.html (one file, no network: figures, and clips of what is confused), report.json, labels.csv,
    and submission.csv of the hidden recordings, which the folds score together. A warning tells of sources (the
    author column) that sit on both sides of a fold.

    Of a --model: report.json, labels.csv, labels.png and predictions.csv, each recording's best five labels. The
    data is what `train` reads: BirdCLEF's layout, a CSV (--set data.table=...), or a folder per label. Recordings
    are scored whole; both the mean and the maximum over their windows are judged. Labels are matched by scientific
    name, common name, the label itself, then by synonyms; recordings of labels that the model doesn't know are told
    and left out. Of top-1 and top-5 all labels of the model are candidates.

    With --annotations (docs/annotations.md): report.json, labels.csv, precision-recall.csv and .png, by window (of a
    model) and by event. DETECTIONS other than a folder of results go with --data, the recordings.

    Intervals hold 95 % of 1,000 resamples of the recordings.

    Exit code: 0 all scored, 1 some recordings failed (0 with --no-strict), 2 a wrong call.
    """
    from keras_birds.config import Config

    _check_mode(context, run, model, annotations is not None)
    config = Config.load(config_name, overrides)
    if annotations is not None:
        from keras_birds.cli.evaluate_annotated import evaluate_annotated
        from keras_birds.evaluation.events import EventRules

        rules = EventRules(threshold, config.data.annotation_overlap, tolerance)
        judged = evaluate_annotated(run, model, data_dir, annotations, rules, config, out, in_context)
        return int(judged and strict)
    if run is None:
        return int(_evaluate_model(model, data_dir, out, threshold, in_range, config) and strict)
    _evaluate_run(run, data_dir, out, threshold, against)
    return 0


def _check_mode(context: click.Context, run: Path | None, model: ModelChoice, is_annotated: bool) -> None:
    """Refuses a run with a model, neither, and options of another way to judge."""
    if (run is None) == (model.model is None):
        received = "neither" if run is None else "both"
        raise click.UsageError(f"pass a RUN, or --model NAME --data DIR. Received: {received}")
    mode = _ANNOTATIONS if is_annotated else _MODEL if run is None else _RUN
    for x in context.command.params:
        is_given = context.get_parameter_source(str(x.name)) is ParameterSource.COMMANDLINE
        if is_given and not _takes(mode, str(x.name)):
            others = " or ".join(y for y in (_MODEL, _RUN, _ANNOTATIONS) if _takes(y, str(x.name)))
            raise click.UsageError(f"{x.opts[0]} goes with {others}. Received: {x.opts[0]} without it")


def _takes(mode: str, option: str) -> bool:
    """Whether an option goes with a way to judge."""
    if mode == _RUN:
        return option in _OF_RUNS
    return option not in ({"against", "in_range"} if mode == _ANNOTATIONS else _NOT_OF_MODELS)


def _evaluate_run(
    run: Path, data_dir: Path | None, out: Path | None, threshold: float, against: Path | None
) -> None:
    from keras_birds.evaluation.evaluate import evaluate as evaluate_run
    from keras_birds.evaluation.report import write_report
    from keras_birds.evaluation.run_scores import read_config

    read_config(run)
    out = out or run / "evaluation"
    out.mkdir(parents=True, exist_ok=True)
    with make_reporter() as reporter:
        evaluation = evaluate_run(run, out, data_dir, threshold, against, reporter)
    report = write_report(evaluation, out)
    click.echo(_describe(evaluation))
    leaks = evaluation.leaks
    if leaks.divided:
        click.echo(
            f"Warning: {leaks.divided} of {leaks.sources} sources have recordings in more than one fold "
            f"({leaks.recordings} recordings): figures may be too good. Compare with folds grouped by author.",
            err=True,
        )
    for note in evaluation.notes:
        click.echo(note, err=True)
    click.echo(f"Report: {report}")


def _describe(evaluation: "Evaluation") -> str:
    rows: list[tuple[object, ...]] = [
        ("fold", "recordings", "labels", "macro AUC", "95 % interval", "cmAP", "top-1")
    ]
    for x in [*evaluation.folds, evaluation.mean]:
        name, area = "mean" if x.fold is None else x.fold, x.macro_auc
        interval = f"{area.low:.4f} to {area.high:.4f}"
        rows.append((name, x.recordings, x.labels, area.value, interval, x.cmap, x.top1_accuracy))
    lines = [text_table(*rows)]
    hidden, other = evaluation.hidden, evaluation.other
    if hidden is not None:
        lines.append(f"Hidden recordings, {hidden.windows} windows: macro AUC {hidden.macro_auc}")
    if other is not None:
        difference = evaluation.mean.macro_auc.value - other.mean.macro_auc.value
        lines.append(
            f"{other.run}, folds {other.strategy}: macro AUC {other.mean.macro_auc}, difference {difference:+.4f}"
        )
    return "\n".join(lines)


def _evaluate_model(
    model: ModelChoice,
    data_dir: Path | None,
    out: Path | None,
    threshold: float,
    in_range: bool,
    config: "Config",
) -> bool:
    """Judges a model; whether some recordings failed."""
    from keras_birds.data.catalog import read_catalog
    from keras_birds.evaluation.evaluate_model import evaluate_model, learned_from, write_model_report
    from keras_birds.evaluation.places import range_filter

    root = resolve_data_dir(data_dir, config)
    catalog = read_catalog(root, config.data)
    catalog.require_clean()
    for name, reason in catalog.left_out:
        warn(name, reason)
    classifier = model.load()
    files = [x.path for x in classifier.engines]
    if learned := learned_from(files, catalog):
        click.echo(
            f"Warning: {learned} of {len(catalog)} recordings have the path and label of one that the model was "
            "trained on: figures may be too good. `keras-birds evaluate RUN` has those of others",
            err=True,
        )
    allowed = range_filter(catalog, classifier.labels, files[0]) if in_range else None
    out = out or Path(f"{root.resolve().name or 'data'}-evaluation")
    out.mkdir(parents=True, exist_ok=True)
    with make_reporter() as reporter:
        evaluation = evaluate_model(classifier, catalog, config.data, threshold, allowed, reporter)
    write_model_report(evaluation, out)
    click.echo(_describe_model(evaluation))
    click.echo(f"Report: {out}")
    return bool(evaluation.failed)


def _describe_model(evaluation: "ModelEvaluation") -> str:
    rows: list[tuple[object, ...]] = [
        ("windows", "recordings", "labels", "macro AUC", "95 % interval", "cmAP", "top-1", "top-5")
    ]
    for x in evaluation.figures:
        area, shares = x.macro_auc, (x.cmap, x.top1_accuracy, x.top5_accuracy)
        interval = f"{area.low:.4f} to {area.high:.4f}"
        rows.append((x.answer, x.recordings, x.labels, area.value, interval, *shares))
    lines = [text_table(*rows)]
    if unknown := evaluation.unknown:
        names = ", ".join(list(unknown)[:_LISTED])
        more = f" and {len(unknown) - _LISTED} more, in report.json" if len(unknown) > _LISTED else ""
        lines.append(
            f"Left out: {sum(unknown.values())} of {evaluation.recordings} recordings, of labels that the model "
            f"doesn't know: {names}{more}"
        )
    if evaluation.failed:
        lines.append(f"Left out: {len(evaluation.failed)} recordings that can't be read")
    return "\n".join(lines)
