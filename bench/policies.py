"""Orders that the compiler makes: makespan and peak over a grid of sizes and costs, and the speed.

python bench/policies.py                    # P = 8, M = 24
python bench/policies.py --grid             # P = 2 to 12, M = P, 2P, 3P
python bench/policies.py --grid vhalf vmin
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial

from pipec.compiler import Settings, build, certify
from pipec.findings import PipecError
from pipec.language import read
from pipec.language.syntax import Every
from pipec.library import find, only_schedule
from pipec.order.best import BLOCKS, POLICIES
from pipec.order.greedy import decide
from pipec.order.lines import Clock, Lines, clock, makespan
from pipec.order.periodic import follow
from pipec.order.policy import stated_policy
from pipec.order.schedule import Schedule, bind
from pipec.order.slots import stated_blocks
from pipec.program.costs import Costs
from pipec.program.graph import Channels

NAMES = ("zb1p-greedy", "zb2p-greedy", "zbv", "zbv-greedy", "vzb", "vhalf", "vmin")
COSTS = (
    {"F": 1, "B": 1, "W": 1, "send": 0},
    {"F": 1, "B": "1.2", "W": "0.8", "send": "0.05"},
    {"F": 1, "B": "1.5", "W": "0.7", "send": "0.1"},
    {"F": 1, "B": "0.9", "W": "1.1", "send": "0.02"},
    {"F": 1, "B": "1.1", "W": "0.6", "send": "0.3"},
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("schedules", nargs="*", default=NAMES)
    parser.add_argument("--grid", action="store_true")
    args = parser.parse_args()
    sizes = [(8, 24)]
    if args.grid:
        sizes = [(ranks, ranks * times) for ranks in range(2, 13) for times in (1, 2, 3)]
    heads = "".join(f"{'/'.join(str(time) for time in costs.values()):>20}" for costs in COSTS)
    print("makespan / peak (F to W, in stages held); messages never queue; F/B/W/send:")
    print(f"{'schedule':<12} {'P':>3} {'M':>3}{heads}")
    for name in args.schedules:
        for ranks, count in sizes:
            cells = [figures(name, ranks, count, costs) for costs in COSTS]
            print(f"{name:<12} {ranks:>3} {count:>3}{''.join(f'{cell:>20}' for cell in cells)}")
    print()
    speed()


def figures(name: str, ranks: int, count: int, costs: dict[str, object]) -> str:
    settings = Settings(Costs.of(costs), channels=Channels("tagged"))
    try:
        certificate = certify(build(name, {"P": ranks, "M": count}, settings), settings)
    except PipecError:
        return "refused"
    assert certificate.report
    return f"{certificate.report.makespan:g} / {certificate.report.peak_memory:g}"


def speed() -> None:
    """Candidates a second on one core at P=8, M=24: made, and simulated again at other costs."""
    for name in ("zb1p-greedy", "zbv-greedy", "vhalf"):
        source = find(name)
        schedule = bind(only_schedule(read(source), source), {"P": 8, "M": 24}, source)
        lines, runs = candidates(schedule)
        times = clock(lines, Costs.of(COSTS[1]))
        made = [rate(partial(run, times)) for run in runs]
        again = rate(partial(makespan, lines, times, runs[0](times)))
        print(
            f"{name}: {lines.size} operations; a second, {min(made):,.0f} to {max(made):,.0f} "
            f"orders are made, and {again:,.0f} simulated"
        )


Run = Callable[[Clock], Sequence[int]]


def candidates(schedule: Schedule) -> tuple[Lines, list[Run]]:
    """What makes the candidate orders of a schedule from times."""
    if isinstance(schedule.program, Every):
        blocks = stated_blocks(schedule)[0][0]
        return blocks.lines, [partial(follow, blocks, manner=manner) for _, manner in BLOCKS]
    policy = stated_policy(schedule).policy
    return policy.lines, [partial(decide, policy, patience=patience) for _, patience in POLICIES]


def rate(run: Callable[[], object], seconds: float = 0.3) -> float:
    """How often a function runs in a second of this process."""
    begin, runs = time.process_time(), 0
    while time.process_time() - begin < seconds:
        run()
        runs += 1
    return runs / (time.process_time() - begin)


if __name__ == "__main__":
    main()
