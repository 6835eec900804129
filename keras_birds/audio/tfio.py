"""Decodes OGG through tensorflow-io, for parity with pipelines built on it (`audio.decoder = "tfio"`)."""

from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np

from keras_birds.errors import AudioError, ConfigError

_NEEDS = (
    "the tfio decoder needs its own environment with tensorflow 2.16.2, tensorflow-io 0.37.1, numpy 1.26, "
    "tensorflow-text 2.16.1, keras-hub 0.31 and keras 3.15.1: "
    "pip install -c constraints-tfio.txt 'keras-birds[tfio]'"
)


def _load() -> ModuleType:
    try:
        module = import_module("tensorflow_io")
        # The compiled part loads at its first use: beside another TensorFlow the import alone succeeds.
        _ = import_module("tensorflow_io.python.ops").core_ops.io_audio_readable_init
    except Exception as error:
        detail = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(f"{_NEEDS}. Received: {detail[0]}") from None
    return module


def read(path: Path) -> tuple[np.ndarray, int]:
    """Decodes an OGG file.

    Returns:
        Mono float32 `[n]` (the mean over channels) and its rate in Hz.

    Raises:
        AudioError: if tensorflow-io can't read the file.
        ConfigError: if tensorflow-io can't be loaded; it names the versions that work together.
    """
    module = _load()
    try:
        tensor = module.audio.AudioIOTensor(str(path), dtype=None)
        samples = tensor.to_tensor().numpy()
        rate_hz = int(tensor.rate)
    except Exception as error:
        detail = str(error).strip().splitlines() or [type(error).__name__]
        raise AudioError(path, f"tensorflow-io can't read it ({detail[0]})", "corrupt") from None
    if np.issubdtype(samples.dtype, np.integer):
        samples = samples / np.float32(np.iinfo(samples.dtype).max + 1)
    return samples.mean(axis=1, dtype=np.float32), rate_hz
