"""torch's own schedules, as torch lowers them: what is safe by default, and with `defer_pp_recv`.

python bench/torch_schedules.py            # the table of docs/interop.md
python bench/torch_schedules.py ZBVZeroBubble --ranks 16

Every multi-stage schedule of torch at M = P, 2P and 4P. A cell is the credits per directed pair
that each topology needs: `rank / pair / directed`. Ends with status 1 if what torch builds by
default is not safe everywhere with none.
"""

import argparse
import sys
import warnings

from pipec.compiler import Settings, build, certify
from pipec.findings import PipecError
from pipec.program.graph import Channels

SCHEDULES = (
    "Interleaved1F1B",
    "LoopedBFS",
    "InterleavedZeroBubble",
    "ZBVZeroBubble",
    "DualPipeV",
)
RANKS, ROUNDS = (2, 4, 8), (1, 2, 4)
HEAD = ["| schedule | P | M = P | M = 2P | M = 4P |", "| --- | --- | --- | --- | --- |"]
SAFE = "0 / 0 / 0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("schedules", nargs="*", default=list(SCHEDULES))
    parser.add_argument("--ranks", type=int, nargs="*", default=list(RANKS))
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    sizes = [(name, ranks) for name in args.schedules for ranks in args.ranks]
    default = {cell(name, P, P * rounds, False) for name, P in sizes for rounds in ROUNDS}
    print(f"by default: {', '.join(sorted(default - {'-'}))}\n\nwith defer_pp_recv:\n")
    print("\n".join([*HEAD, *(row(name, ranks) for name, ranks in sizes)]))
    sys.exit(not default <= {SAFE, "-"})


def row(name: str, ranks: int) -> str:
    """A row of the table, with `defer_pp_recv`."""
    cells = [cell(name, ranks, ranks * rounds, True) for rounds in ROUNDS]
    return f"| {name} | {ranks} | {' | '.join(cells)} |"


def cell(name: str, ranks: int, microbatches: int, deferred: bool) -> str:
    """The credits that each topology needs, `corrupt`, or `-` where torch does not build it."""
    sizes = {"P": ranks, "M": microbatches, "defer_recv": deferred}
    try:
        compiled = build(f"torch:{name}", sizes)
    except PipecError:
        return "-"
    certificate = certify(compiled, Settings(channels=Channels("directed")))
    if {finding.code for finding in certificate.findings} == {"corruption"}:
        return "corrupt"
    assert certificate.ok, certificate.findings
    topologies = ("rank", "pair", "directed")
    return " / ".join(str(certificate.safety[name].credits_needed) for name in topologies)


if __name__ == "__main__":
    main()
