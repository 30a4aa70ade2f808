"""Random programs on real processes with strict channels: what happens is what the verifier says.

python bench/reality.py                    # 300 programs
python bench/reality.py --programs 50
"""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "runtime"))

from ranks import Ranks
from reality import as_said, happens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=int, default=300)
    args = parser.parse_args()
    begin, counts, wrong = time.perf_counter(), Counter[str](), 0
    for seed in range(args.programs):
        made: list[Ranks] = []

        def fresh(count: int, made: list[Ranks] = made) -> Ranks:
            made.append(Ranks(count))
            return made[-1]

        try:
            said, answers = happens(fresh, seed)
        finally:
            for ranks in made:
                ranks.end()
        counts[said] += 1
        if not as_said(said, answers):
            wrong += 1
            print(f"program {seed}: {said} was said, but {answers}", flush=True)
    for said, count in sorted(counts.items()):
        print(f"{said:<11} {count:>5}")
    seconds = time.perf_counter() - begin
    print(f"{args.programs} programs in {seconds:.0f} s, {wrong} not as verified")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
