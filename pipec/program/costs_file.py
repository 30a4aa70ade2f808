"""The costs file: measured or stated times and sizes, as TOML (or JSON), read and written exactly.

docs/costs.md documents it. What is wrong with a file is said with its line.
"""

import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipec.files import replace_text
from pipec.findings import Finding, PipecError, listed, nearest
from pipec.program.costs import UNITS, Costs
from pipec.program.costs_text import costs_text
from pipec.program.costs_where import NOWHERE, broken_at, key_at
from pipec.program.memory import Memory
from pipec.program.sizes import Stated, read_stated, settle
from pipec.source import Source

SEND = "send"
OPENED = ("F", "B", "W", "BW")
"""Kinds whose parts may be stated in a table: `[F]`, `mlp = 1`."""


@dataclass(frozen=True)
class CostsFile:
    """Times, and sizes if there are any; and the text that said them, to point into."""

    costs: Costs = Costs()
    memory: Memory | None = None
    source: Source | None = field(default=None, compare=False, repr=False)

    def save(
        self, path: str | os.PathLike[str], notes: Mapping[str, str] | None = None, head: str = ""
    ) -> None:
        """Write the file; an existing one is replaced whole or not at all.

        notes: comments for keys, such as `F`, `send` or `memory.stash`; head: one for the whole.
        """
        replace_text(Path(path), costs_text(self.costs, self.memory, notes or {}, head))


def load_costs(path: str | os.PathLike[str]) -> CostsFile:
    """Read a costs file. Raises `PipecError` with all that is wrong with it, line by line."""
    return parse_costs(_text(path, _COSTS))


def load_sizes(path: str | os.PathLike[str]) -> CostsFile:
    """Read a file of sizes alone, keyed as `[memory]` of a costs file is. Raises `PipecError`."""
    source = _text(path, _SIZES)
    table, findings = _table(source, _SIZES), _Findings(source)
    memory = _memory(table, findings, "")
    if findings.all:
        raise PipecError(findings.all, source)
    return CostsFile(memory=memory, source=source)


def parse_costs(source: Source) -> CostsFile:
    """Read the text of a costs file. Raises `PipecError`."""
    table, findings = _table(source, _COSTS), _Findings(source)
    sizes = table.pop("memory", None)
    costs = _costs(table, findings)
    memory = None if sizes is None else _memory(sizes, findings, "memory")
    if findings.all:
        raise PipecError(findings.all, source)
    return CostsFile(costs, memory, source)


@dataclass(frozen=True)
class _Form:
    """What a file is called, and an example of a line of it."""

    name: str
    line: str
    key: str


_COSTS = _Form("a costs file", "`F = 1.5`", "F")
_SIZES = _Form("a memory file", "`activation = '1.5GB'`", "activation")

_MARK = "\ufeff"
"""Some editors begin a file with this mark of UTF-8."""


def _text(path: str | os.PathLike[str], form: _Form) -> Source:
    try:
        content = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        finding = Finding("usage", f"{path} is not {form.name}", None, "TOML in UTF-8", "bytes")
        raise PipecError([finding]) from None
    return Source(str(path), content.removeprefix(_MARK))


class _Findings:
    """What is wrong, each with its place in the file."""

    def __init__(self, source: Source):
        self._source = source
        self.all: list[Finding] = []

    def add(self, finding: Finding, key: str, table: str = "") -> None:
        text = self._source.text
        span = key_at(text, key, table)
        span = key_at(text, table) if table and span == NOWHERE else span
        self.all.append(replace(finding, code="usage", span=span))


def _table(source: Source, form: _Form) -> dict[str, Any]:
    """The keys and values of a file; numbers with a point stay texts, so that they are exact."""
    text = source.text
    is_json = source.name.endswith(".json") or text.lstrip().startswith("{")
    try:
        table = (
            json.loads(text, parse_float=str)
            if is_json
            else tomllib.loads(text, parse_float=_exactly)
        )
    except (ValueError, RecursionError) as error:
        span, message = broken_at(text, error)
        expected = "JSON" if is_json else f"TOML: lines such as {form.line}"
        finding = Finding("usage", f"this is not {form.name}: {message}", span, expected)
        raise PipecError([finding], source) from None
    if isinstance(table, dict):
        return table
    message, expected = f"this is not {form.name}", f"keys such as {form.key}"
    finding = Finding("usage", message, NOWHERE, expected, type(table).__name__)
    raise PipecError([finding], source)


def _exactly(number: str) -> str:
    return number.replace("_", "").removeprefix("+")


def _costs(table: dict[str, Any], findings: _Findings) -> Costs:
    unit = table.pop("unit", "")
    if unit not in ("", *UNITS):
        message, found = "this unit of time is not known", f"`{unit}`"
        findings.add(Finding("usage", message, None, listed(UNITS), found), "unit")
        unit = ""
    costs = Costs(unit=unit)
    for key, value in table.items():
        for stated in _stated(key, value, findings):
            costs = costs.override(stated)
    return costs


def _stated(key: str, value: Any, findings: _Findings) -> Iterator[Costs]:
    """What a key says; what is wrong in a table has the place of its own line."""

    def read(times: dict[str, Any], name: str, table: str = "") -> Iterator[Costs]:
        try:
            yield Costs.of(times)
        except PipecError as error:
            for finding in error.findings:
                known = finding.hint or nearest(key, ("unit", "memory"))
                findings.add(replace(finding, hint=known), name, table)

    if key in OPENED and isinstance(value, dict):
        for name, time in value.items():
            yield from read({f"{key}.{name}": time}, name, key)
        return
    if key == SEND and isinstance(value, dict):
        lines = [[*read({key: {pair: time}}, pair, key)] for pair, time in value.items()]
        if not all(lines):
            return
    yield from read({key: value}, key)


def _memory(sizes: Any, findings: _Findings, table: str) -> Memory | None:
    """Sizes, in a table of the file or (with no name) in the file as a whole."""
    if not isinstance(sizes, dict):
        message, expected = "`memory` is a table", "`[memory]`, then `activation = '1.5GB'`"
        findings.add(Finding("usage", message, None, expected, str(sizes)[:60]), "memory")
        return None
    stated: dict[str, Stated] = {}
    for key, value in sizes.items():
        try:
            stated[key] = read_stated(key, value)
        except PipecError as error:
            for finding in error.findings:
                findings.add(finding, key, table)
    settled = settle(stated)
    for key, finding in settled.wrong:
        findings.add(finding, key, table)
    return Memory(settled.sizes, settled.in_bytes)
