"""Schedules drawn at random, and written as the texts that an author could have written.

A drawing is what a text means: flows, and per rank a sequence of units. It is made by walking
through the operations in some possible order, so most drawings run through; a few swaps of
neighbours, each possible on its own rank, make some of them circles. `write` says the same with
counters or with explicit microbatches, with loops or without, with one branch per rank.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from hypothesis import strategies as st

from pipec.language import read
from pipec.library import only_schedule
from pipec.lower.lower import lower
from pipec.order.arrange import arrange
from pipec.order.schedule import bind
from pipec.program.costs import Costs
from pipec.program.placement import Flow
from pipec.program.program import Program
from pipec.source import Source


class Operation(NamedTuple):
    """One F, B, W or BW; `flow` is its number."""

    kind: str
    flow: int
    stage: int
    microbatch: int


Unit = tuple[Operation, ...]
"""One operation, or the two of an OVERLAP."""


@dataclass(frozen=True)
class Drawing:
    """What a schedule says, before it is a text."""

    flows: tuple[Flow, ...]
    streams: tuple[tuple[Unit, ...], ...]

    def renamed(self, ranks: list[int], names: list[str]) -> "Drawing":
        """The same with rank `r` called `ranks[r]`, and flows by other names."""
        flows = tuple(
            replace(flow, name=name, ranks=tuple(ranks[rank] for rank in flow.ranks))
            for flow, name in zip(self.flows, names, strict=True)
        )
        streams = dict(zip(ranks, self.streams, strict=True))
        return Drawing(flows, tuple(streams[rank] for rank in range(len(streams))))


def compiled(text: str, ranks: int) -> Program:
    """The program of a text, with the compiler's own communication."""
    source = Source("drawn.pipe", text)
    schedule = bind(only_schedule(read(source), source), {"P": ranks}, source)
    return lower(arrange(schedule), Costs())


# --- drawing --------------------------------------------------------------------------------------

_FORMULAS: dict[str, tuple[int, Callable[[int, int], int]]] = {
    "stage": (1, lambda stage, ranks: stage),
    "P - 1 - stage": (1, lambda stage, ranks: ranks - 1 - stage),
    "stage % P": (2, lambda stage, ranks: stage % ranks),
    "P - 1 - stage % P": (2, lambda stage, ranks: ranks - 1 - stage % ranks),
    "min(stage, 2 * P - 1 - stage)": (2, lambda stage, ranks: min(stage, 2 * ranks - 1 - stage)),
}
"""Placements as people write them: how many chunks they make, and what they say."""


