"""Interleaving: chains of parts that share lanes, issued so that they are through soonest.

An operation whose chunk has parts is a chain: each part runs on its lane (compute, all-to-all) and
waits for the part before it. Operations of different microbatches wait for each other nowhere, so
one may compute while the other is on the wire. What the host decides is one issue sequence; a lane
runs its parts in that order.

This is a job shop of few jobs and two machines. The search is A* over how far each chain has come:
of two states with the same progress the one that is later everywhere is dropped, and starts never
go back in time, so that no schedule is looked at twice. It is exact until its effort is spent, and
always says below which makespan no sequence can be.

    F:  attention dispatch mlp combine      issue:  B.combine F.attention B.mlp F.dispatch W.mlp
    B:  combine mlp dispatch attention              B.dispatch F.mlp B.attention F.combine
    W:  mlp attention                               W.attention
"""

import heapq
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

EFFORT = 4000
"""States that the search may open: tens of milliseconds."""

_NOWHERE = 2**62


@dataclass(frozen=True)
class Part:
    """A part of an operation: its lane, and how long it takes there.

    It waits for the part before it in its chain, or for the one named by `after` (chain and place)
    instead: a W waits for its B, which must run on the same lane.
    """

    lane: Hashable
    ticks: int
    after: tuple[int, int] | None = None


Chain = tuple[Part, ...]
Place = tuple[int, int]
"""A chain and a place in it."""


@dataclass(frozen=True)
class Interleaving:
    """An issue sequence."""

    order: tuple[Place, ...]
    makespan: int
    bound: int
    """No sequence is through sooner, as long as each chain is issued front to back."""


def interleave(chains: Sequence[Chain], effort: int = EFFORT) -> Interleaving:
    """The sequence that is through soonest; the same one every time."""
    return _Search(chains).run(effort)


def spans(chains: Sequence[Chain], order: Sequence[Place]) -> list[tuple[int, int]]:
    """When each part of an issue sequence begins and ends.

    Assumes that what a part waits for is issued before it.
    """
    free: dict[Hashable, int] = {}
    ended: dict[Place, int] = {}
    found = []
    for chain, place in order:
        part, need = chains[chain][place], needed(chains, (chain, place))
        begin = max(free.get(part.lane, 0), 0 if need is None else ended[need])
        ended[chain, place] = free[part.lane] = begin + part.ticks
        found.append((begin, begin + part.ticks))
    return found


def needed(chains: Sequence[Chain], place: Place) -> Place | None:
    """The part that a part waits for."""
    chain, index = place
    after = chains[chain][index].after
    if after is not None:
        return after
    return (chain, index - 1) if index else None


# --- the search -----------------------------------------------------------------------------------

_Ints = tuple[int, ...]
_State = tuple[_Ints, _Ints, _Ints]
"""Parts issued of each chain; when each lane is free; when each chain may go on (0 at its end)."""

_Path = tuple["_Path", int] | None


