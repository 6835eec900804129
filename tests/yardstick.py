"""The plain PyTorch network of benchmarks/torch_baseline.py, as what ours is compared with on every backend."""

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import nn

from keras_birds.nn.layers import BatchNorm, SymmetricConv2D, SymmetricDepthwiseConv2D

BASELINE = Path(__file__).resolve().parents[1] / "benchmarks" / "torch_baseline.py"


def gratings(number, height, width, channels=1, seed=0):
    """Images in [0, 1], the same in each channel, float32 `[number, height, width, channels]`.

    Unlike those of noise, their features differ from image to image, so that no normalisation blows up rounding.
    """
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:height, :width]
    made = []
    for _ in range(number):
        waves = [np.sin(row * a + column * b + c) for a, b, c in rng.uniform(-1.5, 1.5, (3, 3))]
        made.append(np.clip(rng.uniform(0.2, 0.8) + rng.uniform(0.1, 0.4) * np.sum(waves, axis=0), 0, 1))
    return np.repeat(np.stack(made)[..., None].astype("float32"), channels, axis=-1)


def make_yardstick(num_labels, size, stages=None):
    """PyTorch's network without random layers, for images of `size` by `size`; `stages` in place of its own.

    Its moving averages are near those of real activations: with made-up ones the signal dies in fifty layers.
    """
    spec = importlib.util.spec_from_file_location("torch_baseline", BASELINE)
    baseline = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(baseline)
    torch.manual_seed(0)
    if stages is not None:
        baseline.EfficientNetB0.STAGES = stages
    module = baseline.EfficientNetB0(num_labels, dropout=0.0, drop_path=0.0)
    rng = torch.Generator().manual_seed(1)
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
            norm.weight.uniform_(0.7, 1.3, generator=rng)
            norm.bias.normal_(0, 0.2, generator=rng)
        module.train()(torch.from_numpy(gratings(16, size, size, seed=1)).permute(0, 3, 1, 2))
        for norm in norms:
            norm.running_var += 0.1 * norm.running_var.mean()
            norm.momentum = 0.1
        module.head.weight *= 10
    return module


def copy_weights(module, model):
    """From the yardstick's network to ours, in the order in which both compute."""
    parts = (SymmetricConv2D, SymmetricDepthwiseConv2D, BatchNorm)
    ours = [layer for layer in model.get_layer("efficientnet_b0").layers if isinstance(layer, parts)]
    theirs = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    for layer, part in zip(ours, theirs, strict=True):
        if isinstance(part, nn.BatchNorm2d):
            values = [part.weight, part.bias, part.running_mean, part.running_var]
        else:
            order = (2, 3, 0, 1) if isinstance(layer, SymmetricDepthwiseConv2D) else (2, 3, 1, 0)
            values = [part.weight.permute(order), *([] if part.bias is None else [part.bias])]
        layer.set_weights([x.detach().numpy() for x in values])
    head = module.head
    model.get_layer("logits").set_weights([head.weight.detach().numpy().T, head.bias.detach().numpy()])
