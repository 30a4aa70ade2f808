"""pipec: a compiler, verifier and runtime for pipeline-parallel training schedules."""

import importlib
from typing import Any

import pipec.loading  # noqa: F401  first, so that Ctrl-C is answered from here on
from pipec.compiler import compile
from pipec.findings import Finding, PipecError, Place
from pipec.program.costs import Costs
from pipec.program.costs_file import CostsFile, load_costs
from pipec.program.graph import Channels
from pipec.program.memory import Memory
from pipec.program.plan import Plan, load_plan

__all__ = [
    "Channels",
    "Costs",
    "CostsFile",
    "Finding",
    "Memory",
    "PipecError",
    "Place",
    "Plan",
    "compile",
    "load_costs",
    "load_plan",
]


def __getattr__(name: str) -> Any:
    """`pipec.runtime` without an import of its own; only then is torch imported."""
    if name == "runtime":
        return importlib.import_module("pipec.runtime")
    raise AttributeError(f"module `pipec` has no attribute `{name}`")
