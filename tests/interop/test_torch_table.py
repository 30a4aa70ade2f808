"""The table of torch's schedules in the documentation is what the verifier says of them."""

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from torch_schedules import SAFE, SCHEDULES, cell, row

PAGE = (Path(__file__).parents[2] / "docs" / "interop.md").read_text(encoding="utf-8")
TABLE = PAGE.partition("<!-- table: torch_schedules -->\n")[2].partition("\n\n")[0].splitlines()


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_table_is_true(name: str, ranks: int) -> None:
    """Each row is that of the script (P = 8 by the script alone), and the default needs nothing."""
    assert row(name, ranks) in TABLE
    assert cell(name, ranks, 2 * ranks, False) == SAFE


def test_the_table_is_whole() -> None:
    """Every schedule at P = 2, 4 and 8 has a row."""
    rows = [re.findall(r"\w+", line)[:2] for line in TABLE[2:]]
    assert rows == [[name, str(ranks)] for name in SCHEDULES for ranks in (2, 4, 8)]
