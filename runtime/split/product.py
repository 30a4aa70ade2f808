"""Products with a parameter: linear, addmm, matmul, mm and bmm.

Each operation's autograd function returns the input's gradient and keeps `(x, g)`. The weight's
gradient, `g^T x` for `y = x W^T`, is one product that W adds into `.grad` in place: the split of
"Zero Bubble Pipeline Parallelism" (Qi et al. 2023), section 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function
from torch.nn import functional

from .autocast import autocast_dtype, cast
from .internals import autocast_active, direct_apply
from .leaf import Bias, Target
from .record import Formula
from .scope import Scope


def linear(scope: Scope, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    """`F.linear`: input (..., k), weight (n, k), bias (n) or None."""
    target = scope.targets.get(id(weight))
    return NotImplemented if target is None else _affine(scope, input, target, bias)


def addmm(scope: Scope, *operands: Tensor, beta: Any = 1, alpha: Any = 1, **named: Any) -> Any:
    """`bias + x @ V` with the parameter V (k, n), x (m, k) and a bias (n)."""
    if named or len(operands) != 3 or beta != 1 or alpha != 1:
        return NotImplemented
    bias, x, weight = operands
    target = scope.targets.get(id(weight))
    if target is None or x.dim() != 2:
        return NotImplemented
    return _affine(scope, x, target.transposed(), bias)


def matmul(scope: Scope, *operands: Tensor, **named: Any) -> Any:
    """`matmul`, `mm`, `bmm` with the parameter on either side, where neither side broadcasts."""
    if named or len(operands) != 2:
        return NotImplemented
    left, right = operands
    target = scope.targets.get(id(right))
    if target is None:
        target = scope.targets.get(id(left))
        return NotImplemented if target is None else _product(scope, right, target, _LEFT)
    if target.alias.dim() == 2 and left.dim() > 1:
        return _affine(scope, left, target.transposed(), None)
    return _product(scope, left, target, _RIGHT)


def _affine(scope: Scope, x: Tensor, target: Target, bias: Tensor | None) -> Any:
    if type(x) not in scope.ordinary or x.layout is not torch.strided:
        return NotImplemented
    if bias is not None and bias.dim() != 1:
        return NotImplemented
    weight, hidden, owed = target.alias, None, scope.owed.get(id(bias))
    if owed is not None:
        hidden, bias = bias, None
    if autocast_active() and (dtype := autocast_dtype(x)) is not None:
        x, weight = cast(x, dtype), target.cast(dtype)
        bias = None if bias is None else cast(bias, dtype)
        hidden = None if hidden is None else cast(hidden.detach(), dtype)
    anchor = None if x.requires_grad else target.leaf.anchor
    return _apply_affine(x, bias, anchor, (weight, hidden), (scope.record, target, owed))


class _Affine(Function):
    """y = x W^T + b, with W hidden from autograd, and b too if its gradient can wait for W.

    What is hidden in a tuple has no edge in the graph: an edge that returned None would run the
    parameter's hooks with None. `anchor`, given when x needs no gradient, makes y need one.
    """

    @staticmethod
    def forward(ctx: Any, x: Any, bias: Any, anchor: Any, operands: Any, debt: Any) -> Tensor:
        weight, hidden = operands
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight)
        ctx.debt = debt
        y = functional.linear(x, weight, hidden if bias is None else bias)
        return y.detach() if y._is_view() else y  # a view made here could not be changed in place

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> Any:
        if g is None:
            return None, None, None, None, None
        x, weight = ctx.saved_tensors
        record, target, owed = ctx.debt
        needs = ctx.needs_input_grad
        rows = g if g.dim() == 2 else g.reshape(-1, weight.shape[0])
        record.defer(OUTER, target, x, rows.t(), None, owed)
        dx = rows.mm(weight) if needs[0] else None
        if dx is not None and rows is not g:
            dx = dx.view_as(x)
        return dx, rows.sum(0) if needs[1] else None, None, None, None


def _product(scope: Scope, x: Tensor, target: Target, apply: Callable[..., Tensor]) -> Any:
    """A product without folding or broadcasting: 2 by 2 or 3 by 3 dimensions."""
    weight = target.alias
    if type(x) not in scope.ordinary or x.layout is not torch.strided:
        return NotImplemented
    batches = weight.shape[:-2]
    if len(batches) > 1 or x.dim() != weight.dim() or x.shape[:-2] != batches:
        return NotImplemented
    dtype = autocast_dtype(x)
    if dtype is not None:
        x, weight = cast(x, dtype), target.cast(dtype)
    anchor = None if x.requires_grad else target.leaf.anchor
    return apply(x, anchor, (weight,), (scope.record, target))


class _Right(Function):
    """y = x V, with V (k, n) or (e, k, n) hidden from autograd; for `anchor` see _Affine."""

    @staticmethod
    def forward(ctx: Any, x: Any, anchor: Any, operands: Any, debt: Any) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, operands[0])
        ctx.debt = debt
        return torch.matmul(x, operands[0])

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> Any:
        if g is None:
            return None, None, None, None
        x, weight = ctx.saved_tensors
        record, target = ctx.debt
        record.defer(PRODUCT, target, x.mT, g)
        return g.matmul(weight.mT) if ctx.needs_input_grad[0] else None, None, None, None


class _Left(Function):
    """y = V x, with V (m, k) or (e, m, k) hidden from autograd; for `anchor` see _Affine."""

    @staticmethod
    def forward(ctx: Any, x: Any, anchor: Any, operands: Any, debt: Any) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, operands[0])
        ctx.debt = debt
        return torch.matmul(operands[0], x)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> Any:
        if g is None:
            return None, None, None, None
        x, weight = ctx.saved_tensors
        record, target = ctx.debt
        record.defer(PRODUCT, target, g, x.mT)
        return weight.mT.matmul(g) if ctx.needs_input_grad[0] else None, None, None, None


_apply_affine, _RIGHT, _LEFT = direct_apply(_Affine), direct_apply(_Right), direct_apply(_Left)


def _new_outer(x: Tensor, columns: Tensor, _: None) -> Tensor:
    return torch.mm(columns, x if x.dim() == 2 else x.reshape(-1, x.shape[-1]))


def _add_outer(gradient: Tensor, x: Tensor, columns: Tensor, _: None) -> object:
    if gradient.dtype != x.dtype:  # autocast: the product in its type, one addition in ours
        return gradient.add_(_new_outer(x, columns, None))
    return gradient.addmm_(columns, x if x.dim() == 2 else x.reshape(-1, x.shape[-1]))


def _new_bias(columns: Tensor) -> Tensor:
    return columns.sum(1)


def _add_bias(gradient: Tensor, columns: Tensor, bias: Bias) -> object:
    if gradient.dtype != columns.dtype or gradient.dtype not in (torch.float32, torch.float64):
        return gradient.add_(columns.sum(1))
    return gradient.addmv_(columns, bias.ones(columns))  # half the time of a sum and an addition


def _new_product(left: Tensor, right: Tensor, _: None) -> Tensor:
    return torch.matmul(left, right)


def _add_product(gradient: Tensor, left: Tensor, right: Tensor, _: None) -> object:
    if gradient.dtype != left.dtype:
        return gradient.add_(torch.matmul(left, right))
    return gradient.addmm_(left, right) if gradient.dim() == 2 else gradient.baddbmm_(left, right)


OUTER = Formula(_new_outer, _add_outer, _new_bias, _add_bias)  # g comes as its columns, g^T
PRODUCT = Formula(_new_product, _add_product)
