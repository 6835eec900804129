"""`keras-birds data`: look at a data set before training on it."""

import click

from keras_birds.cli.main import LazyGroup

_COMMANDS = {
    "check": ("data_check:check", "Decode every file; write a manifest and the class distribution."),
    "precompute": ("data_precompute:precompute", "Write the mel store that training can read."),
    "preview": ("data_preview:preview", "Draw one clip under each augmentation."),
}


@click.group(cls=LazyGroup, lazy=_COMMANDS)
def data() -> None:
    """Check, precompute and preview a data set.

    \b
    keras-birds data check DIR
    """
