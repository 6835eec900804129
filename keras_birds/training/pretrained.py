"""ImageNet weights for the mono network, from a keras-hub preset, whose two files are read without keras-hub.

keras-hub's `efficientnet_b0_ra_imagenet` is timm's `efficientnet_b0.ra_in1k` (Apache-2.0) converted, with
symmetric padding and batch norm epsilon 1e-5: with equal weights it computes what `EfficientNetB0` does.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from keras_birds.deadline import REACH_S, within
from keras_birds.errors import ConfigError, ModelError, detail_of
from keras_birds.nn.efficientnet import STAGES, EfficientNetB0
from keras_birds.packages import require_packages
from keras_birds.suppress_output import suppress_output

IMAGENET = "kaggle://keras/efficientnet/keras/efficientnet_b0_ra_imagenet/2"

_FILES = ("config.json", "model.weights.h5")
_REMEDY = "Train from scratch with --set model.pretrained=none, or pass a preset: --set model.pretrained=DIR"

# A layer of each kind in Keras' weight files: the class it is of, and its variables in their order there.
_KINDS = {
    "conv2d": (keras.layers.Conv2D, ("kernel", "bias")),
    "depthwise_conv2d": (keras.layers.DepthwiseConv2D, ("kernel",)),
    "batch_normalization": (
        keras.layers.BatchNormalization,
        ("gamma", "beta", "moving_mean", "moving_variance"),
    ),
}
# What keras-hub takes for settings that an older preset doesn't name.
_DEFAULTS = {
    "activation": "swish",
    "projection_activation": None,
    "batch_norm_epsilon": 1e-5,
    "include_stem_padding": True,
    "stem_conv_padding": "valid",
}


@dataclass(frozen=True)
class PretrainedWeights:
    """Weights of a keras-hub EfficientNet-B0, read and checked.

    `arrays` are float32 by `"layer/variable"` of `EfficientNetB0`; the stem kernel is `[3, 3, 3 (RGB), 32]`.
    """

    preset: str
    arrays: dict[str, np.ndarray] = field(repr=False)

    def apply(self, model: keras.Model) -> None:
        """Copies the weights into an `EfficientNetB0`, or into the one inside `model`.

        The stem's kernels are summed over RGB, so that a mono image gives what the same image gives thrice.

        Raises:
            ModelError: if `model` holds no `EfficientNetB0`, or names or shapes differ: nothing is copied.
        """
        backbone = next((x for x in (model, *model.layers) if isinstance(x, EfficientNetB0)), None)
        if backbone is None:
            raise ModelError(
                f"Pretrained weights need a model that contains EfficientNetB0. Received: {model.name}"
            )
        for variable, array in _match(backbone, self.arrays, self.preset):
            variable.assign(array)


def fetch_pretrained(preset: str) -> PretrainedWeights:
    """Finds or downloads a preset, reads its weights and checks that they fit `EfficientNetB0`.

    Args:
        preset: `"imagenet"`, a handle (`kaggle://ORG/MODEL/keras/VARIANT[/VERSION]`, `hf://ORG/MODEL`) or the
            folder of a keras-hub preset, as `backbone.save_to_preset` writes it.

    Raises:
        ConfigError: if `preset` is neither a handle nor a folder, or the package that fetches it isn't installed.
        ModelError: if it can't be fetched, can't be read or is another network.
    """
    folder, network = _folder(preset), EfficientNetB0()
    arrays = _read(folder, preset, network)
    _match(network, arrays, preset)
    return PretrainedWeights(preset, arrays)


def _folder(preset: str) -> Path:
    handle = IMAGENET if preset == "imagenet" else preset
    scheme, separator, name = handle.partition("://")
    if not separator:
        path = Path(preset).expanduser()
        if not path.is_dir():
            raise ConfigError(
                "model.pretrained must be imagenet, none, a kaggle:// or hf:// handle, or the folder of a "
                f"keras-hub preset. Received: {preset}. Check the path, or pass --set model.pretrained=none"
            )
        return path
    if scheme not in ("kaggle", "hf"):
        raise ConfigError(f"model.pretrained must be of kaggle:// or hf://. Received: {preset}. {_REMEDY}")
    if scheme == "hf":
        require_packages(f"model.pretrained = {preset}", "remote", ["huggingface_hub"])
    try:
        with suppress_output():
            return _download(scheme, name)
    # The two clients raise some twenty unrelated classes for one thing: the files did not come.
    except Exception as error:
        received = preset if preset == handle else f"{preset} ({handle})"
        raise ModelError(
            f"Pretrained weights must be in the cache or within reach of the network. Received: {received}, "
            f"which can't be fetched: {_why(error)}. {_REMEDY}"
        ) from None


def _download(scheme: str, handle: str) -> Path:
    if scheme == "kaggle":
        import kagglehub  # type: ignore[import-untyped]

        within(REACH_S, lambda: kagglehub.model_download(handle, _FILES[0]))
        return Path(kagglehub.model_download(handle, _FILES[1])).parent
    from huggingface_hub import snapshot_download

    within(REACH_S, lambda: snapshot_download(handle, allow_patterns=[_FILES[0]]))
    return Path(snapshot_download(handle, allow_patterns=list(_FILES)))


def _why(error: Exception) -> str:
    """The first line of what it says."""
    unreachable = {"ConnectionError", "ConnectError", "LocalEntryNotFoundError", "OfflineModeIsEnabled"}
    if unreachable & {kind.__name__ for kind in type(error).__mro__}:
        return "no network, or the host can't be reached"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0][:200] if lines else type(error).__name__).rstrip(".:")


def _read(folder: Path, preset: str, network: EfficientNetB0) -> dict[str, np.ndarray]:
    """Arrays of a preset's folder, by `layer/variable` of the network; what it has no place for, by their names."""
    if not (folder / _FILES[0]).is_file():
        raise ModelError(
            f"A keras-hub preset must hold {_FILES[0]}. Received: {preset}, without it. "
            "Write a preset with backbone.save_to_preset(DIR)"
        )
    try:
        described = json.loads((folder / _FILES[0]).read_text("utf-8"))
        if described["class_name"] != "EfficientNetBackbone":
            raise ValueError(f"its class is {described['class_name']}, not EfficientNetBackbone")
        settings = _DEFAULTS | described["config"]
        compared = _arithmetic(settings, network)
        with h5py.File(folder / _FILES[1]) as file:
            found = _arrays(file)
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ModelError(
            "model.pretrained must be a complete keras-hub preset of EfficientNet-B0. "
            f"Received: {preset} in {folder} ({detail_of(error)}). {_REMEDY}"
        ) from None
    if wrong := [f"{key} {got}, not {needed}" for key, (got, needed) in compared.items() if got != needed]:
        raise ModelError(
            "Pretrained weights must be of EfficientNet-B0 as timm computes it. "
            f"Received: {preset}, which has {'; '.join(wrong)}. {_REMEDY}"
        )
    ours = _names_there(network)
    return {ours.get(name, name): array for name, array in found.items()}


