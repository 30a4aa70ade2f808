"""pipec: a compiler, verifier and runtime for pipeline-parallel training schedules."""

from pipec.compiler import compile
from pipec.findings import Finding, PipecError, Place
from pipec.program.costs import Costs
from pipec.program.graph import Channels
from pipec.program.plan import Plan, load_plan

__all__ = [
    "Channels",
    "Costs",
    "Finding",
    "PipecError",
    "Place",
    "Plan",
    "compile",
    "load_plan",
]
