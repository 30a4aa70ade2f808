"""Exchanges in one launch: what is tied, and that it is safe and right."""

import pytest

from pipec.compiler import Compiled, Settings, build, certify, compile
from pipec.lower.forward_only import forward_only
from pipec.lower.grouped import grouped
from pipec.program.costs import Costs
from pipec.program.graph import TOPOLOGIES, Channels
from pipec.program.listing import listing
from pipec.program.memory import Memory
from pipec.program.reading import parse_listing
from pipec.source import Source

HEAD = "ranks 2\nflow a microbatches 1 ranks 0 1 backward false\n"
HEAD += "flow b microbatches 1 ranks 1 0 backward false\n"
CROSSED = """
rank 0:
    F     a 0 0
    SEND  F a 1 0 -> 1
    RECV  F b 1 0 <- 1
    F     b 1 0

rank 1:
    F     b 0 0
    SEND  F b 1 0 -> 0
    RECV  F a 1 0 <- 0
    F     a 1 0
"""


def test_an_exchange_is_tied_on_both_ranks() -> None:
    """The second of the two lines gets the `&`, and nothing else changes."""
    program = parse_listing(Source("x", HEAD + CROSSED))
    expected = CROSSED.replace("    RECV", "    & RECV")
    assert listing(grouped(program)) == HEAD + expected


def test_what_stands_apart_on_one_rank_is_left_alone() -> None:
    """With compute in between on rank 1 it is no exchange."""
    apart = CROSSED.replace(
        "    F     b 0 0\n    SEND  F b 1 0 -> 0\n    RECV  F a 1 0 <- 0",
        ("    RECV  F a 1 0 <- 0\n    F     b 0 0\n    SEND  F b 1 0 -> 0"),
    )
    program = parse_listing(Source("x", HEAD + apart))
    assert not grouped(program).tie.any()


@pytest.mark.parametrize("name", ["1f1b", "zbv", "dualpipe", "interleaved", "zb1p"])
def test_a_grouped_schedule_is_safe_everywhere(name: str) -> None:
    """What the compiler lowers stays free of deadlock under every topology, and has launches."""
    settings = Settings(grouped=True)
    compiled = build(name, {"P": 4, "M": 8}, settings)
    assert compiled.program.grouped
    certificate = certify(compiled, settings)
    assert certificate.ok and all(safe.safe for safe in certificate.safety.values())
    part = forward_only(compiled.program)
    assert parse_listing(Source("x", listing(part))).same(part)


def test_compile_takes_it() -> None:
    """`pipec.compile(..., grouped=True)` is what `--grouped` says, and off by default."""
    plan = compile("1f1b", P=2, M=3, grouped=True)
    assert plan.program.same(build("1f1b", {"P": 2, "M": 3}, Settings(grouped=True)).program)
    assert plan.program.grouped and not compile("1f1b", P=2, M=3).program.grouped


def test_grouping_is_not_monotone() -> None:
    """One launch frees two crossed SENDs; another one keeps a consumer from what it needs."""
    crossed = of_listing(HEAD + CROSSED)
    assert not certify(crossed, Settings()).ok
    freed = of_listing(HEAD + CROSSED.replace("    RECV", "    & RECV"))
    assert all(certify(freed, Settings(channels=Channels(t))).ok for t in TOPOLOGIES)


def of_listing(text: str) -> Compiled:
    return Compiled("x", {}, parse_listing(Source("x", text)), Costs(), Memory())
