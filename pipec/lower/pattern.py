"""A pair as an author writes it: for each lane the parts in issue order, layer after layer.

    overlap F & BW:
        compute:  F.attention  B.mlp       W.mlp       F.mlp  B.attention  W.attention
        wire:     B.combine    F.dispatch  B.dispatch  F.combine

A row is repeated for every layer; where one operation has fewer layers than the other, or a layer
lacks a part, the row goes on without it. What may be wrong is that two parts wait for each other:
one for a part that stands behind the other, on each lane.
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from pipec.lower.interleave import Chain, Place, needed


@dataclass(frozen=True)
class Stuck:
    """The part that stands first on each lane, and the one that it waits for: none can begin."""

    waits: tuple[tuple[Place, Place | None], ...]


def repeated(row: Sequence[tuple[int, str]], names: Sequence[Sequence[str]]) -> list[Place]:
    """The places that a row of (chain, part's name) names, layer after layer.

    names: what the parts of each chain are called. The k-th time that the row comes to a name it
    means the k-th part of that name.
    """
    places: dict[tuple[int, str], list[int]] = {}
    for chain, parts in enumerate(names):
        for place, name in enumerate(parts):
            places.setdefault((chain, name), []).append(place)
    times = max((len(places.get(entry, ())) for entry in row), default=0)
    seen: Counter[tuple[int, str]] = Counter()
    found = []
    for entry in list(row) * times:
        known = places.get(entry, [])
        if seen[entry] < len(known):
            found.append((entry[0], known[seen[entry]]))
            seen[entry] += 1
    return found


def follow(
    lanes: Mapping[Hashable, Sequence[Place]], chains: Sequence[Chain]
) -> list[Place] | Stuck:
    """The issue sequence that gives every lane its row, in order of when parts begin.

    Assumes that each part stands once, on its lane.
    """
    rows = {lane: list(row) for lane, row in lanes.items()}
    free: dict[Hashable, int] = dict.fromkeys(rows, 0)
    ended: dict[Place | None, int] = {None: 0}
    order = []
    while any(rows.values()):
        heads = {lane: row[0] for lane, row in rows.items() if row}
        needs = {lane: needed(chains, head) for lane, head in heads.items()}
        begins = {
            lane: max(free[lane], ended[needs[lane]]) for lane in heads if needs[lane] in ended
        }
        if not begins:
            return Stuck(tuple((head, needs[lane]) for lane, head in heads.items()))
        lane = min(begins, key=begins.__getitem__)
        chain, place = rows[lane].pop(0)
        ended[chain, place] = free[lane] = begins[lane] + chains[chain][place].ticks
        order.append((chain, place))
    return order