@st.composite
def drawings(draw: st.DrawFn, most_ranks: int = 4) -> Drawing:
    """One or two flows, linear, interleaved, in a V or anyhow placed, in a random order."""
    ranks, chunks = draw(st.integers(1, most_ranks)), draw(st.integers(1, 2))
    flows, backward = [], draw(st.integers(0, 5)) > 0
    slices = draw(st.sampled_from((1, 1, 1, 2, 3)))
    for name in ("down", "up")[: draw(st.integers(1, 2))]:
        formulas = [say for many, say in _FORMULAS.values() if many == chunks]
        say = draw(st.sampled_from(formulas))
        holders = [say(stage, ranks) for stage in range(chunks * ranks)]
        if draw(st.integers(0, 3)) == 0:
            holders = draw(st.permutations(holders))
        sequences = draw(st.integers(1, max(1, 4 // slices) if slices > 1 else 3))
        flows.append(Flow(name, sequences * slices, tuple(holders), backward, slices))
    walk = random.Random(draw(st.integers(0, 2**32)))
    streams = _walked(tuple(flows), walk)
    for _ in range(draw(st.sampled_from((0, 0, 2, 8)))):
        _swap(walk.choice(streams), slices, walk)
    return Drawing(tuple(flows), tuple(tuple(_tied(one, walk)) for one in streams))


def _walked(flows: tuple[Flow, ...], walk: random.Random) -> list[list[Operation]]:
    """All operations, per rank in the sequence in which one walk through their graph meets them.

    A greedy walk prefers kinds in some order, as a scheduler would; any walk sometimes strays.
    """
    operations = list(_operations(flows, walk))
    stray = walk.choice((0.0, 0.3, 1.0))
    liking = {kind: walk.random() for kind in ("F", "B", "W", "BW")}
    needs = {one: _needs(one, flows, frozenset(operations)) for one in operations}
    serves: dict[Operation, list[Operation]] = defaultdict(list)
    for one, wanted in needs.items():
        for need in wanted:
            serves[need].append(one)
    missing = {one: len(wanted) for one, wanted in needs.items()}
    ready = [one for one in operations if not missing[one]]
    streams: list[list[Operation]] = [[] for _ in range(max(flows[0].ranks) + 1)]
    while ready:
        best = max(liking[one.kind] for one in ready)
        liked = [one for one in ready if liking[one.kind] == best]
        one = walk.choice(ready if walk.random() < stray else liked)
        ready.remove(one)
        streams[flows[one.flow].ranks[one.stage]].append(one)
        for later in serves[one]:
            missing[later] -= 1
            ready += [later] if not missing[later] else []
    return streams


def _operations(flows: tuple[Flow, ...], walk: random.Random) -> Iterator[Operation]:
    fused = walk.choice((0.0, 0.5, 1.0))
    for number, flow in enumerate(flows):
        for stage in range(flow.stages):
            for microbatch in range(flow.microbatches):
                kinds = ("BW",) if walk.random() < fused else ("B", "W")
                for kind in ("F", *kinds) if flow.backward else ("F",):
                    yield Operation(kind, number, stage, microbatch)


def _needs(one: Operation, flows: tuple[Flow, ...], among: frozenset[Operation]) -> list[Operation]:
    """What must have happened before an operation."""
    wanted = []
    slices = flows[one.flow].slices
    if one.kind == "F" and one.microbatch % slices:
        wanted = [one._replace(microbatch=one.microbatch - 1)]
    elif one.kind in ("B", "BW") and (one.microbatch + 1) % slices:
        later = one._replace(microbatch=one.microbatch + 1)
        wanted = [later._replace(kind=kind) for kind in ("B", "BW")]
    if one.kind == "F" and one.stage:
        wanted += [one._replace(stage=one.stage - 1)]
    elif one.kind == "W":
        wanted += [one._replace(kind="B")]
    elif one.kind != "F":
        later = one._replace(stage=one.stage + 1)
        wanted += [one._replace(kind="F")]
        if later.stage < flows[one.flow].stages:
            wanted += [later._replace(kind=kind) for kind in ("B", "BW")]
    return [need for need in wanted if need in among]


def _swap(stream: list[Operation], slices: int, walk: random.Random) -> None:
    """Exchange two neighbours of a rank, if neither needs the other there."""
    if len(stream) < 2:
        return
    at = walk.randrange(len(stream) - 1)
    one, two = stream[at : at + 2]
    same = one.flow == two.flow and one.microbatch // slices == two.microbatch // slices
    if not same:
        stream[at : at + 2] = two, one


def _tied(stream: list[Operation], walk: random.Random) -> Iterator[Unit]:
    """Units of a stream: some neighbours overlap, if they are an F and a backward apart."""
    often = walk.choice((0.0, 0.0, 0.5))
    waiting = list(stream)
    while waiting:
        one, two = waiting[0], waiting[1] if len(waiting) > 1 else waiting[0]
        fits = (one.kind == "F") != (two.kind == "F") and "W" not in (one.kind, two.kind)
        if fits and one.microbatch != two.microbatch and walk.random() < often:
            yield one, two
            del waiting[:2]
        else:
            yield (one,)
            del waiting[:1]


# --- writing --------------------------------------------------------------------------------------


def write(drawing: Drawing, style: random.Random) -> str:
    """A text that means the drawing; there are many, and `style` chooses."""
    ranks = len(drawing.streams)
    lines = ["schedule drawn(P):"]
    for flow in drawing.flows:
        sizes = f"stages={flow.stages}, microbatches={flow.microbatches}"
        sizes += f", slices={flow.slices}" if flow.slices > 1 else ""
        sizes += "" if flow.backward else ", backward=false"
        lines.append(f"    flow {flow.name}({sizes}): rank = {_placed(flow, ranks)}")
    lines.append("    on rank r:")
    for rank in range(ranks):
        indent = " " * 8
        if ranks > 1:
            last = rank == ranks - 1 and style.random() < 0.5
            head = "else" if last else f"{'elif' if rank else 'if'} r == {rank}"
            lines.append(f"{indent}{head}:")
            indent += "    "
        lines += [indent + line for line in _folded(_spelled(drawing, rank, style), style)]
    return "\n".join(lines) + "\n"


def _placed(flow: Flow, ranks: int) -> str:
    """The placement as a formula that people know, or stage by stage."""
    for formula, (chunks, say) in _FORMULAS.items():
        stages = range(flow.stages)
        if flow.stages == chunks * ranks and flow.ranks == tuple(say(s, ranks) for s in stages):
            return formula
    cases = [f"{rank} if stage == {stage} else " for stage, rank in enumerate(flow.ranks[:-1])]
    return "".join(cases) + str(flow.ranks[-1])


def _spelled(drawing: Drawing, rank: int, style: random.Random) -> Iterator[str]:
    """The units of a rank in words, each microbatch by its number or by a counter that is there."""
    taken: dict[tuple[str, int, int], set[int]] = defaultdict(set)
    pending: list[Operation] = []
    plain = style.choice((0.2, 0.9, 1.0))
    for unit in drawing.streams[rank]:
        words = []
        for one in unit:
            short = style.random() < plain
            words.append(_word(drawing, rank, one, taken, pending if short else None, short))
            if one.kind == "B":
                pending.append(one)
            if one.kind == "W":
                pending.remove(one._replace(kind="B"))
        yield " & ".join(words)


def _word(
    drawing: Drawing,
    rank: int,
    one: Operation,
    taken: dict[tuple[str, int, int], set[int]],
    pending: list[Operation] | None,
    short: bool,
) -> str:
    """One operation: `F`, `F[1]`, `F[down, 1](2)`; as short as the language allows if `short`."""
    flow = drawing.flows[one.flow]
    chunks = [stage for stage in range(flow.stages) if flow.ranks[stage] == rank]
    selectors = [flow.name] if len(drawing.flows) > 1 or not short else []
    selectors += [str(chunks.index(one.stage))] if len(chunks) > 1 or not short else []
    named = f"{one.kind}[{', '.join(selectors)}]" if selectors else one.kind
    if one.kind == "W":
        if pending and pending[0] == one._replace(kind="B"):
            return "W"
        return f"{named}({one.microbatch})"
    counter = taken["F" if one.kind == "F" else "B", one.flow, one.stage]
    first = next(number for number in _taken_in_turn(flow, one.kind) if number not in counter)
    counter.add(one.microbatch)
    return named if short and first == one.microbatch else f"{named}({one.microbatch})"


def _taken_in_turn(flow: Flow, kind: str) -> Iterator[int]:
    """Microbatches as a counter takes them: of slices, a backward takes the last first."""
    for begin in range(0, flow.microbatches, flow.slices):
        slices = range(begin, begin + flow.slices)
        yield from slices if kind == "F" else reversed(slices)


def _folded(words: Iterator[str], style: random.Random) -> Iterator[str]:
    """Lines of units; what repeats itself is a loop."""
    left = list(words)
    while left:
        size = style.choice((1, 1, 2, 3))
        body, times = left[:size], 1
        while left[times * size : (times + 1) * size] == body:
            times += 1
        times = times if style.random() < 0.8 else 1
        yield f"repeat {times}:  {'  '.join(body)}" if times > 1 else "  ".join(body)
        del left[: times * size]
