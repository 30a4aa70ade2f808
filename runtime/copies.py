"""Stages that two ranks hold: the copies start equal, and their gradients are summed every step."""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup, Work


class Copies:
    """The gradient sums of one rank. A stage's gradients live in one flat bucket during a step."""

    def __init__(self, stages: Mapping[int, nn.Module], groups: Mapping[int, ProcessGroup]):
        """groups: for each stage held twice, the group of its two holders."""
        self._groups = groups
        self._buckets = {stage: _Bucket(stages[stage]) for stage in groups}
        self._works: dict[int, list[Work]] = {}

    def begin(self) -> None:
        """Before a step: its gradients begin at zero, apart from those of earlier steps."""
        self._works.clear()
        for bucket in self._buckets.values():
            bucket.begin()

    def post(self, stage: int) -> None:
        """SUM: begin to sum the gradients of a stage with its other holder."""
        group = self._groups[stage]
        self._works[stage] = [
            dist.all_reduce(flat, group=group, async_op=True) for flat in self._buckets[stage].flats
        ]

    def wait(self, stage: int) -> None:
        """Wait for a sum, and add what earlier steps left."""
        for work in self._works.pop(stage):
            work.wait()
        self._buckets[stage].finish()


class _Bucket:
    """The gradients of a stage as slices of one flat tensor per type."""

    def __init__(self, module: nn.Module):
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._slices: list[tuple[nn.Parameter, Tensor]] = []
        self._earlier: list[Tensor | None] = []
        self.flats: list[Tensor] = []
        for kind in dict.fromkeys((parameter.dtype, parameter.device) for parameter in trained):
            group = [p for p in trained if (p.dtype, p.device) == kind]
            flat = torch.zeros(sum(p.numel() for p in group), dtype=kind[0], device=kind[1])
            self.flats.append(flat)
            offset = 0
            for parameter in group:
                end = offset + parameter.numel()
                self._slices.append((parameter, flat[offset:end].view(parameter.shape)))
                offset = end

    def begin(self) -> None:
        """Attach the slices; gradients that are there already wait until the sum is done."""
        self._earlier = []
        for parameter, part in self._slices:
            earlier = parameter.grad
            if earlier is not None and earlier.data_ptr() == part.data_ptr():
                earlier = earlier.clone()
            self._earlier.append(earlier)
            parameter.grad = part
        for flat in self.flats:
            flat.zero_()

    def finish(self) -> None:
        """Add the summed gradients to those of earlier steps."""
        for (parameter, part), earlier in zip(self._slices, self._earlier, strict=False):
            if earlier is not None:
                parameter.grad = earlier.add_(part)
        self._earlier = []


def equalise(
    stages: Mapping[int, nn.Module], groups: Mapping[int, ProcessGroup], holders: Mapping[int, int]
) -> None:
    """Give both holders of a stage the parameters and buffers of the lower rank, at the start."""
    for stage in sorted(groups):
        tensors = [*stages[stage].parameters(), *stages[stage].buffers()]
        with torch.no_grad():
            for tensor in tensors:
                dist.broadcast(tensor.data, src=holders[stage], group=groups[stage])
