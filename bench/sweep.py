"""Certify every library schedule over its whole legal range, and print how many programs that was.

python bench/sweep.py                      # P to 32; M to 32, and a sample of M to 128
python bench/sweep.py --ranks 8 --most 16 zbv dualpipe mine.pipe

Every P from 1 to 32. Every M from 1 to 32; above it 33, 48, 64, 65, 96, 127, 128, and the sizes at
which schedules change: 2P - 1, 2P, 2P + 1, 3P and 4P. Schedules with a `v` take 1, 2 and 3, and
those with `slices` 1, 2 and 4. Each program is proved under one queue a rank with rendezvous, so it
is safe under every topology. Sizes that a `require` refuses are counted apart. Ends with status 1
if a program is not certified, or if a schedule has no legal size at all.
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator

from pipec.compiler import Settings, takes
from pipec.families import Sizes, prove
from pipec.library import names
from pipec.program.graph import Channels

EVERY = 32
SAMPLE = (33, 48, 64, 65, 96, 127, 128)
CHOICES = {
    "v": [{"v": chunks} for chunks in (1, 2, 3)],
    "slices": [{"slices": slices} for slices in (1, 2, 4)],
}
STRICTEST = Settings(channels=Channels("rank", 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("schedules", nargs="*", default=list(names()))
    parser.add_argument("--ranks", type=int, default=32, help="the largest P")
    parser.add_argument("--most", type=int, default=128, help="the largest M")
    args = parser.parse_args()
    print(f"P = 1 to {args.ranks}, M = 1 to {args.most}; {os.cpu_count()} processes")
    print(f"{'schedule':<14} {'certified':>9} {'refused':>8} {'instructions':>14} {'seconds':>8}")
    total, begin, wrong = Counter[str](), time.perf_counter(), 0
    for name in args.schedules:
        started, counts = time.perf_counter(), Counter[str]()
        for proof in prove(name, list(sizes(name, args.ranks, args.most)), STRICTEST):
            counts[proof.outcome] += 1
            counts["instructions"] += proof.instructions
            if proof.outcome == "failed":
                said = " ".join(f"{key}={value}" for key, value in proof.sizes.items())
                print(f"not certified: pipec verify {name} {said} --channels rank", flush=True)
        if not counts["certified"]:
            print(f"no legal size: {name}")
        wrong += counts["failed"] + (not counts["certified"])
        seconds = time.perf_counter() - started
        row = [counts["certified"], counts["refused"], counts["instructions"]]
        print(f"{name:<14} {row[0]:>9,} {row[1]:>8,} {row[2]:>14,} {seconds:>8.1f}", flush=True)
        total.update(counts)
    took = time.perf_counter() - begin
    print(
        f"{total['certified']:,} programs, {total['instructions']:,} instructions "
        f"certified in {took:.0f} s; {total['failed']} failed"
    )
    sys.exit(wrong > 0)


def sizes(name: str, ranks: int, most: int) -> Iterator[Sizes]:
    """All sizes of a schedule that are tried."""
    more = next((choices for key, choices in CHOICES.items() if key in takes(name)), [{}])
    for P in range(1, ranks + 1):
        edges = (2 * P - 1, 2 * P, 2 * P + 1, 3 * P, 4 * P)
        for M in sorted({*range(1, EVERY + 1), *SAMPLE, *edges}):
            yield from ({"P": P, "M": M, **chosen} for chosen in (more if most >= M else ()))


if __name__ == "__main__":
    main()
