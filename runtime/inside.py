"""What a listener may look at that measures more than single instructions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import nn
from torch.distributed import ProcessGroup

from pipec.program.plan import Plan
from pipec.runtime.copies import Copies
from pipec.runtime.executor import Stream
from pipec.runtime.watch.watchdog import Failure
from pipec.runtime.wires import Wire


@dataclass(frozen=True)
class Inside:
    """A pipeline on one rank. `streams` has `train` after its first step, and `eval` likewise."""

    plan: Plan
    rank: int
    group: ProcessGroup
    device: torch.device
    stages: Mapping[int, nn.Module]
    wire: Wire
    streams: Mapping[str, Stream]
    copies: Copies
    fail: Callable[[str], Failure]
    """Ends the pipeline on all ranks, with the first reason that any of them gave."""


@runtime_checkable
class Attached(Protocol):
    """A listener that is shown the inside of its pipeline when that is made."""

    def attach(self, inside: Inside) -> None:
        """Called once, before anything is wrapped."""
