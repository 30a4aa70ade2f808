"""A building block -> a sequence: each rank follows its own, and fills the gaps from what follows.

A free rank takes the first operation of its block that is ready. One that is ready may overtake
those before it if no prefix of what remains then holds more than the peak of the whole repetition.
"""

from dataclasses import dataclass, field

from pipec.order.dispatch import NEVER, Board, Choose, Patience, dispatch, waiting
from pipec.order.lines import Clock, Lines
from pipec.program.effects import Kind

ALWAYS = 1 << 60


@dataclass(frozen=True)
class Blocks:
    """Per rank the lines in the order of the repetition, and the most that any rank holds in it."""

    lines: Lines
    order: list[list[int]]
    peak: int


@dataclass(frozen=True)
class Manner:
    """How freely a block is followed: W comes after everything else once at most `last` F are left;
    `patience` as in a policy.
    """

    last: int = 0
    patience: Patience = field(default_factory=dict)


HELD = {Kind.F: 1, Kind.W: -1, Kind.BW: -1}
"""What operations add to the activations that a rank holds."""


def follow(blocks: Blocks, times: Clock, manner: Manner) -> list[int]:
    """The sequence of lines that blocks make under costs; cut short where the blocks contradict."""
    board = Board.of(blocks.lines)
    waits = waiting(blocks.lines, times, manner.patience)
    return dispatch(blocks.lines, times, board, _chooser(blocks, board, waits, manner.last))


@dataclass
class _Rank:
    """What is left of a rank's block, what the rank holds, and how many F it has still to run."""

    rest: list[int]
    alive: int
    held: int
    forwards: int


def _chooser(blocks: Blocks, board: Board, waits: list[int], last: int) -> Choose:
    lines, peak = blocks.lines.lines, blocks.peak
    arrival, done = board.arrival, board.done
    change = [HELD.get(line.kind, 0) for line in lines]
    weights = [line.kind == Kind.W for line in lines]
    bit = _bits(blocks)
    ranks = [
        _Rank(
            list(order),
            sum(bit[number] for number in set(order)),
            0,
            sum(lines[number].kind == Kind.F for number in order),
        )
        for order in blocks.order
    ]

    def pick(state: _Rank, now: int) -> tuple[int, int]:
        """The place of what goes next, or -1, and when something before it arrives."""
        held = most = state.held
        seen, alive = 0, state.alive
        postponed, soon = -1, NEVER
        yields = state.forwards <= last
        for place, number in enumerate(state.rest):
            if not seen & bit[number]:
                seen |= bit[number]
                at, ready = done[number], arrival[number]
                if at < len(ready) and (change[number] <= 0 or most < peak or place == 0):
                    when = ready[at]
                    if when > now:
                        if when < soon and not weights[number]:
                            soon = when
                    elif not (weights[number] and yields):
                        return place, soon
                    elif postponed < 0:
                        postponed = place
                if seen == alive:
                    break
            held += change[number]
            if held > most:
                most = held
        return postponed, soon

    def choose(here: int, now: int) -> int:
        state = ranks[here]
        place, soon = pick(state, now)
        if place < 0 or soon <= now + waits[state.rest[place]]:
            return -1
        number = state.rest.pop(place)
        state.held += change[number]
        state.forwards -= lines[number].kind == Kind.F
        if done[number] + 1 == lines[number].total:
            state.alive &= ~bit[number]
        return number

    return choose


def _bits(blocks: Blocks) -> list[int]:
    """A bit for each line, different from those of the other lines of its rank."""
    bit = [0] * len(blocks.lines.lines)
    for order in blocks.order:
        for place, number in enumerate(dict.fromkeys(order)):
            bit[number] = 1 << place
    return bit
