"""Neighbours side by side: every part once, behind what it needs, and sooner than one by one."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pipec.lower.neighbours import Work, side_by_side

KINDS = st.integers(0, 1), st.integers(0, 4), st.booleans()
"""Lane, ticks and whether it is filler."""


@st.composite
def works(draw: st.DrawFn) -> Work:
    """Two ranks, each with units of parts that wait for earlier parts of any rank."""
    sizes = draw(st.lists(st.lists(st.integers(0, 4), max_size=5), min_size=2, max_size=2))
    count = sum(map(sum, sizes))
    numbers = iter(draw(st.permutations(range(count))))
    units = [[sorted(next(numbers) for _ in range(size)) for size in rank] for rank in sizes]
    flat = [[part for unit in rank for part in unit] for rank in units]
    where = {part: (rank, n) for rank, order in enumerate(flat) for n, part in enumerate(order)}

    def needs(part: int) -> list[int]:
        (rank, place), others = where[part], range(part)
        earlier = [other for other in others if where[other][0] != rank or where[other][1] < place]
        return draw(st.lists(st.sampled_from(earlier), max_size=2)) if earlier else []

    drawn = [draw(st.lists(kind, min_size=count, max_size=count)) for kind in KINDS]
    return Work(units, drawn[0], drawn[1], [needs(part) for part in range(count)], drawn[2])


@settings(max_examples=100, deadline=None)
@given(works(), st.integers(1, 4))
def test_every_part(work: Work, window: int) -> None:
    """Each rank issues its own parts once, and none before what it needs of that rank."""
    orders = side_by_side(work, window)
    for units, order in zip(work.units, orders, strict=True):
        assert sorted(order) == sorted(part for unit in units for part in unit)
    if not stuck(work):
        for order in orders:
            for place, part in enumerate(order):
                assert not set(work.needs[part]) & set(order[place + 1 :])


def stuck(work: Work) -> bool:
    """Whether a sequence of rounds over all parts leaves some behind."""
    done: set[int] = set()
    for _ in work.lane:
        done |= {part for part, needs in enumerate(work.needs) if done.issuperset(needs)}
    return len(done) < len(work.lane)


def chain(steps: int) -> Work:
    """One rank with two operations of `steps` compute parts and all-to-alls in turn."""
    units = [list(range(2 * steps)), list(range(2 * steps, 4 * steps))]
    needs = [[part - 1] if part % (2 * steps) else [] for part in range(4 * steps)]
    return Work([units], [0, 1] * 2 * steps, [1] * 4 * steps, needs, [False] * 4 * steps)


def test_one_unit() -> None:
    """A window of one unit keeps the order."""
    assert side_by_side(chain(3), 1) == [list(range(12))]


def test_two_units() -> None:
    """A window of two hides one operation's all-to-alls behind the other's compute."""
    assert side_by_side(chain(2), 2) == [[0, 1, 4, 5, 2, 3, 6, 7]]


def test_filler_comes_last() -> None:
    """A W part is issued where nothing else is ready, though its unit is the oldest."""
    work = Work([[[0, 1], [2]]], [0, 0, 0], [1, 1, 1], [[], [0], []], [False, True, False])
    assert side_by_side(work, 1) == [[0, 2, 1]]


def test_circle() -> None:
    """Parts that wait for each other across ranks stand last, so that a verifier can show them."""
    work = Work([[[0, 1]], [[2]]], [0, 0, 0], [1, 1, 1], [[], [2], [1]], [False] * 3)
    assert side_by_side(work, 2) == [[0, 1], [2]]
