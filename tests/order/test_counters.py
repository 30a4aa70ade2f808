"""What an author leaves out: microbatches are counted, W is a queue, flows and chunks are found."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipec.findings import PipecError
from pipec.language import read
from pipec.library import only_schedule
from pipec.order.arrange import arrange
from pipec.order.schedule import bind
from pipec.program.program import Order
from pipec.source import Source

ONE = "flow main(stages=P, microbatches=M): rank = stage"
SLICED = "flow main(stages=P, microbatches=M, slices=2): rank = stage"
TWO_CHUNKS = "flow main(stages=2 * P, microbatches=M): rank = stage % P"
TWO_FLOWS = """flow down(stages=P, microbatches=M): rank = stage
    flow up(stages=P, microbatches=M): rank = P - 1 - stage"""


def ordered(body: str, flow: str = ONE, **sizes: int) -> Order:
    """The order of a program; its lines stand at the left margin."""
    indented = "\n".join(f"        {line}" for line in body.strip("\n").split("\n"))
    text = f"schedule s(P, M):\n    {flow}\n    on rank r:\n{indented}\n"
    source = Source("s.pipe", text)
    return arrange(bind(only_schedule(read(source), source), {"P": 1, "M": 4, **sizes}, source))


def said(order: Order, rank: int = 0) -> str:
    """A rank's operations, such as `F0 B0&F1 W0`, with stages where a rank has several."""
    several = len(order.placement.held(rank)) > 1 or len(order.placement.flows) > 1
    words = []
    for step in order[rank]:
        flow = step.flow if len(order.placement.flows) > 1 else ""
        where = f"[{flow}{step.stage}]" if several else ""
        word = f"{step.kind.name}{where}{step.microbatch}"
        if step.tied:
            words[-1] += f"&{word}"
        else:
            words.append(word)
    return " ".join(words)


@pytest.mark.parametrize(
    ("body", "order"),
    [
        ("repeat M:  F\nrepeat M:  BW", "F0 F1 F2 F3 BW0 BW1 BW2 BW3"),
        # explicit ones are marked, and the smallest not yet taken is next
        ("F(2)  F  F(1)  F\nrepeat M:  BW", "F2 F0 F1 F3 BW0 BW1 BW2 BW3"),
        ("F  F  F(3)  F\nrepeat M:  BW(M - 1)\nif false: F", None),
        # B and BW share a counter, W follows B only
        ("repeat M:  F\nBW  B  BW(3)  B\nW  W", "F0 F1 F2 F3 BW0 B1 BW3 B2 W1 W2"),
        # a queue: the oldest pending B first, an explicit one leaves the rest in order
        ("repeat M:  F  B\nW(2)  W  W  W", "F0 B0 F1 B1 F2 B2 F3 B3 W2 W0 W1 W3"),
        ("repeat M:  F\nB(3)  B  W  W  B  B  W(2)  W", "F0 F1 F2 F3 B3 B0 W3 W0 B1 B2 W2 W1"),
        # overlapped pairs count like everything else
        ("F\nrepeat M - 1:  F & BW\nBW", "F0 F1&BW0 F2&BW1 F3&BW2 BW3"),
        ("F\nrepeat M - 1:  B & F  W\nB  W", "F0 B0&F1 W0 B1&F2 W1 B2&F3 W2 B3 W3"),
    ],
)
def test_microbatches(body: str, order: str | None) -> None:
    """Each kind takes the smallest microbatch it has not yet taken; `(i)` takes that one."""
    if order is None:
        with pytest.raises(PipecError, match="happens 4 times"):
            ordered(body)
        return
    assert said(ordered(body)) == order


@pytest.mark.parametrize(
    ("body", "order"),
    [
        ("repeat M:  F\nrepeat M:  BW", "F0 F1 F2 F3 BW1 BW0 BW3 BW2"),
        ("F  F  BW & F  BW & F\nrepeat 2:  B  W", "F0 F1 BW1&F2 BW0&F3 B3 W3 B2 W2"),
        ("repeat M:  F\nB(3)  B  B  B\nW  W(0)  W  W", "F0 F1 F2 F3 B3 B1 B0 B2 W3 W0 W1 W2"),
        ("F(2)  F  F(3)  F\nBW(1)  BW  BW  BW", "F2 F0 F3 F1 BW1 BW0 BW3 BW2"),
    ],
)
def test_slices_turn(body: str, order: str) -> None:
    """A backward begins with the last slice of a sequence, and explicit ones are marked as ever."""
    assert said(ordered(body, flow=SLICED)) == order


