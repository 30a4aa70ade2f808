"""A stage's backward in two parts: B, the gradient of its input, and W, of its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .errors import SplitError
from .internals import engine_backward, is_compiled, replicates_gradients
from .record import Record, accumulate
from .scope import Scope
from .tap import add_taps


class Split:
    """Runs a stage's F, B and W, for any `nn.Module` and without touching its code.

        split = Split(module)
        record = split.record()                    # one per microbatch in flight
        y = split.forward(record, module, x)       # F
        split.backward(record, [y], [dy])          # B: x.grad, and what is not covered
        split.weights(record)                      # W: the rest of the .grad

    Deferred to W are the weights of linear, addmm, matmul, mm, bmm, embedding, conv1d to conv3d and
    grouped_mm, also inside `nn.MultiheadAttention`; everything else gets its gradient in B. After
    W, `.grad` and the hooks that ran are those of one plain backward per microbatch.

    Make it after the parameters have their final place and type. Parameters inside compiled
    modules, of a subclass (DTensor), and in the modules of `leave` stay in B. One thread at a time
    may use a Split. Raises SplitError for modules that hook gradients below autograd's Python
    interface (DistributedDataParallel, FullyShardedDataParallel).
    """

    __slots__ = ("_scope",)

    def __init__(self, module: nn.Module, leave: Iterable[nn.Module] = ()) -> None:
        _refuse_replicas(module)
        self._scope = Scope(*_weights_and_biases(module, leave))
        add_taps(self._scope)

    def record(self) -> Record:
        """An empty record for one microbatch."""
        return Record()

    def forward(self, record: Record, call: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """F: `call(*args, **named)` with the parameters tapped; under no_grad just the call."""
        if not torch.is_grad_enabled():
            return call(*args, **named)
        outer = self._scope.enter_forward(record)
        try:
            return call(*args, **named)
        finally:
            self._scope.leave(outer)

    def backward(
        self, record: Record, outputs: Sequence[Tensor], grads: Sequence[Tensor | None]
    ) -> None:
        """B: one engine backward. An output whose gradient is None takes no part in it."""
        roots, seeds = [], []
        for output, grad in zip(outputs, grads, strict=True):
            if grad is not None and output.requires_grad:
                roots.append(output)
                seeds.append(grad)
        if not roots:
            return
        outer = self._scope.enter_backward(record)
        record.deferring = True
        try:
            engine_backward(roots, seeds)
        finally:
            record.deferring = False
            self._scope.leave(outer)

    def weights(self, record: Record) -> None:
        """W: adds the deferred gradients into `.grad` and empties the record."""
        accumulate(record)


def _weights_and_biases(
    module: nn.Module, leave: Iterable[nn.Module]
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters whose gradient may be deferred: of two or more dimensions, and those of one
    dimension that a module holds beside them. The parameters of norms are neither."""
    whole = [*leave, *(part for part in module.modules() if is_compiled(part))]
    left = {id(parameter) for part in whole for parameter in part.parameters()}
    weights: dict[nn.Parameter, None] = {}
    biases: dict[nn.Parameter, None] = {}
    for part in module.modules():
        own = [p for p in part.parameters(recurse=False) if _ordinary(p) and id(p) not in left]
        held = [parameter for parameter in own if parameter.dim() > 1]
        weights.update(dict.fromkeys(held))
        if held:
            biases.update(dict.fromkeys(parameter for parameter in own if parameter.dim() == 1))
    return list(weights), list(biases)


def _ordinary(parameter: nn.Parameter) -> bool:
    """Whether the class can be swapped; not that of DTensor, quantized or lazy parameters."""
    strided = parameter.layout is torch.strided and parameter.is_floating_point()
    return type(parameter) is nn.Parameter and strided


def _refuse_replicas(module: nn.Module) -> None:
    for name, part in module.named_modules():
        if not replicates_gradients(part):
            continue
        raise SplitError(
            "split-replicated",
            f"module {name or type(part).__name__!r} of the stage",
            expected="a plain module whose gradients only autograd's hooks can see",
            found=f"{type(part).__name__}, which reduces gradients by hooks that no split can see",
            hint="give the Split the module inside and reduce the gradients after the last W",
        )
