"""Steps of torch's autograd that spare large buffers on the CPU. Imported on the torch backend only."""

from typing import Any

import torch
from torch.nn import functional

# Below, what is saved isn't worth the additional arithmetic.
_LEAST_ELEMENTS = 1 << 20
# 512 kB of float32: a chunk and its gradient stay in a core's cache.
_CHUNK_ELEMENTS = 1 << 17


def saves_memory(x: torch.Tensor) -> bool:
    """Whether the functions below suit these inputs `[batch, channels, height, width]`."""
    # `requires_grad` first: an exported graph, without gradients, would be bound to some batch sizes by the size.
    return (
        x.requires_grad
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() >= _LEAST_ELEMENTS
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def batch_norm_silu(
    x: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """SiLU of batch-normalised `x`, equal to the two calls of `torch.nn.functional`.

    Between forward and backward pass only `x` is kept, a third of the memory less: the normalised values are
    computed again, chunk by chunk, and one buffer takes the gradient through both functions.

    Args:
        x: float32 `[batch, channels, height, width]` in channels-last order.
        scale, offset: `[channels]`.
        epsilon: added to the variance.

    Returns:
        The activations, the batch's mean `[channels]` and its biased variance `[channels]`.
    """
    outputs, mean, inverse_std = _BatchNormSilu.apply(x, scale, offset, epsilon)
    return outputs, mean, inverse_std.pow(-2) - epsilon


class _BatchNormSilu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor, epsilon: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        outputs, mean, inverse_std = torch.native_batch_norm(x, scale, offset, None, None, True, 0.0, epsilon)
        ctx.save_for_backward(x, scale, offset, mean, inverse_std)
        ctx.epsilon = epsilon
        ctx.mark_non_differentiable(mean, inverse_std)
        return functional.silu(outputs, inplace=True), mean, inverse_std

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
        x, scale, offset, mean, inverse_std = ctx.saved_tensors
        slope = scale * inverse_std
        shift = offset - mean * slope
        grad = grad.contiguous(memory_format=torch.channels_last)
        inner = torch.empty_like(x)
        rows = max(1, _CHUNK_ELEMENTS // x.shape[1])
        chunks = list(zip(*(_rows(t).split(rows) for t in (x, grad, inner)), strict=True))
        scratch = torch.empty_like(chunks[0][0])
        # Through SiLU, and the sums over the batch that normalisation's own gradient needs.
        total, total_x = (torch.zeros_like(mean, dtype=torch.float64) for _ in range(2))
        for x_rows, grad_rows, inner_rows in chunks:
            part = scratch[: len(x_rows)]
            torch.addcmul(shift, x_rows, slope, out=part)
            torch.ops.aten.silu_backward.grad_input(grad_rows, part, grad_input=inner_rows)
            total += inner_rows.sum(0)
            total_x += torch.mul(inner_rows, x_rows, out=part).sum(0)
        grad_offset = total.to(mean.dtype)
        grad_scale = ((total_x - mean * total) * inverse_std).to(mean.dtype)
        # Through normalisation, in place: another buffer of this size would cost more than the arithmetic.
        count = x.numel() // x.shape[1]
        by_x = -slope * inverse_std * grad_scale / count
        constant = -slope * grad_offset / count - by_x * mean
        for x_rows, _, inner_rows in chunks:
            part = torch.addcmul(constant, x_rows, by_x, out=scratch[: len(x_rows)])
            torch.addcmul(part, inner_rows, slope, out=inner_rows)
        return inner, grad_scale, grad_offset, None


def scale_channels(x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """`x * gate`, `x` as above and `gate` `[batch, channels, 1, 1]`; backward without a product as large as `x`."""
    scaled: torch.Tensor = _ScaleChannels.apply(x, gate)
    return scaled


class _ScaleChannels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, gate)
        return x * gate

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, gate = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        batch, channels = x.shape[:2]
        x_clips, grad_clips = (_rows(t).view(batch, -1, channels) for t in (x, grad))
        product = torch.empty_like(x_clips[0])
        sums = torch.stack(
            [torch.mul(a, b, out=product).sum(0) for a, b in zip(x_clips, grad_clips, strict=True)]
        )
        return grad * gate, sums.view_as(gate)


def _rows(x: torch.Tensor) -> torch.Tensor:
    """`[batch, channels, height, width]` in channels-last order as `[batch * height * width, channels]`, a view."""
    return x.permute(0, 2, 3, 1).view(-1, x.shape[1])
