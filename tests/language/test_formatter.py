"""The formatter: one form for a text, the same meaning, every comment kept."""

from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from written import comments, texts

from pipec.language import read
from pipec.language.format import format_text
from pipec.language.parser import parse
from pipec.source import Source

LIBRARY = sorted(
    entry.read_text(encoding="utf-8")
    for entry in files("pipec.schedules").iterdir()
    if entry.name.endswith(".pipe")
)
BROKEN = sorted((Path(__file__).parent.parent / "errors").glob("*.pipe"))


def formatted(text: str) -> str:
    """The formatted text, checked against everything that formatting promises."""
    once = format_text(Source("once", text))
    before, after = parse(Source("before", text)), parse(Source("after", once))
    assert after == (before[0], [])
    assert comments(once) == comments(text)
    assert format_text(Source("twice", once)) == once
    return once


@pytest.mark.parametrize("text", LIBRARY, ids=range(len(LIBRARY)))
def test_the_library_is_formatted(text: str) -> None:
    """Every schedule of the library has its one form already."""
    assert formatted(text) == text


def test_texts_that_can_be_parsed_but_mean_nothing() -> None:
    """What the checks refuse can still be formatted."""
    parsable = [path.read_text(encoding="utf-8") for path in BROKEN]
    parsable = [text for text in parsable if not parse(Source("text", text))[1]]
    assert len(parsable) > 50
    for text in parsable:
        formatted(text)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink a text takes minutes
)
@given(texts())
def test_any_text(text: str) -> None:
    """Whatever the spacing, formatting changes neither meaning nor comments, and once is enough."""
    read(Source("text", text))
    once = formatted(text)
    loose = [line for line in once.split("\n") if line != line.rstrip()]
    assert not loose or '"""' in once
