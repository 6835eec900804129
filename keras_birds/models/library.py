"""Models that the user added: each a folder of its name in the user's data folder.

NAME/model.onnx   what computes
NAME/model.keras  the same as a Keras model, where there is one
NAME/model.json   what it is
NAME/range.npz    BirdNET's range model: what occurs where and when
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from keras_birds.errors import ConfigError, KerasBirdsError
from keras_birds.run_layout import ONNX

HOME_VARIABLE = "KERAS_BIRDS_MODELS"
"""Names a folder for added models in place of the user's data folder, for instance one that machines share."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def library() -> Path:
    """The folder of added models, which may not be there yet."""
    given = os.environ.get(HOME_VARIABLE)
    return Path(given) if given else platformdirs.user_data_path("keras-birds", appauthor=False) / "models"


def added_models() -> dict[str, Path]:
    """The folders of models that were added, by name, sorted."""
    return {x.parent.name: x.parent for x in sorted(library().glob(f"*/{ONNX}"))}


@contextmanager
def new_model(name: str) -> Iterator[Path]:
    """Gives an empty folder that becomes the model's when the block ends without an error; else nothing stays.

    Raises:
        ConfigError: if the name can't be used or is taken.
        KerasBirdsError: if the place can't be written.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"A model's name must be letters, digits, dots, dashes and underscores. Received: {name!r}"
        )
    folder = library() / name
    if folder.exists():
        raise ConfigError(
            f"A model must be added once. Received: {name}, which lies in {folder}. Remove it with `keras-birds "
            f"models remove {name}`, or choose another --name"
        )
    draft = folder.with_name(f".{name}.{os.getpid()}.tmp")
    try:
        draft.mkdir(parents=True)
        yield draft
        draft.replace(folder)
    except OSError as error:
        raise KerasBirdsError(
            f"{folder} can't be written. Received: {error.strerror or error}. Free some space, or name another place "
            f"with {HOME_VARIABLE}"
        ) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def remove_model(name: str) -> Path:
    """Removes a model that was added, and tells where it lay; raises `ConfigError` if there is none of that name."""
    found = added_models()
    if name not in found:
        known = ", ".join(found) or "none"
        raise ConfigError(f"The model must be one that was added: {known}. Received: {name}")
    shutil.rmtree(found[name])
    return found[name]
