"""`keras-birds data`: look at a data set before training on it."""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keras_birds.cli.options import config_options, data_option, resolve_data_dir, workers_option
from keras_birds.cli.reporting import make_reporter
from keras_birds.cli.soundscapes import soundscapes
from keras_birds.cli.strict import StrictGroup
from keras_birds.text import relative_name

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from keras_birds.config import Config
    from keras_birds.data.catalog import Catalog
    from keras_birds.data.precompute import StorePlan, StoreSummary

_LISTED = 20
MANIFEST, FIGURE, PROBLEMS = "manifest.csv", "class-distribution.png", "problems.txt"


@click.group(cls=StrictGroup)
def data() -> None:
    """Check, precompute and preview a data set.

    \b
    keras-birds data check DIR
    """


data.add_command(soundscapes)


@data.command(short_help="Decode every file; write a manifest and the class distribution.")
@click.argument("data_dir", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Where the manifest and the figure go. [default: DIR's name and -check, in this folder]",
)
@workers_option
@config_options
def check(
    data_dir: Path | None, out: Path | None, workers: int, config_name: str, overrides: tuple[str, ...]
) -> int:
    """Decode every file; write a manifest and the class distribution.

    \b
    keras-birds data check birdclef
    keras-birds data check recordings --set data.table=calls.csv --set data.column_path=file

    DIR is the data set [default: data.dir of the settings, else this folder]: BirdCLEF's layout, a CSV, or a
    folder per label. Nothing is written into it.

    \b
    manifest.csv            path, seconds, sample_rate_hz, channels, status, reason; by the recorder's own metadata
                            and the name: start_time (local), utc_offset, latitude, longitude, recorder, gain,
                            temperature_c, battery_v, notes (contradictions)
    class-distribution.png  recordings of each taxonomic class and each label
    problems.txt            all problems of the tables and files, where there are any

    Exit code: 0 nothing is wrong, 1 a table has a problem or a file isn't ok (partial and silent ones can be
    trained on, but count as not ok here; so do files that are left out: in no label's folder, or of unknown kind),
    2 a wrong call.
    """
    from keras_birds.atomic import atomic_path
    from keras_birds.config import Config
    from keras_birds.data.annotated import read_data
    from keras_birds.data.check import check_recordings
    from keras_birds.data.tables import write_table
    from keras_birds.plots.class_distribution import class_distribution
    from keras_birds.plots.figure import save_png

    config = Config.load(config_name, overrides)
    root = resolve_data_dir(data_dir, config)
    catalog = read_data(root, config)
    if not len(catalog):
        catalog.require_clean()
    out = out or Path(f"{root.resolve().name or 'data'}-check")
    out.mkdir(parents=True, exist_ok=True)
    paths = list(dict.fromkeys(catalog.recordings["path"]))
    audio = config.audio
    with make_reporter() as reporter:
        progress = partial(reporter.progress, "Decoding")
        manifest = check_recordings(paths, audio, workers, progress)
    # Missing files are among the tables' problems, with their rows.
    wrong = manifest.loc[~manifest["status"].isin(["ok", "missing"]), ["path", "reason", "status"]].to_numpy()
    problems = list(catalog.problems)
    problems += [f"{relative_name(path, root)}: {reason} ({status})" for path, reason, status in wrong]
    problems += [f"{relative_name(name, root)} {reason}" for name, reason in catalog.left_out]
    manifest = _with_origins(manifest)
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
    return int(bool(problems))


def _with_origins(manifest: "pd.DataFrame") -> "pd.DataFrame":
    """With what the files themselves and their names tell of where, when and with what they were made."""
    import pandas as pd

    from keras_birds.inference.scorer import RecordingStatus
    from keras_birds.results.origin import ORIGIN_COLUMNS, Origins, origin_cells

    origins = Origins()
    rows = []
    for path, recorder in manifest[["path", "recorder"]].itertuples(index=False):
        origin = origins.of(path, recorder)
        rows.append(origin_cells(RecordingStatus(path, "ok", recorder=recorder, origin=origin)))
    told = pd.DataFrame(rows, manifest.index, ORIGIN_COLUMNS, object)
    return manifest.drop(columns="recorder").join(told.drop(columns=["site", "deployment"]))


def _summary(manifest: "pd.DataFrame", n_labels: int, problems: list[str], out: Path) -> str:
    counts, hours = manifest["status"].value_counts(), manifest["seconds"].sum() / 3600
    of_each = ", ".join(f"{count:,} {status}" for status, count in counts.items())
    labels = f"{n_labels:,} label{'s' * (n_labels != 1)}"
    wrong = [f"{len(problems):,} problem{'s' * (len(problems) > 1)}:" if problems else "No problems."]
    wrong += _first(problems, f" in {out / PROBLEMS}")
    lines = [f"{len(manifest):,} recordings, {labels}, {hours:.2f} hours: {of_each}", *wrong]
    timeless = manifest.loc[manifest["start_time"] == "", "path"].to_numpy()
    if 0 < len(timeless) < len(manifest):
        tell = "recording tells" if len(timeless) == 1 else "recordings tell"
        lines.append(f"{len(timeless):,} {tell} no time, the first {timeless[0]}")
    noted = manifest.loc[manifest["notes"] != "", ["path", "notes"]].to_numpy()
    if len(noted):
        (path, note), have = noted[0], "recording has" if len(noted) == 1 else "recordings have"
        lines.append(f"{len(noted):,} {have} notes on time, place or recorder, the first {path}: {note}")
    lines += [f"Manifest: {out / MANIFEST}", f"Figure:   {out / FIGURE}"]
    return "\n".join(lines).encode("utf-8", "replace").decode()


def _first(lines: list[str], where: str) -> list[str]:
    more = [f"  and {len(lines) - _LISTED:,} more{where}"] if len(lines) > _LISTED else []
    return [*(f"  {line}" for line in lines[:_LISTED]), *more]


@data.command(short_help="Write the mel store that training can read.")
@data_option
@click.option(
    "--out",
    "store",
    type=click.Path(path_type=Path),
    metavar="STORE",
    help="Folder of the store: new, empty or a store. [default: data.store of the settings]",
)
@workers_option
@config_options
def precompute(
    data_dir: Path | None, store: Path | None, workers: int, config_name: str, overrides: tuple[str, ...]
) -> None:
    """Write the mel store that training can read instead of the audio.

    \b
    keras-birds data precompute --data birdclef --out birdclef-mel
    keras-birds train --data birdclef --set data.store=birdclef-mel

    With audio.crop = "center" (the published recipe) the store holds each recording's middle clip, with
    "random" whole recordings in float16. Image height and width may change afterwards; other audio or mel settings
    make a new store necessary, and this command then makes it.

    Stopped or killed, the same command goes on where it was. Recordings that can't be read are left out and listed.
    """
    from keras_birds.config import Config
    from keras_birds.data.precompute import precompute as make_store

    config = Config.load(config_name, overrides)
    config.require_images("data precompute")
    if store is None and not config.data.store:
        raise click.UsageError("--out must name the store's folder (or set data.store). Received: neither")
    catalog = _read_clean(data_dir, config)
    paths, store = list(catalog.recordings["path"]), store or Path(config.data.store)
    with make_reporter() as reporter:
        for name, reason in catalog.left_out:
            reporter.problem(name, reason)
        progress = partial(reporter.progress, "Recordings")
        summary = make_store(
            paths, config, store, workers, progress, lambda plan: reporter.log(_describe_plan(plan))
        )
    click.echo(_describe_summary(summary))


def _read_clean(data_dir: Path | None, config: "Config") -> "Catalog":
    from keras_birds.data.catalog import read_catalog

    catalog = read_catalog(resolve_data_dir(data_dir, config), config.data)
    catalog.require_clean()
    return catalog


def _describe_plan(plan: "StorePlan") -> str:
    from rich.filesize import decimal

    text = f"{plan.store}: {plan.recordings} recordings"
    if plan.rebuild_reason:
        text += f", made anew ({plan.rebuild_reason})"
    elif plan.reused:
        text += f", {plan.reused} of them there already"
    return f"{text}; will write {decimal(plan.new_bytes)}, {decimal(plan.free_bytes)} are free"


def _describe_summary(summary: "StoreSummary") -> str:
    from rich.filesize import decimal

    plan, left_out = summary.plan, [f"{path}: {reason}" for path, reason in summary.left_out]
    lines = [f"{plan.store}: {plan.recordings - len(left_out)} recordings, {decimal(summary.data_bytes)}"]
    if summary.unused_bytes:
        size = decimal(summary.unused_bytes)
        lines.append(f"{size} of it are unused; delete the store to make it anew without them")
    if left_out:
        lines.append(f"{len(left_out)} left out:")
        lines += _first(left_out, "; `keras-birds data check` lists all")
    return "\n".join(lines)


@data.command(short_help="Draw one clip under each augmentation.")
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@data_option
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("preview.png"),
    show_default=True,
    metavar="FILE.png",
    help="The figure.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=42,
    show_default=True,
    help="Of the draws, and of the clips taken from --data.",
)
@config_options
def preview(
    file: Path | None,
    data_dir: Path | None,
    out: Path,
    seed: int,
    config_name: str,
    overrides: tuple[str, ...],
) -> None:
    """Draw one clip under each augmentation: FILE, or a recording of the data set.

    \b
    keras-birds data preview clip.ogg
    keras-birds data preview --data birdclef --seed 7 --set augment.time_stretch.rate="[0.5, 2]"

    Each augmentation is forced on and draws from the ranges of the settings; the title tells its probability in
    training ("0.5 × 0.5": the masks and the gain share a gate). The second clip that mixup needs comes from the
    data set, with FILE from the same folder. A background is drawn if the settings mix one in.
    """
    if file is not None and data_dir is not None:
        raise click.UsageError(f"give FILE or --data, not both. Received: {file} and {data_dir}")
    if out.suffix.lower() != ".png":
        raise click.BadParameter(f"must end in .png. Received: {out}", param_hint="--out")
    if not out.parent.is_dir():
        raise click.BadParameter(f"there is no folder {out.parent}. Received: {out}", param_hint="--out")

    from keras_birds.config import Config
    from keras_birds.plots.augmentation import augmentation_preview
    from keras_birds.plots.figure import save_png
    from keras_birds.text import printable
    from keras_birds.training.inputs import background_paths

    config = Config.load(config_name, overrides)
    config.require_images("data preview")
    (first, image), *others = _clips(file, data_dir, config, seed)
    # Alone in its folder, a clip is mixed with itself.
    second, other = others[0] if others else (first, image)
    backgrounds = background_paths(config) if config.augment.background.probability else []
    background = next((image for _, image in _readable(backgrounds, config)), None)
    names = printable(first.name), printable(second.name)
    save_png(augmentation_preview(image, other, names, config, seed, background), out, 100)
    click.echo(f"Figure: {printable(out)}")


