"""What keras-birds raises when the work can't be done.

Every message is one line: the rule that was broken, then `Received: ...`, then what to do about it.
The command line prints the message and never a traceback.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class KerasBirdsError(Exception):
    """Root of every error that keras-birds raises on purpose."""


class ConfigError(KerasBirdsError):
    """A setting, a configuration file or an override is wrong."""


class DataError(KerasBirdsError):
    """A data set, its tables or its folds can't be used as asked."""


class ModelError(KerasBirdsError):
    """A model, run directory or weights file can't be used as asked."""


class TrainingError(KerasBirdsError):
    """Training can't go on, for instance because the loss is no longer a number."""


class AudioError(KerasBirdsError):
    """One audio file can't be read.

    Args:
        path: the file, or its URL, which `.path` keeps as a string.
        reason: why, in a few words, without the path.
        status: the manifest's word for it: `"corrupt"`, `"empty"`, `"missing"`, `"unreadable"` or `"too short"`.
    """

    def __init__(self, path: str | Path, reason: str, status: str = "corrupt"):
        super().__init__(f"{path}: {reason}")
        self.path = path if isinstance(path, str) and "://" in path else Path(path)
        self.reason = reason
        self.status = status


def detail_of(error: BaseException) -> str:
    """What a library's error says, in one line of at most 200 characters; its class where it says nothing."""
    return " ".join(str(error).split())[:200] or type(error).__name__


@contextmanager
def as_model_error(wanted: str) -> Iterator[None]:
    """Raises what any library raises of a model, each its own classes, as a `ModelError` that tells what was wanted."""
    try:
        yield
    except Exception as error:
        raise ModelError(f"{wanted}. Received: {detail_of(error)}") from None
