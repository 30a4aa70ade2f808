"""The subclass of nn.Parameter that a parameter belongs to while its stage runs.

`p.__class__ = Tap` is legal (same memory layout), costs 0.1 us, and reaches the autograd engine's
device threads, which a TorchFunctionMode does not. An operation in `COVERED` goes to its own
autograd function, a view in `VIEWS` is remembered as one, a function in `COMPOSITES` is opened.
Anything else runs as if the parameter had its usual class, and so gets its gradient in B.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, is_grad_enabled, nn
from torch.compiler import is_compiling
from torch.nn import functional

from .composite import opened
from .convolution import convolution
from .embedding import embedding
from .grouped import grouped_mm
from .internals import Blind, grouped_product, transforms_active
from .leaf import Step, Target
from .product import addmm, linear, matmul
from .scope import Scope

COVERED: Mapping[Any, Callable[..., Any]] = {
    functional.linear: linear,
    **dict.fromkeys((torch.addmm, Tensor.addmm), addmm),
    **dict.fromkeys((torch.matmul, Tensor.matmul, torch.mm, Tensor.mm), matmul),
    **dict.fromkeys((torch.bmm, Tensor.bmm), matmul),
    **dict.fromkeys((functional.conv1d, functional.conv2d, functional.conv3d), convolution),
    functional.embedding: embedding,
    grouped_product: grouped_mm,
}

VIEWS = frozenset(
    (
        *(Tensor.t, torch.t, Tensor.T.__get__, Tensor.mT.__get__),  # type: ignore[attr-defined]
        *(Tensor.transpose, torch.transpose, Tensor.permute, torch.permute),
        *(Tensor.view, Tensor.unsqueeze, torch.unsqueeze, Tensor.__getitem__),
        *(Tensor.select, torch.select, Tensor.narrow, torch.narrow),
        *(Tensor.unbind, torch.unbind, Tensor.chunk, torch.chunk, Tensor.split, torch.split),
    )
)

COMPOSITES = frozenset((functional.multi_head_attention_forward,))

Arguments = tuple[Any, ...]
Named = dict[str, Any]


def add_taps(scope: Scope) -> None:
    """Makes the class for the parameters of one Split and the class for their views."""

    def route(
        cls: type, func: Any, types: Arguments, args: Arguments = (), named: Named | None = None
    ) -> Any:
        if is_compiling():  # torch.compile traces this line and the next, and forgets the taps
            with Blind():
                return func(*args, **(named or {}))
        if scope.record is None:
            return _blindly(func, types, args, named or {})
        if not ordinary.issuperset(types):
            return _untapped(scope, func, args, named or {})
        covered = covered_by(func)
        if covered is not None and is_grad_enabled() and not transforms_active():
            result = covered(scope, *args, **named) if named else covered(scope, *args)
            if result is not NotImplemented:
                return result
        return _uncovered(scope, func, types, args, named or {})

    body: dict[str, Any] = {"__torch_function__": classmethod(route)}  # else it cannot be compiled
    scope.tap = type("Tap", (nn.Parameter,), dict(body))
    scope.view = type("TapView", (Tensor,), dict(body))
    ordinary = scope.ordinary = frozenset((Tensor, nn.Parameter, scope.tap, scope.view))
    covered_by = COVERED.get


def _uncovered(scope: Scope, func: Any, types: Arguments, args: Arguments, named: Named) -> Any:
    """One call of torch that is not deferred: as if the parameter had its usual class."""
    if func in COMPOSITES:
        return opened(func)(*args, **named)
    result = _blindly(func, types, args, named)
    if scope.watched:
        _watch(scope, func in COVERED, args, result)
    if func in VIEWS and is_grad_enabled():
        target = scope.targets.get(id(args[0]))
        return result if target is None else _remember(scope, target, func, args, named, result)
    return result


_blindly: Callable[..., Any] = nn.Parameter.__torch_function__
"""Runs the operation without asking any subclass."""


def _untapped(scope: Scope, func: Any, args: Arguments, named: Named) -> Any:
    """A call with a foreign subclass among its operands: that one decides, and sees no taps."""
    with _off(scope, args):
        return func(*args, **named)


@contextmanager
def _off(scope: Scope, args: Arguments) -> Iterator[None]:
    tapped = [leaf.parameter for leaf in scope.leaves if type(leaf.parameter) is scope.tap]
    views = [arg for arg in args if type(arg) is scope.view]
    for parameter in tapped:
        parameter.__class__ = nn.Parameter
    for view in views:
        view.__class__ = Tensor
    try:
        yield
    finally:
        for parameter in tapped:
            parameter.__class__ = scope.tap
        for view in views:
            view.__class__ = scope.view


def _watch(scope: Scope, coverable: bool, args: Arguments, result: Any) -> None:
    """Marks a hooked parameter that made a tensor in a way that is not deferred.

    Its gradient would reach the hooks in two parts, one in B and one in W.
    """
    if not isinstance(result, Tensor | tuple | list):
        return
    for arg in args:
        for operand in arg if isinstance(arg, tuple | list) else (arg,):
            leaf = scope.watched.get(id(operand))
            if leaf is not None and (leaf.seen or not coverable):
                leaf.mixed = True


def _remember(
    scope: Scope, target: Target, func: Any, args: Arguments, named: Named, result: Any
) -> Any:
    """Gives views of a parameter the class that remembers how they were made."""
    if isinstance(result, Tensor):
        return _view(scope, target, result, lambda whole: func(whole, *args[1:], **named))
    parts = enumerate(result)
    return type(result)(
        _view(scope, target, part, _pick(func, args, named, i)) for i, part in parts
    )


def _pick(func: Any, args: Arguments, named: Named, index: int) -> Step:
    return lambda whole: func(whole, *args[1:], **named)[index]


def _view(scope: Scope, target: Target, result: Tensor, step: Step) -> Tensor:
    if result.dim() > 1 and result.requires_grad and result._is_view():
        result.__class__ = scope.view
        scope.targets[id(result)] = target.then(step, result)
    return result
