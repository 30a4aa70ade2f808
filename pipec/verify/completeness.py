"""Every operation happens exactly once, on the rank that holds its stage."""

import numpy as np

from pipec.findings import Finding
from pipec.program.effects import Kind, Step
from pipec.program.program import Program
from pipec.verify.place import places

MOST = 10


def completeness(program: Program) -> list[Finding]:
    """Findings `missing`, `duplicate` and `misplaced`."""
    return [*_misplaced(program), *_duplicate(program), *_missing(program)]


def _misplaced(program: Program) -> list[Finding]:
    rows = program.compute
    home = program.placement.home[program.operation[rows]]
    findings = []
    for row in rows[home != program.rank[rows]][:MOST].tolist():
        where, right = places(program, row), int(program.placement.home[program.operation[row]])
        message = (
            f"rank {where[0].rank} runs `{where[0].instruction}`, whose stage rank {right} holds"
        )
        hint = "a stage is placed once in each flow"
        findings.append(
            Finding(
                "misplaced",
                message,
                where[0].span,
                f"rank {right}",
                f"rank {where[0].rank}",
                hint,
                where,
            )
        )
    return findings


def _duplicate(program: Program) -> list[Finding]:
    rows = program.compute
    counts = np.bincount(program.operation[rows], minlength=program.placement.size)
    findings = []
    for operation in np.flatnonzero(counts > 1)[:MOST].tolist():
        where = places(program, *rows[program.operation[rows] == operation].tolist())
        message = f"`{where[0].instruction}` happens {len(where)} times"
        again = where[-1].span
        findings.append(Finding("duplicate", message, again, "once", str(len(where)), None, where))
    return findings


def _missing(program: Program) -> list[Finding]:
    rows = program.compute
    done = np.zeros(program.placement.size, bool)
    done[program.operation[rows]] = True
    fused = np.zeros(program.placement.size, bool)
    fused[program.operation[rows[program.kind[rows] == Kind.BW]]] = True
    findings = []
    for number, flow in enumerate(program.placement.flows):
        shape = (len(Step), flow.stages, flow.microbatches)
        part = slice(*program.placement.base[number : number + 2])
        here, whole = done[part].reshape(shape), fused[part].reshape(shape)
        needed = np.full(shape, flow.backward)
        needed[Step.FORWARD] = True
        needed[Step.WEIGHTS] &= ~whole[Step.BACKWARD]
        for step, stage, microbatch in np.argwhere(needed & ~here).tolist()[:MOST]:
            word = {Step.FORWARD: "F", Step.BACKWARD: "B or BW", Step.WEIGHTS: "W"}[Step(step)]
            message = (
                f"rank {flow.ranks[stage]} never runs the {word} of flow `{flow.name}`, "
                f"stage {stage}, microbatch {microbatch}"
            )
            findings.append(Finding("missing", message, None, "once", "never"))
        extra = here[Step.WEIGHTS] & whole[Step.BACKWARD]
        for stage, microbatch in np.argwhere(extra).tolist()[:MOST]:
            operation = program.placement.operation(number, Step.WEIGHTS, stage, microbatch)
            where = places(program, *rows[program.operation[rows] == operation].tolist())
            message = f"`{where[0].instruction}` after a BW, which did it already"
            findings.append(
                Finding("duplicate", message, where[0].span, "BW, or B and W", None, None, where)
            )
    return findings
