"""Decodes OGG through tensorflow-io, for parity with pipelines built on it (`audio.decoder = "tfio"`)."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np

from keras_birds.audio.reader import SHORTFALL_S, check_file, check_length, layout_problem
from keras_birds.audio.remote import is_url
from keras_birds.errors import AudioError, ConfigError

_NEEDS = (
    "the tfio decoder needs its own environment with tensorflow 2.16.2, tensorflow-io 0.37.1, numpy 1.26 and "
    "keras 3.15.1: pip install -c constraints-tfio.txt 'keras-birds[tfio]'"
)


def _load() -> ModuleType:
    try:
        module = import_module("tensorflow_io")
        # The compiled part loads at its first use: beside another TensorFlow the import alone succeeds.
        _ = import_module("tensorflow_io.python.ops").core_ops.io_audio_readable_init
    except Exception as error:
        raise ConfigError(f"{_NEEDS}. Received: {_first_line(error)}") from None
    return module


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class TfioReader:
    """A local OGG, held in memory, with what `open_stream` needs of a `Reader`: the mean over channels.

    Raises an `AudioError` if tensorflow-io can't read it, a `ConfigError` if that can't be loaded.
    """

    channels, shortfall_s = 1, SHORTFALL_S

    def __init__(self, name: str | Path):
        self.name = check_file(name)
        if is_url(self.name):
            raise AudioError(name, "the decoder tfio reads local files only", "unreadable")
        audio = _load().audio
        try:
            tensor = audio.AudioIOTensor(str(name), dtype=None)
            samples, self.rate_hz = tensor.to_tensor().numpy(), int(tensor.rate)
        except Exception as error:
            raise AudioError(name, f"tensorflow-io can't read it ({_first_line(error)})", "corrupt") from None
        if np.issubdtype(samples.dtype, np.integer):
            samples = samples / np.float32(np.iinfo(samples.dtype).max + 1)
        self._samples = samples.mean(axis=1, dtype=np.float32, keepdims=True)
        check_length(name, len(samples), self.rate_hz)
        self.seconds_promised = len(samples) / self.rate_hz
        self.problem = layout_problem(name)

    def blocks(self) -> Iterator[np.ndarray]:
        """All frames, float32 `[n, 1]`."""
        yield self._samples
