"""Every operation happens exactly once, on the rank that holds its stage."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.findings import Finding
from pipec.program.columns import look_up
from pipec.program.effects import COMPUTE, EXPERTS, Kind, Step
from pipec.program.program import Program
from pipec.verify.place import places

Array = NDArray[Any]
MOST = 10
_WORDS = {Step.FORWARD: "F", Step.BACKWARD: "B or BW", Step.WEIGHTS: "W"}


def completeness(program: Program) -> list[Finding]:
    """Findings `missing`, `duplicate` and `misplaced`."""
    findings = [*_misplaced(program), *_duplicate(program), *_unexpected(program)]
    done = program.entry
    rows = program.entries
    fused = program.first(rows.compress(look_up(program.kind, rows) == Kind.BW))
    for flow in range(len(program.placement.flows)):
        findings += _missing(program, flow, done, fused)
        findings += _twice_weighted(program, flow, done, fused)
    return findings


def _misplaced(program: Program) -> list[Finding]:
    rows = program.compute
    if program.placement.layouts:
        rows = np.flatnonzero(COMPUTE[program.kind] | EXPERTS[program.kind])
    home = look_up(program.placement.home, look_up(program.operation, rows))
    findings = []
    for row in rows.compress(home != look_up(program.rank, rows))[:MOST].tolist():
        right = int(program.placement.home[program.operation[row]])
        same = rows[program.slot[rows] == program.slot[row]]
        where = places(program, row, *same[program.rank[same] == right][:1].tolist())
        rank, what = where[0].rank, where[0].instruction
        message = f"rank {rank} runs `{what}`, whose stage rank {right} holds"
        message += f"; rank {right} runs it too" if len(where) > 1 else ""
        hint = "a stage is placed once in each flow"
        expected, found = f"rank {right}", f"rank {rank}"
        finding = Finding("misplaced", message, where[0].span, expected, found, hint, where)
        findings.append(finding)
    return findings


def _duplicate(program: Program) -> list[Finding]:
    """What happens more than once on the rank where it belongs."""
    rows = program.entries
    if np.count_nonzero(program.entry >= 0) == len(rows):
        return []
    rows = rows[program.placement.home[program.operation[rows]] == program.rank[rows]]
    counts = np.bincount(program.operation[rows], minlength=program.placement.size)
    findings = []
    for operation in np.flatnonzero(counts > 1)[:MOST].tolist():
        where = places(program, *rows[program.operation[rows] == operation].tolist())
        message = f"`{where[0].instruction}` happens {len(where)} times"
        again = where[-1].span
        findings.append(Finding("duplicate", message, again, "once", str(len(where)), None, where))
    return findings


def _missing(program: Program, number: int, done: Array, fused: Array) -> list[Finding]:
    """What never happens. A W is only missed where its B is there: without B, that says it all."""
    flow, here, whole = _shaped(program, number, done, fused)
    lacking = here < 0
    lacking[Step.WEIGHTS] &= ~lacking[Step.BACKWARD] & (whole[Step.BACKWARD] < 0)
    if not flow.backward:
        lacking[Step.BACKWARD :] = False
    findings = []
    for step, stage, microbatch in _where(lacking):
        message = (
            f"rank {flow.ranks[stage]} never runs the {_WORDS[Step(step)]} of flow `{flow.name}`, "
            f"stage {stage}, microbatch {microbatch}"
        )
        before = int(here[step - 1, stage, microbatch]) if step else -1
        where = places(program, before) if before >= 0 else ()
        findings.append(Finding("missing", message, None, "once", "never", None, where))
    return findings


def _twice_weighted(program: Program, number: int, done: Array, fused: Array) -> list[Finding]:
    """A W after a BW."""
    _, here, whole = _shaped(program, number, done, fused)
    findings = []
    extra = (here[Step.WEIGHTS] >= 0) & (whole[Step.BACKWARD] >= 0)
    for stage, microbatch in _where(extra):
        both = here[Step.WEIGHTS, stage, microbatch], whole[Step.BACKWARD, stage, microbatch]
        where = places(program, *sorted(map(int, both)))
        message = f"`{where[-1].instruction}` beside `{where[0].instruction}`: the weights twice"
        span, expected = where[-1].span, "BW, or B and W"
        findings.append(Finding("duplicate", message, span, expected, None, None, where))
    return findings


def _unexpected(program: Program) -> list[Finding]:
    """A backward, or some part of one, in a flow that has none."""
    placement, rows = program.placement, program.compute
    trains = np.array([flow.backward for flow in placement.flows])
    if trains.all():
        return []
    operation = program.operation[rows]
    backward = placement.step_of(operation) != Step.FORWARD
    rows = rows[backward & ~trains[placement.flow_of(operation)]]
    _, firsts = np.unique(program.operation[rows], return_index=True)
    findings = []
    for row in rows[firsts][:MOST].tolist():
        where = places(program, row)
        name = program.instruction(row).flow
        message = f"`{where[0].instruction}` in flow `{name}`, which has no backward"
        findings.append(Finding("misplaced", message, where[0].span, "F alone", None, None, where))
    return findings


def _shaped(program: Program, number: int, *tables: Array) -> tuple[Any, ...]:
    """A flow, and its part of tables over operations as `[step, stage, microbatch]`."""
    placement = program.placement
    flow, part = placement.flows[number], slice(*placement.base[number : number + 2])
    shape = (len(Step), flow.stages, flow.microbatches)
    return flow, *(table[part].reshape(shape) for table in tables)


def _where(mask: Array) -> list[list[int]]:
    """The first places where a mask over operations holds, if it does anywhere."""
    return np.argwhere(mask)[:MOST].tolist() if mask.any() else []
