"""Jobs in rounds: the library, blocks, policies, proofs, then cycles and orders near the best."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction

from pipec.findings import PipecError
from pipec.language import read
from pipec.library import only_schedule
from pipec.order.schedule import bind
from pipec.tune.blocks import PERIODS, block_recipe, blocks, living, peak
from pipec.tune.blocks import shortest as shortest_blocks
from pipec.tune.front import front
from pipec.tune.jobs import Climb, Compile, Improve, Job, Repeat, Screen, Solve, parts, placed
from pipec.tune.known import Known
from pipec.tune.recipe import PLACEMENTS, Layout, Recipe, Trial, placement_name
from pipec.tune.replay import Replay
from pipec.tune.screen import ALIKE, Sketch, shortest
from pipec.tune.setting import Setting
from pipec.tune.solver import available
from pipec.tune.start import shop_at
from pipec.tune.texts import knobs_of, library, policy

_SCREENED, _COMPILED = 256, 24
"""Policies in a job; how many of a placement are compiled at most."""

_STEPS, _NEAR = 120, 1.05
"""Steps of a climb; how much longer than the shortest is what others are looked for around."""

_CYCLES, _LATER = 4, 1
"""Cycles in the first round, and in each round in which orders are moved."""

_SOLVED, _PROOF, _EFFORT = 400, 8.0, 2.0
"""Schedules of so many operations are solved as a whole first of all, with so much effort; spans of
time of others with less.
"""

_WHOLE, _LATE = 1500, 4
"""Schedules of so many operations are solved as a whole too, for their bound, in later rounds."""

_MOVED = 30_000
"""Larger schedules are not moved about: the library, blocks and policies have to do."""

_GAIN = 0.005
"""The least that must be possible for a cycle to be looked for, as a share."""


def rounds(known: Known) -> Iterator[tuple[str, list[Job]]]:
    """Jobs in rounds, each with its name; what is known grows between them."""
    setting, placements = known.setting, known.placements
    recipes = library(setting.ranks, setting.microbatches)
    asked = [recipe for recipe in recipes if _placed(recipe) in (*placements, "")]
    yield "library", [Compile(recipe) for recipe in asked]
    if "v" in placements and setting.ranks > 1 and _can_be_cut(setting, "v", 2):
        yield "blocks", _blocks(setting)
    searched = setting.layers is None
    openings = list(_openings(known)) if available() and searched else []
    yield from _policies(known)
    if available() and searched:
        yield "proofs", _proofs(known)
    yield "cycles", _cycles(known, openings, _CYCLES)
    number = 0
    while searched:
        jobs = [*_cycles(known, openings, _LATER), *_improvements(known, number)]
        if number >= _LATE and available():
            jobs += _widest(known, number)
        if not jobs:
            return
        yield "orders", jobs
        number += 1


def _blocks(setting: Setting) -> list[Job]:
    """Those without free slots that live shortest, and the shortest of all others, run roughly."""
    ranks, count = setting.ranks, setting.microbatches
    replay = Replay(shop_at(setting, placed("v", 2, setting)))
    most = setting.limit.most * replay.shop.scale if setting.limit else float("inf")
    chunk = min((keep for keep in replay.shop.keep if keep > 0), default=1)
    found = blocks(ranks, min(_HELD * ranks, float(most / chunk) + 1))
    dense = [block for block in found if block.period == PERIODS[0]]
    chosen = [block for block in living(dense, _ALIVE) if peak(block, replay) <= most]
    if replay.shop.size <= _MOVED:
        rough = shortest_blocks(found, replay, most)
        chosen += [one for one in rough if one not in chosen]
    return [Compile(block_recipe(block, ranks, count)) for block in chosen]


_HELD, _ALIVE = 2.5, 3
"""Chunks that blocks hold, at most, in shares of the ranks; how many are taken for each amount held
because they live shortest.
"""


def _placed(recipe: Recipe) -> str:
    """The placement of a library schedule; none where it refuses the size."""
    assert recipe.source
    try:
        tree = only_schedule(read(recipe.source), recipe.source)
        return placement_name(bind(tree, recipe.parameters, recipe.source).placement)
    except PipecError:
        return ""


def _kinds(known: Known) -> Iterator[tuple[str, int]]:
    """The placements that were asked for, with how many chunks a rank may have."""
    setting = known.setting
    even = setting.ranks % 2 == setting.microbatches % 2 == 0
    for placement in PLACEMENTS:
        if placement in known.placements and (placement != "bidirectional" or even):
            for chunks in {"v": (2,), "interleaved": (2, 3)}.get(placement, (1,)):
                yield placement, chunks


def _policies(known: Known) -> Iterator[tuple[str, list[Job]]]:
    """Per placement all knobs roughly, then the best of them as they are."""
    setting = known.setting
    for placement, chunks in _kinds(known):
        if not _can_be_cut(setting, placement, chunks):
            continue
        knobs = list(knobs_of(placement, chunks, setting.ranks))
        begin = len(known.sketches)
        yield "policies", [Screen(part) for part in parts(knobs, _SCREENED)]
        best = shortest(known.sketches[begin:], ALIKE if setting.queues else 1)
        near = [sketch for sketch in best if _is_shorter(known, sketch)][:_COMPILED]
        texts = [policy(one.knobs, setting.ranks, setting.microbatches) for one in near]
        yield "policies", [Compile(recipe) for recipe in texts]


def _can_be_cut(setting: Setting, placement: str, chunks: int) -> bool:
    """Whether the layers of opened chunks divide among the stages."""
    with suppress(PipecError):
        setting.layers_of(placed(placement, chunks, setting).flows[0].stages)
        return True
    return False


def _is_shorter(known: Known, sketch: Sketch) -> bool:
    """Whether nothing is known that is as short; a sketch knows no parts."""
    if known.setting.layers:
        return True
    copies = 2 if sketch.knobs.placement == "bidirectional" else 1
    best = known.shortest(sketch.peak, copies)
    return best is None or sketch.makespan < best


def _proofs(known: Known) -> list[Job]:
    best = [one for one in known.front if _size(one, known.setting) <= _SOLVED]
    return [Solve(trial, _PROOF, trial is known.front[0]) for trial in best]


def _widest(known: Known, number: int) -> list[Job]:
    """The schedule of the front with the largest gap, as a whole, with more and more effort."""
    small = [one for one in known.front if _size(one, known.setting) <= _WHOLE]
    gaps = [float(one.makespan / (known.bound(one.layout, one.peak) or 1)) - 1 for one in small]
    order = sorted(range(len(small)), key=lambda at: -gaps[at])
    open_ones = [small[at] for at in order if gaps[at] > 1e-9]
    if not open_ones:
        return []
    return [Solve(open_ones[number % min(len(open_ones), _LATE)], _PROOF + number)]


def _size(trial: Trial, setting: Setting) -> int:
    """How many operations a schedule has."""
    return 3 * sum(map(len, trial.layout)) * setting.microbatches // len(trial.layout)


@dataclass(frozen=True)
class _Opening:
    """Where a cycle may be looked for: a placement, what a rank may hold, how many at once."""

    placement: str
    chunks: int
    layout: Layout
    peak: Fraction
    each: int


def _openings(known: Known) -> Iterator[_Opening]:
    """Every amount that a rank may hold, up to that of a rank that is never held up by it."""
    setting = known.setting
    for name, chunks in _kinds(known):
        placement = placed(name, chunks, setting)
        shop = shop_at(setting, placement)
        size = max(shop.keep)
        if size <= 0 or shop.size > _MOVED:
            continue
        layout = tuple(flow.ranks for flow in placement.flows)
        for number in range(chunks, setting.ranks * chunks + 1):
            peak = Fraction(number * size + max(shop.base), shop.scale)
            if setting.limit is None or peak <= setting.limit.most:
                yield from (_Opening(name, chunks, layout, peak, each) for each in (1, 2))


def _cycles(known: Known, openings: list[_Opening], count: int) -> list[Job]:
    """The jobs for the openings where most can be gained, which are taken out."""
    worth = [one for one in openings if _worth(known, one) > _GAIN]
    worth = sorted(worth, key=lambda one: -_worth(known, one))[:count]
    openings[:] = [one for one in openings if one not in worth]
    return [Repeat(one.placement, one.chunks, one.peak, one.each) for one in worth]


def _worth(known: Known, opening: _Opening) -> float:
    """What can be gained at most; two microbatches at once take longer, and gain less."""
    gain = known.gain(opening.layout, opening.peak, len(opening.layout))
    return gain if opening.each == 1 else _TWO * min(gain, 1.0)


_TWO = 0.8


def _improvements(known: Known, number: int) -> list[Job]:
    """Half of a round from the shortest schedule, the rest from others in turn."""
    targets = _targets(known)
    if not targets:
        return []
    best, others = targets[0], targets[1:] or targets
    jobs: list[Job] = []
    for at, start in enumerate((best, best, others[number % len(others)])):
        seed = (number, at)
        if available() and at != 1:
            jobs.append(Improve(start, seed, _EFFORT + number / 2, at == 0))
        else:
            jobs.append(Climb(start, seed, _STEPS, to_limit=at < 2))
    return jobs


def _targets(known: Known) -> list[Trial]:
    """Schedules that may become shorter than all others at their peak: the best of each placement,
    if its bound allows that and it is near. The front comes first.
    """
    best = known.front
    own = [
        front([one for one in known.trials if one.placement == name]) for name in known.placements
    ]
    found = [*best, *(one for trials in own for one in trials if one not in best)]
    return [
        one
        for one in found
        if _size(one, known.setting) <= _MOVED
        and known.gain(one.layout, one.peak, one.copies) > 1e-9
        and one.makespan <= _NEAR * (known.shortest(one.peak, one.copies) or 0)
    ]
