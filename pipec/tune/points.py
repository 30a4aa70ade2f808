"""The front as it is shown: every schedule compiled and verified again, beside its bound."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from pipec.compiler import Compiled
from pipec.program.effects import EFFECTS
from pipec.program.placement import Placement
from pipec.tune.bounds import bounds
from pipec.tune.recipe import Proof, Trial, figures, made
from pipec.tune.setting import Setting
from pipec.tune.shop import UNLIMITED
from pipec.tune.start import shop_at
from pipec.verify.certificate import Certificate


@dataclass(frozen=True)
class Point:
    """A certified schedule of the front.

    bound: no order of its placement is shorter within its peak. `proof` says what proved that.
    """

    trial: Trial
    compiled: Compiled
    certificate: Certificate
    bound: Fraction
    proof: str

    @property
    def gap(self) -> float:
        """How much longer it is than its bound, as a share of that."""
        return float(self.trial.makespan / self.bound) - 1 if self.bound else 0.0


def points(front: Sequence[Trial], setting: Setting, proofs: Sequence[Proof] = ()) -> list[Point]:
    """Make every schedule of a front again, prove it, and find its bound."""
    return [_point(trial, setting, proofs) for trial in front]


def _point(trial: Trial, setting: Setting, proofs: Sequence[Proof]) -> Point:
    compiled, certificate = made(trial.recipe, setting)
    if not certificate.ok or figures(certificate) != (trial.makespan, trial.peak):
        raise AssertionError(f"`{trial.recipe.title}` is not what it was when it was found")
    bound, proof = _bound(compiled.program.placement, trial, setting)
    for one in proofs:
        if one.layout == trial.layout and one.peak >= trial.peak and one.bound > bound:
            bound, proof = one.bound, "solver"
    if bound > trial.makespan:
        raise AssertionError(f"`{trial.recipe.title}` is shorter than its bound {bound}")
    return Point(trial, compiled, certificate, bound, proof)


def _bound(placement: Placement, trial: Trial, setting: Setting) -> tuple[Fraction, str]:
    """What no order of a placement beats within the peak of a trial, and what says so."""
    shop = shop_at(setting, placement)
    most = UNLIMITED if trial.opened else int(trial.peak * shop.scale)
    found = bounds(shop, [most - base for base in shop.base])
    if trial.opened:
        computing, alone = Fraction(found.busiest, shop.ticks), Fraction(found.chain, shop.ticks)
        known = [(computing, "busiest rank"), (alone, "longest chain")]
        return max([*known, (_exchanges(placement, setting), "all-to-alls")])
    proof = "heads and tails"
    if found.best == found.busiest:
        proof = "busiest rank"
    elif found.best == found.chain:
        proof = "longest chain"
    return Fraction(found.best, shop.ticks), proof


def _exchanges(placement: Placement, setting: Setting) -> Fraction:
    """How long the all-to-alls of the busiest rank take, which come one after the other."""
    costs = setting.settings(placement.flows[0].stages).costs
    assert costs
    busy = [Fraction(0)] * placement.ranks
    for flow in placement.flows:
        for stage, rank in enumerate(flow.ranks):
            wires = [part.wire for part in placement.layouts[stage] if part.wire is not None]
            once = sum((costs.time(EFFECTS[wire].cost, stage) for wire in wires), Fraction(0))
            busy[rank] += 2 * once * flow.microbatches
    return max(busy)
