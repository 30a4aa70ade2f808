"""Units: an operation or a pair as parts, each once, in an order that its chunk allows."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipec.lower.units import Issued, Operation, natural, overlapped
from pipec.program.effects import Kind

WIRES = (False, True, False, True, False)


def operation(kind: Kind, wires: tuple[bool, ...] = WIRES) -> Operation:
    ticks = tuple(3 if wire else 2 for wire in wires)
    weights = tuple(0 if wire else 2 for wire in wires)
    return Operation(kind, wires, ticks, weights if kind is Kind.BW else ())


def parts(order: list[Issued], number: int, kind: Kind) -> list[int]:
    return [part for at, what, part in order if (at, what) == (number, kind)]


def test_alone() -> None:
    """F goes forwards, B backwards, and W has no all-to-alls."""
    assert parts(overlapped([operation(Kind.F)]), 0, Kind.F) == [0, 1, 2, 3, 4]
    assert parts(overlapped([operation(Kind.B)]), 0, Kind.B) == [4, 3, 2, 1, 0]
    assert parts(overlapped([operation(Kind.W)]), 0, Kind.W) == [4, 2, 0]


def test_natural() -> None:
    """With nothing between them a BW's parts are BW, and a pair's halves follow each other."""
    order = natural([operation(Kind.F), operation(Kind.BW)])
    assert order == [(0, Kind.F, part) for part in range(5)] + [
        (1, Kind.BW, part) for part in reversed(range(5))
    ]


def test_weights_fill() -> None:
    """A W is issued while its own backward's all-to-all is under way."""
    order = overlapped([operation(Kind.BW)])
    assert order.index((0, Kind.B, 3)) < order.index((0, Kind.W, 4)) < order.index((0, Kind.B, 2))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.booleans(), max_size=6), st.lists(st.booleans(), max_size=6))
@pytest.mark.parametrize("kind", [Kind.B, Kind.BW])
def test_pair(kind: Kind, one: list[bool], other: list[bool]) -> None:
    """Both halves keep their order, whatever their chunks; each W comes once, behind its B."""
    pair = [operation(Kind.F, tuple(one)), operation(kind, tuple(other))]
    order = overlapped(pair)
    assert parts(order, 0, Kind.F) == list(range(len(one)))
    assert parts(order, 1, Kind.B) == list(range(len(other)))[::-1]
    weights = parts(order, 1, Kind.W)
    wanted = [part for part, wire in enumerate(other) if not wire]
    assert sorted(weights) == (wanted if kind is Kind.BW else [])
    for part in weights:
        assert order.index((1, Kind.B, part)) < order.index((1, Kind.W, part))
