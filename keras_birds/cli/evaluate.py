"""`keras-birds evaluate`: how good a run is, and where it fails."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from keras_birds.cli.options import ANY_PATH, EXISTING_FOLDER, NEW_FOLDER, SHARE
from keras_birds.cli.reporting import make_reporter, text_table

if TYPE_CHECKING:
    from keras_birds.evaluation.evaluate import Evaluation


@click.command()
@click.argument("run", type=ANY_PATH, metavar="RUN")
@click.option(
    "--data", "data_dir", type=EXISTING_FOLDER, help="The data set's folder. [default: as in training]"
)
@click.option("--out", type=NEW_FOLDER, help="Folder for the report. [default: RUN/evaluation]")
@click.option("--threshold", type=SHARE, default=0.25, help="Least score with which a label counts as there.")
@click.option("--against", type=ANY_PATH, metavar="RUN", help="Compare with this run under other folds.")
def evaluate(
    run: Path, data_dir: Path | None, out: Path | None, threshold: float, against: Path | None
) -> None:
    """Tell how good a run is, from its out-of-fold scores.

    \b
    keras-birds evaluate runs/all
    keras-birds evaluate runs/all --against runs/grouped     # how much do shared recordists flatter?

    Writes report.html (one file, no network: figures, and clips of what is confused), report.json, labels.csv, and
    submission.csv of the hidden recordings, which the folds score together. Intervals hold 95 % of 1,000 resamples
    of the recordings. A warning tells of sources (the author column) that sit on both sides of a fold.
    """
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
