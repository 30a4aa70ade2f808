"""What the tests of refusals share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from piped import make_stage, stages_of
from torch import nn

from pipec.program.plan import Plan
from pipec.runtime import PipelineError

Said = tuple[str, str | None, str | None, str | None]


def refused(work: Callable[[], Any]) -> Said:
    """Message, expected, found and hint of the error that `work` ends with."""
    try:
        work()
    except PipelineError as error:
        finding = error.findings[0]
        return finding.message, finding.expected, finding.found, finding.hint
    raise AssertionError("nothing was refused")


def stages_for(plan: Plan, rank: int) -> dict[int, nn.Module]:
    return {stage: make_stage(stage, stages_of(plan)) for stage in plan.stages(rank)}
