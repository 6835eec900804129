"""Models that the user added: each a folder of its name in the user's data folder.

NAME/model.onnx   what computes
NAME/model.keras  the same as a Keras model, where there is one
NAME/model.json   what it is
NAME/range.npz    BirdNET's range model: what occurs where and when
"""

import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs

from keras_birds.errors import ConfigError, KerasBirdsError
from keras_birds.resources import resource
from keras_birds.run_layout import ONNX

HOME_VARIABLE = "KERAS_BIRDS_MODELS"
"""Names a folder for added models in place of the user's data folder, for instance one that machines share."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_STALE_S = 24 * 3600.0


def library() -> Path:
    """The folder of added models, which may not be there yet."""
    given = os.environ.get(HOME_VARIABLE)
    return Path(given) if given else platformdirs.user_data_path("keras-birds", appauthor=False) / "models"


def added_models() -> dict[str, Path]:
    """The folders of models that were added, by name, sorted."""
    return {x.parent.name: x.parent for x in sorted(library().glob(f"[!.]*/{ONNX}"))}


def added_name(path: Path) -> str:
    """The name of the added model that a file belongs to; empty for another file."""
    return path.parent.name if path.parent in added_models().values() else ""


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
    draft = _draft(folder)
    try:
        _remove_stale_drafts()
        shutil.rmtree(draft, ignore_errors=True)  # of a process whose number came round again
        draft.mkdir(parents=True)
        yield draft
        _refuse_taken(folder)  # by another process, meanwhile
        draft.replace(folder)
    except KerasBirdsError as error:  # of what was written, by the name that it would have had
        raise type(error)(str(error).replace(str(draft), str(folder))) from None
    except OSError as error:
        raise KerasBirdsError(
            f"{folder} can't be written. Received: {error.strerror or error}. Free some space, or name another place "
            f"with {HOME_VARIABLE}"
        ) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def remove_model(name: str) -> Path:
    """Removes a model that was added, and tells where it lay; raises `ConfigError` if there is none of that name."""
    folder = library() / name
    if not _NAME.fullmatch(name) or not folder.is_dir():
        known = ", ".join(added_models()) or "none"
        raise ConfigError(f"The model must be one that was added: {known}. Received: {name}")
    draft = _draft(folder)
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


def _draft(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.{socket.gethostname()}.{os.getpid()}.tmp")


def _remove_stale_drafts() -> None:
    """Removes what processes that were killed left behind: of this machine those that have gone, else what is old."""
    for path in library().glob(".*.tmp"):
        start, _, pid = path.name.removesuffix(".tmp").rpartition(".")
        is_here = start.endswith(f".{socket.gethostname()}") and pid.isdecimal()
        with suppress(OSError):
            if (is_here and not _runs(int(pid))) or time.time() - path.stat().st_mtime > _STALE_S:
                shutil.rmtree(path)


def _runs(pid: int) -> bool:
    if os.name != "posix":  # elsewhere this would end it
        return True
    try:
        os.kill(pid, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)
    return True
