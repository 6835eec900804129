"""`keras-birds data preview`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from keras_birds.cli.options import config_options, data_option, resolve_data_dir

if TYPE_CHECKING:
    import numpy as np

    from keras_birds.config import Config


@click.command()
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

    config = Config.load(config_name, overrides)
    (first, image), (second, other) = (
        _from_data(data_dir, config, seed) if file is None else _from_file(file, config)
    )
    names = printable(first.name), printable(second.name)
    save_png(augmentation_preview(image, other, names, config, seed, _background(config)), out, 100)
    click.echo(f"Figure: {printable(out)}")


def _background(config: "Config") -> "np.ndarray | None":
    from keras_birds.training.run import background_paths

    paths = [Path(x) for x in background_paths(config)] if config.augment.background.probability else []
    found = _readable(paths, config, 1)
    return found[0][1] if found else None


def _from_file(file: Path, config: "Config") -> list[tuple[Path, "np.ndarray"]]:
    from keras_birds.audio.listing import is_audio_name
    from keras_birds.plots.augmentation import clip_image

    found = [(file, clip_image(file, config))]
    neighbours = sorted(p for p in file.parent.iterdir() if is_audio_name(p.name) and not p.samefile(file))
    # Those that follow in the alphabet come first.
    neighbours.sort(key=lambda p: p.name < file.name)
    found += _readable(neighbours, config, 1)
    # Alone in its folder, the clip is mixed with itself.
    return found if len(found) == 2 else found * 2


def _from_data(data_dir: Path | None, config: "Config", seed: int) -> list[tuple[Path, "np.ndarray"]]:
    import numpy as np

    from keras_birds.data.catalog import read_catalog
    from keras_birds.errors import DataError

    root = resolve_data_dir(data_dir, config)
    catalog = read_catalog(root, config.data)
    catalog.require_clean()
    paths = [Path(p) for p in catalog.recordings["path"]]
    order = np.random.default_rng(seed).permutation(len(paths))
    found = _readable([paths[i] for i in order], config, 2)
    if len(found) < 2:
        raise DataError(f"a preview needs two recordings that can be read. Received: {len(found)} in {root}")
    return found


def _readable(paths: list[Path], config: "Config", count: int) -> list[tuple[Path, "np.ndarray"]]:
    from keras_birds.errors import AudioError
    from keras_birds.plots.augmentation import clip_image

    found: list[tuple[Path, np.ndarray]] = []
    for path in paths:
        if len(found) == count:
            break
        try:
            found.append((path, clip_image(path, config)))
        except AudioError as error:
            click.echo(f"Left out: {error}", err=True)
    return found
