"""Findings are values: what is wrong, where, what was expected, and the way out.

A check returns all of its findings; nothing is printed here and nothing is raised but `PipecError`,
at the edge.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import IntEnum

from pipec.source import Source, Span


class Severity(IntEnum):
    """How bad a finding is. Corruption is the worst: nothing stops, and the values are wrong."""

    WARNING = 0
    ERROR = 1
    DEADLOCK = 2
    CORRUPTION = 3


@dataclass(frozen=True)
class Place:
    """One instruction of a program: where it stands, how it reads, and the text that made it."""

    rank: int
    index: int
    instruction: str
    span: Span | None = None


@dataclass(frozen=True)
class Finding:
    """One mistake. `code` is stable and documented; `places` are instructions, `span` is text."""

    code: str
    message: str
    span: Span | None = None
    expected: str | None = None
    found: str | None = None
    hint: str | None = None
    places: tuple[Place, ...] = ()
    notes: tuple[str, ...] = ()
    severity: Severity = Severity.ERROR


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """By severity, and in their own order where it is the same."""
    return tuple(sorted(findings, key=lambda finding: -finding.severity))


class PipecError(Exception):
    """A user's mistake, or several: carries the findings and the source they point into."""

    def __init__(self, findings: Iterable[Finding], source: Source | None = None):
        self.findings: Sequence[Finding] = tuple(findings)
        self.source = source
        super().__init__("\n".join(self._line(finding) for finding in self.findings))

    def _line(self, finding: Finding) -> str:
        where = f"{self.source.where(finding.span)}: " if self.source and finding.span else ""
        parts = [f"{where}{finding.message}"]
        parts += [f"expected {finding.expected}"] if finding.expected else []
        parts += [f"found {finding.found}"] if finding.found else []
        parts += [finding.hint] if finding.hint else []
        return "; ".join(parts)


class Rejecting:
    """Notes the mistakes that a reader comes to in a text, all of one code, each with its place."""

    def __init__(self, code: str, findings: list[Finding]):
        """findings: where they are put, with those of others."""
        self._code, self._findings = code, findings

    def __call__(
        self,
        message: str,
        span: Span,
        expected: str,
        found: str | None = None,
        hint: str | None = None,
    ) -> None:
        """One mistake."""
        self._findings.append(Finding(self._code, message, span, expected, found, hint))


class Stop(Exception):
    """Ends one room's work at its first mistake; caught in the same room, never seen outside."""

    def __init__(self, finding: Finding):
        self.finding = finding
        super().__init__(finding.message)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """A hint for a misspelt name, or None where nothing known is near."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean `{close[0]}`?" if close else None


def listed(names: Iterable[str]) -> str:
    """`a`, `b` or `c`: the known names, for an `expected`."""
    quoted = [f"`{name}`" for name in names]
    if len(quoted) < 2:
        return "".join(quoted)
    return f"{', '.join(quoted[:-1])} or {quoted[-1]}"