def test_chunks_count_apart() -> None:
    """Every chunk has its own counters; a bare W takes the oldest B of any, `W[c]` that chunk's."""
    body = "F[0]  F[1]  F[1]  F[0]\nB[1]  B[0]  B[1]  B[0]\nW[0]  W  W[1]  W"
    with pytest.raises(PipecError, match=r"runs F\(1\) of chunk 1, stage 1 before F\(1\)"):
        ordered(body, TWO_CHUNKS, M=2)
    body = body.replace("F[1]  F[1]  F[0]", "F[1]  F[0]  F[1]")
    assert said(ordered(body, TWO_CHUNKS, M=2)) == (
        "F[0]0 F[1]0 F[0]1 F[1]1 B[1]0 B[0]0 B[1]1 B[0]1 W[0]0 W[1]0 W[1]1 W[0]1"
    )


def test_flows_count_apart() -> None:
    """Every flow has its own counters, and a flow is a value that `let` may name."""
    body = """
let near = down if r == 0 else up
let far = up if r == 0 else down
F[near]  F[far]  F[near]  F[far]
B[far]  BW[near]  W  B[far]  W[far]  BW[near]
"""
    order = ordered(body, TWO_FLOWS, P=2, M=2)
    assert said(order, 0) == (
        "F[down0]0 F[up1]0 F[down0]1 F[up1]1 B[up1]0 BW[down0]0 W[up1]0 B[up1]1 W[up1]1 BW[down0]1"
    )
    assert said(order, 1).startswith("F[up0]0 F[down1]0")


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 3), st.integers(1, 6), st.booleans())
def test_any_whole_order_can_be_written(
    rng: random.Random, chunks: int, microbatches: int, explicit: bool
) -> None:
    """A random possible order, written as text, arranges to itself: with and without numbers."""
    flow = f"flow main(stages={chunks} * P, microbatches=M): rank = 0"
    steps = _possible(rng, chunks, microbatches, in_turn=not explicit)
    words = [
        f"{kind}[{chunk}]({microbatch})" if explicit else f"{kind}[{chunk}]"
        for kind, chunk, microbatch in steps
    ]
    order = ordered("\n".join(words), flow, M=microbatches)
    got = [(step.kind.name, step.stage, step.microbatch) for step in order[0]]
    assert got == steps


def _possible(
    rng: random.Random, chunks: int, microbatches: int, in_turn: bool
) -> list[tuple[str, int, int]]:
    """Operations of one rank in a random sequence that respects what each needs."""
    stages = range(chunks)
    fused = {(s, m): rng.random() < 0.5 for s in stages for m in range(microbatches)}
    waiting = {("F", *key) for key in fused} | {
        step
        for key, both in fused.items()
        for step in ([("BW", *key)] if both else [("B", *key), ("W", *key)])
    }
    done: list[tuple[str, int, int]] = []

    def ready(step: tuple[str, int, int]) -> bool:
        kind, stage, microbatch = step
        backward = {("B", stage, microbatch), ("BW", stage, microbatch)}
        after = {("B", stage + 1, microbatch), ("BW", stage + 1, microbatch)}
        needs = {
            "F": stage == 0 or ("F", stage - 1, microbatch) in done,
            "W": bool(backward & set(done)),
        }.get(kind, ("F", stage, microbatch) in done and (stage == chunks - 1 or after & set(done)))
        return bool(needs) and (not in_turn or microbatch == _next(waiting, kind, stage))

    while waiting:
        step = rng.choice(sorted(filter(ready, waiting)))
        waiting.remove(step)
        done.append(step)
    return done


def _next(waiting: set[tuple[str, int, int]], kind: str, stage: int) -> int:
    """The smallest microbatch that this kind has not taken; B and BW count together."""
    kinds = {"F": ("F",), "W": ("W",)}.get(kind, ("B", "BW"))
    return min(m for k, s, m in waiting if s == stage and k in kinds)
