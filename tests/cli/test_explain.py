"""`pipec explain` knows every code that any finding has."""

import ast
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipec.cli import main
from pipec.explain import codes, explanation
from pipec.findings import PipecError

ROOT = Path(__file__).parents[2]


def used() -> set[str]:
    """The codes that are written in the source, as the first argument of a Finding."""
    found = set()
    for module in [*(ROOT / "pipec").rglob("*.py"), *(ROOT / "runtime").rglob("*.py")]:
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding":
                first = node.args[0] if node.args else None
                if isinstance(first, ast.Constant):
                    found.add(first.value)
    return found


def test_every_code_is_explained() -> None:
    """No finding has a code that `explain` does not know."""
    assert used() and used() <= set(codes())


@pytest.mark.parametrize("code", codes())
def test_an_explanation_is_text_for_people(code: str) -> None:
    """It begins with its code, says something, and holds none of the page's marks."""
    text = explanation(code)
    assert text.startswith(f"# {code}\n\n") and len(text) > 40
    assert "<!--" not in text and "####" not in text


def test_an_unknown_code_is_said() -> None:
    """A misspelt code gets the nearest one."""
    with pytest.raises(PipecError, match="did you mean `deadlock`"):
        explanation("deadlok")
    done = CliRunner().invoke(main, ["explain", "deadlok"])
    assert done.exit_code == 2 and "did you mean `deadlock`?" in done.stderr


def test_all_codes_are_listed() -> None:
    """Without a code, one line each."""
    done = CliRunner().invoke(main, ["explain"])
    assert done.stdout.split() == list(codes())
