"""Order -> the same order with its chunks opened into their parts.

Assumes a complete order of whole operations. Afterwards an F is the parts of its stage from the
first to the last, a B, BW or W those from the last to the first, and every part that is an
all-to-all is a DISPATCH or COMBINE between compute. A W has only compute. The two operations of an
OVERLAP are woven into each other, and nothing ties them any more.

    before: F(0)
    after:  F(0) attention.0   DISPATCH F(0)   F(0) mlp.0   COMBINE F(0)   F(0) out.1
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import chain, zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.program.effects import STEP, Kind, Step
from pipec.program.parts import Layout
from pipec.program.program import Order

Array = NDArray[Any]

Row = tuple[int, int]
"""A kind, and the number of the part that it runs."""
Woven = list[tuple[int, Row]]
"""Rows of an OVERLAP, each with the half (0 or 1) that it belongs to."""
Weave = Callable[[tuple[Kind, Layout], tuple[Kind, Layout]], Woven]
"""How the parts of the two operations of an OVERLAP are interleaved."""


def open_chunks(order: Order, layouts: tuple[Layout, ...], weave: Weave | None = None) -> Order:
    """Open every operation. `layouts` has the parts of each stage; see `lower` for what follows."""
    weave = weave or alternating
    heads = np.flatnonzero(~order.tie)
    halves = np.append(order.tie[1:], False)[heads]
    stage = order.placement.split(order.operation).stage
    shapes = {parts: number for number, parts in enumerate(dict.fromkeys(layouts))}
    shape = np.array([shapes[parts] for parts in layouts])[stage]
    form = order.kind * len(shapes) + shape
    other = np.where(halves, np.append(form, 0)[np.minimum(heads + 1, len(order) - 1)] + 1, 0)
    code = form[heads].astype(np.int64) * (len(Kind) * len(shapes) + 1) + other
    _, first, which = np.unique(code, return_index=True, return_inverse=True)
    templates = []
    for at in first.tolist():
        rows = [heads[at], heads[at] + 1][: 1 + int(halves[at])]
        ends = [(Kind(int(order.kind[row])), layouts[int(stage[row])]) for row in rows]
        templates.append(weave(*ends) if len(ends) == 2 else [(0, row) for row in opened(*ends[0])])
    return _filled(order, layouts, heads, which, templates)


def opened(kind: Kind, parts: Layout) -> list[Row]:
    """The rows of one operation."""
    numbers = range(len(parts)) if STEP[kind] == Step.FORWARD else range(len(parts) - 1, -1, -1)
    rows = [(parts[number].wire, number) for number in numbers]
    if kind is Kind.W:
        rows = [(wire, number) for wire, number in rows if wire is None]
    return [(int(kind if wire is None else wire), number) for wire, number in rows]


def alternating(first: tuple[Kind, Layout], second: tuple[Kind, Layout]) -> Woven:
    """One row of each in turn."""
    both = ([(half, row) for row in opened(*one)] for half, one in enumerate((first, second)))
    return [item for item in chain.from_iterable(zip_longest(*both)) if item is not None]


def _filled(
    order: Order, layouts: tuple[Layout, ...], heads: Array, which: Array, templates: list[Woven]
) -> Order:
    """Put a template in the place of every operation and every OVERLAP."""
    lengths = np.array([len(template) for template in templates])
    table = np.array([(half, *row) for template in templates for half, row in template], np.int64)
    counts = lengths[which]
    begins = (np.cumsum(lengths) - lengths)[which]
    within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    half, kind, part = table[np.repeat(begins, counts) + within].T
    source = np.repeat(heads, counts) + half
    rank = order.rank[source]
    operation = _operations(order, source, kind)
    return Order(
        replace(order.placement, layouts=layouts),
        np.concatenate([[0], np.cumsum(np.bincount(rank, minlength=order.ranks))]),
        kind.astype(np.int8),
        operation.astype(np.int32),
        np.full(len(source), -1, np.int32),
        np.zeros(len(source), bool),
        np.zeros(len(source), bool),
        part.astype(np.int16),
        order.origin[source],
        order.origins,
    )


def _operations(order: Order, source: Array, kind: Array) -> Array:
    """The id of each row's operation; where the W of a BW has rows of its own, that of the W."""
    operation = order.operation[source].astype(np.int64)
    weights = np.flatnonzero((kind == Kind.W) & (order.kind[source] != Kind.W))
    flow = order.placement.split(operation[weights]).flow
    operation[weights] += order.placement.stages[flow] * order.placement.microbatches[flow]
    return operation
