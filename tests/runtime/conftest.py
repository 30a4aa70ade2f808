"""Ranks that live as long as the tests run, made anew after a case that broke them."""

from collections.abc import Callable, Iterator

import pytest
from ranks import Ranks


@pytest.fixture(scope="session")
def _living() -> Iterator[list[Ranks]]:
    living: list[Ranks] = []
    yield living
    for ranks in living:
        ranks.end()


@pytest.fixture
def four(_living: list[Ranks]) -> Ranks:
    """Four ranks that other tests use too; a case may use some of them only."""
    if not _living or not _living[-1].alive:
        for ranks in _living:
            ranks.end()
        _living[:] = [Ranks(4)]
    return _living[-1]


@pytest.fixture
def fresh() -> Iterator[Callable[[int], Ranks]]:
    """Makes ranks of a test's own, to be broken."""
    made: list[Ranks] = []

    def make(count: int) -> Ranks:
        made.append(Ranks(count))
        return made[-1]

    yield make
    for ranks in made:
        ranks.end()
