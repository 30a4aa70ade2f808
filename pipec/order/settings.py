"""`cost` and `memory` statements -> numbers: one, one per stage, or one per pair of ranks."""

from collections.abc import Mapping, Sequence
from fractions import Fraction

from pipec.findings import Finding
from pipec.language import syntax as s
from pipec.language.check import PAIR_NAMES, setting_key
from pipec.language.evaluate import Lanes, Value, evaluate, failing
from pipec.language.syntax import names_in
from pipec.program.costs import PAIR, Costs, PerStage
from pipec.program.pairs import Pair
from pipec.program.placement import Placement

Names = Mapping[str, Value]


def sizes_of(stated: Sequence[s.Settings], names: Names, stages: int) -> dict[str, PerStage]:
    """What `memory` statements say. Raises `Stop`, as `costs_of` does."""
    settings = [setting for one in stated if one.word == "memory" for setting in one.settings]
    return {_key(setting): _per_stage(setting, names, stages) for setting in settings}


def costs_of(stated: Sequence[s.Settings], names: Names, placement: Placement) -> Costs:
    """What `cost` statements say."""
    times: dict[str, PerStage] = {}
    pairs: dict[Pair, Fraction] = {}
    for setting in (setting for one in stated if one.word == "cost" for setting in one.settings):
        if _key(setting) == "send" and names_in(setting.value) & {*PAIR_NAMES} - {*names}:
            pairs = _per_pair(setting, names, placement)
        else:
            stages = placement.flows[0].stages
            times[_key(setting)] = _per_stage(setting, names, stages, negative=False)
    if len({*pairs.values()}) == 1:
        return Costs({**times, "send": next(iter(pairs.values()))})
    return Costs(times, pairs=pairs)


def _key(setting: s.Setting) -> str:
    key = setting_key(setting).replace(" ", "")
    return PAIR if key == "F&BW" else key


def _per_stage(setting: s.Setting, names: Names, stages: int, negative: bool = True) -> PerStage:
    """The value, or one for each stage where it depends on that."""
    lanes = Lanes(dict(names), rational=True)
    if "stage" not in names_in(setting.value):
        return _value(setting, lanes, negative)
    each = (lanes.bind("stage", stage, counter=True) for stage in range(stages))
    return tuple(_value(setting, one, negative) for one in each)


def _per_pair(setting: s.Setting, names: Names, placement: Placement) -> dict[Pair, Fraction]:
    """The value for every two ranks between which messages travel."""
    lanes = Lanes(dict(names), rational=True)
    return {
        (rank, peer): _value(
            setting,
            lanes.bind("rank", rank, counter=True).bind("peer", peer, counter=True),
            negative=False,
        )
        for rank, peer in placement.neighbours
    }


def _value(setting: s.Setting, lanes: Lanes, negative: bool) -> Fraction:
    found = evaluate(setting.value, lanes)
    assert isinstance(found, int | Fraction)
    message = f"the cost of `{_key(setting)}` is negative"
    finding = Finding("value", message, setting.value.span, "0 or more", str(found))
    failing(finding, found < 0 and not negative, lanes)
    return Fraction(found)