def _clips(
    file: Path | None, data_dir: Path | None, config: "Config", seed: int
) -> list[tuple[Path, "np.ndarray"]]:
    """A clip and another one if there is one: of a file and the next of its folder, or drawn from the data set."""
    import numpy as np

    from keras_birds.audio.listing import is_audio_name
    from keras_birds.errors import DataError
    from keras_birds.plots.augmentation import clip_image

    if file is not None:
        neighbours = [x for x in file.parent.iterdir() if is_audio_name(x.name) and not x.samefile(file)]
        neighbours.sort(key=lambda x: (x.name < file.name, x))
        return [(file, clip_image(file, config)), *islice(_readable(neighbours, config), 1)]
    catalog = _read_clean(data_dir, config)
    order = np.random.default_rng(seed).permutation(len(catalog))
    found = list(islice(_readable(catalog.recordings["path"][order], config), 2))
    if len(found) < 2:
        rule = "a preview needs two recordings that can be read"
        raise DataError(f"{rule}. Received: {len(found)} in {catalog.root}")
    return found


def _readable(paths: Iterable[str | Path], config: "Config") -> Iterator[tuple[Path, "np.ndarray"]]:
    from keras_birds.errors import AudioError
    from keras_birds.plots.augmentation import clip_image

    for path in paths:
        try:
            yield Path(path), clip_image(path, config)
        except AudioError as error:
            click.echo(f"Left out: {error}", err=True)
