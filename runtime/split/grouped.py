"""Grouped matrix products: one weight per expert, tokens sorted by expert."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function
from torch.nn import functional

from .autocast import autocast_dtype
from .internals import direct_apply
from .record import Formula
from .scope import Scope


def grouped_mm(
    scope: Scope,
    mat_a: Tensor,
    mat_b: Tensor,
    *,
    offs: Tensor | None = None,
    bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Any:
    """`F.grouped_mm`: tokens mat_a (t, k), experts mat_b (e, k, n), offs (e) the groups' ends.

    Not covered: a bias, another output type, autocast, and the forms without `offs`.
    """
    target = scope.targets.get(id(mat_b))
    if target is None or offs is None or bias is not None or out_dtype is not None:
        return NotImplemented
    if mat_a.dim() != 2 or type(mat_a) not in scope.ordinary or autocast_dtype(mat_a) is not None:
        return NotImplemented
    anchor = None if mat_a.requires_grad else target.leaf.anchor
    return _apply(mat_a, anchor, (target.alias, offs), (scope.record, target))


class _Grouped(Function):
    """y[group] = x[group] V[group], with V hidden from autograd; anchor as in `product._Affine`."""

    @staticmethod
    def forward(ctx: Any, x: Any, anchor: Any, operands: Any, debt: Any) -> Tensor:
        weight, ends = operands
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, ends)
        ctx.debt = debt
        return functional.grouped_mm(x, weight, offs=ends)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> Any:
        if g is None:
            return None, None, None, None
        x, weight, ends = ctx.saved_tensors
        record, target = ctx.debt
        record.defer(GROUPED, target, x, g, ends)
        dx = functional.grouped_mm(g, weight.mT, offs=ends) if ctx.needs_input_grad[0] else None
        return dx, None, None, None


_apply = direct_apply(_Grouped)


def _new_grouped(x: Tensor, g: Tensor, ends: Tensor) -> Tensor:
    return functional.grouped_mm(x.t(), g, offs=ends)


def _add_grouped(gradient: Tensor, x: Tensor, g: Tensor, ends: Tensor) -> object:
    return gradient.add_(_new_grouped(x, g, ends))


GROUPED = Formula(_new_grouped, _add_grouped)