class _Search:
    def __init__(self, chains: Sequence[Chain]):
        self._given = chains
        names = list(dict.fromkeys(part.lane for chain in chains for part in chain))
        self._chains = [
            [(names.index(part.lane), part.ticks, part.after) for part in chain] for chain in chains
        ]
        self._lanes = range(len(names))
        self._ahead = [_ahead(chain, len(names)) for chain in self._chains]
        self._whole = tuple(len(chain) for chain in chains)

    def run(self, effort: int) -> Interleaving:
        start: _State = ((0,) * len(self._whole), (0,) * len(self._lanes), (0,) * len(self._whole))
        best = self._dive(start, None)
        number = count()
        queue: list[tuple[int, int, int, _State, _Path]] = []
        heapq.heappush(queue, (self._bound(start), 0, next(number), start, None))
        kept: dict[_Ints, list[_Ints]] = {}
        while queue and queue[0][0] < best.makespan:
            bound, depth, _, state, path = heapq.heappop(queue)
            if effort == 0 or state[0] == self._whole:
                other = self._dive(state, path)
                return replace(min(best, other, key=lambda found: found.makespan), bound=bound)
            if _beaten(kept.get(state[0], []), state[1] + state[2]):
                continue
            effort -= 1
            for chain, follower in self._next(state):
                least = max(bound, self._bound(follower))
                if least < best.makespan and _keep(kept, follower):
                    entry = (least, depth - 1, next(number), follower, (path, chain))
                    heapq.heappush(queue, entry)
        return replace(best, bound=best.makespan)

    def _next(self, state: _State) -> Iterator[tuple[int, _State]]:
        """Every part that may be issued. What lies before its start is over for all of them."""
        progress, lanes, ends = state
        for chain, place in enumerate(progress):
            if place == self._whole[chain]:
                continue
            lane, ticks, after = self._chains[chain][place]
            if after and progress[after[0]] <= after[1]:
                continue
            begin = max(lanes[lane], ends[chain])
            issued = tuple(i + (k == chain) for k, i in enumerate(progress))
            free = [max(time, begin) for time in lanes]
            free[lane] = begin + ticks
            goes_on = [max(time, begin) for time in ends]
            goes_on[chain] = begin + ticks
            for other, place in enumerate(issued):
                if place == self._whole[other]:
                    goes_on[other] = 0
            yield chain, (issued, tuple(free), tuple(goes_on))

    def _bound(self, state: _State) -> int:
        """The longest chain, or the busiest lane with what must come before and behind it."""
        progress, lanes, ends = state
        ahead = [self._ahead[chain][place] for chain, place in enumerate(progress)]
        left = zip(ends, ahead, strict=True)
        least = max((end + rest for end, (rest, _, _, _) in left), default=0)
        for lane in self._lanes:
            time = lanes[lane]
            work = sum(works[lane] for _, works, _, _ in ahead)
            if work:
                first = min(
                    e + heads[lane] for e, (_, _, heads, _) in zip(ends, ahead, strict=True)
                )
                time = max(time, first) + work + min(tails[lane] for _, _, _, tails in ahead)
            least = max(least, time)
        return least

    def _dive(self, state: _State, path: _Path) -> Interleaving:
        """A sequence from here to the end, following the smallest bound."""
        while state[0] != self._whole:
            chain, state = min(self._next(state), key=lambda pair: (self._bound(pair[1]), pair[0]))
            path = (path, chain)
        order = _order(path)
        last = max((end for _, end in spans(self._given, order)), default=0)
        return Interleaving(order, last, 0)


_Ahead = tuple[int, _Ints, _Ints, _Ints]
"""From a place of a chain on: all its time; per lane the work, what comes before the first part
there, and what comes behind the last."""


def _ahead(chain: list[tuple[int, int, tuple[int, int] | None]], lanes: int) -> list[_Ahead]:
    rest, work = 0, [0] * lanes
    heads, tails = [_NOWHERE] * lanes, [_NOWHERE] * lanes
    found = [(rest, tuple(work), tuple(heads), tuple(tails))]
    for lane, ticks, _ in reversed(chain):
        if not work[lane] and tails[lane] == _NOWHERE:
            tails[lane] = rest
        rest += ticks
        work[lane] += ticks
        heads = [min(head + ticks, _NOWHERE) for head in heads]
        heads[lane] = 0
        found.append((rest, tuple(work), tuple(heads), tuple(tails)))
    return found[::-1]


def _keep(kept: dict[_Ints, list[_Ints]], state: _State) -> bool:
    """Whether nothing with the same progress was as early everywhere; then it is remembered."""
    times = state[1] + state[2]
    known = kept.setdefault(state[0], [])
    if any(_earlier(other, times) for other in known):
        return False
    known[:] = [other for other in known if not _earlier(times, other)]
    known.append(times)
    return True


def _beaten(known: list[_Ints], times: _Ints) -> bool:
    """Whether a state that came later is earlier everywhere."""
    return any(other != times and _earlier(other, times) for other in known)


def _earlier(one: _Ints, other: _Ints) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True))


def _order(path: _Path) -> tuple[Place, ...]:
    chains = []
    while path:
        path, chain = path
        chains.append(chain)
    issued: Counter[int] = Counter()
    order = []
    for chain in reversed(chains):
        order.append((chain, issued[chain]))
        issued[chain] += 1
    return tuple(order)
