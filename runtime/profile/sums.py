"""Sum times: the gradients of a stage that two ranks hold, with nothing else on their link."""

import time
from functools import partial
from statistics import median

import torch

from pipec.runtime.inside import Inside
from pipec.runtime.links import Link
from pipec.runtime.profile.together import talking, together

LOOKS = 6
"""How often sums are timed; the first look is not used."""


def sum_times(inside: Inside) -> dict[int, float]:
    """Milliseconds of the gradient sum of each stage that has two holders.

    Of tensors as large as the gradients, over the pipeline's own links, one stage after the other.
    Called by all ranks, between steps.
    """
    times: dict[int, float] = {}
    for stage, holders in enumerate(inside.plan.program.placement.copies):
        if len(holders) == 2:
            looks = together(inside, "time gradient sums", partial(_looks, inside, stage, holders))
            times[stage] = median(looks[holders[0]][1:])
    return times


def _looks(inside: Inside, stage: int, holders: tuple[int, ...]) -> list[float]:
    """Looks of one of the two holders; nothing on the other ranks."""
    if inside.rank not in holders:
        return []

    def looks() -> list[float]:
        link, flats = inside.copies.alike(stage)
        return [_look(inside, link, flats) for _ in range(LOOKS)]

    return talking(inside, looks)


def _look(inside: Inside, link: Link, flats: list[torch.Tensor]) -> float:
    begin = time.perf_counter()
    for work in [link.sum(flat) for flat in flats]:
        work.wait()
    if inside.device.type != "cpu":
        torch.accelerator.synchronize()
    return (time.perf_counter() - begin) * 1e3
