"""Listeners wrap instructions at load, to measure or change how they run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pipec.program.program import Instruction

Run = Callable[[], None]


@dataclass(frozen=True)
class Point:
    """A step of a rank's loop: an instruction, or (`waiting`) the wait for its message."""

    index: int
    instruction: Instruction
    waiting: bool


class Listener(Protocol):
    """Something that measures or changes how instructions run: traces, profilers, emulations."""

    def wrap(self, point: Point, run: Run) -> Run:
        """The callable to run instead of `run`; called once for each step, at load."""
