"""Verify every library schedule at every legal size, and print how many programs that was.

python bench/sweep.py                      # P to 16, M to 64
python bench/sweep.py --ranks 8 --microbatches 32 zbv dualpipe
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter

from pipec.compiler import Settings, build, certify
from pipec.findings import PipecError
from pipec.library import names

CHUNKED = {
    "interleaved": (1, 2, 3),
    "interleavedzb": (1, 2, 3),
    "loopedbfs": (1, 2),
    "forward": (1, 2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("schedules", nargs="*", default=list(names()))
    parser.add_argument("--ranks", type=int, default=16)
    parser.add_argument("--microbatches", type=int, default=64)
    args = parser.parse_args()
    print(f"P = 1 to {args.ranks}, M = 1 to {args.microbatches}; {os.cpu_count()} processes")
    print(f"{'schedule':<14} {'certified':>9} {'refused':>8} {'instructions':>13} {'seconds':>8}")
    total, begin, failed = Counter[str](), time.perf_counter(), False
    with multiprocessing.Pool() as pool:
        for name in args.schedules:
            started = time.perf_counter()
            jobs = [
                (name, ranks, args.microbatches, chunks)
                for ranks in range(1, args.ranks + 1)
                for chunks in CHUNKED.get(name, (0,))
            ]
            counts = Counter[str]()
            for found, problems in pool.imap_unordered(certify_all, jobs):
                counts.update(found)
                for problem in problems:
                    failed = True
                    print(f"  {problem}", file=sys.stderr)
            seconds = time.perf_counter() - started
            row = [counts["certified"], counts["refused"], counts["instructions"]]
            print(f"{name:<14} {row[0]:>9} {row[1]:>8} {row[2]:>13,} {seconds:>8.1f}", flush=True)
            total.update(counts)
    took = time.perf_counter() - begin
    print(f"{total['certified']} programs certified in {took:.0f} s, {total['failed']} failed")
    sys.exit(failed)


def certify_all(job: tuple[str, int, int, int]) -> tuple[Counter[str], list[str]]:
    """All microbatch counts of one schedule at one number of ranks."""
    name, ranks, most, chunks = job
    counts, problems = Counter[str](), []
    for count in range(1, most + 1):
        sizes = {"P": ranks, "M": count, **({"v": chunks} if chunks else {})}
        try:
            compiled = build(name, sizes)
        except PipecError as error:
            codes = {finding.code for finding in error.findings}
            if codes == {"require"}:
                counts["refused"] += 1
            else:
                counts["failed"] += 1
                problems.append(f"{name} {sizes}: {error}")
            continue
        certificate = certify(compiled, Settings())
        counts["instructions"] += len(compiled.program)
        safe = certificate.ok and all(one.safe for one in certificate.safety.values())
        counts["certified" if safe else "failed"] += 1
        if not safe:
            problems.append(f"{name} {sizes}: {[f.message for f in certificate.findings]}")
    return counts, problems


if __name__ == "__main__":
    main()
