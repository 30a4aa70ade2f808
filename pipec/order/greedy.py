"""A policy -> a sequence: list scheduling in simulated time.

A free rank takes the operation that is ready, that every limit admits and that stands first among
what the policy prefers; of equals the older microbatch, then for F the later stage and for B the
earlier. Two rules are the compiler's:

*Room*: an F is admitted only if the forwards that its rank still owes to the oldest microbatch
would fit after it. Without it, placements with several chunks get stuck.

*Patience*: an operation waits if a preferred one is known to arrive within a fraction of its time.
"""

from dataclasses import dataclass, field

from pipec.order.dispatch import NEVER, Board, Choose, Patience, dispatch, waiting
from pipec.order.lines import Clock, Lines
from pipec.program.effects import Kind


@dataclass(frozen=True)
class Limit:
    """On one rank: what lines add up to, by `weights`, is at most `bound`.

    `source` is the number of the limit in the text.
    """

    weights: dict[int, int]
    bound: int
    source: int


@dataclass(frozen=True)
class Policy:
    """`groups[rank]` are lines, the preferred ones first; lines of one group are equals."""

    lines: Lines
    groups: list[list[list[int]]]
    limits: list[Limit] = field(default_factory=list)


@dataclass(frozen=True)
class Refusal:
    """Why nothing goes on: `limit` does not admit the next operation of `line`.

    `value` is what the limit counts before it, and `owed` are the forwards that must fit after it.
    """

    line: int
    microbatch: int
    limit: Limit
    value: int
    owed: tuple[int, ...]


def decide(policy: Policy, times: Clock, patience: Patience) -> list[int] | Refusal:
    """The sequence of lines that a policy makes under costs, or what stops it."""
    state = _State.of(policy)
    choose = _chooser(policy, state, waiting(policy.lines, times, patience))
    sequence = dispatch(policy.lines, times, state.board, choose)
    return sequence if len(sequence) == policy.lines.size else _refusal(policy, state)


Changes = list[list[tuple[int, int]]]


@dataclass(frozen=True)
class _State:
    """The board, and per limit its value.

    `moves[line]` are (limit, change) of an operation, `grows[line]` those that raise a limit, with
    its bound. `mates[line]`: for an F, the F lines of its flow on its rank if there are several.
    """

    board: Board
    value: list[int]
    moves: Changes
    grows: list[list[tuple[int, int, int]]]
    mates: list[list[int]]

    @classmethod
    def of(cls, policy: Policy) -> "_State":
        lines = policy.lines.lines
        moves: Changes = [[] for _ in lines]
        for at, limit in enumerate(policy.limits):
            for number, weight in limit.weights.items():
                moves[number].append((at, weight))
        bounds = [limit.bound for limit in policy.limits]
        grows = [[(at, up, bounds[at]) for at, up in changes if up > 0] for changes in moves]
        together: dict[tuple[int, int], list[int]] = {}
        for number, line in enumerate(lines):
            if line.kind == Kind.F:
                together.setdefault((line.flow, line.rank), []).append(number)
        mates: list[list[int]] = [[] for _ in lines]
        for group in together.values():
            for number in group if len(group) > 1 else ():
                mates[number] = group if grows[number] else []
        return cls(Board.of(policy.lines), [0] * len(bounds), moves, grows, mates)


def _chooser(policy: Policy, state: _State, waits: list[int]) -> Choose:
    """What a free rank takes."""
    arrival, done = state.board.arrival, state.board.done
    value, moves, grows, mates = state.value, state.moves, state.grows, state.mates
    groups = policy.groups
    many = len(waits) + 1
    tie = [_tie(line.kind, line.stage, many) for line in policy.lines.lines]

    def admits(number: int) -> bool:
        for limit, weight, bound in grows[number]:
            if value[limit] + weight > bound:
                return False
        return not mates[number] or not _crowded(number, state)

    def choose(here: int, now: int) -> int:
        soon = NEVER
        for group in groups[here]:
            best, least, arrives = -1, NEVER, soon
            for number in group:
                at, ready = done[number], arrival[number]
                if at >= len(ready):
                    continue
                when = ready[at]
                if when > now:
                    if when < arrives and admits(number):
                        arrives = when
                elif (key := at * many + tie[number]) < least and admits(number):
                    best, least = number, key
            if best >= 0:
                if soon <= now + waits[best]:
                    return -1
                for limit, weight in moves[best]:
                    value[limit] += weight
                return best
            soon = arrives
        return -1

    return choose


def _tie(kind: Kind, stage: int, many: int) -> int:
    """Of one microbatch: F and W of the later stage first, B of the earlier."""
    return stage if kind in (Kind.B, Kind.BW) else many - 1 - stage


def _crowded(number: int, state: _State) -> bool:
    """Whether after this F the forwards owed to the oldest microbatch would not fit (*room*)."""
    owed = _owed(number, state)
    return bool(owed) and any(
        state.value[limit] + weight + _added(owed, limit, state) > bound
        for limit, weight, bound in state.grows[number]
    )


def _owed(number: int, state: _State) -> list[int]:
    """The F lines that have still to do the oldest microbatch that the rank has not forwarded."""
    done, mates = state.board.done, state.mates[number]
    oldest = min([done[mate] for mate in mates])
    if done[number] == oldest:
        return []
    return [mate for mate in mates if done[mate] == oldest]


def _added(owed: list[int], limit: int, state: _State) -> int:
    return sum(weight for line in owed for at, weight in state.moves[line] if at == limit)


def _refusal(policy: Policy, state: _State) -> Refusal:
    """The first ready operation that a limit keeps from running: there is one where all stops."""
    board, value = state.board, state.value
    for number in (number for groups in policy.groups for group in groups for number in group):
        if board.done[number] >= len(board.arrival[number]):
            continue
        owed = _owed(number, state) if state.mates[number] else []
        for limit, weight, bound in state.grows[number]:
            alone = value[limit] + weight > bound
            if alone or value[limit] + weight + _added(owed, limit, state) > bound:
                left = () if alone else tuple(owed)
                at, found = board.done[number], policy.limits[limit]
                return Refusal(number, at, found, value[limit], left)
    raise AssertionError("nothing goes on, and nothing is refused: a bug of pipec")
