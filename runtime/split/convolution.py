"""Convolutions in one, two and three dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import Function

from .autocast import autocast_dtype, cast
from .internals import direct_apply
from .leaf import Bias
from .record import Formula
from .scope import Scope

Ints = int | Sequence[int]


class _Geometry(NamedTuple):
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    kernel: torch.Size


def convolution(
    scope: Scope,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: str | Ints = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Any:
    """`F.conv1d`, `conv2d`, `conv3d`: input (batch, channels, ...), weight (out, in / groups, ...).

    Not covered: an input without a batch dimension, and "same" padding that differs between sides.
    """
    target = scope.targets.get(id(weight))
    if target is None or type(input) not in scope.ordinary or input.dim() != target.alias.dim():
        return NotImplemented
    kernel = target.alias.shape
    dims = len(kernel) - 2
    wide = _ints(dilation, dims)
    pad = _padding(padding, wide, kernel)
    if pad is None:
        return NotImplemented
    geometry = _Geometry(_ints(stride, dims), pad, wide, groups, kernel)
    weight, hidden, owed = target.alias, None, scope.owed.get(id(bias))
    if owed is not None:
        hidden, bias = bias, None
    dtype = autocast_dtype(input)
    if dtype is not None:
        input, weight = cast(input, dtype), target.cast(dtype)
        bias = None if bias is None else cast(bias, dtype)
        hidden = None if hidden is None else cast(hidden.detach(), dtype)
    anchor = None if input.requires_grad else target.leaf.anchor
    return _apply(input, bias, anchor, (weight, hidden), (scope.record, target, owed, geometry))


class _Convolution(Function):
    """y = W * x + b; the arguments as in `product._Affine`."""

    @staticmethod
    def forward(ctx: Any, x: Any, bias: Any, anchor: Any, operands: Any, debt: Any) -> Tensor:
        weight, hidden = operands
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight)
        ctx.debt = debt
        convolve = _FORWARD[weight.dim() - 3]
        y: Tensor = convolve(x, weight, hidden if bias is None else bias, *debt[3][:4])
        return y.detach() if y._is_view() else y

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> Any:
        if g is None:
            return None, None, None, None, None
        x, weight = ctx.saved_tensors
        record, target, owed, geometry = ctx.debt
        record.defer(KERNEL, target, x, g, geometry, owed)
        needs = ctx.needs_input_grad
        dx = _gradients(x, g, weight, geometry, [True, False, False])[0] if needs[0] else None
        return dx, _new_bias(g) if needs[1] else None, None, None, None


_apply = direct_apply(_Convolution)
_FORWARD: tuple[Callable[..., Tensor], ...] = (torch.conv1d, torch.conv2d, torch.conv3d)


def _ints(value: Ints, count: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * count
    return tuple(value) * count if len(value) == 1 else tuple(value)


def _padding(
    padding: str | Ints, dilation: tuple[int, ...], kernel: torch.Size
) -> tuple[int, ...] | None:
    """Padding as numbers; None for one that is not the same on both sides."""
    if not isinstance(padding, str):
        return _ints(padding, len(dilation))
    if padding == "valid":
        return (0,) * len(dilation)
    totals = [wide * (size - 1) for wide, size in zip(dilation, kernel[2:], strict=True)]
    return None if any(total % 2 for total in totals) else tuple(total // 2 for total in totals)


def _gradients(
    x: Tensor, g: Tensor, weight: Tensor, geometry: _Geometry, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients (x, weight, bias) that are `wanted`, from torch's own formula."""
    stride, padding, dilation, groups, _ = geometry
    straight = [0] * len(stride)
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        g, x, weight, None, stride, padding, dilation, False, straight, groups, wanted
    )
    return found


def _new_kernel(x: Tensor, g: Tensor, geometry: _Geometry) -> Tensor:
    shape_only = x.new_empty(1).expand(geometry.kernel)
    return _gradients(x, g, shape_only, geometry, [False, True, False])[1]


def _add_kernel(gradient: Tensor, x: Tensor, g: Tensor, geometry: _Geometry) -> object:
    return gradient.add_(_new_kernel(x, g, geometry))


def _new_bias(g: Tensor) -> Tensor:
    return g.sum((0, *range(2, g.dim())))


def _add_bias(gradient: Tensor, g: Tensor, _: Bias) -> object:
    return gradient.add_(_new_bias(g))


KERNEL = Formula(_new_kernel, _add_kernel, _new_bias, _add_bias)
