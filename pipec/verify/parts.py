"""Opened chunks: every part of every operation happens once, in the order of its chunk."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.findings import Finding
from pipec.program.effects import COMPUTE, EXPERTS, Kind, Step
from pipec.program.program import Program
from pipec.verify.place import place, places

Array = NDArray[Any]
MOST = 10


def parts(program: Program) -> list[Finding]:
    """Findings `missing`, `duplicate` and `too-early` about the parts of opened chunks.

    An operation as a whole is judged by `completeness` and `dataflow`, by its first and last part.
    """
    if not program.placement.layouts:
        return []
    rows = np.flatnonzero(COMPUTE[program.kind] | EXPERTS[program.kind])
    step = program.placement.step_of(program.operation[rows])
    fused = np.flatnonzero(program.kind == Kind.BW)
    done = _first_rows(program, rows)
    return [
        *_twice(program, rows),
        *_missing(program, rows, step, done),
        *_weights(program, done, fused),
        *_early(program, rows, step, done),
    ]


def _first_rows(program: Program, rows: Array) -> Array:
    """For each slot the first of these rows that runs it, or -1."""
    table = np.full(program.placement.size * program.placement.widest, -1, np.int64)
    table[program.slot[rows[::-1]]] = rows[::-1]
    return table


def _twice(program: Program, rows: Array) -> list[Finding]:
    """A part in the middle of an operation that happens again; its ends are counted elsewhere."""
    ends = np.zeros(len(program), bool)
    ends[program.entries] = True
    slots = program.slot[rows]
    counts = np.bincount(slots, minlength=program.placement.size * program.placement.widest)
    again = rows[(counts[slots] > 1) & ~ends[rows]]
    _, first = np.unique(program.slot[again], return_index=True)
    findings = []
    for row in again[first][:MOST].tolist():
        where = places(program, *rows[slots == program.slot[row]].tolist())
        message = f"`{where[0].instruction}` happens {len(where)} times"
        found, span = str(len(where)), where[-1].span
        findings.append(Finding("duplicate", message, span, "once", found, None, where))
    return findings


def _missing(program: Program, rows: Array, step: Array, done: Array) -> list[Finding]:
    """Parts that never happen, of operations that do."""
    widest, lengths = program.placement.widest, program.placement.lengths
    begun = np.unique(program.operation[rows[step != Step.WEIGHTS]])
    stage = program.placement.stage_of(begun)
    slots = begun.astype(np.int64)[:, None] * widest + np.arange(widest)
    lacking = (done[slots] < 0) & (np.arange(widest) < lengths[stage][:, None])
    findings = []
    for at, number in np.argwhere(lacking)[:MOST].tolist():
        operation = int(begun[at])
        flow, of, held, microbatch = (int(x) for x in program.placement.split(operation))
        part = program.placement.layouts[held][number]
        row = int(rows[np.flatnonzero(program.operation[rows] == operation)[0]])
        name = f"`{'F' if of == Step.FORWARD else 'B'} {program.placement.flows[flow].name}"
        message = (
            f"rank {place(program, row).rank} never runs {name} {held} {microbatch} {part}`, "
            "though it runs other parts of it"
        )
        where = places(program, row)
        findings.append(Finding("missing", message, where[0].span, "once", "never", None, where))
    return findings


def _weights(program: Program, done: Array, fused: Array) -> list[Finding]:
    """A part whose backward is a B has a W, and one whose backward is a BW has none."""
    distance = _to_weights(program)
    rows = np.flatnonzero(program.kind == Kind.B)
    inner = rows[~np.isin(rows, program.entries)]
    lacking = inner[done[program.slot[inner] + distance[inner]] < 0]
    findings = []
    for row in lacking[:MOST].tolist():
        where = places(program, row)
        message = f"rank {where[0].rank} never runs the W of `{where[0].instruction}`"
        findings.append(Finding("missing", message, where[0].span, "once", "never", None, where))
    twice = fused[~np.isin(fused, program.entries)]
    twice = twice[done[program.slot[twice] + distance[twice]] >= 0]
    for row in twice[:MOST].tolist():
        where = places(program, row, int(done[program.slot[row] + distance[row]]))
        message = f"`{where[1].instruction}` beside `{where[0].instruction}`: the weights twice"
        span, expected = where[1].span, "BW, or B and W"
        findings.append(Finding("duplicate", message, span, expected, None, None, where))
    return findings


def _to_weights(program: Program) -> Array:
    """Per row the way from a slot of the backward to that of its W."""
    distance = np.zeros(len(program), np.int64)
    rows = program.compute
    flow, _, _, _ = program.placement.split(program.operation[rows])
    stages, microbatches = program.placement.stages[flow], program.placement.microbatches[flow]
    distance[rows] = stages * microbatches * program.placement.widest
    return distance


def _early(program: Program, rows: Array, step: Array, done: Array) -> list[Finding]:
    """A part comes after the part before it (after it, in the backward), and W after its B."""
    stage = program.placement.stage_of(program.operation[rows])
    before = np.where(step == Step.FORWARD, -1, np.where(step == Step.BACKWARD, +1, 0))
    neighbour = program.part[rows] + before
    inside = (neighbour >= 0) & (neighbour < program.placement.lengths[stage])
    needed = program.slot[rows] + before
    weights = step == Step.WEIGHTS
    needed[weights] -= _to_weights(program)[rows[weights]]
    rows, needed = rows[inside], done[needed[inside]]
    bad = (needed > rows) & (program.rank[needed] == program.rank[rows])
    findings = []
    for row, late in zip(rows[bad][:MOST].tolist(), needed[bad].tolist(), strict=False):
        where = places(program, row, late)
        what, need = where[0].instruction, where[1].instruction
        message = f"rank {where[0].rank} runs `{what}` before `{need}`, which it needs"
        expected, found = f"index below {where[0].index}", f"index {where[1].index}"
        findings.append(Finding("too-early", message, where[0].span, expected, found, None, where))
    return findings
