"""The deferred weight work of one microbatch: written in B, executed in W."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .errors import SplitError
from .internals import engine_backward
from .leaf import Bias, Leaf, Target


class Formula(NamedTuple):
    """How one kind of operation turns its kept `(x, g, extra)` into gradients."""

    new: Callable[[Tensor, Tensor, Any], Tensor]
    """A fresh weight gradient, in the shape of the target."""
    add: Callable[[Tensor, Tensor, Tensor, Any], object]
    """Adds the weight gradient into its first argument in place; fused, where that exists."""
    new_bias: Callable[[Tensor], Tensor] | None = None
    """A fresh gradient of the bias, from g alone; None for operations without a bias."""
    add_bias: Callable[[Tensor, Tensor, Bias], object] | None = None
    """Adds the bias's gradient into its first argument in place."""


Piece = tuple[Formula, Target, Tensor, Tensor, Any, Bias | None, int]
"""One deferred layer: formula, target, x, g, extra, bias, and the sum of x's and g's versions, by
which a change in place before W is noticed. A plain tuple, since one is made per layer in B."""


class Record:
    """What one microbatch owes between its B and its W; reusable after `Split.weights` or `clear`.

    Holds x and g of every covered operation, and nothing else of the microbatch's graph.
    `taken` and `owed` are the weights and biases that could be deferred in F, so that a
    recomputation in B decides alike.
    """

    __slots__ = ("deferring", "owed", "pieces", "taken")

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.taken: list[Leaf] = []
        self.owed: dict[int, Bias] = {}
        self.deferring = False

    def __len__(self) -> int:
        return len(self.pieces)

    def clear(self) -> None:
        """Forgets the microbatch and what it owes."""
        self.pieces.clear()
        self.taken, self.owed = [], {}

    def kept(self) -> list[Tensor]:
        """What is kept alive for W."""
        return [tensor for piece in self.pieces for tensor in piece[2:4]]

    def held_bytes(self) -> int:
        """Bytes of memory kept alive for W, each storage counted once."""
        kept = [tensor.untyped_storage() for tensor in self.kept()]
        return sum({storage.data_ptr(): storage.nbytes() for storage in kept}.values())

    def defer(
        self,
        formula: Formula,
        target: Target,
        x: Tensor,
        g: Tensor,
        extra: Any = None,
        bias: Bias | None = None,
    ) -> None:
        """Keeps one layer's weight gradient for W. Called by the covered operations' backward."""
        if not self.deferring:
            raise SplitError(
                "split-outside",
                f"the backward of a layer with weight {tuple(target.alias.shape)} ran by itself",
                expected="to be run by Split.backward",
                found="autograd called elsewhere, as by torch.autograd.grad in a forward",
                hint="call Split.backward, or leave the layer whole: Split(module, leave=[layer])",
            )
        x = x.detach()  # its graph is not needed any more
        self.pieces.append((formula, target, x, g, extra, bias, x._version + g._version))


def accumulate(record: Record) -> None:
    """W: adds everything owed into `.grad` and empties the record, releasing it piece by piece.

    A parameter that has hooks, or whose `.grad` is not an ordinary tensor, gets its whole
    microbatch's gradient through the engine, so that its hooks run once and see all of it.
    """
    pieces = record.pieces
    engine: dict[nn.Parameter, Tensor] = {}
    with torch.no_grad():
        while pieces:
            formula, target, x, g, extra, bias, versions = pieces.pop()
            if x._version + g._version != versions:
                record.clear()
                raise _changed_in_place(target)
            parameter = target.leaf.parameter
            gradient = parameter.grad
            if not _by_hand(parameter, gradient, target):
                _add_up(engine, formula, target, x, g, extra)
            elif gradient is None:
                parameter.grad = _fresh(formula, target, x, g, extra)
            else:
                formula.add(target.of(gradient) if target.steps else gradient, x, g, extra)
            if bias is not None:
                _settle_bias(engine, formula, g, bias)
    if engine:
        engine_backward(list(engine), list(engine.values()))
    record.clear()


def _by_hand(parameter: nn.Parameter, gradient: Tensor | None, target: Target | None) -> bool:
    """Whether nobody can tell work on `.grad` from what the engine would have done."""
    if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
        return False
    if gradient is None:
        return True
    if type(gradient) is not Tensor or gradient.layout is not torch.strided:
        return False
    return target is None or not target.steps or gradient.stride() == target.leaf.alias.stride()


def _settle_bias(
    engine: dict[nn.Parameter, Tensor], formula: Formula, g: Tensor, bias: Bias
) -> None:
    assert formula.new_bias is not None and formula.add_bias is not None
    parameter = bias.parameter
    gradient = parameter.grad
    if not _by_hand(parameter, gradient, None):
        total = formula.new_bias(g).to(parameter.dtype)
        engine[parameter] = engine[parameter] + total if parameter in engine else total
    elif gradient is None:
        parameter.grad = formula.new_bias(g).to(parameter.dtype)
    else:
        formula.add_bias(gradient, g, bias)


def _add_up(
    engine: dict[nn.Parameter, Tensor],
    formula: Formula,
    target: Target,
    x: Tensor,
    g: Tensor,
    extra: Any,
) -> None:
    whole = engine.get(target.leaf.parameter)
    if whole is None:
        engine[target.leaf.parameter] = _fresh(formula, target, x, g, extra)
    else:
        formula.add(target.of(whole), x, g, extra)


def _fresh(formula: Formula, target: Target, x: Tensor, g: Tensor, extra: Any) -> Tensor:
    """The gradient of the whole parameter, in the parameter's type and layout."""
    alias = target.leaf.alias
    if target.steps:
        whole = torch.zeros_like(alias)
        formula.add(target.of(whole), x, g, extra)
        return whole
    made = formula.new(x, g, extra).to(alias.dtype)
    return made if made.stride() == alias.stride() else torch.empty_like(alias).copy_(made)


def _changed_in_place(target: Target) -> SplitError:
    return SplitError(
        "split-changed",
        f"W of a layer with weight {tuple(target.alias.shape)}",
        expected="the layer's input and its output's gradient as they were in B",
        found="one of them changed in place between B and W",
        hint="give each microbatch its own buffer until its W, or leave the layer whole: "
        "Split(module, leave=[layer])",
    )
