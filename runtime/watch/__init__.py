"""Watching a running pipeline: where every rank is, who failed, and ending everybody in time.

progress    one line of shared memory per rank, written once per instruction
story       positions -> who waits for whom, and who is the culprit
watchdog    the thread that ties them together
"""

from pipec.runtime.watch.watchdog import Failure, Watchdog

__all__ = ["Failure", "Watchdog"]
