"""Parsed schedule -> certified program: ours, and torch's lowering (which proves nothing) in turn.

python bench/compile.py                # ours and torch's, P = 8 to 64 with M = 4 P, about a minute
python bench/compile.py --only-ours    # no torch
python bench/compile.py --large        # ours alone, from 100 thousand to ten million instructions
python bench/compile.py --command      # CPU time of `pipec verify dualpipe P=16 M=64`

Ours is everything behind the parser: sizes bound, order, lowering, all properties, all topologies.
"""

import argparse
import importlib
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pipec.language import read
from pipec.library import find, only_schedule
from pipec.lower.lower import lower
from pipec.order.arrange import arrange
from pipec.order.schedule import bind
from pipec.verify.certificate import verify

TORCH = {"dualpipev": "DualPipeV", "zbv": "ZBVZeroBubble", "interleaved": "Interleaved1F1B"}
LARGE = (
    ("1f1b", 64, 264),
    ("1f1b", 1024, 1630),
    ("dualpipev", 64, 128),
    ("dualpipev", 512, 1700),
)
ROUNDS, SLOW_ROUNDS, LARGE_ROUNDS = 9, 3, 3
BUDGET = 100_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only-ours", action="store_true")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--command", action="store_true")
    parser.add_argument("--ranks", type=int, nargs="*", default=[8, 16, 32, 64])
    args = parser.parse_args()
    if args.command:
        command()
    elif args.large:
        large()
    else:
        beside_torch(args.ranks, args.only_ours)


def beside_torch(sizes: list[int], only_ours: bool) -> None:
    """Both in turn, round by round; the ratio is that of instructions per second, of medians."""
    print("milliseconds: min, median, max; instructions a second; ratio of instructions a second")
    for name in TORCH:
        for ranks in sizes:
            compiling, lowering = ours(name, ranks, 4 * ranks), torchs(name, ranks, 4 * ranks)
            mine, theirs = [compiling()], []
            for _ in range(SLOW_ROUNDS if ranks > 32 else ROUNDS):
                mine += [compiling() for _ in range(3)]
                theirs += [] if only_ours else [lowering()]
            print(f"{name:<12} P={ranks:<3} M={4 * ranks:<4}", line("pipec", mine[1:]), end="")
            if theirs:
                ratio = speed(mine[1:]) / speed(theirs)
                print(f"  {line('torch', theirs)}  {ratio:.1f}x", end="")
            print(flush=True)


def ours(name: str, ranks: int, microbatches: int) -> Callable[[], tuple[float, int]]:
    """A function that compiles and verifies once: seconds, and instructions."""
    source = find(name)
    item = only_schedule(read(source), source)

    def once() -> tuple[float, int]:
        begin = time.process_time()
        schedule = bind(item, {"P": ranks, "M": microbatches}, source)
        program = lower(arrange(schedule, BUDGET), schedule.costs)
        certificate = verify(program, schedule.costs, schedule.memory)
        seconds = time.process_time() - begin
        assert certificate.ok and all(verdict.safe for verdict in certificate.safety.values())
        return seconds, len(program)

    return once


def torchs(name: str, ranks: int, microbatches: int) -> Callable[[], tuple[float, int]]:
    """A function that makes torch's schedule with its sends and receives, and verifies nothing."""

    def once() -> tuple[float, int]:
        module = importlib.import_module("torch.distributed.pipelining._schedule_visualizer")
        begin = time.process_time()
        streams = module.get_schedule_ops(
            TORCH[name], ranks, microbatches, num_stages_per_rank=2, with_comms=True
        )
        seconds = time.process_time() - begin
        return seconds, sum(action is not None for stream in streams for action in stream)

    return once


def speed(rounds: list[tuple[float, int]]) -> float:
    """Instructions per second, of the median round."""
    return rounds[0][1] / statistics.median(seconds for seconds, _ in rounds)


def line(who: str, rounds: list[tuple[float, int]]) -> str:
    times = sorted(1000 * seconds for seconds, _ in rounds)
    three = f"{times[0]:8.2f} {statistics.median(times):8.2f} {times[-1]:8.2f}"
    return f"{who} {rounds[0][1]:>9,} {three} {speed(rounds):>11,.0f}/s"


def large() -> None:
    """Each size in a process of its own, so that its peak of memory is its own."""
    print("instructions; milliseconds: min, median, max; a second; microseconds each; peak memory")
    context = multiprocessing.get_context("spawn")
    for name, ranks, microbatches in LARGE:
        with context.Pool(1) as pool:
            print(pool.apply(large_one, (name, ranks, microbatches)), flush=True)


def large_one(name: str, ranks: int, microbatches: int) -> str:
    compiling = ours(name, ranks, microbatches)
    rounds = [compiling() for _ in range(LARGE_ROUNDS)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    what = f"{name:<10} P={ranks:<4} M={microbatches:<4}"
    return f"{what} {line('pipec', rounds)} {1e6 / speed(rounds):6.3f} us {peak:6.2f} GiB"


_NO_BYTE_CODE = "PYTHONDONTWRITEBYTECODE"


def command() -> None:
    """CPU seconds of the whole command, with the start of Python and all imports; after a first run
    that writes the byte code.
    """
    environment = {name: value for name, value in os.environ.items() if name != _NO_BYTE_CODE}
    words = [str(Path(sys.executable).with_name("pipec")), "verify", "dualpipe", "P=16", "M=64"]
    seconds = []
    for _ in range(ROUNDS + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    seconds = sorted(seconds[1:])
    three = f"{seconds[0]:.2f} {statistics.median(seconds):.2f} {seconds[-1]:.2f}"
    print(f"pipec verify dualpipe P=16 M=64: CPU seconds, min, median, max: {three}")


if __name__ == "__main__":
    main()
