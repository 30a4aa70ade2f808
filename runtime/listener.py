"""Listeners: what wants to know when instructions run wraps them at load, and costs nothing else."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from pipec.program.program import Instruction

Run = Callable[[], None]


class Point(NamedTuple):
    """A step of a rank's loop: an instruction, or (`waiting`) the wait for its message."""

    index: int
    instruction: Instruction
    waiting: bool


class Listener(Protocol):
    """Something that measures or changes how instructions run: traces, profilers, emulations."""

    def wrap(self, point: Point, run: Run) -> Run:
        """The callable to run instead of `run`; called once for each step, at load."""
