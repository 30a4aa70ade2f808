"""How a schedule is made again: a library name, a text, or an order; and what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from pipec.compiler import Compiled, Settings, build_text, certify
from pipec.findings import PipecError
from pipec.language import read
from pipec.library import only_schedule
from pipec.lower.ahead import ahead
from pipec.lower.lower import lower
from pipec.order.schedule import bind
from pipec.program.placement import Placement
from pipec.program.program import Order
from pipec.source import Source
from pipec.tune.setting import Setting
from pipec.verify.certificate import Certificate

Origin = Literal["library", "policy", "block", "search", "solver"]
ORIGINS: tuple[Origin, ...] = ("library", "policy", "block", "search", "solver")
"""Where a schedule comes from; of equals the one that is named first is kept."""

PLACEMENTS = ("linear", "interleaved", "v", "bidirectional")
"""The ways in which stages lie on ranks."""


STUCK, TOO_LARGE, NO_BACKWARD = "policy", "memory-limit", "forward-only"
"""Why something is refused: two codes of findings, and that nothing is trained by it."""


@dataclass(frozen=True)
class Recipe:
    """A schedule that can be made again: by a text and its parameters, or by an order."""

    origin: Origin
    name: str
    parameters: Mapping[str, int | bool] = field(default_factory=dict)
    source: Source | None = None
    order: Order | None = field(default=None, compare=False, repr=False)

    @property
    def sizes(self) -> dict[str, int | bool]:
        """The numbers of ranks and microbatches, whatever they are called."""
        return dict(list(self.parameters.items())[:2])

    @property
    def title(self) -> str:
        """`zbv-greedy most=12`: what is said beside the sizes."""
        beyond = list(self.parameters.items())[2:]
        said = [f"{key}={value}" for key, value in beyond]
        return " ".join([self.name, *said])


Layout = tuple[tuple[int, ...], ...]
"""Per flow who holds each stage."""


@dataclass(frozen=True)
class Trial:
    """What a certified schedule amounts to. `copies`: how many ranks hold a stage, at most;
    `opened`: whether its chunks have parts.
    """

    recipe: Recipe
    placement: str
    layout: Layout
    makespan: Fraction
    peak: Fraction
    copies: int
    opened: bool = False

    @property
    def rank(self) -> tuple[Fraction, Fraction, int, int]:
        """The better one is smaller: shorter, then with less memory, then said more simply."""
        return self.makespan, self.peak, self.copies, ORIGINS.index(self.recipe.origin)


def made(recipe: Recipe, setting: Setting) -> tuple[Compiled, Certificate]:
    """Compile a recipe and verify what comes of it. Raises `PipecError`."""
    if recipe.order is not None:
        compiled = _ordered(recipe, recipe.order, setting)
    else:
        assert recipe.source
        tree = only_schedule(read(recipe.source), recipe.source)
        stages = bind(tree, recipe.parameters, recipe.source).placement.flows[0].stages
        name = recipe.name if recipe.origin == "library" else None
        compiled = build_text(recipe.source, recipe.parameters, setting.settings(stages), name)
    return compiled, certify(compiled, Settings(channels=setting.channels))


@dataclass(frozen=True)
class Refused:
    """What came of a recipe that cannot be made at this size or certified within the limit: the
    code of its worst finding.
    """

    code: str


def tried(recipe: Recipe, setting: Setting) -> Trial | Refused:
    """What a recipe amounts to."""
    try:
        compiled, certificate = made(recipe, setting)
    except PipecError as error:
        return Refused(error.findings[0].code)
    placement = compiled.program.placement
    if not certificate.ok:
        return Refused(certificate.findings[0].code)
    if not all(flow.backward for flow in placement.flows):
        return Refused(NO_BACKWARD)
    makespan, peak = figures(certificate)
    copies = max(map(len, placement.copies))
    layout = tuple(flow.ranks for flow in placement.flows)
    name, opened = placement_name(placement), bool(placement.layouts)
    return Trial(recipe, name, layout, makespan, peak, copies, opened)


@dataclass(frozen=True)
class Proof:
    """A solver proved: no order of a layout that holds at most `peak` is shorter than `bound`."""

    layout: Layout
    peak: Fraction
    bound: Fraction


def figures(certificate: Certificate) -> tuple[Fraction, Fraction]:
    """The makespan and the largest peak of what is certified, exactly."""
    report, used = certificate.report, certificate.used
    assert report and used
    return _exact(report.makespan), Fraction(int(used.peak.max()), used.scale)


def _exact(number: float) -> Fraction:
    """A number of ticks that was divided by how many a unit has."""
    return Fraction(number).limit_denominator(10**7)


def _ordered(recipe: Recipe, order: Order, setting: Setting) -> Compiled:
    settings = setting.settings(order.placement.flows[0].stages)
    assert settings.costs and settings.memory
    costs, memory = settings.costs, settings.memory
    program = ahead(order, lower(order, costs), costs, memory, settings.channels)
    return Compiled(recipe.name, dict(recipe.parameters), program, costs, memory)


def placement_name(placement: Placement) -> str:
    """Which of `PLACEMENTS` it is; whatever turns back on itself is a `v`."""
    if placement.sliced:
        return "sliced"
    if len(placement.flows) > 1:
        return "bidirectional"
    ranks = placement.flows[0].ranks
    if len(ranks) <= placement.ranks:
        return "linear"
    round_robin = all(rank == stage % placement.ranks for stage, rank in enumerate(ranks))
    return "interleaved" if round_robin else "v"
