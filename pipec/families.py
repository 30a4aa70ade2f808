"""Every size of a schedule in given ranges, proved one by one on all cores.

A range is `P=2..32:2`: from 2 to 32, both included, every second one. Bounds are integer
expressions of the language and may use what stands before: `M=2*P..96:2`.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Literal

from pipec.compiler import Settings, build, certify
from pipec.findings import Finding, PipecError, Stop
from pipec.language import read_integer
from pipec.language.evaluate import Lanes, evaluate
from pipec.processes import workers
from pipec.source import Source

Sizes = Mapping[str, int | bool]
Outcome = Literal["certified", "refused", "failed"]

MOST_SIZES = 1_000_000
_FORM = "`P=2..32:2` or `M=2*P..96`"
_AT_ONCE = 8
"""Programs that a process proves between two reports."""


@dataclass(frozen=True)
class Range:
    """`name=first..last:step`, as written."""

    name: str
    first: str
    last: str
    step: str


@dataclass(frozen=True)
class Proof:
    """What came of one member of a family. `refused`: a `require` of the schedule says no."""

    sizes: Sizes
    outcome: Outcome
    instructions: int = 0


def parse_range(text: str) -> Range:
    """Read `P=2..32:2`. Raises `PipecError`."""
    match = re.fullmatch(r"\s*(\w+)\s*=\s*([^.:]+)\.\.([^.:]+)(?::([^.:]+))?", text)
    if not match or match[1][0].isdigit():
        raise PipecError([Finding("usage", "this is not a range", None, _FORM, f"`{text}`")])
    return Range(match[1], match[2].strip(), match[3].strip(), (match[4] or "1").strip())


def members(ranges: Sequence[Range], fixed: Sizes) -> list[Sizes]:
    """All sizes in the ranges, the first range outermost. Raises `PipecError`."""
    found = list(islice(_members(ranges, dict(fixed)), MOST_SIZES + 1))
    if not found:
        raise PipecError([Finding("usage", "these ranges are empty", None, "at least one size")])
    if len(found) > MOST_SIZES:
        message, expected = "these ranges have too many sizes", f"at most {MOST_SIZES:,}"
        raise PipecError([Finding("usage", message, None, expected, "more")])
    return found


def _members(ranges: Sequence[Range], sizes: dict[str, int | bool]) -> Iterator[Sizes]:
    if not ranges:
        yield sizes
        return
    one, rest = ranges[0], ranges[1:]
    if one.name in sizes:
        raise PipecError([Finding("usage", f"`{one.name}` is given twice", None, "once")])
    first, last, step = (_integer(text, sizes) for text in (one.first, one.last, one.step))
    if step < 1 or last - first > MOST_SIZES * step:
        expected = f"a step of at least 1 and at most {MOST_SIZES:,} sizes"
        raise PipecError(
            [Finding("usage", f"the range of `{one.name}` has no end", None, expected)]
        )
    for value in range(first, last + 1, step):
        yield from _members(rest, {**sizes, one.name: value})


def _integer(text: str, sizes: Sizes) -> int:
    """The value of a bound. What is wrong with it is wrong with the command."""
    numbers = {name: value for name, value in sizes.items() if not isinstance(value, bool)}
    source = Source("--for", text)
    try:
        value = evaluate(read_integer(source, numbers), Lanes(dict(numbers)))
    except Stop as stop:
        raise PipecError([replace(stop.finding, code="usage")], source) from None
    except PipecError as error:
        findings = [replace(finding, code="usage") for finding in error.findings]
        raise PipecError(findings, source) from None
    assert isinstance(value, int)
    return value


def prove(target: str, family: Sequence[Sizes], settings: Settings) -> Iterator[Proof]:
    """The proofs of a family in its order, made on all cores; closing the iterator ends them."""
    with workers(os.cpu_count() or 1) as pool:
        yield from pool.map(partial(_prove, target, settings), family, chunksize=_AT_ONCE)


def _prove(target: str, settings: Settings, sizes: Sizes) -> Proof:
    try:
        compiled = build(target, sizes, settings)
    except PipecError as error:
        only_require = {finding.code for finding in error.findings} == {"require"}
        return Proof(sizes, "refused" if only_require else "failed")
    certificate = certify(compiled, settings)
    return Proof(sizes, "certified" if certificate.ok else "failed", len(compiled.program))
