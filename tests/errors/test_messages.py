"""Every mistake an author can make, as the author is told about it: `NAME.pipe` -> `NAME.err`."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pipec.findings import PipecError
from pipec.language import read
from pipec.library import only_schedule
from pipec.order.arrange import arrange
from pipec.order.schedule import bind
from pipec.source import Source
from pipec.view.findings import error_text

CASES = sorted(Path(__file__).parent.glob("*.pipe"))
NAMES = [path.stem for path in CASES]


def sizes(text: str) -> dict[str, int | bool] | None:
    """What the first line says: `# sizes: P=4 M=8`, or None."""
    found = re.match(r"# sizes: (.*)", text)
    if not found:
        return None
    pairs = (word.split("=") for word in found[1].split())
    return {name: value == "true" if value.isalpha() else int(value) for name, value in pairs}


def refused(path: Path) -> PipecError:
    """The error that the compiler's front half raises for a case."""
    text = path.read_text(encoding="utf-8")
    source, given = Source(path.name, text), sizes(text)
    with pytest.raises(PipecError) as caught:
        tree = read(source)
        assert given is not None, "a case that needs sizes begins with `# sizes: P=4 M=8`"
        arrange(bind(only_schedule(tree, source), given, source))
    return caught.value


@pytest.mark.parametrize("path", CASES, ids=NAMES)
def test_what_the_author_reads(path: Path, golden: Callable[[Path, str], None]) -> None:
    """The findings of a broken text are shown exactly like this."""
    golden(path.with_suffix(".err"), error_text(refused(path)).plain)


@pytest.mark.parametrize("path", CASES, ids=NAMES)
def test_every_finding_is_whole(path: Path) -> None:
    """A finding has a place, says what was expected and what was found, and is said once."""
    error = refused(path)
    for finding in error.findings:
        assert finding.span is not None and finding.expected and finding.found, finding
    places = [(finding.code, finding.span) for finding in error.findings]
    assert len(set(places)) == len(places), "two errors for one mistake"


def test_the_cases_cover_every_code() -> None:
    """Each sort of mistake that a text can hold has a case."""
    codes = {finding.code for path in CASES for finding in refused(path).findings}
    assert codes == {
        "budget",
        "incomplete",
        "kind",
        "name",
        "order",
        "parameter",
        "parts",
        "policy",
        "require",
        "slot",
        "syntax",
        "value",
    }
