"""torch's actions as its CSV files write them: `2F0`, `1RECV_B3`, `(0F4;1B2)OVERLAP_F_B`.

The words differ from ours: torch's `B` is the whole backward (our BW), its `I` the backward for the
input (our B). Source: `_Action` in torch/distributed/pipelining/schedules.py of torch 2.13.
"""

import re
from typing import NamedTuple

from pipec.program.effects import Kind, Step
from pipec.source import Span

COMPUTE = {"F": Kind.F, "I": Kind.B, "W": Kind.W, "B": Kind.BW}
MESSAGES = {
    "SEND_F": (Kind.SEND, Step.FORWARD),
    "RECV_F": (Kind.RECV, Step.FORWARD),
    "SEND_B": (Kind.SEND, Step.BACKWARD),
    "RECV_B": (Kind.RECV, Step.BACKWARD),
}
SHARDING = ("UNSHARD", "RESHARD", "REDUCE_GRAD")
"""What FSDP does around the pipeline: about a stage, not about a microbatch."""

FORM = "stage, action, microbatch, such as `2F0` or `1RECV_B3`; `0UNSHARD`; `(0F4;1B2)OVERLAP_F_B`"
_WORDS = "|".join(sorted((*COMPUTE, *MESSAGES, *SHARDING), key=len, reverse=True))
_ACTION = re.compile(rf"\s*(\d{{1,6}})({_WORDS})(\d{{0,9}})\s*")
_OVERLAP = re.compile(r"\s*\(([^()]*)\)OVERLAP_F_B\s*")


class Action(NamedTuple):
    """One action. `microbatch` is -1 for sharding; `tied` marks the second half of an OVERLAP."""

    word: str
    stage: int
    microbatch: int
    span: Span
    tied: bool = False


def parse_cell(text: str, begin: int) -> list[Action] | None:
    """The actions of one cell, two for an OVERLAP; None where it cannot be read.

    begin: the place of the cell's first character in its source.
    """
    span = Span(begin + len(text) - len(text.lstrip()), begin + len(text.rstrip()))
    overlap = _OVERLAP.fullmatch(text)
    if not overlap:
        action = _action(text, span)
        return None if action is None else [action]
    halves = [_action(half, span) for half in overlap[1].split(";")]
    if len(halves) != 2 or any(half is None or half.word not in COMPUTE for half in halves):
        return None
    first, second = (half for half in halves if half is not None)
    return [first, second._replace(tied=True)]


def _action(text: str, span: Span) -> Action | None:
    match = _ACTION.fullmatch(text)
    if not match or bool(match[3]) == (match[2] in SHARDING):
        return None
    return Action(match[2], int(match[1]), int(match[3] or -1), span)


def cell(word: str, stage: int, microbatch: int | None = None) -> str:
    """An action as torch reads it."""
    return f"{stage}{word}{'' if microbatch is None else microbatch}"
