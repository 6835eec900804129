"""Runs a module of this package on another Keras backend than this process's: a process has one."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_birds.errors import KerasBirdsError, ModelError
from keras_birds.models.metadata import ModelMetadata

_ERROR = "Error: "
"""What such a module's last line begins with, on stderr, if it failed."""


def write_on_backend(backend: str, module: str, metadata: ModelMetadata, *arguments: str | Path) -> None:
    """Waits for `python -m module` on a backend, of a module that ends in `answer`.

    Args:
        backend: `"torch"`, `"jax"` or `"tensorflow"`.
        module: its full name.
        metadata: its function's first argument.
        arguments: the others, which it gets as text.

    Raises:
        ModelError: with what the module said, if it failed.
    """
    package_parent = str(Path(__file__).resolve().parents[2])
    search = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as folder:
        described = Path(folder, "metadata.json")
        metadata.write_json(described)
        done = subprocess.run(
            [sys.executable, "-m", module, *map(str, (described, *arguments))],
            env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": search, "TF_CPP_MIN_LOG_LEVEL": "3"},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    if done.returncode:
        said = [x.strip() for x in done.stderr.splitlines() if x.strip()] or [f"exit code {done.returncode}"]
        raise ModelError(next((x for x in said if x.startswith(_ERROR)), said[-1]).removeprefix(_ERROR))


def answer(write: Callable[..., Any]) -> None:
    """The other process's side of `write_on_backend`: calls a function with its arguments; errors become one line."""
    try:
        write(ModelMetadata.read_json(sys.argv[1]), *sys.argv[2:])
    except KerasBirdsError as error:
        sys.exit(f"{_ERROR}{error}")
