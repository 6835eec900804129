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


def format_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--format`, of what a command tells."""
    return click.option(
        "--format",
        "form",
        type=click.Choice(("table", "json")),
        default="table",
        show_default=True,
        help="For people or for programs.",
    )(command)


def ray_option(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds `--ray`.

    Args:
        what: spreads over the cluster.
    """
    return click.option(
        "--ray",
        "ray_address",
        metavar="ADDRESS",
        help=f"Spread {what} over a Ray cluster: auto, local, HOST:PORT or ray://HOST:PORT.",
    )


def resolve_data_dir(data_dir: Path | None, config: Config) -> Path:
    """The data set's folder: the option, else the config's `data.dir`, else the current folder.

    Raises:
        ConfigError: if it is not a folder.
    """
    path = data_dir or Path(config.data.dir or ".")
    if not path.is_dir():
        raise ConfigError(f"--data must be an existing folder. Received: {path}")
    return path


class ChannelType(click.ParamType):
    """`mix`, `all` or a number from 1."""

    name = "channel"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str | int:
        """Reads the option's value."""
        text = str(value)
        if text not in ("mix", "all") and not (text.isdecimal() and int(text) >= 1):
            self.fail(f"must be mix, all or a number from 1. Received: {text}", param, ctx)
        return int(text) if text.isdecimal() else text


class ModelType(click.ParamType):
    """An existing file or folder, or the name of a shipped model."""

    name = "model"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Reads the option's value."""
        from keras_birds.models.bundled import bundled_models

        path = Path(str(value))
        if not path.exists() and str(value) not in bundled_models():
            rule = f"must be an existing file or folder, or one of {', '.join(bundled_models())}"
            self.fail(f"{rule}. Received: {value}", param, ctx)
        return path


class ThresholdType(click.ParamType):
    """A number, or an existing file."""

    name = "threshold"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | Path:
        """Reads the option's value."""
        try:
            return float(str(value))
        except ValueError:
            path = Path(str(value))
        if not path.is_file():
            self.fail(f"must be a number or an existing CSV file. Received: {value}", param, ctx)
        return path
