"""Calls a function of this package on another Keras backend than this process's: a process has one."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_birds.errors import KerasBirdsError, ModelError

_ERROR = "Error: "  # what the other process's last line begins with, on stderr, if the function raised


def call_on_backend(backend: str, function: Callable[..., None], *arguments: Any) -> None:
    """Calls a function here if this process runs the backend (`"torch"`, ...), else in a new process that does.

    The function is of a module's top level and writes files; its arguments must be picklable. A `ModelError` says what
    the other process said, if it failed.
    """
    import keras

    if keras.config.backend() == backend:
        function(*arguments)
        return
    package_parent = str(Path(__file__).resolve().parents[2])
    search = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": search, "TF_CPP_MIN_LOG_LEVEL": "3"},
        input=pickle.dumps((function, arguments)),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        lines = [x.strip() for x in done.stderr.decode(errors="replace").splitlines() if x.strip()]
        last = lines[-1] if lines else f"exit code {done.returncode}"
        raise ModelError(next((x for x in lines if x.startswith(_ERROR)), last).removeprefix(_ERROR))


if __name__ == "__main__":
    called, given = pickle.load(sys.stdin.buffer)
    try:
        called(*given)
    except KerasBirdsError as error:
        sys.exit(f"{_ERROR}{error}")
