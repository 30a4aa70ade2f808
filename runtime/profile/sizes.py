"""What stages hold, in bytes: weighed in one step, operation by operation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from pipec.program.effects import Kind
from pipec.program.program import Instruction
from pipec.runtime.executor import Stream
from pipec.runtime.inside import Inside
from pipec.runtime.listener import Run

Storages = dict[int, int]
"""Address -> bytes, so that what several tensors share is counted once."""


class Sizes:
    """Activations: what autograd keeps of an F until its backward, with the input and the output.
    Stashes: what a B keeps for its W. Parameters, buffers and the batch are no part of either.
    """

    def __init__(self) -> None:
        self._constant: set[int] = set()
        self._kept: defaultdict[tuple[int, str, int], Storages] = defaultdict(dict)
        self._stash: dict[int, int] = {}

    def leave_out(self, stages: Mapping[int, nn.Module]) -> None:
        """Modules whose parameters and buffers are counted apart."""
        self._constant = set(_storages(_constants(stages.values())))

    def weighing(self, one: Instruction, run: Run, inside: Inside) -> Run:
        """An instruction that notes what it keeps."""
        if one.kind is Kind.F:
            return lambda: self._forward(one, run, inside)
        if one.kind is Kind.B:
            return lambda: self._backward(one, run, inside)
        return run

    def by_stage(
        self, inside: Inside, optimizer: torch.optim.Optimizer | None
    ) -> dict[str, dict[int, int]]:
        """Bytes per key of `[memory]` and stage, as far as this rank knows them."""
        sizes: dict[str, dict[int, int]] = defaultdict(dict)
        for (stage, _, _), storages in self._kept.items():
            known = sizes["activation"].get(stage, 0)
            sizes["activation"][stage] = max(known, sum(storages.values()))
        if self._stash:
            sizes["stash"] = dict(self._stash)
        for stage, module in inside.stages.items():
            sizes["parameters"][stage] = _bytes(_constants([module]))
            sizes["gradients"][stage] = _bytes(
                parameter if parameter.grad is None else parameter.grad
                for parameter in module.parameters()
                if parameter.requires_grad
            )
            if optimizer is not None:
                states = (optimizer.state.get(one, {}) for one in module.parameters())
                state = (value for each in states for value in each.values())
                sizes["optimizer"][stage] = _bytes(one for one in state if isinstance(one, Tensor))
        sizes["message"] = inside.streams["train"].message_sizes()
        return dict(sizes)

    def _forward(self, one: Instruction, run: Run, inside: Inside) -> None:
        saved: list[Tensor] = []

        def pack(tensor: Tensor) -> Tensor:
            saved.append(tensor.detach())
            return saved[-1]

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            run()
        stream = inside.streams["train"]
        held, number = _held(stream, one)
        kept = self._own(stream, [*saved, *held.inputs[number], *held.outputs[number]])
        self._kept[one.stage, str(one.flow), number] |= kept

    def _backward(self, one: Instruction, run: Run, inside: Inside) -> None:
        run()
        stream = inside.streams["train"]
        held, number = _held(stream, one)
        record = held.records[number]
        if record is not None:
            kept = [tensor for piece in record.pieces for tensor in piece[2:4]]
            size = sum(self._own(stream, kept).values())
            self._stash[one.stage] = max(size, self._stash.get(one.stage, 0))

    def _own(self, stream: Stream, tensors: Iterable[Any]) -> Storages:
        """The storages of tensors that are neither constant nor the batch's."""
        given = [one for each in (*stream.ends.batch, *stream.ends.targets) for one in each]
        others = self._constant | {*_storages(one for one in given if isinstance(one, Tensor))}
        found = _storages(one for one in tensors if isinstance(one, Tensor))
        return {at: size for at, size in found.items() if at not in others}


def _held(stream: Stream, one: Instruction) -> tuple[Any, int]:
    names = [flow.name for flow in stream.program.placement.flows]
    assert one.microbatch is not None
    return stream.held(names.index(str(one.flow)), one.stage), one.microbatch


def _constants(modules: Iterable[nn.Module]) -> Iterable[Tensor]:
    return (one for module in modules for one in (*module.parameters(), *module.buffers()))


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(_storages(tensors).values())


def _storages(tensors: Iterable[Tensor]) -> Storages:
    kept = [tensor.untyped_storage() for tensor in tensors if tensor.layout is torch.strided]
    return {storage.data_ptr(): storage.nbytes() for storage in kept if storage.nbytes()}
