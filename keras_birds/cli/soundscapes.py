"""`keras-birds data soundscapes`: recordings made of labelled ones over background, with the truth."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_birds.cli.options import (
    COUNT,
    EXISTING_FOLDER,
    NEW_FOLDER,
    choice_option,
    config_options,
    data_option,
    resolve_data_dir,
    workers_option,
)
from keras_birds.cli.reporting import make_reporter
from keras_birds.text import printable

if TYPE_CHECKING:
    import numpy as np

    from keras_birds.config import Config
    from keras_birds.data.catalog import Catalog
    from keras_birds.data.soundscape_folder import Made
    from keras_birds.data.soundscapes import SoundscapeMaker

_LISTED = 5
_ALL, _OF_FOLDS = "all", ("training", "validation")


def _range_option(
    name: str, default: tuple[float, float], kind: click.ParamType, said: str
) -> Callable[[Any], Any]:
    """An option that takes the ends of a range."""

    def check(_: click.Context, __: click.Parameter, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise click.BadParameter(f"LOW must not exceed HIGH. Received: {value[0]:g} {value[1]:g}")
        return value

    return click.option(
        name,
        type=(kind, kind),
        default=default,
        callback=check,
        metavar="LOW HIGH",
        show_default=True,
        help=said,
    )


def _part(_: click.Context, __: click.Parameter, value: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", value)
    part, parts = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= part <= parts:
        raise click.BadParameter(f"must be K/N with K from 1 to N, for instance 1/2. Received: {value}")
    return part, parts


@click.command(short_help="Make recordings of labelled ones over background, with the truth.")
@data_option
@choice_option(
    "--part",
    (_ALL, *_OF_FOLDS, "hidden"),
    "Recordings that are heard; all but the first by the folds of the settings.",
)
@click.option("--fold", type=click.IntRange(min=0), metavar="K", help="Whose --part training or validation.")
@click.option(
    "--background",
    type=EXISTING_FOLDER,
    help="Recordings in which none of the labels is heard. [default: data.background]",
)
@click.option(
    "--background-part",
    default="1/1",
    callback=_part,
    metavar="K/N",
    help="Only the Kth of N parts of these: tests take others than training.",
)
@click.option("--out", required=True, type=NEW_FOLDER, help="A new or empty folder.")
@click.option("--count", type=COUNT, default=60, show_default=True, help="Soundscapes.")
@click.option(
    "--seconds", type=click.FloatRange(10, 600), default=60.0, show_default=True, help="Length of each."
)
@_range_option("--calls", (3, 12), click.IntRange(0, 1000), "Calls in each.")
@click.option("--overlap-max", type=COUNT, default=3, show_default=True, help="Calls at a time, at most.")
@click.option(
    "--quiet",
    type=click.FloatRange(0, 0.9),
    default=0.2,
    show_default=True,
    metavar="SHARE",
    help="Share of each, in one piece, in which nothing calls.",
)
@_range_option("--distance-m", (5.0, 80.0), click.FloatRange(1, 1000), "How far away calls are.")
@_range_option(
    "--reverb-s", (0.2, 1.2), click.FloatRange(0, 10), "Reverberation: seconds in which it falls by 60 dB."
)
@_range_option(
    "--snr-db",
    (0.0, 20.0),
    click.FloatRange(-30, 60),
    "A call above the background, both in the call's band, at the middle of the distances; drawn for a recording.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=42, show_default=True, help="Of all that is drawn."
)
@workers_option
@config_options
def soundscapes(
    data_dir: Path | None,
    part: str,
    fold: int | None,
    background: Path | None,
    background_part: tuple[int, int],
    out: Path,
    workers: int,
    config_name: str,
    overrides: tuple[str, ...],
    **scene: Any,
) -> None:
    """Make recordings of labelled ones over background, with the truth: to judge detectors, and to learn from.

    \b
    keras-birds data soundscapes --data birdclef --part hidden --background noise --out made
    keras-birds evaluate --model runs/all --data made --annotations made/annotations.csv
    keras-birds train --data made --set data.annotations=annotations.csv

    Calls are cut from recordings by their energy, each label as often, and laid over background at drawn times: weaker
    with distance (6 dB a doubling), without the high tones that the air absorbs (ISO 9613-1, 20 °C, 70 % humidity), and
    with the reverberation of a place. Recordings with secondary labels are left out, as it isn't known which calls
    when; calls more than 10 dB below the background in their band can't be heard, and are left out as well.

    \b
    soundscape_0001.flac, ...   mono, at audio.sample_rate_hz, divided by audio.speed
    annotations.csv             file,start_s,end_s,label,low_hz,high_hz,snr_db,distance_m,source
    taxonomy.csv                the data set's labels
    soundscapes.json            how they were made, and each one's background

    The same settings, recordings and seed give the same files, byte by byte. Judge a run by recordings that it didn't
    learn from: --part hidden, or --fold K --part validation for fold K, with --config RUN/config.toml, whose folds
    are the run's; and by background that it didn't learn from: --background-part 1/2 for one, 2/2 for the other.
    Soundscapes share recordings, so folds of a run that learns from them flatter it: judge it by others as well.
    """
    from keras_birds.audio.files import recordings_in
    from keras_birds.config import Config
    from keras_birds.data.catalog import read_catalog
    from keras_birds.data.soundscape_folder import make_soundscapes
    from keras_birds.data.soundscapes import Scene, SoundscapeMaker
    from keras_birds.data.soundscapes import background_part as part_of
    from keras_birds.errors import ConfigError

    if (fold is None) == (part in _OF_FOLDS):
        received = f"--part {part} {'without' if fold is None else 'with'} --fold"
        raise click.UsageError(f"--fold K goes with --part training or validation. Received: {received}")
    config = Config.load(config_name, overrides)
    if config.data.annotations:
        raise ConfigError(
            f"data soundscapes cuts calls from labelled recordings. Received: data.annotations = "
            f"{config.data.annotations}; leave it out"
        )
    if background is None and not config.data.background:
        raise click.UsageError("--background must name a folder of recordings (or set data.background)")
    folder = background or Path(config.data.background)
    catalog = read_catalog(resolve_data_dir(data_dir, config), config.data)
    catalog.require_clean()
    chosen = part_of(recordings_in(folder), *background_part)
    maker = SoundscapeMaker(
        catalog, _rows(catalog, config, part, fold), chosen, Scene(**scene), config.audio.resample_hz
    )
    with make_reporter() as reporter:
        for name, reason in catalog.left_out:
            reporter.problem(name, reason)
        made = make_soundscapes(maker, catalog, out, workers, lambda *x: reporter.progress("Soundscapes", *x))
        for name, reason in made.unusable[:_LISTED]:
            reporter.problem(name, f"{reason}, left out")
        if (more := len(made.unusable) - _LISTED) > 0:
            reporter.log(f"and {more} more left out, in soundscapes.json")
    click.echo(_summary(made, maker, out))


def _rows(catalog: "Catalog", config: "Config", part: str, fold: int | None) -> "np.ndarray":
    """The recordings that may be heard: rows of the catalog."""
    import numpy as np

    from keras_birds.data.folds import make_split
    from keras_birds.errors import ConfigError

    if part == _ALL:
        return np.arange(len(catalog))
    split = make_split(catalog, config.folds)
    if fold is not None:
        return split.train_rows(fold) if part == "training" else split.validation_rows(fold)
    if not len(split.hidden_rows):
        raise ConfigError("--part hidden needs hidden recordings. Received: none with these folds.* settings")
    return split.hidden_rows


def _summary(made: "Made", maker: "SoundscapeMaker", out: Path) -> str:
    scene, calls = maker.scene, made.calls
    of_each = calls["label"].value_counts()
    heard = f"{_number(len(calls), 'call')} of {_number(len(of_each), 'label')}"
    if len(of_each):
        heard += f" ({of_each.min()} to {of_each.max()} of each)"
        heard += f" from {_number(calls['source'].nunique(), 'recording')}"
        heard += f", SNR {calls['snr_db'].min():.0f} to {calls['snr_db'].max():.0f} dB"
    behind = _number(made.backgrounds, "background recording")
    lines = [f"{_number(scene.count, 'soundscape')} of {scene.seconds:g} s over {behind}: {heard}"]
    if absent := [x for x in maker.labels if x not in of_each] + maker.without:
        lines.append(f"Never heard: {', '.join(absent[:_LISTED])}{' ...' * (len(absent) > _LISTED)}")
    if maker.mixed:
        lines.append(f"Left out: {_number(maker.mixed, 'recording')} with secondary labels")
    if made.too_faint or made.no_room:
        lines.append(
            f"Left out: {_number(made.too_faint, 'call')} too faint to be heard, {made.no_room} without room"
        )
    lines.append(
        f"Next: keras-birds evaluate --model MODEL --data {out} --annotations {out / 'annotations.csv'}"
    )
    return printable("\n".join(lines))


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"
