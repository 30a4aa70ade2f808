"""A bound by memory and time at once: what a rank holds, and how long, fits into what it may hold.

A microbatch is held from its F to its W at least as long as it takes alone. A rank cannot hold what
no F has taken yet, nor at the end what every W has given back. Between the two it holds at most its
limit. So the area under that must be as large as the sum of all that is held.
"""

from collections.abc import Sequence

from pipec.program.effects import Kind
from pipec.tune.shop import Shop

Moment = tuple[int, int]
"""A least time before, or behind, and how much is taken, or given back, then."""


def area_bound(
    shop: Shop,
    rank: int,
    most: int,
    alone: Sequence[int],
    heads: Sequence[Sequence[int]],
    tails: Sequence[Sequence[int]],
) -> int:
    """The least makespan in which a rank can hold all that it must, within `most`.

    alone: when the operations of a microbatch begin that is alone, per line. heads, tails: per line
    the least times before and behind its operations, the smallest first.
    """
    own = shop.on[rank]
    taken = _first(most, [(at, shop.keep[n]) for n in own if shop.keep[n] > 0 for at in heads[n]])
    given = _first(most, [(at, -shop.keep[n]) for n in own if shop.keep[n] < 0 for at in tails[n]])
    forwards = [line for line in own if shop.lines.lines[line].kind == Kind.F]
    needed = sum(_held(shop, line, alone) * shop.lines.lines[line].total for line in forwards)
    return _least(needed, _pieces(taken, given))


def _held(shop: Shop, line: int, alone: Sequence[int]) -> int:
    """What a microbatch takes of a rank's memory in a stage, times how long, at least."""
    back, weights = line + 1, line + 2
    keep, time = shop.keep, shop.times.duration
    apart = keep[line] * time[back] + (keep[line] + keep[back]) * time[weights]
    paired = [shop.pair[one] for one in shop.on[shop.lines.lines[line].rank] if shop.pair[one]]
    ends = min([apart, *(keep[line] * whole for whole in (shop.fused[back], *paired))])
    return keep[line] * (alone[back] - alone[line]) + ends


def _first(most: int, moments: list[Moment]) -> list[Moment]:
    """The earliest moments, as many as come to `most`."""
    found, left = [], most
    for at, amount in sorted(moments):
        if left > 0:
            found.append((at, min(amount, left)))
            left -= amount
    return found


def _pieces(taken: list[Moment], given: list[Moment]) -> list[Moment]:
    """Amounts, each with the time before it can be held and behind it, together."""
    found = []
    taken, given = taken[::-1], given[::-1]
    while taken and given:
        (before, much), (behind, back) = taken.pop(), given.pop()
        amount = min(much, back)
        found.append((before + behind, amount))
        taken += [(before, much - amount)] if much > amount else []
        given += [(behind, back - amount)] if back > amount else []
    return found


def _least(needed: int, pieces: list[Moment]) -> int:
    """The first moment until which so much can have been held."""
    rate = area = now = 0
    for idle, amount in sorted(pieces):
        if area + rate * (idle - now) >= needed:
            break
        area += rate * (idle - now)
        now, rate = idle, rate + amount
    return now - (area - needed) // rate if rate else 0
