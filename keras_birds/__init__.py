"""keras-birds: wildlife sound recognition on Keras 3.

Importing this package chooses the Keras backend: `KERAS_BACKEND`, or torch when it is unset.
Names are loaded when first used, so that `import keras_birds` imports neither keras nor audio code.
"""

import os
import sys
import warnings
from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_NAMES = {
    "Config": "keras_birds.config",
    "LabelSet": "keras_birds.labels",
    "MelDataset": "keras_birds.data.dataset",
    "MelMixUp": "keras_birds.nn.augment",
    "SpecAugment": "keras_birds.nn.augment",
    "MaskedBinaryCrossentropy": "keras_birds.nn.losses",
    "MaskedMacroAUC": "keras_birds.nn.metrics",
    "EfficientNetB0": "keras_birds.nn.efficientnet",
    "build_model": "keras_birds.nn.build",
    "train": "keras_birds.training.train",
    "load": "keras_birds.inference.classifier",
}

__all__ = [*_NAMES, "__version__"]


def _choose_backend() -> None:
    if os.environ.get("KERAS_BACKEND"):
        return
    keras = sys.modules.get("keras")
    if keras is None:
        os.environ["KERAS_BACKEND"] = "torch"
    elif keras.config.backend() != "torch":
        warnings.warn(
            f"keras was imported before keras_birds on the {keras.config.backend()} backend; torch is the "
            "default here. Import keras_birds first or set KERAS_BACKEND to choose.",
            stacklevel=3,
        )


_choose_backend()


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'keras_birds' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
