"""Random programs on real processes do what the verifier says: finish, hang, or go wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ranks import Ranks
from reality import as_said, drawn, happens, verdict

pytestmark = pytest.mark.slow

SEEDS = range(30)


@pytest.mark.parametrize("seed", SEEDS)
def test_reality_is_as_verified(seed: int, fresh: Callable[[int], Ranks]) -> None:
    """Certified: right gradients. Deadlock: a hang, named. Corruption: wrong gradients, no hang."""
    said, answers = happens(fresh, seed)
    assert as_said(said, answers), (said, answers)


def test_all_three_happen() -> None:
    """Among these programs there are several of each verdict."""
    said = [verdict(*drawn(seed)) for seed in SEEDS]
    assert all(said.count(one) >= 3 for one in ("certified", "deadlock", "corruption")), said