def _arrays(file: h5py.File) -> dict[str, np.ndarray]:
    """What a weights file of Keras holds, by `layer/variable` in its names: a layer's is its kind and a number."""
    layers = file["layers"] if "layers" in file else file["_layer_checkpoint_dependencies"]
    found = {}
    for layer, group in layers.items():
        _, names = _KINDS.get(layer.rstrip("_0123456789"), (None, ()))
        for index, values in group.get("vars", {}).items():
            variable = names[int(index)] if int(index) < len(names) else index
            found[f"{layer}/{variable}"] = np.asarray(values, np.float32)
    return found


def _names_there(network: EfficientNetB0) -> dict[str, str]:
    """`layer/variable` of Keras' weights file -> of the network. Layers of a kind are counted from input to output."""
    counts, names = dict.fromkeys(_KINDS, 0), dict[str, str]()
    for layer in network.layers:
        for kind, (cls, _) in _KINDS.items():
            if isinstance(layer, cls):
                there = f"{kind}_{counts[kind]}" if counts[kind] else kind
                names |= {f"{there}/{x.name}": f"{layer.name}/{x.name}" for x in layer.weights}
                counts[kind] += 1
    return names


def _arithmetic(settings: dict[str, Any], network: EfficientNetB0) -> dict[str, tuple[Any, Any]]:
    """What names and shapes of weights don't show: what the preset has, and what the network needs."""
    activation = keras.activations.get(settings["activation"])
    padded = settings["include_stem_padding"] and settings["stem_conv_padding"] == "valid"
    return {
        "strides": (list(settings["stackwise_strides"]), [stage.stride for stage in STAGES]),
        "block types": (sorted(set(settings["stackwise_block_types"])), ["v1"]),
        "activation": ("silu" if activation is keras.activations.silu else settings["activation"], "silu"),
        "projection activation": (settings["projection_activation"], None),
        "batch norm epsilon": (settings["batch_norm_epsilon"], network.get_layer("stem_bn").epsilon),
        "stem padding": ("symmetric" if padded else "another", "symmetric"),
    }


def _match(
    backbone: EfficientNetB0, arrays: dict[str, np.ndarray], preset: str
) -> list[tuple[Any, np.ndarray]]:
    """Pairs each variable of the network with its array, by name."""
    variables = {f"{y.name}/{x.name}": x for y in backbone.layers for x in y.weights}
    arrays = dict(arrays)
    if (stem := arrays.get("stem_conv/kernel")) is not None:
        arrays["stem_conv/kernel"] = stem.sum(axis=2, keepdims=True)
    shapes = {x: (arrays[x].shape, tuple(variables[x].shape)) for x in variables if x in arrays}
    problems = {
        "missing there": [x for x in variables if x not in arrays],
        "left over there": [x for x in arrays if x not in variables],
        "of another shape": [
            f"{x} {got} for {needed}" for x, (got, needed) in shapes.items() if got != needed
        ],
    }
    found = [
        f"{len(x)} {what}: {', '.join(x[:4])}{', ...' * (len(x) > 4)}" for what, x in problems.items() if x
    ]
    if found:
        raise ModelError(
            f"Pretrained weights must be those of EfficientNet-B0, name by name. Received: {preset}, "
            f"{'; '.join(found)}. {_REMEDY}"
        )
    return [(variables[x], arrays[x]) for x in shapes]
