"""What all ranks have measured -> one costs file, with comments on how sure it is."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

import numpy as np
from numpy.typing import NDArray

from pipec.program.costs import KEYS, PAIR, SERIAL, Costs
from pipec.program.costs_file import CostsFile
from pipec.program.effects import Kind
from pipec.program.memory import Memory
from pipec.program.pairs import REST
from pipec.program.plan import Plan
from pipec.program.program import Program

Times = NDArray[np.float64]
Samples = dict[str, Mapping[int, list[float]]]
"""Per cost key and stage all that was measured, in ms."""

HEAD = """Measured by pipec: `{plan}`, {steps} steps. Times are medians in ms; `spread` is the width
of the middle half of the measurements, in percent of the median, stage by stage."""


@dataclass(frozen=True)
class Measured:
    """What is known of all ranks.

    took: for each rank per row of its stream the times in ms, step by step; sizes: for each rank
    bytes per key and stage; messages: ms per pair of ranks; sums: ms per stage that two ranks hold;
    exchanges: ms per `dispatch` or `combine` and stage.
    """

    took: Sequence[Mapping[int, Times]]
    sizes: Sequence[Mapping[str, Mapping[int, int]]]
    messages: Mapping[tuple[int, int], float]
    sums: Mapping[int, float]
    exchanges: Mapping[str, Mapping[int, Sequence[float]]]


@dataclass(frozen=True)
class Summary:
    """The costs file and the comments in it."""

    file: CostsFile
    notes: dict[str, str] = field(default_factory=dict)
    head: str = ""


def summary(plan: Plan, measured: Measured, steps: int) -> Summary:
    """The costs of all ranks, from what each has measured."""
    stages = int(plan.program.placement.stages.max())
    samples = _samples(plan.program, measured.took)
    notes = {key: _spread(each, stages) for key, each in samples.items()}
    _alone(samples, notes, measured)
    times: dict[str, object] = {
        key: [f"{median(_of(each, stage)):.4f}" for stage in range(stages)]
        for key, each in samples.items()
    }
    _halves(times, notes)
    times = {key: times[key] for key in sorted(times, key=_reading_order)}
    if messages := measured.messages:
        between = {f"{a}->{b}": f"{time:.4f}" for (a, b), time in sorted(messages.items())}
        rest = {REST: f"{median(messages.values()):.4f}"}
        times["send"] = {**between, **rest}
        notes["send"] = "half a round trip, nothing else on the wire; `rest` is their median"
    costs = replace(Costs.of({**times, PAIR: SERIAL}), unit="ms")
    sizes = _sizes(measured.sizes, stages)
    head = HEAD.format(plan=plan.name, steps=steps) + _missing(times, sizes)
    return Summary(CostsFile(costs, Memory.of(sizes)), notes, head)


WHY = {
    "send": "ranks exchange no messages",
    "sum": "no stage has two holders",
    "dispatch": "no chunk is opened that has all-to-alls",
    "combine": "likewise",
    "memory.stash": "no microbatch has B and W apart",
    "memory.optimizer": "none was given",
}
"""What may not have been measured, and why: nothing else can be missing."""


def _missing(times: Iterable[str], sizes: Iterable[str]) -> str:
    """What the file cannot say."""
    known = {*times, *(f"memory.{key}" for key in sizes)}
    unsaid = [f"  `{key}`: {why}" for key, why in WHY.items() if key not in known]
    return "\n".join(["", "Not measured:", *unsaid]) if unsaid else ""


def _alone(samples: Samples, notes: dict[str, str], measured: Measured) -> None:
    """What is timed between steps, with nothing else going on."""
    if measured.sums:
        samples["sum"] = {stage: [time] for stage, time in measured.sums.items()}
        notes["sum"] = "of the gradients of a stage, nothing else on the link"
    for key, each in measured.exchanges.items():
        samples[key] = {stage: [*looks] for stage, looks in each.items()}
        notes[key] = "one all-to-all of a forward, all members beginning together"


def _samples(program: Program, took: Sequence[Mapping[int, Times]]) -> Samples:
    """Whole operations by kind; of opened chunks also their parts."""
    samples: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for rank, rows in enumerate(took):
        whole: dict[tuple[Kind, int], Times] = {}
        for index, times in rows.items():
            one = program.instruction(int(program.start[rank]) + index)
            operation = int(program.operation[int(program.start[rank]) + index])
            before = whole.get((one.kind, operation))
            whole[one.kind, operation] = times if before is None else before + times
            if one.part is not None and program.placement.widest > 1:
                samples[f"{one.kind.name}.{one.part.name}"][one.stage] += times.tolist()
        for (kind, operation), times in whole.items():
            stage = int(program.placement.stage_of(operation))
            samples[kind.name][stage] += times.tolist()
    return {**samples}


def _reading_order(key: str) -> tuple[bool, int, str]:
    """Whole operations first, and F before B."""
    return "." in key, KEYS.index(key.partition(".")[0]), key


def _of(each: Mapping[int, list[float]], stage: int) -> Iterable[float]:
    """The measurements of a stage; of all stages where it has none."""
    return each.get(stage) or [time for times in each.values() for time in times]


def _spread(each: Mapping[int, list[float]], stages: int) -> str:
    shares = []
    for stage in range(stages):
        if stage not in each:
            shares.append("not measured")
            continue
        low, middle, high = np.quantile(each[stage], [0.25, 0.5, 0.75])
        shares.append(f"{(high - low) / middle:.1%}" if middle else "0.0%")
    return f"spread {', '.join(shares)}"


def _halves(times: dict[str, object], notes: dict[str, str]) -> None:
    """Where only fused backwards ran, say what B and W take all the same: half of it each.

    Unsaid, another schedule would be judged with a B and a W of 1. Of parts likewise.
    """
    for key, fused in [*times.items()]:
        kind, dot, part = key.partition(".")
        if kind != "BW" or not isinstance(fused, list):
            continue
        for half in (f"B{dot}{part}", f"W{dot}{part}"):
            if half not in times:
                times[half] = [f"{float(time) / 2:.4f}" for time in fused]
                notes[half] = f"not measured: half of {key}"


def _sizes(known: Sequence[Mapping[str, Mapping[int, int]]], stages: int) -> dict[str, list[str]]:
    """Bytes per stage, as texts; the largest where two ranks know one."""
    sizes: dict[str, dict[int, int]] = defaultdict(dict)
    for one in known:
        for key, each in one.items():
            for stage, size in each.items():
                sizes[key][stage] = max(size, sizes[key].get(stage, 0))
    order = ("parameters", "gradients", "optimizer", "activation", "stash", "message", "dispatch")
    return {
        key: [f"{sizes[key].get(stage, 0)}B" for stage in range(stages)]
        for key in order
        if sizes.get(key)
    }
