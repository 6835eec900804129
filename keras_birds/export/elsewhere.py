"""Runs a module of this package on another Keras backend than this process's: a process has one."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from keras_birds.errors import ModelError

ERROR = "Error: "
"""What such a module's last line begins with, on stderr, if it failed."""


def run_on_backend(backend: str, module: str, arguments: Sequence[str | Path]) -> None:
    """Waits for `python -m module arguments` on a backend.

    Raises:
        ModelError: with what the module said, if it failed.
    """
    package_parent = str(Path(__file__).resolve().parents[2])
    search = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": search, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        said = [x.strip() for x in done.stderr.splitlines() if x.strip()] or [f"exit code {done.returncode}"]
        raise ModelError(next((x for x in said if x.startswith(ERROR)), said[-1]).removeprefix(ERROR))
