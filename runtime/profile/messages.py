"""Message times: round trips between two ranks, with nothing else on the wire."""

import time
from itertools import pairwise
from statistics import median

import torch
import torch.distributed as dist

from pipec.runtime.inside import Inside
from pipec.runtime.specs import Specs, TensorSpec
from pipec.runtime.wires import Wire

Pair = tuple[int, int]

ROUNDS, BATCHES = 8, 6
"""Round trips between two looks at the clock, and how often; the first look is not used."""


def message_times(inside: Inside) -> dict[Pair, float]:
    """Milliseconds of a message between each two ranks that exchange any; those of this rank.

    Half of a round trip of the largest message that goes between them, over the pipeline's own
    wire, one pair after the other. Called by all ranks, between steps.
    """
    placement, rank = inside.plan.program.placement, inside.rank
    times: dict[Pair, float] = {}
    for low, high in sorted({(min(pair), max(pair)) for pair in placement.neighbours}):
        dist.barrier(inside.group)
        if rank not in (low, high):
            continue
        specs, peer = _largest(inside, (low, high)), high if rank == low else low
        looks = [_trips(inside, specs, peer, first=rank == low) for _ in range(BATCHES)]
        if rank == low:
            times[low, high] = times[high, low] = median(looks[1:]) / (2 * ROUNDS)
    dist.barrier(inside.group)
    return times


def _largest(inside: Inside, pair: Pair) -> Specs:
    """What the largest message between two ranks looks like."""
    stream = inside.streams["train"]
    crossings = [
        stream.boundary(number, stage + 1)
        for number, flow in enumerate(inside.plan.program.placement.flows)
        for stage, ranks in enumerate(pairwise(flow.ranks))
        if {*ranks} == {*pair}
    ]
    return max(crossings, key=lambda one: one.size).resolve()


def _trips(inside: Inside, specs: Specs, peer: int, first: bool) -> float:
    """Milliseconds of some round trips: one side begins, the other one answers."""
    out, back = (_tensors(specs, inside.device) for _ in range(2))
    wire: Wire = inside.wire
    send, receive = wire.sender(peer), wire.receiver(peer)
    begin, posted = time.perf_counter(), []
    for tag in range(ROUNDS):
        if first:
            posted.append(send(out, tag))
        receive(back, tag).wait()
        if not first:
            posted.append(send(out, tag))
    wire.drain()
    for handle in posted:
        handle.wait()
    if inside.device.type != "cpu":
        torch.accelerator.synchronize()
    return (time.perf_counter() - begin) * 1e3


def _tensors(specs: Specs, device: torch.device) -> list[torch.Tensor]:
    return [_empty(spec, device) for spec in specs]


def _empty(spec: TensorSpec, device: torch.device) -> torch.Tensor:
    return torch.zeros(spec.shape, dtype=spec.dtype, device=device)
