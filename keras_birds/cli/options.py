"""Options that several commands share, and what they become."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_birds.config import Config
from keras_birds.errors import ConfigError
from keras_birds.text import printable
from keras_birds.threads import available_cpus

if TYPE_CHECKING:
    from keras_birds.inference.classifier import Classifier
    from keras_birds.inference.scorer import ScoreOptions

Command = Callable[..., Any]

EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
EXISTING_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
NEW_FILE = click.Path(dir_okay=False, path_type=Path)
NEW_FOLDER = click.Path(file_okay=False, path_type=Path)
ANY_PATH = click.Path(path_type=Path)
COUNT = click.IntRange(min=1)
LENGTH = click.FloatRange(min=0, min_open=True)
SHARE = click.FloatRange(0, 1)


def choice_option(name: str, choices: tuple[str, ...], said: str, *key: str) -> Callable[[Command], Command]:
    """An option that takes one of some words, by default the first."""
    return click.option(name, *key, type=click.Choice(choices), default=choices[0], help=said)


inputs_argument = click.argument("inputs", nargs=-1, required=True, metavar="INPUTS...")
overlap_option = click.option(
    *("--overlap", "overlap_s"),
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="How much of each window is shared with the one before.",
)
calibrated_option = click.option(
    "--calibrated",
    is_flag=True,
    help="Give scores as `keras-birds calibrate RUN` fitted them; --threshold RUN/calibration/thresholds.csv fits.",
)
sensitivity_option = click.option(
    "--sensitivity",
    type=click.FloatRange(0.5, 1.5),
    default=1.0,
    help="BirdNET-Analyzer's, as of its version 2: above 1 all scores are higher, below 1 lower.",
)
strict_option = click.option(
    "--strict/--no-strict", default=True, help="End with exit code 1 if any file fails."
)
data_option = click.option(
    *("--data", "data_dir"),
    type=ANY_PATH,
    metavar="DIR",
    help="Data set: BirdCLEF's layout, a CSV, or a folder per label. [default: data.dir, else this folder]",
)
workers_option = click.option(
    "--workers",
    type=COUNT,
    default=available_cpus,
    show_default="one for each core",
    help="Threads that read recordings.",
)
format_option = choice_option(
    "--format", ("table", "json"), "A table for people or JSON for programs.", "form"
)


def config_options(command: Command, default: str = "baseline") -> Command:
    """Adds `--config` and `--set`."""
    config = "Settings: a shipped configuration or a TOML file."
    change = "Change one setting, for instance training.epochs=2. May be repeated."
    setting = click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help=change)
    name = click.option("--config", "config_name", default=default, metavar="NAME|FILE", help=config)
    return name(setting(command))


def ray_option(what: str) -> Callable[[Command], Command]:
    """Adds `--ray`, which spreads `what` over the cluster."""
    said = f"Spread {what} over a Ray cluster: auto, local, HOST:PORT or ray://HOST:PORT."
    return click.option("--ray", "ray_address", metavar="ADDRESS", help=said)


def resolve_data_dir(data_dir: Path | None, config: Config) -> Path:
    """The data set's folder: the option, else the config's `data.dir`, else the current folder; a `ConfigError`."""
    path = data_dir or Path(config.data.dir or ".")
    if not path.is_dir():
        raise ConfigError(f"--data must be an existing folder. Received: {path}")
    return path


@dataclass(frozen=True)
class LearnedChoice:
    """What `learned_options` say."""

    embeddings: Path | None
    reviews: Path | None

    @property
    def overrides(self) -> tuple[str, ...]:
        """As settings."""
        given = {"data.embeddings": self.embeddings, "data.reviews": self.reviews}
        return tuple(f"{key}={json.dumps(str(path))}" for key, path in given.items() if path is not None)


def learned_options(command: Command) -> Command:
    """Adds `--embeddings` and `--reviews`; the command gets a `LearnedChoice` as `learned`."""
    store = "Learn from what `keras-birds embed` stored, computing nothing anew; with --config head."
    reviews = "Learn from windows that people reviewed, in *.reviews.csv below this folder."
    return bundled(
        command,
        "learned",
        LearnedChoice,
        click.option("--embeddings", type=EXISTING_FOLDER, metavar="STORE", help=store),
        click.option("--reviews", type=EXISTING_FOLDER, metavar="DIR", help=reviews),
    )


def channel(value: str) -> str | int:
    """Reads `mix`, `all` or a number from 1."""
    if value in ("mix", "all"):
        return value
    if not value.isdecimal() or int(value) < 1:
        raise click.BadParameter(f"must be mix, all or a number from 1. Received: {value}")
    return int(value)


def model_path(value: str) -> Path:
    """Reads an existing file or folder, the name of an added or a shipped model, or a shared one's address.

    What is shared is fetched.
    """
    from keras_birds.models.find import named_models
    from keras_birds.models.preset_fetch import fetch_preset, is_preset

    if is_preset(value):
        return fetch_preset(value, partial(click.echo, err=True))
    if not Path(value).exists() and value not in named_models():
        rule = f"must be an existing file or folder, or one of {', '.join(named_models())}"
        # Said in the pages' examples before anybody has added it.
        add = ". Add it once with `keras-birds models add birdnet`" if value == "birdnet" else ""
        raise click.BadParameter(f"{rule}. Received: {value}{add}")
    return Path(value)


def bundled(command: Command, name: str, make: Command, *options: Command) -> Command:
    """Adds options; the command gets what `make` makes of them as one argument."""

    @wraps(command)
    def call(**values: Any) -> Any:
        bundle = make(**{x: values.pop(x) for x in names})
        return command(**{name: bundle}, **values)

    before = len(getattr(call, "__click_params__", ()))
    for option in reversed(options):
        call = option(call)
    names = [x.name for x in call.__click_params__[before:]]  # type: ignore[attr-defined]
    return call


@dataclass(frozen=True)
class ModelChoice:
    """What `model_options` or `network_options` say."""

    model: Path | None
    engine: str | None
    provider: str | None
    decoder: str | None
    calibrated: bool = False
    sensitivity: float = 1.0

    def load(self) -> "Classifier":
        """Loads the model, and tells on stderr which one if that wasn't said."""
        from keras_birds.inference.classifier import load

        scores = self.calibrated, self.sensitivity
        classifier = load(self.model, self.engine, self.decoder, self.provider, *scores)
        if self.model is None:
            click.echo(_describe_choice(classifier), err=True)
        if classifier.calibration is not None:
            click.echo(f"Scores are calibrated ({classifier.calibration.method})", err=True)
        return classifier


