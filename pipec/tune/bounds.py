"""How short a schedule can be at most: bounds for any order of a placement within a peak.

Every operation has a *head*, the least time before it, and a *tail*, the least time behind it. Both
follow from what it waits for, from the work of its own rank that has to come before it, and from
memory: a forward has to wait until enough has been given back. A rank then is one machine that runs
its operations between heads and tails, and the best schedule of that with interruptions (Jackson's
rule) is a bound on every schedule. Tails are the heads of the same problem with time reversed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from heapq import heappop, heappush

from pipec.program.effects import Kind
from pipec.tune.area import area_bound
from pipec.tune.shop import Shop

_ROUNDS, _FEWEST, _AFFORDED = 40, 3, 200_000
"""How often heads are raised, fewer times where there are many; each time they are bounds."""


@dataclass(frozen=True)
class Bound:
    """Ticks that no order can beat: the work of the busiest rank, the longest chain of operations,
    and the bound of one rank with heads and tails, which is at least as large as both.
    """

    busiest: int
    chain: int
    best: int


def bounds(shop: Shop, most: Sequence[int]) -> Bound:
    """The bounds within `most[rank]`, in ticks of memory beside the base."""
    net = _net(shop, most)
    heads, tails = _heads(net), _heads(_reversed(net))
    ranks = [
        [
            (heads[line][k], net.work[line], tails[line][net.total[line] - 1 - k])
            for line in own
            for k in range(net.total[line])
        ]
        for own in shop.on
    ]
    busiest = max(sum(net.work[line] * net.total[line] for line in own) for own in shop.on)
    plain = _heads(replace(net, work=[0] * len(net.work), most=None))
    chain = max(head[0] + time for head, time in zip(plain, net.duration, strict=True))
    windows = [_window(shop, net, rank, heads, tails) for rank in range(shop.ranks)]
    alone = [head[0] for head in plain]
    areas = [area_bound(shop, rank, most[rank], alone, heads, tails) for rank in range(shop.ranks)]
    return Bound(busiest, chain, max(chain, *map(_one_machine, ranks), *windows, *areas))


def margins(shop: Shop, most: Sequence[int]) -> tuple[list[list[int]], list[list[int]]]:
    """`[line][number]`: the least time before each operation, and the least time behind it."""
    net = _net(shop, most)
    return _heads(net), [tails[::-1] for tails in _heads(_reversed(net))]


@dataclass(frozen=True)
class _Net:
    """Lines with what they wait for, their least times, their least work, and what they keep."""

    before: list[list[tuple[int, int]]]
    duration: list[int]
    work: list[int]
    keep: list[int]
    total: list[int]
    rank: list[int]
    stage: list[tuple[int, int]]
    most: list[int] | None

    @cached_property
    def on(self) -> list[list[int]]:
        """The lines of each rank."""
        ranks = range(max(self.rank) + 1)
        return [[line for line, at in enumerate(self.rank) if at == rank] for rank in ranks]

    @cached_property
    def above(self) -> list[set[int]]:
        """For each line all that its operations come after, number by number."""
        found: list[set[int]] = [set() for _ in self.before]
        for line in self.sorted:
            for earlier, _ in self.before[line]:
                found[line] |= found[earlier] | {earlier}
        return found

    @cached_property
    def sorted(self) -> list[int]:
        """The lines, each behind what it waits for."""
        left = {line: {earlier for earlier, _ in before} for line, before in enumerate(self.before)}
        found: list[int] = []
        while left:
            ready = [line for line, waits in left.items() if not waits & left.keys()]
            found += ready
            left = {line: waits for line, waits in left.items() if line not in ready}
        return found


def _net(shop: Shop, most: Sequence[int]) -> _Net:
    lines = shop.lines.lines
    duration, work = list(shop.times.duration), list(shop.times.duration)
    for line, pair in enumerate(shop.pair):
        work[line] = duration[line] = min(duration[line], pair or duration[line])
    for back, weights in enumerate(shop.weights):
        if weights < 0:
            continue
        others = [other for other in shop.on[lines[back].rank] if shop.pair[other]]
        saved = [shop.pair[other] - duration[other] for other in others]
        whole = max(min([work[back] + work[weights], shop.fused[back], *saved]), 0)
        work[back] = min(work[back], whole)
        work[weights] = whole - work[back]
        duration[back] = min(
            [duration[back], shop.fused[back], *(shop.pair[one] for one in others)]
        )
    return _Net(
        shop.before,
        duration,
        work,
        shop.keep,
        [line.total for line in lines],
        [line.rank for line in lines],
        [(line.flow, line.stage) for line in lines],
        list(most),
    )


def _reversed(net: _Net) -> _Net:
    """The same with time reversed: what waits becomes what is waited for."""
    before: list[list[tuple[int, int]]] = [[] for _ in net.before]
    for line, waits in enumerate(net.before):
        for earlier, delay in waits:
            before[earlier].append((line, delay))
    return replace(net, before=before, keep=[-kept for kept in net.keep])


def _heads(net: _Net) -> list[list[int]]:
    """Per line the least time before each of its operations; found by repeating what follows."""
    heads = [[0] * total for total in net.total]
    for _ in range(max(_FEWEST, min(_ROUNDS, _AFFORDED // sum(net.total)))):
        first = [min(heads[line][0] for line in own) for own in net.on]
        given = [_given(net, heads, own) for own in net.on]
        changed = False
        for line in net.sorted:
            found = _line_heads(net, heads, line, first[net.rank[line]], given[net.rank[line]])
            changed |= found != heads[line]
            heads[line] = found
        if not changed:
            break
    return heads


Given = list[tuple[int, int]]
"""When memory can have been given back at the earliest, and how much in all."""


def _given(net: _Net, heads: list[list[int]], own: list[int]) -> Given:
    ends = sorted(
        (head + net.duration[line] * (net.work[line] > 0), -net.keep[line])
        for line in own
        if net.keep[line] < 0
        for head in heads[line]
    )
    found, whole = [], 0
    for end, amount in ends:
        whole += amount
        found.append((end, whole))
    return found


def _line_heads(
    net: _Net, heads: list[list[int]], line: int, first: int, given: Given
) -> list[int]:
    rank = net.rank[line]
    mates = [other for other in net.above[line] if net.rank[other] == rank]
    behind = sum(net.work[mate] for mate in mates)
    taken = sum(net.keep[mate] for mate in mates if net.keep[mate] > 0)
    found: list[int] = []
    at = 0
    for k, old in enumerate(heads[line]):
        head = max(old, first + k * net.work[line] + (k + 1) * behind)
        if found:
            head = max(head, found[-1] + net.work[line])
        for earlier, delay in net.before[line]:
            head = max(head, heads[earlier][k] + net.duration[earlier] + delay)
        if net.most is not None and net.keep[line] > 0:
            needed = (k + 1) * (taken + net.keep[line]) - net.most[rank]
            if needed > 0:
                while at < len(given) - 1 and given[at][1] < needed:
                    at += 1
                work = _to_give(net, rank, needed)
                head = max(head, given[at][0], first + k * net.work[line] + (k + 1) * behind + work)
        found.append(head)
    return found


def _to_give(net: _Net, rank: int, needed: int) -> int:
    """The least work that gives so much back: each giver with what of its stage comes before it."""
    givers = [line for line in net.on[rank] if net.keep[line] < 0]
    least = min(
        net.work[line]
        + sum(
            net.work[mate]
            for mate in net.above[line]
            if net.stage[mate] == net.stage[line] and net.keep[mate] == 0
        )
        for line in givers
    )
    return -(-needed // max(-net.keep[line] for line in givers)) * least


def _one_machine(operations: list[tuple[int, int, int]]) -> int:
    """The makespan of one rank that may interrupt: always what has the longest tail."""
    waiting = sorted(operations)
    ready: list[tuple[int, int]] = []
    now = best = at = 0
    while at < len(waiting) or ready:
        if not ready:
            now = max(now, waiting[at][0])
        while at < len(waiting) and waiting[at][0] <= now:
            heappush(ready, (-waiting[at][2], waiting[at][1]))
            at += 1
        tail, left = heappop(ready)
        until = waiting[at][0] if at < len(waiting) else now + left
        step = min(left, until - now)
        now += step
        best = max(best, now - tail)
        if step < left:
            heappush(ready, (tail, left - step))
    return best


def _window(
    shop: Shop, net: _Net, rank: int, heads: list[list[int]], tails: list[list[int]]
) -> int:
    """What a rank needs if an F and a BW may be a pair: pairs save time, but none can begin before
    the first backward can, or end after the last forward must have.
    """
    lines, own = shop.lines.lines, shop.on[rank]
    pairs = [shop.pair[line] for line in own if shop.pair[line]]
    if not pairs:
        return 0
    backs = [line for line in own if lines[line].kind == Kind.B]
    forwards = [line for line in own if lines[line].kind == Kind.F]
    time = shop.times.duration
    alone = {back: min(time[back] + time[shop.weights[back]], shop.fused[back]) for back in backs}
    work = sum(alone[back] * lines[back].total for back in backs)
    work += sum(time[line] * lines[line].total for line in forwards)
    saved = max(max(alone.values()) + max(time[line] for line in forwards) - min(pairs), 0)
    around = min(heads[line][0] for line in own) + min(tails[line][0] for line in own)
    outside = min(heads[line][0] for line in backs) + min(tails[line][0] for line in forwards)
    most = sum(lines[line].total for line in forwards)
    return min(
        max(around + work - saved * number, (outside + min(pairs) * number) * (number > 0))
        for number in range(most + 1)
    )
