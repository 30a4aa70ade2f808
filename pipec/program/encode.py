"""The sections of a plan file: to JSON and back, every field checked on the way in."""

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.findings import listed
from pipec.program.costs import KEYS as COST_KEYS
from pipec.program.costs import PART_KEY, UNITS, Costs, PerStage
from pipec.program.effects import COMPUTE, EXPERTS, STEP, Kind, Step
from pipec.program.launches import glued
from pipec.program.memory import Limit, Memory
from pipec.program.parts import Layout, layout_text, parse_layout
from pipec.program.placement import MOST_RANKS, Flow, Placement
from pipec.program.program import Origins, Program
from pipec.program.shape import Misshapen, member, of_type, whole
from pipec.program.sizes import SIZES
from pipec.source import Source, Span

Array = NDArray[Any]
LARGEST = 2**31 - 1
COLUMNS = ("kind", "operation", "peer", "tie", "nowait", "part", "origin")


def encode_schedule(
    name: str, parameters: Mapping[str, int | bool], source: Source | None
) -> dict[str, Any]:
    """The text that the plan was made from, and its sizes."""
    text = {"name": source.name, "text": source.text} if source else None
    return {"name": name, "parameters": dict(parameters), "source": text}


def decode_schedule(section: Any) -> tuple[str, dict[str, Any], Source | None]:
    """Name, parameters and source. Raises `Misshapen`, as all of these do."""
    name = member(section, "name", str, "schedule")
    parameters = member(section, "parameters", dict, "schedule")
    for key, value in parameters.items():
        if not isinstance(value, int):
            raise Misshapen(f"`schedule.parameters.{key}` has the wrong form", "an integer")
    text = section.get("source")
    if text is None:
        return name, parameters, None
    where = "schedule.source"
    return (
        name,
        parameters,
        Source(member(text, "name", str, where), member(text, "text", str, where)),
    )


def encode_program(program: Program) -> dict[str, Any]:
    """Flows, one object of columns per rank, and the spans that origins index."""
    flows = [
        {
            "name": flow.name,
            "microbatches": flow.microbatches,
            "ranks": list(flow.ranks),
            "backward": flow.backward,
            **({"slices": flow.slices} if flow.slices > 1 else {}),
        }
        for flow in program.placement.flows
    ]
    columns = (
        program.kind,
        program.operation,
        program.peer,
        program.tie.astype(int),
        program.nowait.astype(int),
        program.part,
        program.origin,
    )
    streams = [
        {
            name: column[program.start[rank] : program.start[rank + 1]].tolist()
            for name, column in zip(COLUMNS, columns, strict=True)
        }
        for rank in range(program.ranks)
    ]
    spans = [[span.start, span.end] for span in program.origins.spans]
    kinds = list(Kind.__members__)
    layouts = [layout_text(parts) for parts in program.placement.layouts]
    return {
        "flows": flows,
        "layouts": layouts,
        "kinds": kinds,
        "streams": streams,
        "spans": spans,
    }


def decode_program(section: Any, source: Source | None) -> Program:
    """The program, with every reference in range, so that nothing after it needs to check again."""
    streams = member(section, "streams", list, "program")
    if not 1 <= len(streams) <= MOST_RANKS:
        raise Misshapen("a plan has ranks", f"from 1 to {MOST_RANKS}", str(len(streams)))
    kinds = list(Kind.__members__)
    if member(section, "kinds", list, "program") != kinds:
        raise Misshapen(
            "`program.kinds` are not the instructions of this version", ", ".join(kinds)
        )
    flows = _flows(section, len(streams))
    placement = Placement(len(streams), flows, _layouts(section, flows[0].stages))
    spans = tuple(_span(pair) for pair in member(section, "spans", list, "program"))
    columns = [_stream(stream, rank) for rank, stream in enumerate(streams)]
    lengths = [len(stream[0]) for stream in columns]
    if not placement.fits(sum(lengths)):
        raise Misshapen("the flows are too large for these streams", None, str(placement.size))
    kind, operation, peer, tie, nowait, part, origin = (
        np.concatenate(part) for part in zip(*columns, strict=True)
    )
    program = Program(
        placement,
        np.concatenate([[0], np.cumsum(lengths)]),
        kind.astype(np.int8),
        operation.astype(np.int32),
        peer.astype(np.int32),
        tie.astype(bool),
        nowait.astype(bool),
        part.astype(np.int16),
        origin.astype(np.int32),
        Origins(source, spans),
    )
    _check(program, tie, nowait, part)
    return program


