"""Interleaving: no issue sequence is through sooner than the one that is found."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pipec.lower.interleave import Chain, Part, Place, interleave, needed, spans

COMPUTE, WIRE = "compute", "all-to-all"
FORWARD = ("attention", "dispatch", "mlp", "combine")
LANES = {"attention": COMPUTE, "dispatch": WIRE, "mlp": COMPUTE, "combine": WIRE}


def pair(forward: int, backward: int, compute: int = 2, wire: int = 3) -> list[Chain]:
    """F, B and W of chunks with so many layers; every part takes the same, on its lane."""

    def part(name: str) -> Part:
        return Part(LANES[name], compute if LANES[name] == COMPUTE else wire)

    b = tuple(part(name) for name in FORWARD[::-1] * backward)
    w = tuple(Part(COMPUTE, compute, (1, place)) for place in range(1, len(b), 2))
    return [tuple(part(name) for name in FORWARD * forward), b, w]


def through(chains: list[Chain], order: list[Place] | tuple[Place, ...]) -> int:
    return max((end for _, end in spans(chains, order)), default=0)


def best(chains: list[Chain], issued: tuple[Place, ...] = ()) -> int:
    """By trying every sequence."""
    fronts = [len([1 for chain, _ in issued if chain == number]) for number in range(len(chains))]
    ready = [
        (number, front)
        for number, front in enumerate(fronts)
        if front < len(chains[number])
        and needed(chains, (number, front)) in {*issued, None, (number, front - 1)}
    ]
    if not ready:
        return through(chains, issued)
    return min(best(chains, (*issued, place)) for place in ready)


parts = st.builds(Part, st.sampled_from([COMPUTE, WIRE]), st.integers(0, 5))


@st.composite
def with_weights(draw: st.DrawFn) -> list[Chain]:
    """Two operations, and W parts of the second's compute."""
    one, two = draw(st.lists(parts, max_size=3)), draw(st.lists(parts, max_size=3))
    places = [place for place, part in enumerate(two) if part.lane == COMPUTE]
    w = [Part(COMPUTE, draw(st.integers(0, 5)), (1, place)) for place in places[:2]]
    return [tuple(one), tuple(two), tuple(w)]


@settings(max_examples=80, deadline=None)
@given(with_weights())
def test_weights(chains: list[Chain]) -> None:
    """With W parts as filler the makespan is the smallest of all sequences, and is the bound."""
    found = interleave(chains)
    assert through(chains, found.order) == found.makespan == found.bound == best(chains)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(parts, max_size=2).map(tuple), max_size=4))
def test_several(chains: list[Chain]) -> None:
    """So it is for any number of operations, of unequal lengths and any parts."""
    found = interleave(chains)
    assert through(chains, found.order) == found.makespan == found.bound == best(chains)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(parts, max_size=12).map(tuple), min_size=2, max_size=4), st.integers(0, 9))
def test_spent(chains: list[Chain], effort: int) -> None:
    """Where the effort is spent there is a whole sequence nevertheless, and a bound that holds."""
    found = interleave(chains, effort)
    assert sorted(found.order) == [
        (c, p) for c, chain in enumerate(chains) for p in range(len(chain))
    ]
    assert through(chains, found.order) == found.makespan >= found.bound
    assert found.bound <= interleave(chains).makespan


def test_figure_4() -> None:
    """Four layers a side: 24 units of compute and 24 of wire are through after 24.5, proven."""
    found = interleave(pair(4, 4))
    assert (found.makespan, found.bound) == (49, 49)


def test_unequal_layers() -> None:
    """Two layers forward beside four backward: the search proves what it finds."""
    found = interleave(pair(2, 4))
    assert found.makespan == found.bound == 45


def test_repeatable() -> None:
    """The same chains give the same sequence."""
    assert interleave(pair(3, 4)) == interleave(pair(3, 4))
