"""What the split knows of each parameter, and where a deferred gradient goes."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch import Tensor, nn

Step = Callable[[Tensor], Tensor]


class Leaf:
    """One parameter: its detached alias, and whether its gradient may wait for W.

    `alias` shares the parameter's memory and version counter and needs no gradient; the covered
    operations compute with it. `mixed` is set once an operation that is not covered reads the
    parameter while it has hooks; `seen`, once a whole forward has watched for that.
    """

    __slots__ = ("alias", "anchor", "mixed", "parameter", "pointer", "seen", "whole")

    def __init__(self, parameter: nn.Parameter) -> None:
        self.parameter = parameter
        self.mixed = False
        self.seen = False
        self.renew()

    def renew(self) -> None:
        """Makes the alias anew: at load, and after `parameter.data = ...` moved the parameter."""
        self.pointer = self.parameter.data_ptr()
        self.alias = self.parameter.detach()
        self.anchor = self.alias.new_empty(0).requires_grad_()
        self.whole = Target(self, self.alias, ())


class Bias:
    """A bias whose gradient may be deferred together with its weight's."""

    __slots__ = ("_ones", "parameter")

    def __init__(self, parameter: nn.Parameter) -> None:
        self.parameter = parameter
        self._ones = parameter.new_ones(0)

    def ones(self, columns: Tensor) -> Tensor:
        """A vector of ones to sum columns (n, m) with; kept, since m seldom changes."""
        ones = self._ones
        same = ones.shape[0] == columns.shape[1] and ones.dtype == columns.dtype
        if not same or ones.device != columns.device:
            ones = self._ones = columns.new_ones(columns.shape[1])
        return ones


class Target:
    """A parameter or a view of one, such as `p.t()` or `p[2]`: where a deferred gradient goes."""

    __slots__ = ("_cast", "_cast_version", "_transposed", "alias", "leaf", "steps", "tensor")

    def __init__(
        self, leaf: Leaf, alias: Tensor, steps: tuple[Step, ...], tensor: Tensor | None = None
    ) -> None:
        self.leaf = leaf
        self.alias = alias
        self.steps = steps
        self.tensor = tensor  # kept, so that nothing else gets its identity
        self._cast: weakref.ref[Tensor] | None = None
        self._cast_version = -1
        self._transposed: Target | None = None

    def of(self, gradient: Tensor) -> Tensor:
        """The part of the parameter's gradient that belongs to this view."""
        for step in self.steps:
            gradient = step(gradient)
        return gradient

    def then(self, step: Step, tensor: Tensor | None = None) -> Target:
        """The target of a view of this view; `tensor` is what the user's code holds of it."""
        return Target(self.leaf, step(self.alias), (*self.steps, step), tensor)

    def transposed(self) -> Target:
        """The target of `view.mT`, made once."""
        if self._transposed is None:
            self._transposed = self.then(_transpose)
        return self._transposed

    def cast(self, dtype: torch.dtype) -> Tensor:
        """The alias in `dtype`; microbatches in flight share one, as in autocast's own cache."""
        if self.alias.dtype in (dtype, torch.float64):
            return self.alias
        kept = None if self._cast is None else self._cast()
        if kept is not None and kept.dtype == dtype and self._cast_version == self.alias._version:
            return kept
        made = self.alias.to(dtype)
        self._cast, self._cast_version = weakref.ref(made), self.alias._version
        return made


def hooked(parameter: Tensor) -> bool:
    """Whether somebody listens to this parameter's gradient: tensor or post-accumulate hooks."""
    return bool(parameter._backward_hooks or parameter._post_accumulate_grad_hooks)


def _transpose(matrix: Tensor) -> Tensor:
    return matrix.mT
