"""Keeps what other libraries print off the terminal."""

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec


@contextlib.contextmanager
def suppress_output() -> Iterator[None]:
    """Silences stdout, stderr, warnings and logging, C++ code's writes to file descriptor 2 included."""
    sys.stderr.flush()
    disabled = logging.root.manager.disable
    descriptor, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        os.dup2(nowhere, 2)
        try:
            yield
        finally:
            os.dup2(descriptor, 2)
            logging.disable(disabled)
            os.close(descriptor)
            os.close(nowhere)


def import_tensorflow_quietly() -> None:
    """Imports TensorFlow, if it is installed, without the notes on its own build.

    Keras imports it on every backend as soon as it seeds or saves, and TensorFlow 2.21 writes those notes to file
    descriptor 2 whatever `TF_CPP_MIN_LOG_LEVEL` says.
    """
    if find_spec("tensorflow") is not None:
        with suppress_output():
            import_module("tensorflow")
