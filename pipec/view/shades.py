"""Shades: what tells operations of one kind apart in pictures, their flow or else their chunk."""

from pipec.program.placement import Placement


def shades(placement: Placement) -> tuple[str, ...]:
    """What the shades stand for."""
    if len(placement.flows) > 1:
        return tuple(f"flow {flow.name}" for flow in placement.flows)
    return tuple(f"chunk {chunk}" for chunk in range(placement.chunks.shape[2]))


def shade(placement: Placement, rank: int, flow: int, stage: int) -> int:
    """The number of an operation's shade."""
    if len(placement.flows) > 1:
        return flow
    return placement.chunks[flow, rank].tolist().index(stage)
