"""The tables beside the grammar are its own."""

import json
from pathlib import Path

import lark
import pytest

import pipec.language
from pipec.language import tables

FOLDER = Path(pipec.language.__file__).parent


def test_the_tables_are_of_this_grammar(request: pytest.FixtureRequest) -> None:
    """Whoever changes the grammar remakes its tables: `pytest --update-goldens`."""
    constraint = Path("constraints.txt").read_text(encoding="utf-8")
    if f"lark=={lark.__version__}\n" not in constraint:
        pytest.skip(f"the tables are made with the Lark of constraints.txt, not {lark.__version__}")
    path = FOLDER / tables.TABLES
    of = tables.digest((FOLDER / "grammar.lark").read_text(encoding="utf-8"))
    stale = not path.exists() or json.loads(path.read_text(encoding="utf-8"))["of"] != of
    if stale and request.config.getoption("--update-goldens"):
        path.write_text(tables.made_tables(), encoding="utf-8")
        return
    assert not stale, "run `pytest --update-goldens tests/language/test_tables.py`"


def test_without_its_tables_the_grammar_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parser made on the spot, as with another Lark, gives the same trees."""
    stored = tables.parser()
    tables.parser.cache_clear()
    monkeypatch.setattr(tables, "digest", lambda grammar: "other")
    made = tables.parser()
    tables.parser.cache_clear()
    for line in ("for k in 0 .. M - 1:", "F(2 * k) & BW", "cost F = 1, F & BW = 3", "on rank r:"):
        assert stored.parse(line, start="line") == made.parse(line, start="line")
