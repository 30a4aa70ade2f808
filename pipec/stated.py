"""What callers state, held against what they state it for: parts, pairs of ranks, stages."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NoReturn

from pipec.findings import Finding, PipecError, listed, nearest
from pipec.program.costs import Costs
from pipec.program.costs_where import stated_at
from pipec.program.cut import longest
from pipec.program.memory import Memory
from pipec.program.pairs import unknown_pair
from pipec.program.parts import Layout, Pattern
from pipec.program.placement import Placement
from pipec.source import Source

Files = Sequence[Source]
"""The files that costs and sizes come from, the later over the earlier, to point into."""


def parts_exist(costs: Costs, layouts: Sequence[Layout], files: Files) -> None:
    """Raises `PipecError` for the cost of a part that no chunk has: it would count for nothing."""
    known = sorted({part.name for parts in layouts for part in parts if part.wire is None})
    expected = listed(known) or "no such cost"
    wrong = []
    for key in costs.times:
        name = key.partition(".")[2]
        if name and name not in known:
            message, hint = f"no chunk has a part `{name}`", nearest(name, known)
            hint = hint or ("" if known else "open the chunks with `layers`") or None
            wrong.append((key, Finding("usage", message, None, expected, f"`{key}`", hint)))
    if wrong:
        refuse(wrong, files)


def pairs_known(costs: Costs, placement: Placement, files: Files) -> None:
    """Raises `PipecError` where a message would have no cost, though messages have."""
    rest = not costs.pairs or "send" in costs.times
    if finding := None if rest else unknown_pair(costs.pairs, placement):
        refuse([("send", finding)], files)


def at_most(costs: Costs, memory: Memory, count: int, what: str, files: Files) -> None:
    """Raises `PipecError` for a list that goes on behind the last stage: it is of another cut."""
    key, amounts = longest(costs, memory)
    if amounts <= count:
        return
    message = f"there are {amounts} amounts of `{key}` for {count} {what}{'s' * (count > 1)}"
    expected, found = f"at most {count}, one per {what}", f"{amounts}"
    hint = f"say `--cut {amounts}` (`cut={amounts}`) if the model has {amounts} equal pieces"
    time = costs.times.get(key)
    named = key if isinstance(time, tuple) and len(time) == amounts else f"memory.{key}"
    refuse([(named, Finding("usage", message, None, expected, found, hint))], files)


def entries_exist(
    patterns: Sequence[Pattern], layouts: Sequence[Layout], source: Source | None
) -> None:
    """Raises `PipecError` for parts in a pattern that no chunk has, under `--layers`."""
    known = sorted({part.name for parts in layouts for part in parts})
    unknown = {
        entry.name: entry
        for pattern in patterns
        for entry in (*pattern.compute, *pattern.wire)
        if entry.name not in known
    }
    if unknown:
        findings = [
            Finding("parts", f"no chunk has a part `{name}`", one.span, listed(known), f"`{name}`")
            for name, one in unknown.items()
        ]
        raise PipecError(findings, source)


def refuse(wrong: Iterable[tuple[str, Finding]], files: Files) -> NoReturn:
    """Raises `PipecError` with findings about keys, those of one file with their places."""
    found: dict[Source | None, list[Finding]] = {}
    for key, finding in wrong:
        source, span = stated_at(files, key) or (None, None)
        found.setdefault(source, []).append(replace(finding, span=span))
    source = next(iter(found))
    raise PipecError(found[source], source)
