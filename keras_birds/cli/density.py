"""`keras-birds density`: how many calls there are, from what people said of some windows."""

from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from keras_birds.cli.options import EXISTING_FOLDER, NEW_FOLDER, choice_option
from keras_birds.cli.reporting import text_table
from keras_birds.text import printable

if TYPE_CHECKING:
    from keras_birds.evaluation.bootstrap import Interval
    from keras_birds.evaluation.density import Method
    from keras_birds.evaluation.label_density import LabelDensity

_INTERVAL = "95 % interval"


@click.command()
@click.argument("results", type=EXISTING_FOLDER)
@click.option(
    "--reviews",
    required=True,
    type=EXISTING_FOLDER,
    help="Folder of reviewed clips, as `keras-birds segments --pick stratified` cuts them, or of recordings.",
)
@click.option(
    "--label", "labels", multiple=True, help="This label only. May be repeated. [default: all reviewed]"
)
@click.option(
    "--precision",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.9,
    help="Share of right detections that thresholds are to reach.",
)
@choice_option(
    "--method",
    ("bounds", "posterior", "bootstrap"),
    "How the interval is made: bounds covers best; posterior is Navine et al.'s; bootstrap is too narrow if calls "
    "are rare.",
)
@click.option("--out", type=NEW_FOLDER, default=Path("density"), help="Folder of the tables and the figure.")
def density(
    results: Path, reviews: Path, labels: tuple[str, ...], precision: float, method: str, out: Path
) -> None:
    """Tell how many windows hold a call, with an interval, from reviews of a few of them; no threshold is needed.

    \b
    keras-birds detect recordings/ --keep-scores --out results
    keras-birds segments results --pick stratified --label bkcdon --per-label 100 --out checked
        (listen, and write right, wrong or unsure in the column review of checked/segments.csv,
        or mark the clips in `keras-birds app --folder checked`)
    keras-birds density results --reviews checked --precision 0.9
    keras-birds detect recordings/ --threshold density/thresholds.csv --out sure

    RESULTS must hold the scores of all windows (`detect --keep-scores`): most windows are below any threshold, and so
    are some calls. Scores are sorted into bins of known size, people tell how often those drawn from each bin are
    right, and the sum over bins is the share of windows with a call. Days and folders have the same rates by score as
    all together, as far as this knows: where a site sounds otherwise, review it by itself.

    \b
    density/density.csv      label,by,of,windows,hours,prevalence,...,per_hour,...: all, by day
                             (where names of recordings tell it) and by folder
    density/thresholds.csv   for `detect --threshold`; 1 for labels that don't reach the precision
    density/report.json      bins, precision and recall at each threshold, reviews to come
    density/density.png
    """
    from keras_birds.evaluation import label_density as estimates
    from keras_birds.evaluation.checked import read_checked
    from keras_birds.plots.density import density_figure
    from keras_birds.results.results import score_labels
    from keras_birds.results.strata import read_window_scores

    known, checked = score_labels(results), read_checked(reviews)
    wanted = list(labels) or sorted({x.label for x in checked.marks})
    others = sum(x.label not in wanted for x in checked.marks)
    checked.left_out["of other labels"] += others
    found = read_window_scores(results, wanted)
    chosen = cast("Method", method)
    densities = [estimates.label_density(found, checked, x, chosen, precision) for x in wanted]
    out.mkdir(parents=True, exist_ok=True)
    settings: dict[str, object] = {"results": str(results), "reviews": str(reviews)}
    settings |= {"method": method, "precision": precision}
    names = [out / x for x in ("density.csv", "thresholds.csv", "report.json", "density.png")]
    estimates.write_density(densities, names[0])
    estimates.write_thresholds(densities, known, names[1])
    estimates.write_report(densities, settings, names[2])
    density_figure({x.label: _bars(x) for x in densities}, names[3])
    for reason, count in checked.left_out.items():
        if count:
            click.echo(f"{count} review{'s' * (count != 1)} {reason}: left out", err=True)
    for x in densities:
        for note in x.notes:
            click.echo(printable(f"{x.label}: {note}"), err=True)
    click.echo(printable(_describe(densities, precision)))
    click.echo("\n".join(printable(x) for x in names))


def _bars(found: "LabelDensity") -> list[tuple[str, float, float, float]]:
    """All recordings, then each day, or where names tell no days each folder."""
    by = "day" if any(x.by == "day" for x in found.groups) else "folder"
    return [
        (x.of or "all", x.prevalence.value, x.prevalence.low, x.prevalence.high)
        for x in found.groups
        if x.by in ("all", by)
    ]


def _describe(found: "list[LabelDensity]", precision: float) -> str:
    names = "label", "windows", "reviewed", "right", "with a call"
    rows: list[tuple[object, ...]] = [(*names, _INTERVAL, "an hour", _INTERVAL)]
    for x in found:
        share, hourly = x.groups[0].prevalence, x.groups[0].per_hour
        counts = x.groups[0].windows, len(x.answers.rows), int(x.answers.target.sum())
        shares = f"{share.value:.2%}", _span(share, ".2%")
        rows.append((x.label, *counts, *shares, f"{hourly.value:.1f}", _span(hourly, ".1f")))
    parts = [text_table(*rows)]
    for x in found:
        rows = [("threshold", "windows", "precision", _INTERVAL, "calls found")]
        for y in x.thresholds:
            shown = f"{y.precision.value:.1%}", _span(y.precision, ".1%")
            recall = "–" if isnan(y.recall.value) else f"{y.recall.value:.0%}"
            rows.append((f"{y.threshold:.3g}", y.windows, *shown, recall))
        advice = f"no threshold reaches a precision of {precision:g}"
        if x.chosen is not None:
            advice = f"threshold {x.chosen.threshold:.3g} for a precision of {precision:g}"
        more = [f"{n} from {low:.2g}" for low, n in zip(x.bins.edges, x.more, strict=False) if n]
        halve = f"{x.more.sum()} more reviews would halve the interval, by score: {', '.join(more) or 'none'}"
        parts.append(f"\n{x.label}: {advice}\n{text_table(*rows)}\n{halve}")
    return "\n".join(parts)


def _span(x: "Interval", form: str) -> str:
    return f"{x.low:{form}} to {x.high:{form}}"
