"""Programs -> sequences of units that searches move about, and back to orders for the compiler."""

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.program.effects import STEP, Kind
from pipec.program.program import Order, Program
from pipec.tune.replay import Replay

Array = NDArray[Any]


def sequences(program: Program, replay: Replay) -> Array:
    """`[rank, place]`: what each rank runs, as units; what is no unit of its own falls apart."""
    shop, units = replay.shop, replay.units
    pairs = {
        (int(one), int(two)): code
        for code, (one, two) in enumerate(zip(units.first, units.second, strict=True))
        if two < len(shop.lines.lines)
    }
    fused = {
        int(one): code
        for code, (one, third) in enumerate(zip(units.first, units.third, strict=True))
        if third >= 0 and units.second[code] == len(shop.lines.lines)
    }
    ranks = []
    for rank in range(program.ranks):
        own: list[int] = []
        for row in range(int(program.start[rank]), int(program.start[rank + 1])):
            kind = Kind(int(program.kind[row]))
            if kind > Kind.BW:
                continue
            flow, _, stage, _ = (
                int(part) for part in program.placement.split(program.operation[row])
            )
            line = shop.number(Kind.B if kind is Kind.BW else kind, flow, stage)
            if program.tie[row] and (joined := _pair(own, line, pairs)) is not None:
                own[-1] = joined
            elif kind is Kind.BW:
                own += [fused[line]] if line in fused else [line, shop.weights[line]]
            else:
                own.append(line)
        ranks.append(own)
    longest = max(sum(shop.lines.lines[line].total for line in lines) for lines in shop.on)
    return np.array([own + [units.nothing] * (longest - len(own)) for own in ranks])


def _pair(own: list[int], line: int, pairs: dict[tuple[int, int], int]) -> int | None:
    """The unit of what stands last and what is tied to it."""
    return pairs.get((own[-1], line), pairs.get((line, own[-1])))


def order_of(replay: Replay, sequence: Array) -> Order:
    """The order in which ranks run their units. B and W become a BW only where a unit says so."""
    shop, units = replay.shop, replay.units
    count = len(shop.lines.lines)
    rows: list[tuple[int, int, bool]] = []
    starts = [0]
    for own in sequence.tolist():
        done = [0] * count
        pending: dict[int, deque[int]] = {}
        for code in own:
            tie = False
            for line in (int(units.first[code]), int(units.second[code])):
                if line == count:
                    continue
                kind, number = shop.lines.lines[line].kind, done[line]
                done[line] += 1
                weights = shop.weights[line]
                if kind == Kind.B and weights == units.third[code]:
                    kind = Kind.BW
                elif kind == Kind.B:
                    pending.setdefault(weights, deque()).append(number)
                elif kind == Kind.W:
                    number = pending[line].popleft()
                rows.append((line, number, tie) if kind != Kind.BW else (~line, number, tie))
                tie = True
        starts.append(len(rows))
    return _table(replay, rows, starts)


def _table(replay: Replay, rows: list[tuple[int, int, bool]], starts: list[int]) -> Order:
    """The table of rows (line, microbatch, tied); a line that is negated is a BW."""
    lines, placement = replay.shop.lines.lines, replay.shop.placement
    kinds = [Kind.BW if line < 0 else lines[line].kind for line, _, _ in rows]
    own = [lines[~line if line < 0 else line] for line, _, _ in rows]
    kind = np.array(kinds, np.int8)
    flow, stage = np.array([(line.flow, line.stage) for line in own], np.int64).T
    number = np.array([number for _, number, _ in rows], np.int64)
    operation = placement.operation(flow, STEP[kind].astype(np.int64), stage, number)
    count = len(rows)
    return Order(
        placement,
        np.array(starts),
        kind,
        operation.astype(np.int32),
        np.full(count, -1, np.int32),
        np.array([tied for _, _, tied in rows], bool),
        np.zeros(count, bool),
        np.zeros(count, np.int16),
        np.full(count, -1, np.int32),
    )
