"""The search: jobs in rounds on both processes until the budget is used up.

With a budget of candidates the same setting and seed give the same result, on any machine and with
any number of processes: jobs are made in a fixed order, each has its own seed, and their results
are taken in that order. With a budget of time it depends on how far the search comes.
"""

import os
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from pipec.processes import workers
from pipec.tune.jobs import Job, Result
from pipec.tune.known import Known
from pipec.tune.recipe import Proof, Trial
from pipec.tune.rounds import rounds
from pipec.tune.setting import Setting

MOST_PROCESSES = 2


@dataclass(frozen=True)
class Budget:
    """When a search ends: after so many candidates, or so many seconds, whichever is first."""

    candidates: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class State:
    """How far a search is: what was tried, the front, all trials, what a solver proved, and how
    many candidates came to nothing, by the code of the finding.
    """

    phase: str
    tried: int
    front: tuple[Trial, ...]
    trials: tuple[Trial, ...] = field(repr=False, default=())
    proofs: tuple[Proof, ...] = field(repr=False, default=())
    refused: Mapping[str, int] = field(repr=False, default_factory=dict)


def search(
    setting: Setting, placements: Sequence[str], budget: Budget
) -> Generator[State, None, None]:
    """Search; yields after each job. Closing the generator ends all processes."""
    end = None if budget.seconds is None else time.monotonic() + budget.seconds
    known = Known(setting, placements)
    processes = min(MOST_PROCESSES, os.cpu_count() or 1)
    with workers(processes) as pool:
        for phase, jobs in rounds(known):
            left = None if end is None else max(end - time.monotonic(), 0)
            results = pool.map(partial(_run, setting), jobs, timeout=left)
            for result in _in_time(results):
                known.add(result)
                yield _state(phase, known)
                if budget.candidates is not None and known.tried >= budget.candidates:
                    return
            if end is not None and time.monotonic() >= end:
                return


def _state(phase: str, known: Known) -> State:
    trials, proofs = tuple(known.trials), tuple(known.proofs)
    return State(phase, known.tried, tuple(known.front), trials, proofs, dict(known.refused))


def _in_time(results: Iterator[Result]) -> Iterator[Result]:
    """Results as they come, until it is time: what is not ready then is given up."""
    with suppress(TimeoutError):
        yield from results


def _run(setting: Setting, job: Job) -> Result:
    return job.run(setting)
