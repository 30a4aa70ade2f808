"""A listener that measures several steps and makes a costs file of them."""

import os
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipec.program.costs_file import CostsFile
from pipec.program.effects import COMPUTE
from pipec.runtime.errors import PipelineError
from pipec.runtime.inside import Inside
from pipec.runtime.listener import Point, Run
from pipec.runtime.profile.exchanges import all_to_all_times
from pipec.runtime.profile.messages import message_times
from pipec.runtime.profile.sizes import Sizes
from pipec.runtime.profile.summary import Measured, Summary, summary
from pipec.runtime.profile.sums import sum_times
from pipec.runtime.profile.together import together

KEPT = 64
"""Steps that are kept; of more, the last ones."""


class Profile:
    """Times and sizes of the stages of a pipeline, over several training steps.

        profile = Profile(device)
        pipe = Pipeline(plan, stages, loss_fn=loss_fn, device=device, listeners=[profile])
        for x, y in loader:
            pipe.step(x, y)
        profile.save("costs.toml")          # on all ranks, between steps; rank 0 writes

    The first `skip` steps are not timed; the last of these is weighed instead. Steps of `eval` are
    not measured. Times are those of the host's clock on a CPU and of events on the current stream
    on an accelerator, as in `Trace`.
    """

    def __init__(self, device: torch.device | str = "cpu", skip: int = 2):
        if skip < 1:
            raise PipelineError(
                "a profile skips the first step, in which shapes are found out",
                expected="skip of 1 or more",
                found=f"skip={skip}",
            )
        self._device = torch.device(device)
        self._skip = skip
        self._seen: Counter[int] = Counter()
        self._spans: dict[int, deque[tuple[Any, Any]]] = defaultdict(lambda: deque(maxlen=KEPT))
        self._sizes = Sizes()
        self._inside: Inside | None = None

    def attach(self, inside: Inside) -> None:
        """Called by the pipeline that it listens to: it measures one."""
        if self._inside is not None:
            raise PipelineError("a profile listens to one pipeline", hint="make another Profile")
        self._inside = inside
        self._sizes.leave_out(inside.stages)

    def wrap(self, point: Point, run: Run) -> Run:
        """Measure what computes; its wait is not part of it."""
        if point.waiting or not COMPUTE[point.instruction.kind] or self._inside is None:
            return run
        seen, spans, skip = self._seen, self._spans, self._skip
        weighed = self._sizes.weighing(point.instruction, run, self._inside)
        cpu, index = self._device.type == "cpu", point.index
        mark: Callable[[], Any] = time.perf_counter_ns if cpu else self._mark

        def measured() -> None:
            if not torch.is_grad_enabled():
                run()
                return
            seen[index] += 1
            if seen[index] == skip:
                weighed()
                return
            begin = mark()
            run()
            if seen[index] > skip:
                spans[index].append((begin, mark()))

        return measured

    @property
    def steps(self) -> int:
        """How many steps have been timed and kept."""
        return min((len(spans) for spans in self._spans.values()), default=0)

    def measure(self, optimizer: torch.optim.Optimizer | None = None) -> CostsFile:
        """The costs of all ranks together. Called by all of them, between steps; where pipelines
        share experts, by the ranks of all pipelines.

        optimizer: that of this rank, whose state is weighed, too.
        Raises `PipelineError` on all ranks if one of them has timed no step.
        """
        return self._summary(optimizer).file

    def save(
        self, path: str | os.PathLike[str], optimizer: torch.optim.Optimizer | None = None
    ) -> None:
        """Measure, and let rank 0 write the costs file, with how far times spread as comments.

        Where it cannot, it raises `OSError` (or what else stopped it), and the others
        `PipelineError`.
        """
        found = self._summary(optimizer)
        inside = self._known()

        def write() -> None:
            if inside.rank == 0:
                found.file.save(path, found.notes, found.head)

        together(inside, "write the costs file", write)

    # --- inside -----------------------------------------------------------------------------------

    def _mark(self) -> torch.Event:
        event = torch.Event(self._device, enable_timing=True)
        event.record()
        return event

    def _known(self) -> Inside:
        if self._inside is None:
            hint = "give it to the pipeline: Pipeline(..., listeners=[profile])"
            raise PipelineError("this profile listens to no pipeline", hint=hint)
        return self._inside

    def _summary(self, optimizer: torch.optim.Optimizer | None) -> Summary:
        """What all ranks have measured, the same on each."""
        inside = self._known()
        enough = together(inside, "say how many steps it has timed", lambda: self.steps)
        if not all(enough):
            raise PipelineError(
                f"rank {enough.index(0)} has timed no step",
                expected=f"more than {self._skip} training steps",
                hint="the first ones are skipped: see `skip`",
            )
        took = together(inside, "read its times", self._took)
        weigh = partial(self._sizes.by_stage, inside, optimizer)
        sizes = together(inside, "weigh its stages", weigh)
        messages, sums = message_times(inside), sum_times(inside)
        exchanges = all_to_all_times(inside, self._sizes.given)
        return summary(inside.plan, Measured(took, sizes, messages, sums, exchanges), self.steps)

    def _took(self) -> dict[int, NDArray[np.float64]]:
        """For each row of this rank's stream that computes: what it took, step by step, in ms."""
        if self._device.type != "cpu" and self._spans:
            torch.accelerator.synchronize()
        steps = self.steps
        return {
            index: np.array([self._span(*span) for span in list(spans)[len(spans) - steps :]])
            for index, spans in self._spans.items()
        }

    def _span(self, begin: Any, end: Any) -> float:
        if self._device.type == "cpu":
            return float(end - begin) / 1e6
        return float(begin.elapsed_time(end))
