"""`keras-birds data precompute`."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keras_birds.cli.options import config_options, data_option, resolve_data_dir
from keras_birds.cli.reporting import make_reporter
from keras_birds.threads import available_cpus

if TYPE_CHECKING:
    from keras_birds.data.precompute import StorePlan, StoreSummary

_LISTED = 20


@click.command()
@data_option
@click.option(
    "--out",
    "store",
    type=click.Path(path_type=Path),
    metavar="STORE",
    help="Folder of the store: new, empty or a store. [default: data.store of the settings]",
)
@click.option(
    "--workers", type=click.IntRange(min=1), default=None, help="Threads. [default: one for each core]"
)
@config_options
def precompute(
    data_dir: Path | None,
    store: Path | None,
    workers: int | None,
    config_name: str,
    overrides: tuple[str, ...],
) -> None:
    """Write the mel store that training can read instead of the audio.

    \b
    keras-birds data precompute --data birdclef --out birdclef-mel
    keras-birds train --data birdclef --set data.store=birdclef-mel

    With audio.crop = "center" (the published recipe) the store holds each recording's middle clip, with
    "random" whole recordings in float16. Image height and width may change afterwards; other audio or mel settings
    make a new store necessary, and this command then makes it.

    Stopped or killed, the same command goes on where it was. Recordings that can't be read are left out and
    listed.
    """
    from keras_birds.config import Config
    from keras_birds.data.catalog import read_catalog
    from keras_birds.data.precompute import precompute as make_store

    config = Config.load(config_name, overrides)
    if store is None and not config.data.store:
        raise click.UsageError("--out must name the store's folder (or set data.store). Received: neither")
    catalog = read_catalog(resolve_data_dir(data_dir, config), config.data)
    catalog.require_clean()
    with make_reporter() as reporter:
        for name, reason in catalog.left_out:
            reporter.problem(name, reason)
        summary = make_store(
            list(catalog.recordings["path"]),
            config,
            store or Path(config.data.store),
            workers or available_cpus(),
            partial(reporter.progress, "Recordings"),
            lambda plan: reporter.log(_describe_plan(plan)),
        )
    click.echo(_describe_summary(summary))


def _size(n_bytes: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= size:
            return f"{n_bytes / size:.2f} {unit}"
    return f"{n_bytes / 1e3:.0f} kB"


def _describe_plan(plan: "StorePlan") -> str:
    text = f"{plan.store}: {plan.recordings} recordings"
    if plan.rebuild_reason:
        text += f", made anew ({plan.rebuild_reason})"
    elif plan.reused:
        text += f", {plan.reused} of them there already"
    return f"{text}; will write {_size(plan.new_bytes)}, {_size(plan.free_bytes)} are free"


def _describe_summary(summary: "StoreSummary") -> str:
    plan = summary.plan
    kept = plan.recordings - len(summary.left_out)
    lines = [f"{plan.store}: {kept} recordings, {_size(summary.data_bytes)}"]
    if summary.unused_bytes:
        lines.append(
            f"{_size(summary.unused_bytes)} of it are unused; delete the store to make it anew without them"
        )
    if summary.left_out:
        lines.append(f"{len(summary.left_out)} left out:")
        lines += [f"  {path}: {reason}" for path, reason in summary.left_out[:_LISTED]]
        if len(summary.left_out) > _LISTED:
            lines.append(f"  and {len(summary.left_out) - _LISTED} more; `keras-birds data check` lists all")
    return "\n".join(lines)
