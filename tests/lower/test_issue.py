"""Issuing all-to-alls: lanes keep their order, and none waits for compute it does not need."""

from hypothesis import given
from hypothesis import strategies as st

from pipec.lower.issue import eager


@given(st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 20), max_size=2)), max_size=12))
def test_eager(items: list[tuple[bool, list[int]]]) -> None:
    """Both lanes keep their order, and an all-to-all stands behind the last it needs or follows."""
    needs = {item: [need for need in some if need < item] for item, (_, some) in enumerate(items)}
    found = eager(range(len(items)), lambda item: items[item][0], lambda item: needs[item])
    for lane in (False, True):
        own = [item for item in range(len(items)) if items[item][0] is lane]
        assert [item for item in found if items[item][0] is lane] == own
    for place, item in enumerate(found):
        assert set(needs[item]) <= set(found[:place])
        if items[item][0] and place:
            before = found[place - 1]
            assert items[before][0] or before in needs[item]
