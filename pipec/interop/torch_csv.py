"""torch's schedules as CSV, a row a rank: `compute_only` and `compute_comms` in, the latter out.

These are the files of `_PipelineScheduleRuntime._load_csv` and `_dump_csv` (torch 2.13). Reading
gives an `Order` where there are no messages, which is then lowered as any other, and a `Program`
where there are, which is verified as it stands.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.findings import Finding, PipecError
from pipec.interop.cells import COMPUTE, FORM, MESSAGES, SHARDING, Action, cell, parse_cell
from pipec.interop.sharding import unsharded
from pipec.program.effects import Kind, Step
from pipec.program.links import Links
from pipec.program.placement import Flow, Placement
from pipec.program.program import Instruction, Order, Origins, Program
from pipec.source import Source, Span
from pipec.verify.matching import in_order

Array = NDArray[Any]
FLOW = "main"
MOST = 50


def is_torch_csv(content: str) -> bool:
    """Whether a text is meant as a torch schedule: its first cells read as actions."""
    cells = [text for text in content.split("\n", 1)[0].split(",") if text.strip()]
    return bool(cells) and all(parse_cell(text, 0) is not None for text in cells[:3])


def read_torch_csv(source: Source) -> Order | Program:
    """The schedule of a torch CSV. Raises `PipecError` with all that cannot be read."""
    rows, findings = _rows(source)
    actions = [action for row in rows for action in row]
    if not findings and not any(action.word in COMPUTE for action in actions):
        end = Span(0, min(1, len(source.text)))
        findings = [Finding("import", "there is nothing to compute here", end, FORM)]
    if findings:
        raise PipecError(findings[:MOST], source)
    placement, findings = _placement(rows)
    findings += [
        finding
        for rank, row in enumerate(rows)
        for finding in (*_out_of_range(rank, row, placement), *unsharded(rank, row))
    ]
    if findings:
        raise PipecError(findings[:MOST], source)
    return _table(rows, placement, source)


def write_torch_csv(program: Program) -> str:
    """A program as `compute_comms` CSV. Raises `PipecError` where torch cannot hold it."""
    placement = program.placement
    if len(placement.flows) != 1 or any(len(ranks) != 1 for ranks in placement.copies):
        message = "torch's runtime holds each stage on one rank and knows one flow"
        hint = "export a schedule with one flow, such as dualpipev instead of dualpipe"
        raise PipecError([Finding("export", message, None, "1 flow", _flows(placement), hint)])
    if placement.layouts:
        message, hint = "torch's runtime runs whole stages", "export it without `layers`"
        raise PipecError(
            [Finding("export", message, None, "chunks that are not opened", None, hint)]
        )
    if placement.sliced:
        message, expected = "torch's runtime hands nothing on from slice to slice", "no `slices`"
        raise PipecError([Finding("export", message, None, expected)])
    if not placement.flows[0].backward:
        message = "torch's runtime runs no schedule without backward"
        raise PipecError([Finding("export", message, None, "a training schedule")])
    if program.grouped:
        message, hint = (
            "torch decides itself what it issues in one launch",
            "export it without `--grouped`",
        )
        expected = "a program without tied messages"
        raise PipecError([Finding("export", message, None, expected, None, hint)])
    if not in_order(program, Links(program)):
        message = "torch matches messages by their order, and these only meet by tags"
        hint = "let each rank receive in the order in which the other one sends"
        raise PipecError([Finding("export", message, None, "messages in one order", None, hint)])
    return "".join(",".join(_cells(stream)) + "\n" for stream in program)


def _flows(placement: Placement) -> str:
    return f"{len(placement.flows)} flows"


# --- reading --------------------------------------------------------------------------------------


def _rows(source: Source) -> tuple[list[list[Action]], list[Finding]]:
    """The actions of each rank; empty cells are torch's way to wait, and say nothing."""
    rows: list[list[Action]] = []
    findings: list[Finding] = []
    offset = 0
    for line in source.text.rstrip("\n").split("\n"):
        rows.append([])
        for text in line.split(","):
            actions = parse_cell(text, offset) if text.strip() else []
            if actions is None:
                found = text.strip()[:40]
                span = Span(offset, offset + max(len(text), 1))
                findings.append(
                    Finding("import", "this cell cannot be read", span, FORM, f"`{found}`")
                )
            rows[-1] += actions or []
            offset += len(text) + 1
    return rows, findings


def _placement(rows: list[list[Action]]) -> tuple[Placement, list[Finding]]:
    """Who holds what, as the forwards say; the number of microbatches is what most stages have."""
    ranks: dict[int, int] = {}
    findings = []
    for rank, row in enumerate(rows):
        for action in row:
            if action.word not in COMPUTE or ranks.setdefault(action.stage, rank) == rank:
                continue
            message = f"stage {action.stage} runs on rank {ranks[action.stage]} and on rank {rank}"
            findings.append(Finding("misplaced", message, action.span, "one rank a stage"))
    missing = sorted(set(range(max(ranks) + 1)) - set(ranks))
    if missing:
        message = f"stage {missing[0]} is nowhere, but stage {max(ranks)} is"
        findings.append(Finding("import", message, None, "all stages from 0"))
        return Placement(len(rows), ()), findings
    run = {(one.stage, one.microbatch) for row in rows for one in row if one.word == "F"}
    forwards = Counter(stage for stage, _ in run)
    count = Counter(forwards.values()).most_common(1)[0][0] if forwards else 1
    backward = any(action.word in COMPUTE and action.word != "F" for row in rows for action in row)
    flow = Flow(FLOW, count, tuple(ranks[stage] for stage in sorted(ranks)), backward)
    return Placement(len(rows), (flow,)), findings[:MOST]


