"""What FSDP does around a pipeline: a stage computes only between its UNSHARD and its RESHARD."""

from collections.abc import Iterator

from pipec.findings import Finding
from pipec.interop.cells import COMPUTE, Action


def unsharded(rank: int, row: list[Action]) -> Iterator[Finding]:
    """Findings `sharded`, for ranks that shard at all; the first of each stage."""
    if not any(action.word in ("UNSHARD", "RESHARD") for action in row):
        return
    whole: set[int] = set()
    wrong: set[int] = set()
    for action in row:
        stage = action.stage
        if action.word == "UNSHARD":
            if stage in whole:
                yield _finding(rank, action, "is unsharded twice", "RESHARD between them")
            whole.add(stage)
        elif action.word == "RESHARD":
            if stage not in whole:
                yield _finding(rank, action, "is resharded before it was unsharded", "UNSHARD")
            whole.discard(stage)
        elif action.word in COMPUTE and stage not in whole | wrong:
            wrong.add(stage)
            yield _finding(rank, action, "computes while its parameters are sharded", "UNSHARD")


def _finding(rank: int, action: Action, what: str, expected: str) -> Finding:
    message = f"rank {rank}: stage {action.stage} {what}"
    return Finding("sharded", message, action.span, f"`{action.stage}{expected}` before it")
