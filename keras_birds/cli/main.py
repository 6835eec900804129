"""The `keras-birds` command: finds the subcommand, turns errors into one line and an exit code."""

import os
import sys
from importlib import import_module
from pathlib import Path

import click

import keras_birds
from keras_birds.cli.streams import tolerate_any_letter
from keras_birds.cli.strict import StrictGroup
from keras_birds.errors import ConfigError, KerasBirdsError
from keras_birds.packages import describe_missing

# Name -> (module:attribute, line in `--help`). Modules are imported when their command is asked for.
_COMMANDS = {
    "demo": ("demo:demo", "Train and predict on a small data set made on the spot."),
    "data": ("data:data", "Check, precompute and preview a data set."),
    "pretrain": ("pretrain:pretrain", "Teach a backbone to hear, from recordings without labels."),
    "train": ("train:train", "Train one fold, all of them, or on all recordings."),
    "evaluate": ("evaluate:evaluate", "Tell how good a run is, and where it fails."),
    "calibrate": ("calibrate:calibrate", "Fit a run's scores, so that they mean what they say."),
    "compare": ("compare:compare", "Tell whether one run is better than another."),
    "predict": ("predict:predict", "Name what is in recordings: one answer for each."),
    "detect": ("detect:detect", "Find all detections in a disk of recordings."),
    "pseudo": ("pseudo:pseudo", "Label recordings that nobody labelled, for models to learn from."),
    "embed": ("embed:embed", "Keep the embeddings of a disk of recordings."),
    "models": ("models:models", "List the models that are here."),
    "info": ("models:info", "Tell what a model is, or what a store of embeddings holds."),
    "app": ("app:app", "Hear, see and check recordings in the browser."),
    "listen": ("listen:listen", "Name animals as they call, from a microphone or a stream."),
    "export": ("export:export", "Write a model as one file that other programs run."),
    "species": ("species:species", "Tell which species may occur at a place in a week of the year."),
    "search": ("search:search", "Find the windows that sound most like a call."),
    "segments": ("segments:segments", "Cut detections to clips for people to listen to."),
    "activity": ("activity:activity", "Tell when labels were detected, and how long was recorded."),
    "occupancy": ("occupancy:occupancy", "Write detection histories for occupancy models."),
    "publish": ("publish:publish", "Write detections as GBIF, Agouti and eBird read them."),
    "density": ("density:density", "Tell how many calls there are, from reviews of some windows."),
}


class LazyGroup(StrictGroup):
    """Commands that are imported when asked for, from their `MODULE:ATTRIBUTE`."""

    def __init__(self, *args, lazy: dict[str, tuple[str, str]], **kwargs):  # type: ignore[no-untyped-def]
        super().__init__(*args, **kwargs)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table."""
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command's module."""
        if cmd_name not in self.lazy:
            return None
        module, _, attribute = self.lazy[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(f"keras_birds.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the table's lines, so that `--help` imports no command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.lazy.items()])


_SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True}


@click.group(cls=LazyGroup, lazy=_COMMANDS, context_settings=_SETTINGS)
@click.version_option(keras_birds.__version__, prog_name="keras-birds")
def cli() -> None:
    """Wildlife sound recognition on Keras 3.

    \b
    Try it:          keras-birds predict clip.ogg      (with the model in the box)
                     keras-birds demo
    A whole disk:    keras-birds detect /mnt/disk --out results
                     keras-birds segments results --out clips
    Your own data:   keras-birds data check DIR
                     keras-birds train --data DIR --fold 0
                     keras-birds predict clip.ogg

    The backend is torch; KERAS_BACKEND=jax or tensorflow swaps it.
    """


def main() -> None:
    """Runs the command line. Exit code 2 for a wrong call, 1 for failed work, 130 for Ctrl-C."""
    _replace_closed_streams()
    tolerate_any_letter()
    # A notebook's own backend, which programs that it starts inherit: another environment may not have it.
    if os.environ.get("MPLBACKEND", "").startswith("module://"):
        del os.environ["MPLBACKEND"]
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.Abort:
        click.echo("Stopped.", err=True)
        code = 130
    except KerasBirdsError as error:
        click.echo(f"Error: {error}", err=True)
        code = 2 if isinstance(error, ConfigError) else 1
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "keras_birds":
            raise
        click.echo(f"Error: {describe_missing(error.name)}", err=True)
        code = 2
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        click.echo(f"Error: {place}{error.strerror or error}", err=True)
        code = 1
    finally:
        _drop_unwritable_output()
    sys.exit(code if isinstance(code, int) else 0)


def _replace_closed_streams() -> None:
    """After `>&-` or `2>&-`, Python has None in place of the stream."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - open until the process ends


def _drop_unwritable_output() -> None:
    """Python writes what a full disk refused once more as it exits, and tells of that in its own words."""
    try:
        if sys.__stdout__ is not None:
            sys.__stdout__.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
