"""The search: the library, then policies, then orders near the best, until the budget is used up.

With a budget of candidates the same setting and seed give the same result, on any machine and with
any number of processes: jobs are made in a fixed order, each has its own seed, and their results
are taken in that order. With a budget of time it depends on how far the search comes.
"""

import os
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pipec.findings import PipecError
from pipec.language import read
from pipec.library import only_schedule
from pipec.order.schedule import bind
from pipec.processes import workers
from pipec.tune.blocks import block_recipe, blocks
from pipec.tune.front import front
from pipec.tune.jobs import Climb, Compile, Improve, Job, Result, Screen, Solve, parts
from pipec.tune.recipe import PLACEMENTS, Proof, Recipe, Trial, placement_name
from pipec.tune.setting import Setting
from pipec.tune.solver import available
from pipec.tune.texts import knobs_of, library

MOST_PROCESSES = 2
_SCREENED = 256
_STEPS, _ROUND = 120, 4
_SOLVED, _PROOF, _EFFORT = 150, 10.0, 2.0
"""Schedules of so many operations are solved as a whole, with so much effort; others in pieces."""

_MOVED = 30_000
"""Larger schedules are not moved about: the library, blocks and policies have to do."""


@dataclass(frozen=True)
class Budget:
    """When a search ends: after so many candidates, or so many seconds, whichever is first."""

    candidates: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class State:
    """How far a search is: what was tried, the front, all trials, and what a solver proved."""

    phase: str
    tried: int
    front: tuple[Trial, ...]
    trials: tuple[Trial, ...] = field(repr=False, default=())
    proofs: tuple[Proof, ...] = field(repr=False, default=())


def search(
    setting: Setting, placements: Sequence[str], budget: Budget
) -> Generator[State, None, None]:
    """Search; yields after each job. Closing the generator ends all processes."""
    end = None if budget.seconds is None else time.monotonic() + budget.seconds
    found: list[Trial] = []
    proofs: list[Proof] = []
    tried = 0
    processes = min(MOST_PROCESSES, os.cpu_count() or 1)
    with workers(processes) as pool:
        for phase, jobs in _rounds(setting, placements, found):
            left = None if end is None else max(end - time.monotonic(), 0)
            results = pool.map(partial(_run, setting), jobs, timeout=left)
            for result in _in_time(results):
                tried += result.count
                found += [trial for trial in result.trials if trial.placement in placements]
                proofs += result.proofs
                best = tuple(_front(found, setting))
                yield State(phase, tried, best, tuple(found), tuple(proofs))
                if budget.candidates is not None and tried >= budget.candidates:
                    return
            if end is not None and time.monotonic() >= end:
                return


def _in_time(results: Iterator[Result]) -> Iterator[Result]:
    """Results as they come, until it is time: what is not ready then is given up."""
    with suppress(TimeoutError):
        yield from results


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
    if "v" in placements and setting.ranks > 1:
        most = 2.5 * setting.ranks
        ranks, count = setting.ranks, setting.microbatches
        known = [block for block in blocks(ranks) if block.held <= most]
        yield "blocks", [Compile(block_recipe(block, ranks, count)) for block in known]
    yield "policies", list(_screens(setting, placements))
    number = 0
    while found and _size(found[0], setting) <= _MOVED:
        best = _front(found, setting)
        if available() and number == 0 and _size(best[0], setting) <= _SOLVED:
            yield "proofs", [Solve(trial, _PROOF, trial is best[0]) for trial in best]
        yield "orders", _improvements(best, number)
        number += 1


def _size(trial: Trial, setting: Setting) -> int:
    """How many operations a schedule has."""
    return 3 * sum(map(len, trial.layout)) * setting.microbatches // len(trial.layout)


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


def _improvements(best: list[Trial], number: int) -> list[Climb | Improve]:
    """Most of a round from the shortest schedule, one job from the rest of the front in turn."""
    others = best[1:] or best
    jobs: list[Climb | Improve] = []
    for at in range(_ROUND):
        first = at < _ROUND - 1
        start = best[0] if first else others[number % len(others)]
        if available() and (at + number) % 2:
            jobs.append(Improve(start, (number, at), _EFFORT + number, first))
        else:
            jobs.append(Climb(start, (number, at), _STEPS, to_limit=first))
    return jobs
