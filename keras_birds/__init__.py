"""keras-birds: wildlife sound recognition on Keras 3.

Importing this package chooses the Keras backend, unless keras is imported already: `KERAS_BACKEND`, else what
`~/.keras/keras.json` names if it isn't `"tensorflow"` (which Keras writes there by itself), else torch. Names load when
first used: importing this imports neither keras nor audio code. `keras.saving.load_model` knows the package's classes
whichever of the two is imported first.
"""

import os
import sys
import warnings
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_birds.config import Config as Config
    from keras_birds.data.catalog import read_catalog as read_catalog
    from keras_birds.data.dataset import Epochs as Epochs
    from keras_birds.data.dataset import MelDataset as MelDataset
    from keras_birds.data.folds import make_split as make_split
    from keras_birds.data.source import OnTheFlySource as OnTheFlySource
    from keras_birds.inference.classifier import load as load
    from keras_birds.labels import LabelSet as LabelSet
    from keras_birds.models.preset import save_preset as save_preset
    from keras_birds.nn.augment import MelMixUp as MelMixUp
    from keras_birds.nn.augment import build_augment as build_augment
    from keras_birds.nn.build import build_model as build_model
    from keras_birds.nn.clip_augmentation import SpecAugment as SpecAugment
    from keras_birds.nn.efficientnet import EfficientNetB0 as EfficientNetB0
    from keras_birds.nn.losses import MaskedBinaryCrossentropy as MaskedBinaryCrossentropy
    from keras_birds.nn.metrics import MaskedMacroAUC as MaskedMacroAUC
    from keras_birds.training.pretrain import pretrain as pretrain
    from keras_birds.training.train import train as train

__version__ = "1.0.0rc1"

_NAMES = {
    "Config": "config",
    "LabelSet": "labels",
    "read_catalog": "data.catalog",
    "make_split": "data.folds",
    "OnTheFlySource": "data.source",
    "Epochs": "data.dataset",
    "MelDataset": "data.dataset",
    "build_augment": "nn.augment",
    "MelMixUp": "nn.augment",
    "SpecAugment": "nn.clip_augmentation",
    "MaskedBinaryCrossentropy": "nn.losses",
    "MaskedMacroAUC": "nn.metrics",
    "EfficientNetB0": "nn.efficientnet",
    "build_model": "nn.build",
    "pretrain": "training.pretrain",
    "train": "training.train",
    "load": "inference.classifier",
    "save_preset": "models.preset",
}

__all__ = [*_NAMES, "__version__"]

_SERIALIZABLE = {
    "nn.augment": ("MelMixUp",),
    "nn.birdnet": ("BirdNetFrontEnd", "ChannelScale"),
    "nn.contrastive": (
        *("BilinearSimilarity", "ContrastiveCrossentropy", "CosineSimilarity", "MatchedViews"),
        "ProjectionHead",
    ),
    "nn.clip_augmentation": ("PitchShift", "SpecAugment", "TimeShift", "TimeStretch", "Volume"),
    "nn.efficientnet": ("EfficientNetB0",),
    "nn.embedding_heads": ("Prototypes",),
    "nn.heads": ("AttentionMean", "FrequencyMean", "Rivalry"),
    "nn.layers": (
        *("BatchNorm", "GlobalMean", "ScaleChannels", "StochasticDepthAdd"),
        *("SymmetricConv2D", "SymmetricDepthwiseConv2D"),
    ),
    "nn.log_mel": ("LogMelSpectrogram",),
    "nn.losses": ("MaskedBinaryCrossentropy", "MixedLoss", "SoftAUC"),
    "nn.metrics": ("MaskedMacroAUC",),
}
"""Classes that a `.keras` file may name, by module."""


class _ClassToImport:
    """Stands in for a class in Keras' registry until a file names it; importing its module puts the class there."""

    def __init__(self, module: str, name: str):
        self._module, self._name = module, name

    def from_config(self, config: dict[str, Any]) -> Any:
        cls = getattr(import_module(f"{__name__}.{self._module}"), self._name)
        return cls.from_config(config)


def _register_classes(keras: ModuleType) -> None:
    registry = keras.saving.get_custom_objects()
    for module, names in _SERIALIZABLE.items():
        for name in names:
            registry.setdefault(f"{__name__}>{name}", _ClassToImport(module, name))


class _KerasFinder:
    """Waits in `sys.meta_path` for keras to be imported, to register the package's classes right after."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "keras":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            _register_classes(module)

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def _backend_of_keras_json() -> str:
    """The backend that a person chose in `keras.json`; empty where none did."""
    import json
    from pathlib import Path

    folder = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    try:
        chosen = json.loads((folder / "keras.json").read_text(encoding="utf-8")).get("backend", "")
    except (OSError, ValueError, AttributeError, RuntimeError):
        return ""
    return "" if chosen == "tensorflow" else str(chosen)


def _attach_to_keras() -> None:
    keras = sys.modules.get("keras")
    backend = os.environ.get("KERAS_BACKEND") or _backend_of_keras_json() or "torch"
    if keras is None:
        sys.meta_path.insert(0, _KerasFinder())
        if sys.platform == "darwin":  # else Keras takes Apple's GPU, on which these models were never tried
            os.environ.setdefault("KERAS_TORCH_DEVICE", "cpu")
    else:
        _register_classes(keras)
        if backend != (running := keras.config.backend()):
            warnings.warn(
                f"keras was imported before keras_birds, on the {running} backend; the default here is {backend}. "
                "Import keras_birds first, or set KERAS_BACKEND to choose.",
                stacklevel=3,
            )
        backend = running
    # Processes that this one starts take the same.
    os.environ["KERAS_BACKEND"] = backend


_attach_to_keras()


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'keras_birds' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
