"""Rows of all kinds -> the program that they make, sorted by rank and by their places there."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.program.columns import rank_blocks
from pipec.program.effects import Kind
from pipec.program.program import Order, Program, Witness

Array = NDArray[Any]


@dataclass(frozen=True)
class Rows:
    """Rows of ascending ranks, to be merged into the program by rank and then by key.

    Of what does not compute, no end is claimed.
    """

    rank: Array
    key: Array
    kind: Array
    operation: Array
    peer: Array
    tie: Array
    part: Array
    origin: Array
    end: Array


def merged(order: Order, runs: list[Rows]) -> Program:
    """Merge the runs: each of them is sorted or nearly so, which a stable sort makes use of."""
    begins = [run.rank.searchsorted(np.arange(order.ranks + 1)) for run in runs]
    start = np.sum(begins, axis=0)
    columns = {name: np.empty(start[-1], getattr(runs[0], name).dtype) for name in _columns(order)}
    for first, last in rank_blocks(start):
        pieces = [slice(begin[first], begin[last]) for begin in begins]
        rank = np.concatenate([run.rank[piece] for run, piece in zip(runs, pieces, strict=True)])
        place = rank.astype(np.int64) * (8 * len(order) + 8)
        place += np.concatenate([run.key[piece] for run, piece in zip(runs, pieces, strict=True)])
        by_place = place.argsort(kind="stable")
        for name, column in columns.items():
            parts = [getattr(run, name)[piece] for run, piece in zip(runs, pieces, strict=True)]
            column[start[first] : start[last]] = np.concatenate(parts).take(by_place)
    return _program(order, start, columns)


def _columns(order: Order) -> list[str]:
    """The columns that differ from row to row."""
    columns = ["kind", "operation", "peer", "origin"]
    columns += ["tie"] if order.tie.any() else []
    return columns + (["part"] if order.placement.layouts else ["key", "end"])


def _program(order: Order, start: Array, columns: dict[str, Array]) -> Program:
    count, witness = int(start[-1]), None
    if "key" in columns:
        moment = columns["key"]
        moment += 1
        witness = Witness(moment, columns["end"])
    return Program(
        order.placement,
        start,
        columns["kind"],
        columns["operation"],
        columns["peer"],
        columns.get("tie", np.zeros(count, bool)),
        np.zeros(count, bool),
        columns.get("part", np.zeros(count, np.int16)),
        columns["origin"],
        order.origins,
        witness,
    )


def communication(
    kind: Kind, rank: Array, key: Array, operation: Array, peer: Array, origin: Array
) -> Rows:
    """SENDs, RECVs or SUMs."""
    count = len(rank)
    return Rows(
        rank,
        key,
        np.full(count, kind, np.int8),
        operation.astype(np.int32, copy=False),
        peer.astype(np.int32, copy=False),
        np.zeros(count, bool),
        np.zeros(count, np.int16),
        origin,
        np.full(count, -1, np.int8),
    )
