"""The search: the library, then policies, then orders near the best, until the budget is used up.

With a budget of candidates the same setting and seed give the same result, on any machine and with
any number of processes: jobs are made in a fixed order, each has its own seed, and their results
are taken in that order. With a budget of time it depends on how far the search comes.
"""

import os
import signal
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from typing import Any

from pipec.findings import PipecError
from pipec.language import read
from pipec.library import only_schedule
from pipec.order.schedule import bind
from pipec.tune.front import front
from pipec.tune.jobs import Climb, Compile, Job, Result, Screen, parts
from pipec.tune.recipe import PLACEMENTS, Recipe, Trial, placement_name
from pipec.tune.setting import Setting
from pipec.tune.texts import knobs_of, library

MOST_PROCESSES = 2
_SCREENED = 256
_STEPS = 120
_ROUND = 4


@dataclass(frozen=True)
class Budget:
    """When a search ends: after so many candidates, or so many seconds, whichever is first."""

    candidates: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class State:
    """How far a search is."""

    phase: str
    tried: int
    front: tuple[Trial, ...]
    trials: tuple[Trial, ...] = field(repr=False, default=())


def search(
    setting: Setting, placements: Sequence[str], budget: Budget
) -> Generator[State, None, None]:
    """Search; yields after each job. Closing the iterator ends all processes."""
    begin = time.monotonic()
    found: list[Trial] = []
    tried = 0
    processes = min(MOST_PROCESSES, os.cpu_count() or 1)
    with get_context("fork").Pool(processes, _leave_interrupts_to_the_parent) as pool:
        for phase, jobs in _rounds(setting, placements, found):
            for result in pool.imap(partial(_run, setting), jobs):
                tried += result.count
                found += [trial for trial in result.trials if trial.placement in placements]
                yield State(phase, tried, tuple(_front(found, setting)), tuple(found))
                if _over(budget, tried, begin):
                    return


def _over(budget: Budget, tried: int, begin: float) -> bool:
    if budget.candidates is not None and tried >= budget.candidates:
        return True
    return budget.seconds is not None and time.monotonic() - begin >= budget.seconds


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run(setting: Setting, job: Job) -> Result:
    return job.run(setting)


def _front(found: list[Trial], setting: Setting) -> list[Trial]:
    """Copies of a stage count by themselves where nobody says how much memory they take."""
    states = any(key in setting.memory.sizes for key in ("state", "parameters"))
    return front(found, counts_copies=not states)


def _rounds(
    setting: Setting, placements: Sequence[str], found: list[Trial]
) -> Iterator[tuple[str, list[Any]]]:
    """Jobs in rounds; `found` grows between them."""
    recipes = [
        recipe
        for recipe in library(setting.ranks, setting.microbatches)
        if _placed(recipe) in placements
    ]
    yield "library", [Compile(recipe) for recipe in recipes]
    yield "policies", list(_screens(setting, placements))
    number = 0
    while found:
        yield "orders", _climbs(setting, found, number)
        number += 1


def _placed(recipe: Recipe) -> str:
    """The placement of a library schedule; none where it refuses the size."""
    assert recipe.source
    try:
        tree = only_schedule(read(recipe.source), recipe.source)
        return placement_name(bind(tree, recipe.parameters, recipe.source).placement)
    except PipecError:
        return ""


def _screens(setting: Setting, placements: Sequence[str]) -> Iterator[Screen]:
    for placement in PLACEMENTS:
        if placement not in placements or not _fits(placement, setting):
            continue
        for chunks in {"v": (2,), "interleaved": (2, 3)}.get(placement, (1,)):
            knobs = list(knobs_of(placement, chunks, setting.ranks))
            yield from (Screen(part) for part in parts(knobs, _SCREENED))


def _fits(placement: str, setting: Setting) -> bool:
    return placement != "bidirectional" or setting.ranks % 2 == setting.microbatches % 2 == 0


def _climbs(setting: Setting, found: list[Trial], number: int) -> list[Climb]:
    """Half of a round from the shortest schedules, half from the rest of the front in turn."""
    best = _front(found, setting)
    others = best[1:] or best
    starts = [best[0]] * (_ROUND // 2)
    starts += [others[(number * 2 + at) % len(others)] for at in range(_ROUND - len(starts))]
    return [
        Climb(start, (number, at), _STEPS, to_limit=start is best[0])
        for at, start in enumerate(starts)
    ]