def _out_of_range(rank: int, row: list[Action], placement: Placement) -> Iterator[Finding]:
    """Actions whose stage or microbatch the schedule does not have."""
    if not placement.flows:
        return
    stages, count = placement.flows[0].stages, placement.flows[0].microbatches
    forwards = {action.microbatch for action in row if action.word == "F"}
    for action in row:
        if action.stage >= stages or (action.word in MESSAGES and not _neighbour(action, stages)):
            message = f"rank {rank}: {action.word} at stage {action.stage} has no other end"
            expected = f"stages from 0 to {stages - 1}"
            yield Finding("import", message, action.span, expected)
        elif action.word in MESSAGES and _row(action, placement)[2] == rank:
            message = f"rank {rank}: {action.word} at stage {action.stage} goes to its own rank"
            hint = "between stages of one rank nothing is sent: leave out the SEND and its RECV"
            yield Finding("import", message, action.span, "another rank", f"rank {rank}", hint)
        elif action.microbatch >= count:
            missing = sorted(set(range(count)) - forwards)
            message = f"rank {rank} runs microbatch {action.microbatch}, which does not exist"
            found = f"{action.microbatch}"
            lost = f"; microbatch {missing[0]} is never run forward there" if missing else ""
            hint = f"the numbers on this rank are off{lost}"
            yield Finding(
                "import", message, action.span, f"0 to {count - 1}, as elsewhere", found, hint
            )


def _neighbour(action: Action, stages: int) -> bool:
    """Whether the stage at the other end of a message exists."""
    kind, step = MESSAGES[action.word]
    forwards = (kind is Kind.SEND) == (step is Step.FORWARD)
    return 0 <= action.stage + (1 if forwards else -1) < stages


def _table(rows: list[list[Action]], placement: Placement, source: Source) -> Order | Program:
    kept = [[action for action in row if action.word not in SHARDING] for row in rows]
    actions = [action for row in kept for action in row]
    columns = np.array([_row(action, placement) for action in actions], np.int64).reshape(-1, 4)
    kind, operation, peer, tie = columns.T
    communicates = any(action.word in MESSAGES for action in actions)
    made: Order | Program = (Program if communicates else Order)(
        placement,
        np.cumsum([0, *(len(row) for row in kept)]),
        kind.astype(np.int8),
        operation.astype(np.int32),
        peer.astype(np.int32),
        tie.astype(bool),
        np.zeros(len(actions), bool),
        np.zeros(len(actions), np.int16),
        np.arange(len(actions), dtype=np.int32),
        Origins(source, tuple(action.span for action in actions)),
    )
    return made


def _row(action: Action, placement: Placement) -> tuple[int, int, int, bool]:
    """Kind, operation, peer and tie of a table's row."""
    if action.word in COMPUTE:
        kind = COMPUTE[action.word]
        step = {Kind.F: Step.FORWARD, Kind.W: Step.WEIGHTS}.get(kind, Step.BACKWARD)
        operation = placement.operation(0, step, action.stage, action.microbatch)
        return kind, int(operation), -1, action.tied
    kind, step = MESSAGES[action.word]
    along = 1 if step is Step.FORWARD else -1
    consumer = action.stage + (along if kind is Kind.SEND else 0)
    other = consumer if kind is Kind.SEND else consumer - along
    operation = placement.operation(0, step, consumer, action.microbatch)
    return kind, int(operation), placement.flows[0].ranks[other], False


# --- writing --------------------------------------------------------------------------------------


def _cells(stream: list[Instruction]) -> Iterator[str]:
    """The cells of one rank, with what FSDP wants before the first and after the last use."""
    first, last = _uses(stream)
    words = {kind: word for word, kind in COMPUTE.items()}
    for number, group in enumerate(_groups(stream)):
        for stage in first.get(number, ()):
            yield cell("UNSHARD", stage)
        compute = [
            cell(words[row.kind], row.stage, row.microbatch) for row in group if row.kind in words
        ]
        yield f"({';'.join(compute)})OVERLAP_F_B" if len(compute) == 2 else _one(group[0], words)
        for stage in last.get(number, ()):
            yield cell("REDUCE_GRAD", stage)
            yield cell("RESHARD", stage)


def _one(row: Instruction, words: dict[Kind, str]) -> str:
    if row.kind in words:
        return cell(words[row.kind], row.stage, row.microbatch)
    forwards = row.step is Step.FORWARD
    stage = row.stage if row.kind is Kind.RECV else row.stage - (1 if forwards else -1)
    return cell(f"{row.kind.name}_{'F' if forwards else 'B'}", stage, row.microbatch)


def _groups(stream: list[Instruction]) -> Iterator[list[Instruction]]:
    """Instructions one by one; a pair together, and what stood between its halves behind it."""
    waiting: list[Instruction] = []
    halves = {index for index, row in enumerate(stream) if row.tied}
    opened: Instruction | None = None
    compute = [index for index, row in enumerate(stream) if row.peer is None]
    begins = {before for before, index in pairwise(compute) if index in halves}
    for index, row in enumerate(stream):
        if index in begins:
            opened = row
        elif opened is not None and index in halves:
            yield [opened, row]
            yield from ([between] for between in waiting)
            opened, waiting = None, []
        elif opened is not None:
            waiting.append(row)
        else:
            yield [row]


def _uses(stream: list[Instruction]) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """For each group, the stages that are used first in it, and last."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for number, group in enumerate(_groups(stream)):
        for row in group:
            if row.peer is None:
                first.setdefault(row.stage, number)
                last[row.stage] = number
    return _by_group(first.items()), _by_group(last.items())


def _by_group(items: Iterable[tuple[int, int]]) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = {}
    for stage, number in items:
        groups.setdefault(number, []).append(stage)
    return groups
