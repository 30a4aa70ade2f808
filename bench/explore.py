"""Twenty thousand random programs: the event graph's verdict and that of trying every interleaving.

Every second one issues neighbouring messages in one launch.

python bench/explore.py                    # 20,000 programs, on all cores
python bench/explore.py --programs 2000
"""

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "verify"))

from explorer import Explorer, grouped, scrambled

from pipec.program.graph import event_graph
from pipec.program.links import Links
from pipec.verify.deadlock import stuck_events


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=int, default=20_000)
    args = parser.parse_args()
    begin = time.perf_counter()
    with multiprocessing.Pool() as pool:
        found = Counter(pool.imap_unordered(compare, range(args.programs), chunksize=50))
    for what, count in sorted(found.items()):
        print(f"{what:<22} {count:>7,}")
    print(f"{args.programs:,} programs in {time.perf_counter() - begin:.0f} s")
    sys.exit(found["disagree"] > 0)


def compare(seed: int) -> str:
    """Whether both say the same of one program, and what."""
    program, channels = scrambled(seed)
    program = grouped(program, seed) if seed % 2 else program
    explorer = Explorer(program, channels)
    ends = explorer.ends()
    if ends is None:
        return "too large"
    stuck = len(stuck_events(event_graph(program, Links(program), channels))) > 0
    verdicts = {len(explorer.completed(end)) < len(program) for end in ends}
    if verdicts != {stuck}:
        return "disagree"
    verdict = "deadlock" if stuck else "runs through"
    return f"{verdict}, grouped" if program.grouped and channels.topology != "tagged" else verdict


if __name__ == "__main__":
    main()
