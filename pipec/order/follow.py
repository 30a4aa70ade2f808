"""A plan -> a sequence: each rank follows its own order, and fills the gaps from what follows.

A free rank takes the first operation of its plan that is ready. One that is ready may overtake
those before it if no prefix of what remains then holds more than is allowed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipec.order.dispatch import NEVER, Board, Choose, Patience, dispatch, waiting
from pipec.order.lines import Clock, Lines
from pipec.program.effects import Kind

ALWAYS_LAST, NEVER_LAST = 1 << 60, -1
"""For a `Manner`: W comes after everything else from the first operation on, or at no time."""

HELD = {Kind.F: 1, Kind.W: -1, Kind.BW: -1}
"""What operations add to the activations that a rank holds."""


@dataclass(frozen=True)
class Bounds:
    """What ranks may hold, of one thing or of several: `most[rank]`, of each.

    `moves[line]` are (which, change) of an operation.
    """

    most: list[list[int]]
    moves: list[list[tuple[int, int]]]

    def mirrored(self, lines: Lines) -> "Bounds":
        """The same bounds for sequences from the end to the begin, which hold nothing at first."""
        left = [[0] * len(bounds) for bounds in self.most]
        for line, moves in zip(lines.lines, self.moves, strict=True):
            for which, change in moves:
                left[line.rank][which] += change * line.total
        most = [
            [a - b for a, b in zip(*pair, strict=True)]
            for pair in zip(self.most, left, strict=True)
        ]
        return Bounds(most, [[(which, -change) for which, change in own] for own in self.moves])


def bounds_of(lines: Lines, limits: Iterable[tuple[Mapping[int, int], int]]) -> Bounds:
    """Bounds from limits: weights of lines of one rank, and the most that they may add up to."""
    most: list[list[int]] = [[] for _ in range(lines.placement.ranks)]
    moves: list[list[tuple[int, int]]] = [[] for _ in lines.lines]
    for weights, bound in limits:
        changes = {number: change for number, change in weights.items() if change}
        for number, change in changes.items():
            moves[number].append((len(most[lines.lines[number].rank]), change))
        if changes:
            most[lines.lines[min(changes)].rank].append(bound)
    return Bounds(most, moves)


def held_at_most(lines: Lines, peak: int) -> Bounds:
    """No rank holds more than `peak` activations."""
    held = [
        {number: HELD.get(lines.lines[number].kind, 0) for number in lines.on(rank)}
        for rank in range(lines.placement.ranks)
    ]
    return bounds_of(lines, [(weights, peak) for weights in held])


@dataclass(frozen=True)
class Plan:
    """Per rank the lines in the order in which they should go, and what no rank may exceed."""

    lines: Lines
    order: list[list[int]]
    bounds: Bounds


@dataclass(frozen=True)
class Latest:
    """`begin[line]`: when its operations have to begin at the latest, or `slack` later."""

    begin: list[list[int]]
    slack: int = 0


@dataclass(frozen=True)
class Manner:
    """How freely a plan is followed: W comes after everything else once at most `last` F are left.

    What is ready waits for something before it that is known to arrive: for a share of its own time
    (`patience`, as in a policy), or whenever it would make that begin too late (`latest`).
    """

    last: int = 0
    patience: Patience = field(default_factory=dict)
    latest: Latest | None = None


@dataclass(frozen=True)
class Made:
    """A sequence of lines, and `ended[line]`: when its operations end in it."""

    sequence: list[int]
    ended: list[list[int]]

    @property
    def makespan(self) -> int:
        """When all is done."""
        return max((own[-1] for own in self.ended if own), default=0)


def follow(plan: Plan, times: Clock, manner: Manner) -> Made:
    """What a plan makes under costs; cut short where nothing goes on."""
    board = Board.of(plan.lines)
    sequence = dispatch(plan.lines, times, board, _chooser(plan, times, board, manner))
    return Made(sequence, board.ended)


@dataclass
class _Rank:
    """What is left of a rank's plan, what the rank holds, and how many F it has still to run."""

    rest: list[int]
    alive: int
    held: list[int]
    forwards: int


def _chooser(plan: Plan, times: Clock, board: Board, manner: Manner) -> Choose:
    lines, moves = plan.lines.lines, plan.bounds.moves
    arrival, done = board.arrival, board.done
    weights = [line.kind == Kind.W for line in lines]
    grows = [[(which, more) for which, more in own if more > 0] for own in moves]
    bit, reach = _bits(plan), _reach(plan.lines, times, manner)
    latest = manner.latest.begin if manner.latest else None
    ranks = _ranks(plan, bit)

    def pick(state: _Rank, most: list[int], now: int) -> tuple[int, int]:
        """The place of what goes next, or -1, and until when something before it can wait."""
        held, peak = state.held.copy(), state.held.copy()
        seen, alive = 0, state.alive
        postponed, edge = -1, NEVER
        yields = state.forwards <= manner.last
        for place, number in enumerate(state.rest):
            own = moves[number]
            if not seen & bit[number]:
                seen |= bit[number]
                at, ready = done[number], arrival[number]
                if at < len(ready) and (
                    not grows[number]
                    or all(peak[which] + more <= most[which] for which, more in grows[number])
                ):
                    when = ready[at]
                    if when > now:
                        if latest and latest[number][at] > when:
                            when = latest[number][at]
                        if when < edge:
                            edge = when
                    elif not (weights[number] and yields):
                        return place, edge
                    elif postponed < 0:
                        postponed = place
                if seen == alive:
                    break
            for which, change in own:
                held[which] = value = held[which] + change
                if value > peak[which]:
                    peak[which] = value
        return postponed, edge

    def choose(here: int, now: int) -> int:
        state = ranks[here]
        place, edge = pick(state, plan.bounds.most[here], now)
        if place < 0 or edge <= now + reach[state.rest[place]]:
            return -1
        number = state.rest.pop(place)
        for which, change in moves[number]:
            state.held[which] += change
        state.forwards -= lines[number].kind == Kind.F
        if done[number] + 1 == lines[number].total:
            state.alive &= ~bit[number]
        return number

    return choose


def _reach(lines: Lines, times: Clock, manner: Manner) -> list[int]:
    """How far from now an operation of each line waits for what stands before it."""
    if manner.latest:
        return [time - manner.latest.slack - 1 for time in times.duration]
    return waiting(lines, times, manner.patience)


def _ranks(plan: Plan, bit: list[int]) -> list[_Rank]:
    return [
        _Rank(
            list(order),
            sum(bit[number] for number in set(order)),
            [0] * len(most),
            sum(plan.lines.lines[number].kind == Kind.F for number in order),
        )
        for order, most in zip(plan.order, plan.bounds.most, strict=True)
    ]


def _bits(plan: Plan) -> list[int]:
    """A bit for each line, different from those of the other lines of its rank."""
    bit = [0] * len(plan.lines.lines)
    for order in plan.order:
        for place, number in enumerate(dict.fromkeys(order)):
            bit[number] = 1 << place
    return bit
