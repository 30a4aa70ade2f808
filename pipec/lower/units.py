"""The parts of an operation, or of an OVERLAP of two, in the order in which they are issued.

A backward runs its parts in reverse. A BW becomes the B of each part, and its W where nothing else
is ready: while an all-to-all of its own is under way, or of the other half.

    F & BW    F attention.0, COMBINE B, B mlp.0, DISPATCH F, W mlp.0, DISPATCH B, F mlp.0, ...
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipec.lower.interleave import Chain, Part, Place, interleave, needed
from pipec.lower.issue import eager
from pipec.program.effects import Kind

COMPUTE, WIRE = "compute", "all-to-all"

Issued = tuple[int, Kind, int]
"""Which of the operations, what of it (F, B, W or BW), and the number of the part."""


@dataclass(frozen=True)
class Operation:
    """One operation of a chunk: what each part takes, in the order of the forward.

    wires: which parts are all-to-alls. weights: what W takes of each part, where BW is asked for;
    all-to-alls have none.
    """

    kind: Kind
    wires: tuple[bool, ...]
    ticks: tuple[int, ...]
    weights: tuple[int, ...] = ()


def natural(operations: Sequence[Operation]) -> list[Issued]:
    """One operation after the other, with nothing between their parts; a BW's parts are BW."""
    return [
        (number, operation.kind, part)
        for number, operation in enumerate(operations)
        for part in _parts(operation)
    ]


def overlapped(operations: Sequence[Operation]) -> list[Issued]:
    """The parts of all the operations, interleaved so that they are through soonest."""
    chains: list[Chain] = []
    meant: list[list[Issued]] = []
    for number, operation in enumerate(operations):
        parts = _parts(operation)
        kind = Kind.B if operation.kind is Kind.BW else operation.kind
        chains.append(tuple(Part(_lane(operation, part), operation.ticks[part]) for part in parts))
        meant.append([(number, kind, part) for part in parts])
        if operation.kind is not Kind.BW:
            continue
        first = len(chains) - 1
        for ticks in sorted(set(operation.weights)):
            filler = [
                (place, part)
                for place, part in enumerate(parts)
                if operation.weights[part] == ticks and not operation.wires[part]
            ]
            chains.append(tuple(Part(COMPUTE, ticks, (first, place)) for place, _ in filler))
            meant.append([(number, Kind.W, part) for _, part in filler])

    def wire(at: Place) -> bool:
        return chains[at[0]][at[1]].lane == WIRE

    def needs(at: Place) -> list[Place]:
        need = needed(chains, at)
        return [] if need is None else [need]

    order = eager(interleave(chains).order, wire, needs)
    return [meant[chain][place] for chain, place in order]


def _parts(operation: Operation) -> list[int]:
    """The numbers of the parts that an operation has, in its own order."""
    parts = range(len(operation.wires))
    if operation.kind is Kind.F:
        return list(parts)
    weights = operation.kind is Kind.W
    return [part for part in reversed(parts) if not (weights and operation.wires[part])]


def _lane(operation: Operation, part: int) -> str:
    return WIRE if operation.wires[part] else COMPUTE
