"""An order that is not whole is refused, in the author's words."""

import pytest

from pipec.findings import Finding, PipecError
from pipec.language import read
from pipec.library import only_schedule
from pipec.order.arrange import arrange
from pipec.order.schedule import bind
from pipec.source import Source

FLOWS = {
    "one": "flow main(stages=P, microbatches=M): rank = stage",
    "chunks": "flow main(stages=2 * P, microbatches=M): rank = stage % P",
    "two": "flow down(stages=P, microbatches=M): rank = stage\n"
    "    flow up(stages=P, microbatches=M): rank = P - 1 - stage",
}


def finding(flow: str, body: str) -> Finding:
    """The only finding of a program at P=2, M=4."""
    lines = "".join(f"        {line}\n" for line in body.split("\n"))
    text = f"schedule s(P, M):\n    {FLOWS[flow]}\n    on rank r:\n{lines}"
    source = Source("s.pipe", text)
    with pytest.raises(PipecError) as caught:
        arrange(bind(only_schedule(read(source), source), {"P": 2, "M": 4}, source))
    assert len(caught.value.findings) == 1
    return caught.value.findings[0]


@pytest.mark.parametrize(
    ("flow", "body", "message", "expected", "found", "notes"),
    [
        (
            "one",
            "repeat M - r:  F  BW",
            "rank 1 leaves 1 F and 1 BW undone: stage 1",
            "4 F and 4 BW",
            "3 F and 3 BW",
            (),
        ),
        (
            "one",
            "repeat M:  F\nrepeat M - 1 - r:  B\nrepeat M - 2:  W",
            "rank 0 leaves 1 B and 1 W undone: stage 0",
            "4 B and 3 W",
            "3 B and 2 W",
            ("rank 1 (stage 1) leaves 2 B",),
        ),
        (
            "chunks",
            "repeat M:  F[0]  F[1]\nrepeat M:  BW[1]\nrepeat M - 2:  BW[0]",
            "rank 0 leaves 2 BW undone: chunk 0, stage 0",
            "4 BW",
            "2 BW",
            ("so does rank 1 (chunk 0, stage 1)",),
        ),
        (
            "two",
            "repeat M:  F[down]  BW[down]\nif r == 0:\n    repeat M:  F[up]  BW[up]",
            "rank 1 leaves 4 F and 4 BW undone: flow `up`, stage 0",
            "4 F and 4 BW",
            "0 F and 0 BW",
            (),
        ),
        (
            "one",
            "repeat M:  F  BW\nBW(1)",
            "BW(1) of stage 0 happens 2 times on rank 0",
            "once",
            "it at place 3 and again at place 8",
            ("so does 1 more made by the same text",),
        ),
        (
            "one",
            "repeat M:  BW  F",
            "rank 0 runs BW(0) of stage 0 before F(0) of stage 0, which it needs",
            "F(0) of stage 0 before it",
            "it at place 0, and what it needs at place 1",
            ("so do 7 more made by the same text",),
        ),
        (
            "one",
            "repeat M:  BW & F",
            "rank 0 overlaps BW(0) of stage 0 with F(0) of stage 0, which it needs",
            "two different microbatches",
            "microbatch 0 in both",
            ("so do 7 more made by the same text",),
        ),
        (
            "one",
            "repeat M:  F  BW\nF",
            "F number 5 of stage 0 on rank 0: flow `main` has only 4 microbatches",
            "4 F",
            "5 of them",
            (),
        ),
        (
            "one",
            "repeat M:  F  B\nrepeat M + 1:  W",
            "this W has nothing to complete on rank 0",
            "a B before it that is pending",
            "4 B before it, and 4 W that complete them",
            (),
        ),
    ],
)
def test_what_is_missing_doubled_or_too_early(
    flow: str,
    body: str,
    message: str,
    expected: str,
    found: str,
    notes: tuple[str, ...],
) -> None:
    """The finding names rank, count and kind as the author wrote it, once for every slip."""
    got = finding(flow, body)
    assert (got.message, got.expected, got.found, got.notes) == (message, expected, found, notes)
