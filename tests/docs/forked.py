"""Run a script in several processes as torchrun would, with torch imported only once.

python forked.py SCRIPT RANKS
"""

import os
import runpy
import sys
import traceback

import pipec.runtime  # noqa: F401  (imported before the fork, for all of them)


def main(script: str, ranks: int) -> int:
    """0 if every process ends well."""
    children = [_start(script, rank) for rank in range(ranks)]
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return int(any(statuses))


def _start(script: str, rank: int) -> int:
    child = os.fork()
    if child:
        return child
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    status = 1
    try:
        runpy.run_path(script, run_name="__main__")
        status = 0
    except BaseException:
        sys.stderr.write(f"rank {rank}: {traceback.format_exc()}")
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
