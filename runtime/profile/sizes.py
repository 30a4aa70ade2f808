"""What stages hold, in bytes: weighed in one step, operation by operation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from pipec.program.effects import Kind
from pipec.program.program import Instruction
from pipec.runtime.executor import Stream
from pipec.runtime.experts.parts import Parts
from pipec.runtime.inside import Inside
from pipec.runtime.listener import Run

Storages = dict[int, int]
"""Address -> bytes, so that what several tensors share is counted once."""


@dataclass(frozen=True)
class Given:
    """The input of one microbatch of a stage, and the autocast under which it was computed."""

    inputs: tuple[Any, ...]
    device: str
    dtype: torch.dtype
    enabled: bool

    def context(self) -> AbstractContextManager[Any]:
        """The same autocast."""
        return torch.autocast(self.device, self.dtype, self.enabled)


class Sizes:
    """Activations: what autograd keeps of an F until its backward, with the input and the output.
    Stashes: what a B keeps for its W. Parameters, buffers and the batch are no part of either.
    Of opened chunks also the largest that one of their all-to-alls brings or takes.
    """

    def __init__(self) -> None:
        self._constant: set[int] = set()
        self._kept: defaultdict[tuple[int, str, int], Storages] = defaultdict(dict)
        self._stash: dict[int, int] = {}
        self._deferred: defaultdict[tuple[int, str, int], list[Tensor]] = defaultdict(list)
        self._travels: dict[int, int] = {}
        self.given: dict[int, Given] = {}

    def leave_out(self, stages: Mapping[int, nn.Module]) -> None:
        """Modules whose parameters and buffers are counted apart."""
        self._constant = set(_storages(_constants(stages.values())))

    def weighing(self, one: Instruction, run: Run, inside: Inside) -> Run:
        """An instruction that notes what it keeps."""
        if one.kind is Kind.F:
            return lambda: self._forward(one, run, inside)
        if one.kind in (Kind.B, Kind.BW):
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
        if self._travels:
            sizes["dispatch"] = dict(self._travels)
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

        stream = inside.streams["train"]
        flow, number = _place(stream, one)
        held, opened = stream.held(flow, one.stage), stream.opened(flow, one.stage)
        brought = [] if opened is None else [*opened.parts.travelling(number)]
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            run()
        kept = [*saved, *held.inputs[number], *held.outputs[number]]
        if opened is not None:
            kept += opened.parts.kept(number)
            largest = max(_bytes(brought), _bytes(opened.parts.travelling(number)))
            self._travels[one.stage] = max(largest, self._travels.get(one.stage, 0))
            given = held.inputs[number] if one.stage else stream.ends.batch[0]
            self.given.setdefault(one.stage, _given(given, inside.device.type))
        self._kept[one.stage, str(one.flow), number] |= self._own(stream, kept)

    def _backward(self, one: Instruction, run: Run, inside: Inside) -> None:
        run()
        stream = inside.streams["train"]
        flow, number = _place(stream, one)
        opened = stream.opened(flow, one.stage)
        record = stream.held(flow, one.stage).records[number]
        if opened is not None:
            self._deferring(one, number, stream, opened.parts)
        elif record is not None:
            self._note_stash(one.stage, stream, record.kept())

    def _deferring(self, one: Instruction, number: int, stream: Stream, parts: Parts) -> None:
        """After a part of a B. A W may take of its stash before the B is through: all of it stays
        here until then, so that no address is given to two tensors.
        """
        key = one.stage, str(one.flow), number
        kept = self._deferred[key]
        kept += parts.deferred(number)
        if kept:
            self._note_stash(one.stage, stream, kept)
        if one.part == stream.program.placement.layouts[one.stage][0]:
            del self._deferred[key]

    def _note_stash(self, stage: int, stream: Stream, kept: Iterable[Tensor]) -> None:
        size = sum(self._own(stream, kept).values())
        self._stash[stage] = max(size, self._stash.get(stage, 0))

    def _own(self, stream: Stream, tensors: Iterable[Any]) -> Storages:
        """The storages of tensors that are neither constant nor the batch's."""
        given = [one for each in (*stream.ends.batch, *stream.ends.targets) for one in each]
        others = self._constant | {*_storages(one for one in given if isinstance(one, Tensor))}
        found = _storages(one for one in tensors if isinstance(one, Tensor))
        return {at: size for at, size in found.items() if at not in others}


def _place(stream: Stream, one: Instruction) -> tuple[int, int]:
    """The number of an instruction's flow, and its microbatch."""
    names = [flow.name for flow in stream.program.placement.flows]
    assert one.microbatch is not None
    return names.index(str(one.flow)), one.microbatch


def _given(inputs: Iterable[Any], device: str) -> Given:
    apart = tuple(one.detach() if isinstance(one, Tensor) else one for one in inputs)
    enabled = torch.is_autocast_enabled(device)
    return Given(apart, device, torch.get_autocast_dtype(device), enabled)


def _constants(modules: Iterable[nn.Module]) -> Iterable[Tensor]:
    return (one for module in modules for one in (*module.parameters(), *module.buffers()))


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(_storages(tensors).values())


def _storages(tensors: Iterable[Tensor]) -> Storages:
    kept = [tensor.untyped_storage() for tensor in tensors if tensor.layout is torch.strided]
    return {storage.data_ptr(): storage.nbytes() for storage in kept if storage.nbytes()}
