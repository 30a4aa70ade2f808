"""The listing: a program as text, which reads back as the same program.

    ranks 2
    flow main microbatches 2 ranks 0 1

    rank 0:
        F     main 0 0
        SEND  F main 1 0 -> 1
        ...

Compute is `KIND flow stage microbatch`; `&` before it ties it to the compute before (an OVERLAP),
and `nowait` behind it says that it does not wait for what other lanes bring to it. A SEND or RECV
names the operation that consumes its payload and the rank at the other end; `&` before it says that
it is issued in one launch with the SEND or RECV right before. A SUM names its stage and the other
holder. Where chunks are opened, `chunk` lines state the parts of stages, compute names its part
(`F main 0 0 mlp.3`), and so does an all-to-all (`DISPATCH B main 0 0 dispatch.3`). `#` begins a
comment.
"""

from pipec.program.effects import EFFECTS, TRAVELS, Kind, Lane, Step
from pipec.program.parts import layout_text
from pipec.program.placement import Flow, Placement
from pipec.program.program import Instruction, Table

ARROWS = {Kind.SEND: "->", Kind.RECV: "<-", Kind.SUM: "<->"}
"""Between an instruction and the rank at its other end."""

CARRIED = {Step.FORWARD: "F", Step.BACKWARD: "B"}
"""How a listing says which step a message is for."""

assert set(TRAVELS) == set(CARRIED)


def listing(table: Table, origins: bool = False) -> str:
    """A program (or an order) as text; with `origins`, each line says which text made it."""
    lines = [f"ranks {table.ranks}", *(_flow_line(flow) for flow in table.placement.flows)]
    lines += _chunk_lines(table.placement)
    source = table.origins.source
    for rank in range(table.ranks):
        lines += ["", f"rank {rank}:"]
        for row in range(int(table.start[rank]), int(table.start[rank + 1])):
            line = f"    {_aligned(table.instruction(row))}"
            span = table.origins.span(int(table.origin[row])) if origins and source else None
            lines.append(f"{line:<40}# {source.where(span)}" if source and span else line)
    return "\n".join(lines) + "\n"


def text(instruction: Instruction) -> str:
    """One instruction as it reads in a listing, without alignment."""
    return " ".join(_aligned(instruction).split())


def _flow_line(flow: Flow) -> str:
    ranks = " ".join(map(str, flow.ranks))
    backward = "" if flow.backward else " backward false"
    slices = f" slices {flow.slices}" if flow.slices > 1 else ""
    return f"flow {flow.name} microbatches {flow.microbatches}{slices} ranks {ranks}{backward}"


def _chunk_lines(placement: Placement) -> list[str]:
    """The parts of stages, alike ones together."""
    alike: dict[str, list[str]] = {}
    for stage, parts in enumerate(placement.layouts):
        alike.setdefault(layout_text(parts), []).append(str(stage))
    return [f"chunk {' '.join(stages)}: {text}" for text, stages in alike.items()]


def _aligned(instruction: Instruction) -> str:
    kind, flow, stage, microbatch, peer, tied, step, part, nowait = instruction
    if kind is Kind.SUM:
        return f"SUM   {stage} <-> {peer}"
    what = f"{flow} {stage} {microbatch}"
    carried = CARRIED.get(step, "?") if step is not None else "?"
    if EFFECTS[kind].lane is Lane.EXPERTS:
        return f"{kind.name}  {carried} {what} {part}"
    if kind in ARROWS:
        line = f"{kind.name}  {carried} {what} {ARROWS[kind]} {peer}"
        return f"& {line}" if tied else line
    what += f" {part}" if part else ""
    what += " nowait" if nowait else ""
    return f"{'& ' if tied else ''}{kind.name:<{3 if tied else 5}} {what}"
