"""The private parts of torch that the split uses, each behind one function with a public fallback.

Elsewhere in this package only a tensor's state is read by a private name, where torch has no public
reader: its version, whether it is a view, and its two dictionaries of hooks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import Function

_run_backward = getattr(
    getattr(torch.autograd.Variable, "_execution_engine", None), "run_backward", None
)


def engine_backward(roots: Sequence[Tensor], seeds: Sequence[Tensor]) -> None:
    """`torch.autograd.backward(roots, seeds)`, straight to the engine (saves 3 to 4 us a call)."""
    if _run_backward is None:
        torch.autograd.backward(roots, seeds)
        return
    _run_backward(
        tuple(roots), tuple(seeds), False, False, (), allow_unreachable=True, accumulate_grad=True
    )


def direct_apply(function: type[Function]) -> Callable[..., Any]:
    """`function.apply` without its Python front, and the engine's way to `backward` likewise.

    Saves 1.5 us a call in F and 1 us in B. The front of `apply` serves functorch transforms only;
    callers ask `transforms_active` first. The front of `backward` looks for a method `vjp`.
    """
    node = getattr(function, "_backward_cls", None)
    if node is not None:
        node.apply = function.backward
    apply = getattr(super(Function, function), "apply", None)
    return function.apply if apply is None else apply


transforms_active: Callable[[], bool] = getattr(
    torch._C, "_are_functorch_transforms_active", lambda: False
)
"""Whether a torch.func transform (vmap, grad, ...) runs; without the reader, assume none does."""

autocast_active: Callable[[], bool] = getattr(torch._C, "_is_any_autocast_enabled", lambda: True)
"""Whether autocast is on for any device; without the reader, each device is asked."""

Blind: Callable[[], AbstractContextManager[None]] = torch._C.DisableTorchFunctionSubclass
"""The guard that torch's own manual on `__torch_function__` uses; the one that can be compiled."""

grouped_product: Callable[..., Tensor] | None = getattr(torch, "_grouped_mm", None)
"""What `F.grouped_mm` calls, by which a call of it is known."""


def is_compiled(module: nn.Module) -> bool:
    """Whether `torch.compile(module)` or `module.compile()` made this module."""
    dynamo = sys.modules.get("torch._dynamo.eval_frame")  # not imported: nothing was compiled
    optimized = getattr(dynamo, "OptimizedModule", None)
    if optimized is not None and isinstance(module, optimized):
        return True
    return getattr(module, "_compiled_call_impl", None) is not None


def replicates_gradients(module: nn.Module) -> bool:
    """Whether this is DistributedDataParallel or the flat-parameter FullyShardedDataParallel."""
    sharded = getattr(sys.modules.get("torch.distributed.fsdp"), "FullyShardedDataParallel", None)
    if sharded is not None and isinstance(module, sharded):
        return True
    return isinstance(module, nn.parallel.DistributedDataParallel)
