"""Ranks that take one line of work after the other, in simulated time."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from heapq import heappop, heappush

from pipec.order.lines import Clock, Lines
from pipec.program.effects import Kind

Choose = Callable[[int, int], int]
"""`choose(rank, now)`: the line that a free rank takes, or -1 to wait for what arrives next."""

Patience = dict[Kind, Fraction]
"""The fraction of its own time that an operation waits for a preferred one that will arrive."""

NEVER = 1 << 200


@dataclass(frozen=True)
class Board:
    """Per line when its operations can run, as far as that is known; how many have begun; and when
    those end.
    """

    arrival: list[list[int]]
    done: list[int]
    ended: list[list[int]]

    @classmethod
    def of(cls, lines: Lines) -> "Board":
        """The board before anything runs."""
        arrival: list[list[int]] = [[] for _ in lines.lines]
        for number in lines.first:
            arrival[number] = [0] * lines.lines[number].total
        return cls(arrival, [0] * len(lines.lines), [[] for _ in lines.lines])


def dispatch(lines: Lines, times: Clock, board: Board, choose: Choose) -> list[int]:
    """The lines that are taken, in the order of time; shorter than `lines.size` where all stops."""
    done, ended, duration = board.done, board.ended, times.duration
    after = [
        list(zip(feed, delay, (lines.lines[number].rank for number in later), strict=True))
        for feed, later, delay in zip(
            lines.feeds(board.arrival), lines.after, times.delay, strict=True
        )
    ]
    ranks = lines.placement.ranks
    free, wakes = [0] * ranks, list(range(ranks))
    sequence: list[int] = []
    while wakes:
        now, here = divmod(heappop(wakes), ranks)
        if free[here] > now or (number := choose(here, now)) < 0:
            continue
        sequence.append(number)
        done[number] += 1
        free[here] = end = now + duration[number]
        ended[number].append(end)
        heappush(wakes, end * ranks + here)
        for feed, delay, there in after[number]:
            when = end + delay
            feed(when)
            if there != here and free[there] <= when:
                heappush(wakes, when * ranks + there)
    return sequence


def waiting(lines: Lines, times: Clock, patience: Patience) -> list[int]:
    """How many ticks an operation of each line waits at most for a preferred one."""
    return [
        int(time * patience.get(line.kind, 0))
        for line, time in zip(lines.lines, times.duration, strict=True)
    ]
