"""A random program on real processes with strict channels, beside what the verifier says of it."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ranks import Answer, Ranks
from tried import attempt, pretending

from pipec import Channels
from pipec.compiler import Compiled, build
from pipec.program.costs import Costs
from pipec.program.graph import event_graph
from pipec.program.links import Links
from pipec.program.memory import Memory
from pipec.verify.dataflow import dataflow
from pipec.verify.deadlock import stuck_events
from pipec.verify.matching import in_order

sys.path.insert(0, str(Path(__file__).parents[1] / "verify"))
from machine import shuffled

Verdict = Literal["certified", "deadlock", "corruption"]

BASES = (
    ("1f1b", {"P": 2, "M": 3}),
    ("1f1b", {"P": 3, "M": 3}),
    ("gpipe", {"P": 3, "M": 2}),
    ("zb1p", {"P": 2, "M": 3}),
    ("zbv", {"P": 2, "M": 3}),
    ("interleaved", {"P": 2, "M": 2}),
    ("dualpipev", {"P": 2, "M": 4}),
    ("dualpipe", {"P": 2, "M": 4}),
)
HANGS = 1.0
"""Seconds after which the watchdog calls it a hang; a step takes a hundredth of that."""


def drawn(seed: int) -> tuple[Compiled, Channels]:
    """A library program with its messages moved about, and a topology without tags."""
    draw = random.Random(seed)
    name, sizes = draw.choice(BASES)
    whole = build(name, sizes).program
    moved = (
        shuffled(whole, draw.randrange(10**6), draw.choice((0.2, 0.5, 1.1))) for _ in range(100)
    )
    program = next((program for program in moved if not dataflow(program)), whole)
    channels = Channels(draw.choice(("pair", "directed", "directed", "rank")), draw.choice((0, 1)))
    return Compiled(name, {}, program, Costs(), Memory()), channels


def verdict(compiled: Compiled, channels: Channels) -> Verdict:
    """What the event graph says will happen.

    The runtime runs the halves of an OVERLAP one after the other, and so does this graph; a
    certificate asks for more, that a pair can wait for both its inputs before it begins.
    """
    links = Links(compiled.program)
    graph = event_graph(compiled.program, links, channels, whole_pairs=False)
    if len(stuck_events(graph)):
        return "deadlock"
    return "certified" if in_order(compiled.program, links) else "corruption"


def happens(fresh: Callable[[int], Ranks], seed: int) -> tuple[Verdict, list[Answer]]:
    """The verdict on a random program, and what came of running it all the same."""
    compiled, channels = drawn(seed)
    said = verdict(compiled, channels)
    plan, _ = pretending(compiled, channels)
    ranks = fresh(plan.ranks)
    timeout = HANGS if said == "deadlock" else 30.0
    return said, attempt(ranks, replace(plan), channels, timeout)


def as_said(said: Verdict, answers: list[Answer]) -> bool:
    """Whether it finished with right values, hung, or finished with wrong ones, as was said."""
    if said == "certified":
        return all(answer.kind == "" and answer.value for answer in answers)
    if said == "deadlock":
        hung = f"nothing has moved for {HANGS:g} s"
        return all(answer.kind == "PipelineError" and hung in answer.error for answer in answers)
    wrong = [answer for answer in answers if "relative error" in answer.error]
    return bool(wrong) and all(answer in wrong or answer.kind == "" for answer in answers)
