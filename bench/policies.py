"""Orders that the compiler makes: makespan and peak over a grid of sizes and costs, and the speed.

python bench/policies.py                    # P = 8, M = 24, and how many orders a second
python bench/policies.py --grid             # beside the zero-bubble authors' own schedulers
python bench/policies.py --grid vhalf vmin --ranks 4 5 --peer more.csv

The grid is that of the recorded figures (bench/peer.csv, made by bench/peer.py): P = 2 to 12, M =
P, 2P, 3P, ten sets of costs. A cell is ours and theirs, makespan / peak. Where their peak is not
that of our text, ours is made again with the memory that theirs takes: by the text's own `most`, or
for zb1p-greedy by zb2p-greedy with it; such cells have a `~`. A `*` is where ours is longer.
"""

import argparse
import csv
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

from pipec.compiler import Settings, build, certify
from pipec.findings import PipecError
from pipec.language import read
from pipec.language.syntax import Every
from pipec.library import find, only_schedule
from pipec.order.best import BLOCKS, POLICIES
from pipec.order.follow import Manner, Plan, follow
from pipec.order.greedy import decide
from pipec.order.lines import Clock, Lines, clock, makespan
from pipec.order.policy import stated_policy
from pipec.order.schedule import Schedule, bind
from pipec.order.slots import stated_blocks
from pipec.program.costs import Costs
from pipec.program.graph import Channels

PEERS = {
    "zb1p-greedy": "ZB-1P",
    "zb2p-greedy": "ZB-2P",
    "zbv": "ZB-V",
    "zbv-greedy": "ZB-V",
    "vzb": "ZB-V",
    "vhalf": "V-Half",
    "vmin": "V-Min",
}
WITH_MOST = {"zb1p-greedy": "zb2p-greedy", "zb2p-greedy": "zb2p-greedy", "zbv-greedy": "zbv-greedy"}
"""What makes a schedule of the same kind with other memory."""

