"""When all-to-alls are issued: as soon as what they send exists."""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

Item = TypeVar("Item", bound=Hashable)


def eager(
    order: Sequence[Item], wire: Callable[[Item], bool], needs: Callable[[Item], Iterable[Item]]
) -> list[Item]:
    """The same order on each lane, every all-to-all behind the compute that it needs.

    An all-to-all begins behind all compute that was issued before it, so none may stand between.
    """
    known, found = set(order), dict[Item, None]()
    wires = deque(item for item in order if wire(item))
    for item in order:
        while wires and all(need in found for need in needs(wires[0]) if need in known):
            found[wires.popleft()] = None
        if not wire(item):
            found[item] = None
    return [*found, *wires]
