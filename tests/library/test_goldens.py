"""The instructions of every library schedule at P=4, M=8, as golden listings beside the texts."""

from collections.abc import Callable
from pathlib import Path

import pytest

import pipec.schedules
from pipec.compiler import build
from pipec.library import names
from pipec.program.listing import listing

SCHEDULES = Path(pipec.schedules.__file__).parent


@pytest.mark.parametrize("name", names())
def test_golden_listing(name: str, golden: Callable[[Path, str], None]) -> None:
    """A change of any instruction is a change of a golden that a reviewer reads."""
    program = build(name, {"P": 4, "M": 8}).program
    golden(SCHEDULES / f"{name}.listing", f"# {name} P=4 M=8\n{listing(program)}")
