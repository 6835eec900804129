"""Where the files lie that ship with keras-birds: `configs/` and `assets/`."""

from pathlib import Path

from keras_birds.errors import KerasBirdsError

_PACKAGE = Path(__file__).resolve().parent


def resource(*parts: str) -> Path:
    """Path of a shipped file or folder, such as `"configs", "baseline.toml"`, in a checkout and in a wheel alike.

    Raises:
        KerasBirdsError: if there is no such file.
    """
    for root in (_PACKAGE / "_data", _PACKAGE.parent):
        path = root.joinpath(*parts)
        if path.exists():
            return path
    raise KerasBirdsError(f"keras-birds ships no such file. Received: {'/'.join(parts)}")