def _flows(section: Any, ranks: int) -> tuple[Flow, ...]:
    flows = []
    for number, flow in enumerate(member(section, "flows", list, "program")):
        where = f"program.flows[{number}]"
        holders = member(flow, "ranks", list, where)
        placed = tuple(whole(rank, f"{where}.ranks", 0, ranks - 1) for rank in holders)
        microbatches = whole(flow.get("microbatches"), f"{where}.microbatches", 1, LARGEST)
        backward = member(flow, "backward", bool, where)
        slices = whole(flow.get("slices", 1), f"{where}.slices", 1, LARGEST)
        name = member(flow, "name", str, where)
        if microbatches % slices:
            raise Misshapen(f"`{where}` has no whole sequences", f"a multiple of {slices}")
        flows.append(Flow(name, microbatches, placed, backward, slices))
    if not flows or not flows[0].stages or len({flow.model for flow in flows}) > 1:
        raise Misshapen("`program.flows` do not travel one model", "flows of equally many stages")
    if len({flow.backward for flow in flows}) > 1:
        raise Misshapen("`program.flows` do not travel one model", "a backward in all, or in none")
    return tuple(flows)


def _layouts(section: Any, stages: int) -> tuple[Layout, ...]:
    texts = member(section, "layouts", list, "program")
    if texts and len(texts) != stages:
        raise Misshapen("`program.layouts` has the wrong length", f"{stages}", str(len(texts)))
    try:
        return tuple(parse_layout(of_type(text, str, "program.layouts")) for text in texts)
    except ValueError as error:
        raise Misshapen(f"`program.layouts`: {error}") from None


def _span(pair: Any) -> Span:
    ends = of_type(pair, list, "program.spans")
    if len(ends) != 2:
        raise Misshapen("`program.spans` has the wrong form", "pairs of integers")
    return Span(*(whole(end, "program.spans", 0, LARGEST) for end in ends))


def _stream(stream: Any, rank: int) -> list[Array]:
    where = f"program.streams[{rank}]"
    columns = []
    for name in COLUMNS:
        values = member(stream, name, list, where)
        try:
            column = np.array(values) if values else np.empty(0, np.int64)
        except ValueError:
            column = np.empty(0, object)
        if column.dtype != np.int64 or column.ndim != 1:
            raise Misshapen(f"`{where}.{name}` has the wrong form", "a list of integers")
        columns.append(column)
    if len({len(column) for column in columns}) > 1:
        raise Misshapen(f"the columns of `{where}` differ in length")
    return columns


def _check(program: Program, tie: Array, nowait: Array, part: Array) -> None:
    """Every column in range, and ties only where an OVERLAP can be."""
    kind = program.kind
    _within(program, "kind", kind, 0, len(Kind) - 1)
    computes, wired = COMPUTE[kind], ~COMPUTE[kind] & ~EXPERTS[kind]
    stages, size = program.placement.flows[0].stages, program.placement.size
    most = np.where(kind == Kind.SUM, stages, size) - 1
    _within(program, "operation", program.operation, 0, most)
    _within(
        program,
        "peer",
        program.peer,
        np.where(wired, 0, -1),
        np.where(wired, program.ranks - 1, -1),
    )
    _within(program, "tie", tie, 0, np.where((kind == Kind.SUM) | EXPERTS[kind], 0, 1))
    _within(program, "nowait", nowait, 0, np.where(computes, 1, 0))
    _check_parts(program, part)
    _within(program, "origin", program.origin, -1, len(program.origins.spans) - 1)
    compute = program.compute
    wrong = program.placement.step_of(program.operation[compute]) != STEP[kind[compute]]
    _first(program, compute[wrong], "an operation of another kind")
    _first(program, np.flatnonzero(wired & (program.peer == program.rank)), "a message to itself")
    first, second = program.pairs
    alone = (np.searchsorted(compute, second) == 0) | (program.rank[first] != program.rank[second])
    _first(program, second[alone | program.tie[first]], "a tie to nothing")
    _first(program, np.flatnonzero(program.tie & wired & ~glued(program)), "a tie to nothing")
    assert COMPUTE[kind[compute]].all()


def _check_parts(program: Program, part: Array) -> None:
    """Compute runs compute parts of its stage, and an all-to-all runs one of its kind."""
    rows = np.flatnonzero(COMPUTE[program.kind] | EXPERTS[program.kind])
    stage = program.placement.stage_of(program.operation[rows])
    most = np.zeros(len(program), np.int64)
    most[rows] = program.placement.lengths[stage] - 1
    _within(program, "part", part, 0, most)
    wire = program.placement.wires[stage, part[rows]]
    experts = EXPERTS[program.kind[rows]]
    right = wire == np.where(experts, program.kind[rows], -1)
    step = program.placement.step_of(program.operation[rows])
    right &= ~experts | (step != Step.WEIGHTS)
    _first(program, rows[~right], "a part of another kind")


def _within(program: Program, name: str, column: Array, least: Any, most: Any) -> None:
    bad = np.flatnonzero((column < least) | (column > most))
    _first(program, bad, f"`{name}` out of range")


def _first(program: Program, bad: Array, what: str) -> None:
    if len(bad):
        rank, index = program.place(int(bad[0]))
        raise Misshapen(f"instruction {index} of rank {rank}: {what}")