COSTS = ("1/1/1/0", "1/1.2/0.8/0.05", "1/1.5/0.7/0.1", "1/0.9/1.1/0.02", "1/1.1/0.6/0.3")
"""F/B/W/send."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("schedules", nargs="*", default=list(PEERS))
    parser.add_argument("--grid", action="store_true")
    parser.add_argument("--peer", type=Path, default=Path(__file__).with_name("peer.csv"))
    parser.add_argument("--ranks", type=int, nargs="*", default=range(2, 13))
    args = parser.parse_args()
    print("makespan / peak (F to W, in stages held); messages never queue; costs are F/B/W/send")
    if args.grid:
        grid(args.schedules, recorded(args.peer), args.ranks)
        return
    print(f"{'schedule':<12} {'P':>3} {'M':>3}" + "".join(f"{costs:>20}" for costs in COSTS))
    for name in args.schedules:
        cells = [made(name, {"P": 8, "M": 24}, costs) for costs in COSTS]
        print(f"{name:<12}   8  24" + "".join(f"{cell or 'refused'!s:>20}" for cell in cells))
    print()
    speed()


@dataclass(frozen=True)
class Figures:
    """A makespan and a peak."""

    makespan: Fraction
    peak: int

    def __str__(self) -> str:
        return f"{float(self.makespan):g} / {self.peak}"


def made(name: str, sizes: dict[str, int], costs: str) -> Figures | None:
    """What the compiler makes of a schedule, certified; nothing where the text refuses the size."""
    settings = Settings(costs_of(costs), channels=Channels("tagged"))
    try:
        certificate = certify(build(name, sizes, settings), settings)
    except PipecError:
        return None
    assert certificate.ok and certificate.report
    report = certificate.report
    return Figures(Fraction(str(report.makespan)), int(report.peak_memory))


def costs_of(text: str) -> Costs:
    """Costs from `F/B/W/send`."""
    return Costs.of(dict(zip(("F", "B", "W", "send"), text.split("/"), strict=True)))


Recorded = dict[tuple[str, int, int], dict[str, list[Figures]]]


def recorded(path: Path) -> Recorded:
    """(schedule, P, M) -> costs -> what their schedulers make: the shortest at each peak."""
    found: Recorded = defaultdict(lambda: defaultdict(list))
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(line for line in file if not line.startswith("#")):
            figures = Figures(Fraction(row["makespan"]), int(row["peak"]))
            found[row["schedule"], int(row["P"]), int(row["M"])][row["costs"]].append(figures)
    return found


@dataclass(frozen=True)
class Cell:
    """Ours beside theirs; `most` where ours was given the memory that theirs takes."""

    ours: Figures
    theirs: Figures
    most: bool = False

    @property
    def over(self) -> float:
        """By which share ours is longer; 0 where it has a higher peak, so nothing is said."""
        if self.ours.peak > self.theirs.peak:
            return 0.0
        return float(self.ours.makespan / self.theirs.makespan - 1)

    def __str__(self) -> str:
        mark = "*" if self.over > 0 else "~" if self.most else ""
        return f"{self.ours} vs {self.theirs}{mark}"


def compared(name: str, ranks: int, count: int, costs: str, theirs: list[Figures]) -> list[Cell]:
    """A schedule beside every point of its peer."""
    sizes = {"P": ranks, "M": count}
    ours = made(name, sizes, costs)
    cells = []
    for point in theirs if ours else ():
        assert ours
        cell = Cell(ours, point)
        if name in WITH_MOST and ours.peak != point.peak:
            other = made(WITH_MOST[name], {**sizes, "most": point.peak}, costs)
            assert other
            if ours.peak > point.peak or other.makespan < ours.makespan:
                cell = Cell(other, point, True)
        cells.append(cell)
    return cells


def grid(names: Sequence[str], peers: Recorded, ranks: Sequence[int]) -> None:
    """Every size and all costs, then how often ours is shorter, equal and longer."""
    every = list(dict.fromkeys(costs for by_costs in peers.values() for costs in by_costs))
    found: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    print(f"{'schedule':<12} {'P':>3} {'M':>3}  " + "".join(f"{costs:<31}" for costs in every))
    for name in names:
        for peer, P, M in sorted(peers):
            if peer != PEERS[name] or P not in ranks:
                continue
            columns = []
            for costs, theirs in peers[peer, P, M].items():
                columns.append(compared(name, P, M, costs, theirs))
                found[name, costs] += columns[-1]
            for row in range(max(map(len, columns))):
                cells = [str(cells[row]) if row < len(cells) else "" for cells in columns]
                print(f"{name:<12} {P:>3} {M:>3}  " + "".join(f"{cell:<31}" for cell in cells))
    print()
    summary(names, every, found)


def summary(
    names: Sequence[str], every: Sequence[str], found: dict[tuple[str, str], list[Cell]]
) -> None:
    """Per schedule and costs: at how many sizes ours is shorter, equal, longer, and how much."""
    print(
        "ours shorter / equal / longer (and by how much at worst), at a peak no higher than theirs"
    )
    print(f"\n| schedule | {' | '.join(every)} |\n|{' --- |' * (len(every) + 1)}")
    for name in names:
        cells = [counted(found[name, costs]) for costs in every]
        print(f"| `{name}` | {' | '.join(cells)} |")


def counted(cells: Sequence[Cell]) -> str:
    """`20 / 2 / 0`, and how often nothing is said because our peak is higher."""
    known = [cell for cell in cells if cell.ours.peak <= cell.theirs.peak]
    shorter = sum(cell.ours.makespan < cell.theirs.makespan for cell in known)
    longer = [cell.over for cell in known if cell.over > 0]
    text = f"{shorter} / {len(known) - shorter - len(longer)} / {len(longer)}"
    text += f" ({max(longer):.1%})" if longer else ""
    return text + (f", higher {len(cells) - len(known)}" if len(known) < len(cells) else "")


def speed() -> None:
    """Candidates a second on one core at P=8, M=24: made, and simulated again at other costs."""
    for name in ("zb1p-greedy", "zbv-greedy", "vhalf"):
        source = find(name)
        schedule = bind(only_schedule(read(source), source), {"P": 8, "M": 24}, source)
        lines, runs = candidates(schedule)
        times = clock(lines, costs_of(COSTS[1]))
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
        return blocks.lines, [partial(followed, blocks, manner) for _, manner in BLOCKS]
    policy = stated_policy(schedule).policy
    return policy.lines, [partial(decide, policy, patience=patience) for _, patience in POLICIES]


def followed(plan: Plan, manner: Manner, times: Clock) -> Sequence[int]:
    """The sequence that a plan makes."""
    return follow(plan, times, manner).sequence


def rate(run: Callable[[], object], seconds: float = 0.3) -> float:
    """How often a function runs in a second of this process."""
    begin, runs = time.process_time(), 0
    while time.process_time() - begin < seconds:
        run()
        runs += 1
    return runs / (time.process_time() - begin)


if __name__ == "__main__":
    main()
