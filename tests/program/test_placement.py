"""The arithmetic of operation ids, and who holds what."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from random_programs import placements

from pipec.program.effects import NEEDS, TRAVELS, Need, Step, Value
from pipec.program.needs import inputs
from pipec.program.placement import Flow, Placement


def everything(placement: Placement) -> list[tuple[int, int, int, int]]:
    """Flow, step, stage and microbatch of every operation, in the order of ids."""
    return [
        (number, step, stage, microbatch)
        for number, flow in enumerate(placement.flows)
        for step in range(len(Step))
        for stage in range(flow.stages)
        for microbatch in range(flow.microbatches)
    ]


@settings(deadline=None)
@given(placements())
def test_ids_are_dense_and_split_is_the_inverse(placement: Placement) -> None:
    """Ids number all operations from 0, as integers and as arrays, and split takes them apart."""
    parts = everything(placement)
    assert placement.size == len(parts)
    assert [int(placement.operation(*part)) for part in parts] == list(range(len(parts)))
    assert [tuple(map(int, placement.split(number))) for number in range(len(parts))] == parts
    columns = placement.split(np.arange(len(parts)))
    assert [tuple(map(int, row)) for row in zip(*columns, strict=True)] == parts
    assert list(placement.operation(*columns)) == list(range(len(parts)))


@settings(deadline=None)
@given(placements())
def test_backwards_turn(placement: Placement) -> None:
    """Sequence by sequence, forwards take slices in order, and what is backward the last first."""
    for number, flow in enumerate(placement.flows):
        sequences = np.arange(flow.microbatches).reshape(-1, flow.slices)
        for step in Step:
            turned = placement.turned(number, step, np.arange(flow.microbatches))
            expected = sequences if step == Step.FORWARD else sequences[:, ::-1]
            assert list(turned) == list(expected.ravel())
            assert list(placement.turned(number, step, turned)) == list(range(flow.microbatches))


@settings(deadline=None)
@given(placements())
def test_who_holds_what(placement: Placement) -> None:
    """home, held, copies and chunks agree with the flows."""
    for number, (flow, _, stage, _) in enumerate(everything(placement)):
        assert placement.home[number] == placement.flows[flow].ranks[stage]
    for rank in range(placement.ranks):
        held = {
            stage
            for flow in placement.flows
            for stage in range(flow.stages)
            if flow.ranks[stage] == rank
        }
        assert placement.held(rank) == tuple(sorted(held))
        for number, flow in enumerate(placement.flows):
            mine = [stage for stage in range(flow.stages) if flow.ranks[stage] == rank]
            chunks = placement.chunks[number, rank].tolist()
            assert chunks == mine + [-1] * (len(chunks) - len(mine))
    for stage, ranks in enumerate(placement.copies):
        assert set(ranks) == {flow.ranks[stage] for flow in placement.flows}
        assert list(ranks) == sorted(ranks)


def test_what_operations_need() -> None:
    """The joins of the effects table, in words: F needs the activation before, and so on."""
    assert set(NEEDS[Step.FORWARD]) == {
        Need(Value.ACTIVATION, Step.FORWARD, stage=-1),
        Need(Value.CARRIED, Step.FORWARD, stage=0, slice=-1),
    }
    assert set(NEEDS[Step.BACKWARD]) == {
        Need(Value.SAVED, Step.FORWARD, stage=0),
        Need(Value.GRADIENT, Step.BACKWARD, stage=1),
        Need(Value.RETURNED, Step.BACKWARD, stage=0, slice=1),
    }
    assert set(NEEDS[Step.WEIGHTS]) == {Need(Value.STASH, Step.BACKWARD, stage=0)}
    assert set(TRAVELS) == {Step.FORWARD, Step.BACKWARD}


@settings(deadline=None)
@given(placements())
def test_needs_as_arithmetic(placement: Placement) -> None:
    """inputs and sources by additions are what the parts say; ends of flows and of sequences have
    none.
    """
    parts = everything(placement)
    numbers = {part: number for number, part in enumerate(parts)}
    expected, travelling = set(), [-1] * len(parts)
    for number, (flow, step, stage, microbatch) in enumerate(parts):
        slices = placement.flows[flow].slices
        for need in NEEDS[Step(step)]:
            other = microbatch + need.slice
            producer = numbers.get((flow, need.step, stage + need.stage, other))
            if producer is not None and other // slices == microbatch // slices:
                expected.add((number, producer))
                travelling[number] = producer if need.stage else travelling[number]
    ids = np.arange(len(parts))
    found = {
        (int(number), int(producer))
        for needed in inputs(placement, ids)
        for number, producer in zip(needed.which, needed.producer, strict=True)
    }
    assert found == expected
    assert list(placement.sources(ids)) == travelling


@given(st.integers(0, 10**7))
def test_sizes_that_no_program_has(rows: int) -> None:
    """A placement fits its streams if they could hold all of it; small ones always fit."""
    assert Placement(1, (Flow("a", 10, (0,)),)).fits(rows)
    complete = Placement(1, (Flow("a", max(rows // 2, 1), (0,)),))
    assert complete.fits(rows)
    assert not Placement(1, (Flow("a", 2**30, (0,)),)).fits(rows)
