"""Options that several commands share, and how they become a `Config`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from keras_birds.config import Config
from keras_birds.errors import ConfigError

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--config` and `--set`."""
    command = click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="SECTION.KEY=VALUE",
        help="Change one setting, e.g. training.epochs=2. May be repeated.",
    )(command)
    return click.option(
        "--config",
        "config_name",
        default="baseline",
        show_default=True,
        metavar="NAME|FILE",
        help="Settings: a shipped configuration or a TOML file.",
    )(command)


def data_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--data`."""
    return click.option(
        "--data",
        "data_dir",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Data set: BirdCLEF's layout, a CSV, or a folder per label. [default: data.dir, else this folder]",
    )(command)


def resolve_data_dir(data_dir: Path | None, config: Config) -> Path:
    """The data set's folder: the option, else the config's `data.dir`, else the current folder.

    Raises:
        ConfigError: if it is not a folder.
    """
    path = data_dir or Path(config.data.dir or ".")
    if not path.is_dir():
        raise ConfigError(f"--data must be an existing folder. Received: {path}")
    return path
