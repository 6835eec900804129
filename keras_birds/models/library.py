"""Models that the user added: each a folder of its name in the user's data folder.

NAME/model.onnx   what computes
NAME/model.keras  the same as a Keras model, where there is one
NAME/model.json   what it is
NAME/range.npz    BirdNET's range model: what occurs where and when

An ensemble that somebody shared has NAME/fold0/, NAME/fold1/, ... of the same.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from keras_birds.errors import ConfigError, KerasBirdsError
from keras_birds.models.drafts import draft_of, drafted
from keras_birds.resources import resource
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
    folders = sorted(library().glob("[!.]*"))
    return {x.name: x for x in folders if (x / ONNX).is_file() or (x / "fold0" / ONNX).is_file()}


def added_name(path: Path) -> str:
    """The name of the added model that a file belongs to; empty for another file."""
    folders = path.parent, path.parent.parent
    return next((name for name, folder in added_models().items() if folder in folders), "")


def bundled_models() -> dict[str, Path]:
    """The shipped models' files by name, sorted."""
    return {x.stem: x for x in sorted(resource("assets").glob("*.onnx"))}


@contextmanager
def new_model(name: str) -> Iterator[Path]:
    """Gives an empty folder that becomes the model's when the block ends without an error; else nothing stays.

    Raises:
        ConfigError: if the name can't be used or is taken.
        KerasBirdsError: if the place can't be written.
    """
    if not _NAME.fullmatch(name) or name in bundled_models():
        raise ConfigError(
            "A model's name must be letters, digits, dots, dashes and underscores, and no shipped model's. Received: "
            f"{name!r}. Choose another with --name"
        )
    folder = library() / name
    _refuse_taken(folder)
    with drafted(folder, f"Free some space, or name another place with {HOME_VARIABLE}") as draft:
        yield draft
        _refuse_taken(folder)  # by another process, meanwhile


def remove_model(name: str) -> Path:
    """Removes a model that was added, and tells where it lay; raises `ConfigError` if there is none of that name."""
    folder = library() / name
    if not _NAME.fullmatch(name) or not folder.is_dir():
        known = ", ".join(added_models()) or "none"
        raise ConfigError(f"The model must be one that was added: {known}. Received: {name}")
    draft = draft_of(folder)
    try:
        folder.replace(draft)  # at once, so that a half-removed one is never found
        shutil.rmtree(draft)
    except OSError as error:
        raise KerasBirdsError(f"{folder} can't be removed. Received: {error.strerror or error}") from None
    return folder


def _refuse_taken(folder: Path) -> None:
    if folder.exists():
        raise ConfigError(
            f"A model must be added once. Received: {folder.name}, which lies in {folder}. Remove it with `keras-birds "
            f"models remove {folder.name}`, or choose another --name"
        )
