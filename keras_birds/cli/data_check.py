"""`keras-birds data check`."""

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keras_birds.cli.options import config_options, resolve_data_dir
from keras_birds.cli.reporting import make_reporter
from keras_birds.threads import available_cpus

if TYPE_CHECKING:
    import pandas as pd

_LISTED = 20
MANIFEST, FIGURE, PROBLEMS = "manifest.csv", "class-distribution.png", "problems.txt"


@click.command()
@click.argument("data_dir", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Where the manifest and the figure go. [default: DIR's name and -check, in this folder]",
)
@click.option(
    "--workers", type=click.IntRange(min=1), default=None, help="Threads. [default: one for each core]"
)
@config_options
def check(
    data_dir: Path | None, out: Path | None, workers: int | None, config_name: str, overrides: tuple[str, ...]
) -> None:
    """Decode every file; write a manifest and the class distribution.

    \b
    keras-birds data check birdclef
    keras-birds data check recordings --set data.table=calls.csv --set data.column_path=file

    DIR is the data set [default: data.dir of the settings, else this folder]: BirdCLEF's layout, a CSV, or a
    folder per label. Nothing is written into it.

    \b
    manifest.csv            path, seconds, sample_rate_hz, channels, status, reason
    class-distribution.png  recordings of each taxonomic class and each label
    problems.txt            all problems of the tables and files, where there are any

    Exit code: 0 nothing is wrong, 1 a table has a problem or a file isn't ok (partial and silent ones can be
    trained on, but count as not ok here; so do files that are left out: in no label's folder, or of unknown kind),
    2 a wrong call.
    """
    from keras_birds.atomic import atomic_path
    from keras_birds.config import Config
    from keras_birds.data.catalog import read_catalog
    from keras_birds.data.check import check_recordings
    from keras_birds.data.tables import write_table
    from keras_birds.plots.class_distribution import class_distribution
    from keras_birds.plots.figure import save_png

    config = Config.load(config_name, overrides)
    root = resolve_data_dir(data_dir, config)
    catalog = read_catalog(root, config.data)
    if not len(catalog):
        catalog.require_clean()
    out = out or Path(f"{root.resolve().name or 'data'}-check")
    out.mkdir(parents=True, exist_ok=True)
    paths = list(dict.fromkeys(catalog.recordings["path"]))
    rate_hz, threads = config.audio.sample_rate_hz, workers or available_cpus()
    with make_reporter() as reporter:
        progress = partial(reporter.progress, "Decoding")
        manifest = check_recordings(paths, rate_hz, threads, progress, config.audio.decoder)
    problems = catalog.problems + _file_problems(manifest, root)
    problems += [f"{os.path.relpath(name, root)} {reason}" for name, reason in catalog.left_out]
    write_table(manifest, out / MANIFEST)
    if catalog.labels:
        save_png(class_distribution(catalog), out / FIGURE, 120)
    if problems:
        text = "".join(f"{problem}\n" for problem in problems)
        with atomic_path(out / PROBLEMS) as temporary:
            temporary.write_bytes(text.encode("utf-8", "surrogateescape"))
    else:
        (out / PROBLEMS).unlink(missing_ok=True)
    click.echo(_summary(manifest, len(catalog.labels), problems, out))
    if problems:
        click.get_current_context().exit(1)


def _file_problems(manifest: "pd.DataFrame", root: Path) -> list[str]:
    """What the tables' problems don't name already: missing files are there with their rows."""
    wrong = manifest[~manifest["status"].isin(["ok", "missing"])]
    return [
        f"{os.path.relpath(path, root)}: {reason} ({status})"
        for path, status, reason in zip(wrong["path"], wrong["status"], wrong["reason"], strict=True)
    ]


def _summary(manifest: "pd.DataFrame", n_labels: int, problems: list[str], out: Path) -> str:
    counts = manifest["status"].value_counts()
    of_each = ", ".join(f"{count:,} {status}" for status, count in counts.items())
    hours = manifest["seconds"].sum() / 3600
    lines = [
        f"{len(manifest):,} recordings, {n_labels:,} label{'s' * (n_labels != 1)}, {hours:.2f} hours: {of_each}"
    ]
    if problems:
        lines.append(f"{len(problems):,} problem{'s' * (len(problems) > 1)}:")
        lines += [f"  {problem}" for problem in problems[:_LISTED]]
        if len(problems) > _LISTED:
            lines.append(f"  and {len(problems) - _LISTED:,} more in {out / PROBLEMS}")
    else:
        lines.append("No problems.")
    lines += [f"Manifest: {out / MANIFEST}", f"Figure:   {out / FIGURE}"]
    return "\n".join(lines).encode("utf-8", "replace").decode()
