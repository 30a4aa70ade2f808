"""Stages that two ranks hold: the copies start equal, and their gradients are summed every step."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributed import Work

from pipec.runtime.links import Link


class Copies:
    """The gradient sums of one rank. A stage's gradients live in one flat bucket during a step."""

    def __init__(self, stages: Mapping[int, nn.Module], links: Mapping[int, Link]):
        """links: for each stage held twice, that of its two holders; in the order of the SUMs.

        A parameter that two stages share is summed with the later one, when both are through.
        """
        self._links = links
        self._buckets: dict[int, _Bucket] = {}
        self._works: dict[int, list[Work]] = {}
        taken: set[nn.Parameter] = set()
        for stage in reversed(list(links)):
            trained = [p for p in stages[stage].parameters() if p.requires_grad and p not in taken]
            self._buckets[stage] = _Bucket(trained)
            taken.update(trained)

    def begin(self) -> None:
        """Before a step: its gradients begin at zero, apart from those of earlier steps."""
        self._works.clear()
        for bucket in self._buckets.values():
            bucket.begin()

    def post(self, stage: int) -> None:
        """SUM: begin to sum the gradients of a stage with its other holder."""
        link = self._links[stage]
        self._works[stage] = [link.sum(flat) for flat in self._buckets[stage].flats]

    def alike(self, stage: int) -> tuple[Link, list[Tensor]]:
        """The link that a stage is summed over, and other tensors as large as its gradients."""
        return self._links[stage], [torch.zeros_like(flat) for flat in self._buckets[stage].flats]

    def wait(self, stage: int) -> None:
        """Wait for a sum, and add what earlier steps left."""
        for work in self._works.pop(stage):
            work.wait()
        self._buckets[stage].finish()


class _Bucket:
    """Gradients as slices of one flat tensor per type."""

    def __init__(self, trained: Sequence[nn.Parameter]):
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


def equalise(stages: Mapping[int, nn.Module], links: Mapping[int, Link]) -> None:
    """Give both holders of a stage the parameters and buffers of the lower rank, at the start."""
    for stage in sorted(links):
        for tensor in (*stages[stage].parameters(), *stages[stage].buffers()):
            with torch.no_grad():
                copy = tensor.detach().contiguous()
                links[stage].copy(copy)
                tensor.copy_(copy)
