"""Where things lie: the files that ship with keras-birds (`configs/`, `assets/`), and the runs."""

from pathlib import Path

from keras_birds.errors import KerasBirdsError

RUNS_DIR = Path("runs")
"""Where training puts runs and prediction looks for them, below the current folder."""

_PACKAGE = Path(__file__).resolve().parent


def resource(*parts: str) -> Path:
    """Path of a shipped file or folder, in a checkout and in an installed wheel alike.

    Args:
        parts: for instance `"configs", "baseline.toml"`.

    Raises:
        KerasBirdsError: if there is no such file.
    """
    for root in (_PACKAGE / "_data", _PACKAGE.parent):
        path = root.joinpath(*parts)
        if path.exists():
            return path
    raise KerasBirdsError(f"keras-birds ships no such file. Received: {'/'.join(parts)}")
