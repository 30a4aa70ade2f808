"""Broken parts and missing waits of opened chunks are found."""

import re

import pytest

from pipec.compiler import Settings, build, layers_of
from pipec.program.costs import Costs
from pipec.program.listing import listing
from pipec.program.memory import Memory
from pipec.program.reading import parse_listing
from pipec.source import Source
from pipec.verify.certificate import Certificate, verify

LAYER = "attention dispatch mlp combine"


def text_of(name: str = "zb1p") -> str:
    compiled = build(name, {"P": 2, "M": 2}, Settings(layers=layers_of(LAYER)))
    return listing(compiled.program)


def judged(text: str) -> Certificate:
    return verify(parse_listing(Source("x.listing", text)), Costs(), Memory())


def codes(text: str) -> set[str]:
    return {finding.code for finding in judged(text).findings}


def swapped(text: str, one: str, other: str) -> str:
    """The text with two of its lines exchanged."""
    first, second = (re.search(rf"^ +{line}$", text, re.M) for line in (one, other))
    assert first
    assert second
    marked = text.replace(first[0], "@1", 1).replace(second[0], "@2", 1)
    return marked.replace("@1", second[0]).replace("@2", first[0])


def test_the_program_itself_is_certified() -> None:
    """What is broken below is sound before."""
    assert judged(text_of()).ok


@pytest.mark.parametrize(
    ("one", "other", "code"),
    [
        ("DISPATCH +F main 0 0 dispatch.0", "F +main 0 0 mlp.0", "too-early"),
        ("F +main 0 0 mlp.0", "COMBINE +F main 0 0 combine.0", "too-early"),
        ("B +main 1 0 mlp.0", "COMBINE +B main 1 0 combine.0", "too-early"),
        ("W +main 1 0 mlp.0", "B +main 1 0 mlp.0", "too-early"),
        ("F +main 0 0 attention.0", "F +main 0 0 out.1", "too-early"),
    ],
)
def test_parts_out_of_order_are_found(one: str, other: str, code: str) -> None:
    """Combine before mlp, W before B, and the like."""
    assert code in codes(swapped(text_of(), one, other))


@pytest.mark.parametrize(
    "line",
    [
        "DISPATCH  F main 0 0 dispatch.0",
        "COMBINE  B main 1 1 combine.0",
        "F     main 0 0 mlp.0",
        "B     main 1 0 mlp.0",
        "W     main 1 0 mlp.0",
        "F     main 0 0 attention.0",
        "W     main 0 0 out.1",
    ],
)
def test_a_part_that_never_happens_is_missing(line: str) -> None:
    """Also one in the middle of an operation."""
    assert "missing" in codes(text_of().replace(f"    {line}\n", "", 1))


@pytest.mark.parametrize(
    "line", ["DISPATCH  F main 0 0 dispatch.0", "F     main 0 0 mlp.0", "W     main 1 0 mlp.0"]
)
def test_a_part_that_happens_twice_is_a_duplicate(line: str) -> None:
    """Also one in the middle of an operation."""
    assert "duplicate" in codes(text_of().replace(f"    {line}\n", f"    {line}\n" * 2, 1))


def test_a_w_beside_a_fused_part_is_found() -> None:
    """BW of a part and its W would count the weights twice."""
    text = text_of().replace("B     main 1 0 mlp.0", "BW    main 1 0 mlp.0", 1)
    assert "duplicate" in codes(text)


@pytest.mark.parametrize(
    ("line", "brings"),
    [
        ("F     main 0 0 mlp.0", "DISPATCH F main 0 0 dispatch.0"),
        ("F     main 0 0 out.1", "COMBINE F main 0 0 combine.0"),
        ("B     main 1 1 mlp.0", "COMBINE B main 1 1 combine.0"),
        ("F     main 1 0 attention.0", "RECV F main 1 0 <- 0"),
    ],
)
def test_a_missing_wait_is_a_hazard(line: str, brings: str) -> None:
    """The finding names what is read and what brings it."""
    findings = judged(text_of().replace(line, f"{line} nowait", 1)).findings
    assert [finding.code for finding in findings] == ["hazard"]
    assert brings in findings[0].message


def test_a_wait_for_nothing_may_be_left_out() -> None:
    """Where everything comes from the same lane, `nowait` changes nothing."""
    assert judged(
        text_of().replace("F     main 0 0 attention.0", "F     main 0 0 attention.0 nowait", 1)
    ).ok
