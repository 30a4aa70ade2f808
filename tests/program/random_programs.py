"""Random programs: any rows that a listing can say, not only sensible ones."""

import numpy as np
from hypothesis import strategies as st

from pipec.program.effects import COMPUTE, EXPERTS, Kind, Step
from pipec.program.parts import layout
from pipec.program.placement import Flow, Placement
from pipec.program.program import Program

NAMES = st.sampled_from(["main", "down", "up", "F", "rank", "x1"])


LAYOUTS = st.lists(
    st.sampled_from([("attention", "dispatch", "mlp", "combine"), ("attention", "mlp"), ("x",)]),
    min_size=1,
    max_size=3,
).map(layout)


@st.composite
def placements(draw: st.DrawFn, most_ranks: int = 4) -> Placement:
    """A few ranks, one or two flows over one model."""
    ranks, stages = draw(st.integers(1, most_ranks)), draw(st.integers(1, 5))
    flows, backward = [], draw(st.booleans())
    slices = draw(st.sampled_from((1, 1, 2, 3)))
    for name in draw(st.lists(NAMES, min_size=1, max_size=2, unique=True)):
        holders = draw(st.lists(st.integers(0, ranks - 1), min_size=stages, max_size=stages))
        count = slices * draw(st.integers(1, 4 // slices))
        flows.append(Flow(name, count, tuple(holders), backward, slices))
    layouts = draw(st.lists(LAYOUTS, min_size=stages, max_size=stages) | st.just([]))
    return Placement(ranks, tuple(flows), tuple(layouts))


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """A placement with any instructions on any rank, and ties wherever there can be one."""
    placement = draw(placements())
    columns: list[list[tuple[int, int, int, bool, bool, int]]] = []
    for rank in range(placement.ranks):
        rows: list[tuple[int, int, int, bool, bool, int]] = []
        free: Kind | None = None
        for _ in range(draw(st.integers(0, 8))):
            kind = draw(st.sampled_from(Kind))
            if placement.ranks == 1 and not COMPUTE[kind] and not EXPERTS[kind]:
                continue
            tie = nowait = False
            if COMPUTE[kind]:
                fits = free is not None and {free, kind} in ({Kind.F, Kind.B}, {Kind.F, Kind.BW})
                tie = fits and draw(st.booleans())
                free = None if tie else kind
                nowait = draw(st.booleans()) and draw(st.booleans())
            elif kind in (Kind.SEND, Kind.RECV) and rows and rows[-1][0] in (Kind.SEND, Kind.RECV):
                tie = draw(st.booleans())
            operation, peer = _reference(draw, placement, kind, rank)
            parts = [] if kind is Kind.SUM else _parts(placement, kind, operation)
            if not parts and EXPERTS[kind]:
                continue
            part = draw(st.sampled_from(parts)) if parts else 0
            rows.append((kind, operation, peer, tie, nowait, part))
        columns.append(rows)
    table = np.array([row for rows in columns for row in rows], np.int64).reshape(-1, 6)
    return Program(
        placement,
        np.concatenate([[0], np.cumsum([len(rows) for rows in columns])]),
        table[:, 0].astype(np.int8),
        table[:, 1].astype(np.int32),
        table[:, 2].astype(np.int32),
        table[:, 3].astype(bool),
        table[:, 4].astype(bool),
        table[:, 5].astype(np.int16),
        np.full(len(table), -1, np.int32),
    )


def _parts(placement: Placement, kind: Kind, operation: int) -> list[int]:
    """The parts that an instruction may name: compute parts, or the all-to-alls of its kind."""
    if not placement.layouts or not (COMPUTE[kind] or EXPERTS[kind]):
        return []
    wire = kind if EXPERTS[kind] else None
    parts = placement.layouts[int(placement.split(operation).stage)]
    return [number for number, part in enumerate(parts) if part.wire is wire]


def _reference(draw: st.DrawFn, placement: Placement, kind: Kind, rank: int) -> tuple[int, int]:
    """An operation (or for a SUM a stage) and a peer for an instruction."""
    peer = -1
    if not COMPUTE[kind] and not EXPERTS[kind]:
        others = [other for other in range(placement.ranks) if other != rank]
        peer = draw(st.sampled_from(others))
    number = draw(st.integers(0, len(placement.flows) - 1))
    flow = placement.flows[number]
    stage = draw(st.integers(0, flow.stages - 1))
    if kind is Kind.SUM:
        return stage, peer
    step = {Kind.F: Step.FORWARD, Kind.W: Step.WEIGHTS}.get(kind, Step.BACKWARD)
    if not COMPUTE[kind]:
        step = draw(st.sampled_from((Step.FORWARD, Step.BACKWARD)))
    microbatch = draw(st.integers(0, flow.microbatches - 1))
    return int(placement.operation(number, step, stage, microbatch)), peer