def model_options(command: Command) -> Command:
    """Adds `--model` and all that says how it is run; the command gets a `ModelChoice` as `model`."""
    model, engine, *others = _network_options()
    return bundled(
        command, "model", ModelChoice, model, engine, calibrated_option, sensitivity_option, *others
    )


def models_options(command: Command) -> Command:
    """As `model_options`, for one model or several; the command gets a `ModelChoice` of each as `models`."""

    def make(model: tuple[Path, ...], **others: Any) -> list[ModelChoice]:
        return [ModelChoice(x, **others) for x in model or (None,)]

    model, engine, *others = _network_options(multiple=True)
    return bundled(command, "models", make, model, engine, calibrated_option, sensitivity_option, *others)


def network_options(command: Command) -> Command:
    """As `model_options`, without what is said of scores."""
    return bundled(command, "model", ModelChoice, *_network_options())


def _network_options(multiple: bool = False) -> tuple[Command, ...]:
    trained = (
        "A fold's folder, a whole run (the mean of its folds), an .onnx or a .keras file, the name of a model that "
        "was added (`keras-birds models add`) or is shipped, or the folder or URL of a shared one "
        "(hf://user/model@sha256:...). "
    )
    default = (
        "[default: the newest run in runs/, else birdnet where it was added, else the shipped model animals]"
    )
    engine = "What computes: ONNX Runtime or Keras. [default: onnx, unless --model is a .keras file]"
    provider = "Where ONNX Runtime computes: cpu, cuda, ... [default: cuda where there is a GPU for it]"
    decoder = "What decodes audio files. [default: as in the model's training]"
    if multiple:
        trained += "May be repeated: what several models say is told side by side. "
    return (
        click.option(
            "--model", type=model_path, multiple=multiple, metavar="PATH|NAME|URL", help=trained + default
        ),
        click.option("--engine", type=click.Choice(("onnx", "keras")), help=engine),
        click.option("--provider", metavar="NAME", help=provider),
        click.option("--decoder", type=click.Choice(("soundfile", "tfio")), help=decoder),
    )


def score_options(command: Command, channels: bool = True) -> Command:
    """Adds how recordings are cut and scored; the command gets `ScoreOptions` as `score`.

    Without `channels` the mean over them is scored.
    """

    def make(**values: Any) -> "ScoreOptions":
        from keras_birds.inference.scorer import ScoreOptions

        return ScoreOptions(**values)

    said = "What to score: the mean over channels, each channel by itself, or channel N from 1."
    which = click.option("--channel", type=channel, default="mix", metavar="mix|all|N", help=said)
    return bundled(
        command,
        "score",
        make,
        overlap_option,
        *((which,) if channels else ()),
        click.option("--workers", type=COUNT, help="Threads that compute. [default: one a processor]"),
        click.option("--batch-size", type=COUNT, help="Windows computed at a time. [default: the fastest]"),
    )


mix_options = partial(score_options, channels=False)


def _describe_choice(classifier: "Classifier") -> str:
    from keras_birds.models.find import bundled_name
    from keras_birds.models.library import added_name
    from keras_birds.run_layout import RUNS_DIR

    engine = classifier.engines[0]
    added, bundled = added_name(engine.path), bundled_name(engine.path)
    if not (name := added or bundled):
        return f"Model: {classifier.model_id}"
    about = f"{len(classifier.labels)} labels, licence {engine.metadata.licence}; `keras-birds info {name}` says more"
    origin = "added" if added else "bundled"
    return f"Model: {name}, {origin}, as there is no trained run in {RUNS_DIR}/: {about}"


def find_files(
    inputs: tuple[str, ...], may_be_gone: bool = False, argument: str = "INPUTS"
) -> tuple[list[str], list[str]]:
    """The recordings that INPUTS stand for, and which of INPUTS are gone, if they may be: these are warned of."""
    from keras_birds.audio.files import find_inputs
    from keras_birds.errors import DataError

    gone: list[str] = []

    def on_gone(name: str, reason: str) -> None:
        gone.append(name)
        warn(name, reason)

    try:
        return list(find_inputs(inputs, sys.stdin.buffer, warn, on_gone if may_be_gone else None)), gone
    except DataError as error:
        raise click.BadParameter(str(error), param_hint=argument) from None


def warn(name: str, reason: str) -> None:
    """Tells on stderr what is wrong with a file or folder that the work goes on without."""
    click.echo(f"Warning: {printable(name)}: {reason}", err=True)


def check_folder_of(path: Path | None, option: str) -> None:
    """Refuses an option's path where there is no folder for it."""
    if path is not None and not path.parent.is_dir():
        raise click.BadParameter(f"there is no folder {path.parent}. Received: {path}", param_hint=option)
