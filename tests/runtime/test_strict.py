"""Strict channels on gloo do what the verifier says of a topology: finish, or hang."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ranks import Ranks
from tried import attempt, plan_of_listing

from pipec import Channels
from pipec.compiler import Settings, build, certify
from pipec.program.graph import Topology

pytestmark = pytest.mark.slow

Fresh = Callable[[int], Ranks]

# Both ranks send first: each waits, in the one queue of the pair, for the other to receive.
SENDS_FIRST = """
ranks 2
flow down microbatches 1 ranks 0 1
flow up microbatches 1 ranks 1 0

rank 0:
    F     down 0 0
    SEND  F down 1 0 -> 1
    RECV  F up 1 0 <- 1
    F     up 1 0
    BW    up 1 0
    SEND  B up 0 0 -> 1
    RECV  B down 0 0 <- 1
    BW    down 0 0
    SUM   0 <-> 1
    SUM   1 <-> 1

rank 1:
    F     up 0 0
    SEND  F up 1 0 -> 0
    RECV  F down 1 0 <- 0
    F     down 1 0
    BW    down 1 0
    SEND  B down 0 0 -> 0
    RECV  B up 0 0 <- 0
    BW    up 0 0
    SUM   0 <-> 0
    SUM   1 <-> 0
"""

# Rank 0 sends its second activation only behind the receive of the first gradient, and rank 1
# posts that receive first: in one queue for all of rank 1 nothing gets past it.
CROSSED = """
ranks 3
flow main microbatches 2 ranks 0 1 2

rank 0:
    F     main 0 0
    SEND  F main 1 0 -> 1
    F     main 0 1
    SEND  F main 1 1 -> 1
    RECV  B main 0 0 <- 1
    BW    main 0 0
    RECV  B main 0 1 <- 1
    BW    main 0 1

rank 1:
    RECV  F main 1 0 <- 0
    RECV  B main 1 0 <- 2
    F     main 1 0
    SEND  F main 2 0 -> 2
    RECV  F main 1 1 <- 0
    F     main 1 1
    SEND  F main 2 1 -> 2
    BW    main 1 0
    SEND  B main 0 0 -> 0
    RECV  B main 1 1 <- 2
    BW    main 1 1
    SEND  B main 0 1 -> 0

rank 2:
    RECV  F main 2 0 <- 1
    F     main 2 0
    BW    main 2 0
    SEND  B main 1 0 -> 1
    RECV  F main 2 1 <- 1
    F     main 2 1
    BW    main 2 1
    SEND  B main 1 1 -> 1
"""


CASES: list[tuple[str, str, Topology, int, bool]] = [
    ("sends first", SENDS_FIRST, "rank", 0, False),
    ("sends first", SENDS_FIRST, "pair", 0, False),
    ("sends first", SENDS_FIRST, "pair", 1, True),
    ("sends first", SENDS_FIRST, "directed", 0, True),
    ("sends first", SENDS_FIRST, "tagged", 0, True),
    ("crossed", CROSSED, "rank", 0, False),
    ("crossed", CROSSED, "pair", 0, False),
    ("crossed", CROSSED, "directed", 0, True),
]


@pytest.mark.parametrize(
    ("name", "listing", "topology", "credits", "finishes"),
    CASES,
    ids=[f"{case[0]}-{case[2]}-{case[3]}" for case in CASES],
)
def test_as_verified(
    fresh: Fresh,
    tmp_path: Path,
    name: str,
    listing: str,
    topology: Topology,
    credits: int,
    finishes: bool,
) -> None:
    """A program finishes with right gradients where it is certified, and hangs where it is not."""
    channels = Channels(topology, credits)
    plan, safe = plan_of_listing(listing, tmp_path / "program.listing", channels)
    assert safe == finishes
    answers = attempt(fresh(plan.ranks), plan, channels, 30.0 if finishes else 1.5)
    for answer in answers:
        if finishes:
            assert answer.kind == "" and answer.value, answer
        else:
            assert answer.kind == "PipelineError", answer
            assert "nothing has moved for 1.5 s" in answer.error, answer.error
            assert "they wait for each other" in answer.error, answer.error
            assert "program.listing:" in answer.error and "waits for" in answer.error


# The activations of two microbatches, sent in one order and received in the other: without tags
# each is taken for the other, and nothing hangs.
SWAPPED = """
ranks 2
flow main microbatches 2 ranks 0 1

rank 0:
    F     main 0 0
    F     main 0 1
    SEND  F main 1 1 -> 1
    SEND  F main 1 0 -> 1
    RECV  B main 0 0 <- 1
    BW    main 0 0
    RECV  B main 0 1 <- 1
    BW    main 0 1

rank 1:
    RECV  F main 1 0 <- 0
    RECV  F main 1 1 <- 0
    F     main 1 0
    BW    main 1 0
    SEND  B main 0 0 -> 0
    F     main 1 1
    BW    main 1 1
    SEND  B main 0 1 -> 0
"""


@pytest.mark.parametrize("topology", ["directed", "pair", "tagged"])
def test_swapped(fresh: Fresh, tmp_path: Path, topology: Topology) -> None:
    """Messages received in another order than sent corrupt gradients, except where tags match."""
    plan, _ = plan_of_listing(SWAPPED, tmp_path / "program.listing", Channels(topology))
    compiled: Any = build(str(tmp_path / "program.listing"), {})
    found = certify(compiled, Settings(channels=Channels(topology))).findings
    assert any(finding.code == "corruption" for finding in found) == (topology != "tagged")
    for answer in attempt(fresh(plan.ranks), plan, Channels(topology), 30.0):
        if topology == "tagged":
            assert answer.kind == "" and answer.value, answer
        else:
            assert answer.kind == "AssertionError" and "relative error" in answer.error, answer
