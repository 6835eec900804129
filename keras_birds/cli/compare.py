"""`keras-birds compare`: whether one run is better than another."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keras_birds.cli.options import ANY_PATH, format_option
from keras_birds.cli.reporting import text_table
from keras_birds.cli.streams import echo_json

if TYPE_CHECKING:
    from keras_birds.evaluation.compare import Comparison


@click.command()
@click.argument("run_a", type=ANY_PATH, metavar="RUN_A")
@click.argument("run_b", type=ANY_PATH, metavar="RUN_B")
@format_option
def compare(run_a: Path, run_b: Path, form: str) -> None:
    """Tell whether RUN_B is better than RUN_A, on the same recordings.

    \b
    keras-birds compare runs/baseline runs/mixup-off

    For each fold that both have finished: macro ROC-AUC of both, and the difference with the interval that holds
    95 % of 1,000 resamples of the recordings, the same ones for both. Then the settings that differ. A difference
    whose interval holds 0 may be chance; that of two trainings of the same settings with other seeds isn't in it.
    """
    from keras_birds.evaluation.compare import compare_runs

    comparison = compare_runs(run_a, run_b)
    as_json = form == "json"
    if as_json:
        echo_json(comparison.to_dict())
    else:
        click.echo(_describe(comparison))


def _describe(comparison: "Comparison") -> str:
    rows: list[tuple[object, ...]] = [("fold", "recordings", "A", "B", "B - A", "95 % interval")]
    for x in [*comparison.folds, comparison.mean]:
        found, name = x.difference, "mean" if x.fold is None else x.fold
        interval = f"{found.low:+.4f} to {found.high:+.4f}"
        rows.append((name, x.recordings, x.a, x.b, f"{found.value:+.4f}", interval))
    lines = [text_table(*rows)]
    better = "B" if comparison.mean.difference.value > 0 else "A"
    lines.append(
        f"{better} is better: the interval of the mean difference is all on one side of 0."
        if comparison.is_clear
        else "No clear difference: the interval of the mean difference holds 0."
    )
    lines.append("")
    if not comparison.settings:
        lines.append("No setting differs.")
    for key, values in comparison.settings.items():
        a, b = (json.dumps(value, ensure_ascii=False) for value in values)
        lines.append(f"{key}: {a} in A, {b} in B")
    return "\n".join(lines)
