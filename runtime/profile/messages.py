"""Message times: round trips between two ranks, with nothing else on the wire."""

import time
from functools import partial
from itertools import pairwise
from statistics import median

import torch

from pipec.runtime.inside import Inside
from pipec.runtime.profile.together import talking, together
from pipec.runtime.specs import Specs, TensorSpec
from pipec.runtime.wires import Wire

Pair = tuple[int, int]

ROUNDS, BATCHES = 8, 6
"""Round trips between two looks at the clock, and how often; the first look is not used."""


def message_times(inside: Inside) -> dict[Pair, float]:
    """Milliseconds of a message between each two ranks that exchange any.

    Half of a round trip of the largest message that goes between them, over the pipeline's own
    wire, one pair after the other. Called by all ranks, between steps.
    """
    times: dict[Pair, float] = {}
    neighbours = inside.plan.program.placement.neighbours
    for low, high in sorted({(min(pair), max(pair)) for pair in neighbours}):
        looks = together(inside, "time messages", partial(_trips, inside, (low, high)))[low]
        times[low, high] = times[high, low] = median(looks[1:]) / (2 * ROUNDS)
    return times


def _trips(inside: Inside, pair: Pair) -> list[float]:
    """Looks of one of the two ranks; nothing on the others."""
    if inside.rank not in pair:
        return []
    first, peer = inside.rank == pair[0], sum(pair) - inside.rank

    def looks() -> list[float]:
        specs = _largest(inside, pair)
        out, back = ([_empty(spec, inside.device) for spec in specs] for _ in range(2))
        return [_look(inside, out, back, peer, first) for _ in range(BATCHES)]

    return talking(inside, looks)


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


def _look(
    inside: Inside, out: list[torch.Tensor], back: list[torch.Tensor], peer: int, first: bool
) -> float:
    """Milliseconds of some round trips: one side begins, the other one answers."""
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


def _empty(spec: TensorSpec, device: torch.device) -> torch.Tensor:
    return torch.zeros(spec.shape, dtype=spec.dtype, device=device)
