"""Order -> the same order with its chunks opened into their parts.

Assumes a complete order of whole operations. Afterwards an F is the parts of its stage from the
first to the last, a B, BW or W those from the last to the first, and every part that is an
all-to-all is a DISPATCH or COMBINE between compute. A W has only compute. `weave` says how parts
of an operation, or of the two of an OVERLAP, follow each other; nothing ties them any more.

    before: F(0)
    after:  F(0) attention.0   DISPATCH F(0)   F(0) mlp.0   COMBINE F(0)   F(0) out.1
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.findings import PipecError, Stop
from pipec.lower.weave import Row, Weave
from pipec.program.effects import Kind
from pipec.program.parts import Layout
from pipec.program.program import Order

Array = NDArray[Any]


def open_chunks(order: Order, layouts: tuple[Layout, ...], weave: Weave) -> Order:
    """Open every operation. `layouts` has the parts of each stage.

    Raises `PipecError` where `weave` cannot follow a pattern.
    """
    heads = np.flatnonzero(~order.tie)
    halves = np.append(order.tie[1:], False)[heads]
    stages = len(layouts)
    form = order.kind.astype(np.int64) * stages + order.placement.stage_of(order.operation)
    second = np.minimum(heads + 1, len(order) - 1)
    code = form[heads] * (len(Kind) * stages + 1) + np.where(halves, form[second] + 1, 0)
    _, first, which = np.unique(code, return_index=True, return_inverse=True)
    templates = []
    for head in first.tolist():
        rows = [int(heads[head]), int(heads[head]) + 1][: 1 + int(halves[head])]
        unit = [divmod(int(form[row]), stages) for row in rows]
        try:
            templates.append(weave([(Kind(kind), stage) for kind, stage in unit]))
        except Stop as stop:
            raise PipecError([stop.finding], order.origins.source) from None
    return _filled(order, layouts, heads, which, templates)


def _filled(
    order: Order,
    layouts: tuple[Layout, ...],
    heads: Array,
    which: Array,
    templates: list[list[Row]],
) -> Order:
    """Put a template in the place of every operation and every OVERLAP."""
    lengths = np.array([len(template) for template in templates])
    table = np.array([row for template in templates for row in template], np.int64)
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
    flow = order.placement.flow_of(operation[weights])
    operation[weights] += order.placement.stages[flow] * order.placement.microbatches[flow]
    return operation