def decode_certificate(section: Any) -> dict[str, Any]:
    """What was proved. Its verdicts have the form that the runtime looks into."""
    certificate = of_type(section, dict, "certificate")
    of_type(certificate.get("ok", False), bool, "certificate.ok")
    for finding in of_type(certificate.get("findings", []), list, "certificate.findings"):
        of_type(finding, dict, "certificate.findings")
    channels = of_type(certificate.get("channels", {}), dict, "certificate.channels")
    for topology, verdict in channels.items():
        where = f"certificate.channels.{topology}"
        needed = of_type(verdict, dict, where).get("credits_needed")
        if needed is not None:
            whole(needed, f"{where}.credits_needed", 0, LARGEST)
    return certificate


# --- costs and memory -----------------------------------------------------------------------------


def encode_costs(costs: Costs) -> dict[str, Any]:
    """Times as exact fractions; pairs of ranks and the unit where there are any."""
    pairs = [[*pair, str(time)] for pair, time in sorted(costs.pairs.items())]
    return {
        "times": _encode_amounts(costs.times),
        "serial": costs.serial,
        **({"pairs": pairs} if pairs else {}),
        **({"unit": costs.unit} if costs.unit else {}),
    }


def decode_costs(section: Any) -> Costs:
    """The costs of a plan."""
    times = _decode_amounts(member(section, "times", dict, "costs"), COST_KEYS, "costs.times")
    if any(part < 0 for time in times.values() for part in _parts(time)):
        raise Misshapen("`costs.times` has a time below 0", "times of 0 or more")
    unit = of_type(section.get("unit", ""), str, "costs.unit")
    if unit and unit not in UNITS:
        raise Misshapen("`costs.unit` is not known", listed(UNITS), unit[:60])
    return Costs(times, member(section, "serial", bool, "costs"), _pairs(section), unit)


def _pairs(section: Any) -> dict[tuple[int, int], Fraction]:
    where, pairs = "costs.pairs", {}
    for one in of_type(section.get("pairs", []), list, where):
        if len(of_type(one, list, where)) != 3:
            raise Misshapen(f"`{where}` has the wrong form", "two ranks and a time")
        source, target = (whole(rank, where, 0, MOST_RANKS - 1) for rank in one[:2])
        time = _fraction(one[2], where)
        if time < 0 or source == target or (source, target) in pairs:
            raise Misshapen(f"`{where}` has a pair that cannot be", "a time of 0 or more, once")
        pairs[source, target] = time
    return pairs


def encode_memory(memory: Memory) -> dict[str, Any]:
    """Sizes and limit as exact fractions."""
    limit = memory.limit and {
        "most": str(memory.limit.most),
        "in_bytes": memory.limit.in_bytes,
        "span": memory.limit.span and [memory.limit.span.start, memory.limit.span.end],
    }
    sizes = _encode_amounts(memory.sizes)
    return {"sizes": sizes, "in_bytes": memory.in_bytes, "limit": limit}


def decode_memory(section: Any) -> Memory:
    """The sizes and the limit of a plan."""
    sizes = _decode_amounts(member(section, "sizes", dict, "memory"), SIZES, "memory.sizes")
    if any(part < 0 for size in sizes.values() for part in _parts(size)):
        raise Misshapen("`memory.sizes` has a size below 0", "sizes of 0 or more")
    limit = None if section.get("limit") is None else _limit(section["limit"])
    return Memory(sizes, member(section, "in_bytes", bool, "memory"), limit)


def _limit(section: Any) -> Limit:
    most = _fraction(member(section, "most", str, "memory.limit"), "memory.limit.most")
    span = None if section.get("span") is None else _span(section["span"])
    return Limit(most, member(section, "in_bytes", bool, "memory.limit"), span)


def _encode_amounts(amounts: Mapping[str, PerStage]) -> dict[str, Any]:
    return {
        key: [str(part) for part in amount] if isinstance(amount, tuple) else str(amount)
        for key, amount in amounts.items()
    }


def _decode_amounts(
    section: dict[str, Any], known: tuple[str, ...], where: str
) -> dict[str, PerStage]:
    amounts: dict[str, PerStage] = {}
    for key, amount in section.items():
        unknown = key not in known and not (known is COST_KEYS and PART_KEY.fullmatch(key))
        if unknown or amount == []:
            raise Misshapen(f"`{where}` has an unknown `{key}`", ", ".join(known))
        several = isinstance(amount, list)
        parts = tuple(
            _fraction(part, f"{where}.{key}") for part in (amount if several else [amount])
        )
        amounts[key] = parts if several else parts[0]
    return amounts


def _parts(amount: PerStage) -> tuple[Fraction, ...]:
    return amount if isinstance(amount, tuple) else (amount,)


def _fraction(value: Any, where: str) -> Fraction:
    text = of_type(value, str, where)
    if not re.fullmatch(r"-?\d{1,30}(/0*[1-9]\d{0,30})?", text):
        raise Misshapen(f"`{where}` is not a number", "a fraction such as 3/2", text[:60])
    return Fraction(text)
