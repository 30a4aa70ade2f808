"""The Pareto front: schedules that none is better than, in time and in memory at once."""

from collections.abc import Iterable

from pipec.tune.recipe import Trial


def front(trials: Iterable[Trial], counts_copies: bool = True) -> list[Trial]:
    """Those that no other one dominates, the shortest first.

    counts_copies: a schedule with two copies of the model on its ranks does not dominate one with a
    single copy. Without it copies count by the memory that they take.
    """
    kept: list[Trial] = []
    for trial in sorted(trials, key=lambda trial: trial.rank):
        if not any(_as_good(other, trial, counts_copies) for other in kept):
            kept.append(trial)
    return kept


def _as_good(one: Trial, other: Trial, counts_copies: bool) -> bool:
    fewer = not counts_copies or one.copies <= other.copies
    return one.makespan <= other.makespan and one.peak <= other.peak and fewer
