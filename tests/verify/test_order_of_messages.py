"""Where messages meet by position their order is everything; with tags it is nothing."""

from pathlib import Path

import pytest
from machine import run

from pipec.compiler import Settings, build, certify
from pipec.program.costs import Costs
from pipec.program.graph import Channels, Topology
from pipec.program.memory import Memory
from pipec.program.program import Program
from pipec.program.reading import parse_listing
from pipec.source import Source
from pipec.verify.certificate import Certificate, Safety, verify

SWAPPED = (Path(__file__).parent / "broken" / "swapped_sends.listing").read_text(encoding="utf-8")
RUNS_BY_POSITION = """
ranks 2
flow main microbatches 2 ranks 0 1 0 1 backward false

rank 0:
    F     main 0 1
    SEND  F main 1 1 -> 1
    RECV  F main 2 0 <- 1
    F     main 0 0
    F     main 2 0
    SEND  F main 1 0 -> 1
    RECV  F main 2 1 <- 1
    F     main 2 1
    SEND  F main 3 0 -> 1
    SEND  F main 3 1 -> 1

rank 1:
    RECV  F main 1 1 <- 0
    RECV  F main 1 0 <- 0
    F     main 1 1
    SEND  F main 2 1 -> 0
    F     main 1 0
    RECV  F main 3 0 <- 0
    SEND  F main 2 0 -> 0
    F     main 3 0
    RECV  F main 3 1 <- 0
    F     main 3 1
"""
"""Rank 0 takes message 2 1 for 2 0 and goes on; with tags it would wait for 2 0 forever."""
POSITIONAL: tuple[Topology, ...] = ("rank", "pair", "directed")


def program(content: str) -> Program:
    return parse_listing(Source("x.listing", content))


def under(content: str, topology: Topology) -> Certificate:
    return verify(program(content), Costs(), Memory(), Channels(topology))


def codes(certificate: Certificate) -> list[str]:
    return [finding.code for finding in certificate.findings]


def test_a_swapped_order_is_good_with_tags_alone() -> None:
    """Certified for `tagged`; and the certificate calls no other topology safe with any credits."""
    certificate = under(SWAPPED, "tagged")
    assert certificate.ok and certificate.report is not None
    assert certificate.safety["tagged"] == Safety(True, 0)
    for topology in POSITIONAL:
        assert certificate.safety[topology] == Safety(False, None)


@pytest.mark.parametrize("topology", POSITIONAL)
def test_a_swapped_order_is_corruption_by_position(topology: Topology) -> None:
    """Under any topology without tags the same program is refused, with that one finding."""
    certificate = under(SWAPPED, topology)
    assert codes(certificate) == ["corruption"]
    assert certificate.safety["tagged"] == Safety(True, 0)
    assert not any(certificate.safety[name].safe for name in POSITIONAL)


def test_what_corrupts_need_not_hang() -> None:
    """By position it runs to its wrong end: called corrupt, and no deadlock under all channels."""
    assert codes(under(RUNS_BY_POSITION, "directed")) == ["corruption"]
    wrong = program(RUNS_BY_POSITION)
    assert len(run(wrong, Channels("directed"))) == len(wrong)
    assert codes(under(RUNS_BY_POSITION, "tagged")) == ["deadlock"]


def test_a_receive_for_another_rank_holds_nobody_up() -> None:
    """A RECV that names what the other rank computes: that rank has never waited for it."""
    text = """
ranks 2
flow main microbatches 1 ranks 0 1 backward false

rank 0:
    F     main 0 0
    SEND  F main 1 0 -> 1

rank 1:
    RECV  F main 0 0 <- 0
    F     main 1 0
"""
    wrong = program(text)
    for topology in POSITIONAL:
        assert codes(under(text, topology)) == ["corruption"]
        assert len(run(wrong, Channels(topology))) == len(wrong)


def test_a_message_that_nobody_asks_for() -> None:
    """A SEND of another payload: by position it is taken for what was asked, with tags it waits."""
    wrong = SWAPPED.replace("SEND  F main 1 1", "SEND  F main 1 0")
    assert codes(under(wrong, "pair")) == ["corruption"]
    certificate = under(wrong, "tagged")
    assert codes(certificate) == ["unmatched", "unmatched"] and certificate.safety == {}
    places = {finding.places[0].instruction for finding in certificate.findings}
    assert places == {"SEND F main 1 0 -> 1", "RECV F main 1 1 <- 0"}


def test_credits_are_enough_or_not() -> None:
    """Crossed SENDs need one credit: refused with none, certified with one, and said so."""
    path = Path(__file__).parent / "broken" / "crossed_queues.listing"
    compiled = build(str(path), {})
    for topology in ("rank", "pair"):
        refused = certify(compiled, Settings(channels=Channels(topology, 0)))
        assert codes(refused) == ["deadlock"] and "1 credit" in (refused.findings[0].hint or "")
        certificate = certify(compiled, Settings(channels=Channels(topology, 1)))
        assert certificate.ok and certificate.safety[topology] == Safety(False, 1)
    assert certify(compiled, Settings(channels=Channels("directed"))).ok
