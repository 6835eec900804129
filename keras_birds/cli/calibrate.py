"""`keras-birds calibrate`: what a run's scores mean."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from keras_birds.cli.options import ANY_PATH, EXISTING_FOLDER, choice_option
from keras_birds.cli.reporting import make_reporter, text_table

if TYPE_CHECKING:
    from keras_birds.labels import LabelSet
    from keras_birds.models.calibration import Calibration, Method


@click.command()
@click.argument("run", type=ANY_PATH, metavar="RUN")
@choice_option(
    "--method", ("platt", "isotonic"), "Curve to fit: platt is a line in the logit, isotonic any that rises."
)
@click.option(
    "--precision",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.9,
    help="Share of right detections to reach.",
)
@click.option(
    "--reviews", type=EXISTING_FOLDER, help="Fit to the reviews beside this folder's recordings too."
)
def calibrate(run: Path, method: str, precision: float, reviews: Path | None) -> None:
    """Fit a run's scores to its out-of-fold recordings, so that 0.8 means right eight times in ten.

    \b
    keras-birds calibrate runs/all --precision 0.95
    keras-birds calibrate runs/all --reviews recordings
    keras-birds detect /mnt/disk --model runs/all --calibrated \\
        --threshold runs/all/calibration/thresholds.csv --out results

    Each label is fitted by itself and gets the least calibrated score from which on decisions have the wanted
    precision, with an interval over resampled recordings. A label with under 10 positives or negatives is left as it
    is, and named. The errors told are of folds that the fit hasn't seen. What was found goes into the models'
    metadata; `predict --calibrated` and `detect --calibrated` use it. Recordings of another kind than the training's
    need a fit of their own.
    Reviewed detections count like out-of-fold recordings: review a random choice of them, not the best ones only.
    """
    from keras_birds.evaluation import calibrate as fitting
    from keras_birds.evaluation.run_scores import read_run
    from keras_birds.plots.reliability import reliability, reliability_figure

    scores, chosen = read_run(run), cast("Method", method)
    reviewed = None
    if reviews is not None:
        reviewed = fitting.reviewed_scores(scores, reviews)
        told = {
            f"{reviewed.skipped} skipped, of other models or labels": reviewed.skipped,
            f"{reviewed.unsure} unsure, left out": reviewed.unsure,
            f"{reviewed.disagreements} left out, on which reviewers disagree": reviewed.disagreements,
        }
        notes = "".join(f"; {x}" for x, count in told.items() if count)
        click.echo(f"{len(reviewed.targets)} reviewed detections{notes}", err=True)
    with make_reporter() as reporter:
        progress = partial(reporter.progress, "Calibrating labels")
        calibration = fitting.fit_calibration(scores, chosen, precision, progress, reviewed)
    thresholds = fitting.store_calibration(scores, calibration, run / "calibration")
    curves = {
        "before": reliability(scores.targets, scores.scores),
        "after": reliability(scores.targets, fitting.cross_calibrated(scores, chosen, reviewed)),
    }
    figure = thresholds.parent / "reliability.png"
    reliability_figure(curves, "All labels, out of fold").savefig(figure, dpi=120)
    click.echo(_describe(calibration, scores.labels))
    click.echo(f"{thresholds}\n{figure}")
    if calibration.error_after > calibration.error_before:
        click.echo("The scores were better calibrated as they were: use them without --calibrated.")
    else:
        click.echo(f"Next: keras-birds predict clip.ogg --model {run} --calibrated")


def _describe(calibration: "Calibration", labels: "LabelSet") -> str:
    rows: list[tuple[object, ...]] = [("label", "positives", "threshold", "95 % interval")]
    for name, x in zip(labels, calibration.labels, strict=True):
        said = f"no score has a precision of {calibration.precision:g}"
        if x.threshold_interval is not None:
            said = "{:.3f} to {:.3f}".format(*x.threshold_interval)
        threshold = "–" if x.refused or x.threshold is None else f"{x.threshold:.3f}"
        rows.append((name, x.positives, threshold, f"left as it is: {x.refused}" if x.refused else said))
    before, after = calibration.error_before, calibration.error_after
    error = f"Expected calibration error: {before:.4f} before, {after:.4f} after ({calibration.method})"
    return f"{text_table(*rows)}\n{error}"
