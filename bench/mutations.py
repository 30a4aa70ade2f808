"""Damage every library schedule in every way, and count what is detected.

python bench/mutations.py                  # 100 mutants of each kind, schedule and size
python bench/mutations.py --each 10

Whether a mutant behaves otherwise is found without the verifier (tests/verify/mutants.py). Ends
with status 1 if one that does is certified, or if one that does not is refused.
"""

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "verify"))

from damage import DAMAGE
from mutants import judged, library

Job = tuple[str, int, int, str, int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--each", type=int, default=100)
    args = parser.parse_args()
    begin, wrong = time.perf_counter(), 0
    jobs = [(*case, kind, args.each) for kind in DAMAGE for case in library()]
    counts = Counter[tuple[str, str]]()
    with multiprocessing.Pool() as pool:
        for (kind, found), problems in pool.imap_unordered(judge, jobs):
            counts.update({(kind, outcome): number for outcome, number in found.items()})
            for problem in problems:
                wrong += 1
                print(problem, flush=True)
    print(f"{'damage':<18} {'mutants':>8} {'harmful':>8} {'detected':>9} {'harmless':>9}")
    for kind in DAMAGE:
        harmful = counts[kind, "detected"] + counts[kind, "missed"]
        harmless = counts[kind, "harmless"] + counts[kind, "refused"]
        row = [harmful + harmless, harmful, counts[kind, "detected"], harmless]
        print(f"{kind:<18} {row[0]:>8,} {row[1]:>8,} {row[2]:>9,} {row[3]:>9,}")
    total = sum(number for (_, outcome), number in counts.items() if outcome != "none")
    print(f"{total:,} mutants in {time.perf_counter() - begin:.0f} s, {wrong} judged wrongly")
    sys.exit(wrong > 0)


def judge(job: Job) -> tuple[tuple[str, Counter[str]], list[str]]:
    """All mutants of one kind of one program."""
    *case, kind, each = job
    counts, problems = Counter[str](), []
    for seed in range(each):
        outcome, _ = judged(*case, kind, seed)
        counts[outcome] += 1
        if outcome in ("missed", "refused"):
            problems.append(f"{outcome}: {case} {kind}, seed {seed}")
    return (kind, counts), problems


if __name__ == "__main__":
    main()
