"""The certificate as JSON: the stable form that `pipec verify --format json` prints."""

from fractions import Fraction
from typing import Any

from pipec.findings import Finding, Place
from pipec.simulate.usage import Usage
from pipec.source import Source, Span
from pipec.verify.certificate import Certificate


def certificate_json(certificate: Certificate, source: Source | None) -> dict[str, Any]:
    """Everything that the certificate states; docs/certificate.md describes the fields."""
    report, used = certificate.report, certificate.used
    return {
        "ok": certificate.ok,
        "findings": [finding_json(finding, source) for finding in certificate.findings],
        "warnings": [finding_json(finding, source) for finding in certificate.warnings],
        "channels": {
            topology: {"safe": safety.safe, "credits_needed": safety.credits_needed}
            for topology, safety in certificate.safety.items()
        },
        "verified_under": {
            "topology": certificate.channels.topology,
            "credits": certificate.channels.credits,
        },
        "costs": certificate.costs,
        "makespan": report.makespan if report else None,
        "memory": _memory(used) if used else None,
        "ranks": [
            {
                "busy": rank.busy,
                "bubble": rank.bubble,
                "span_bubble": rank.span_bubble,
                "peak_memory": rank.peak_memory,
                "peak_index": rank.peak_index,
                "peak_parts": _parts(used, number) if used else {},
            }
            for number, rank in enumerate(report.ranks if report else ())
        ],
    }


def _memory(used: Usage) -> dict[str, Any]:
    """What the amounts of memory are, and what they are checked against."""
    limit, memory = used.memory.limit, used.memory
    return {
        "unit": "bytes" if memory.in_bytes else "units",
        "limit": _number(limit.most) if limit else None,
        "not_counted": list(used.not_counted),
        "largest_message": used.units(used.largest_message),
    }


def _number(amount: Fraction) -> int | float:
    return int(amount) if amount.denominator == 1 else float(amount)


def _parts(used: Usage, rank: int) -> dict[str, dict[str, Any]]:
    """What a peak consists of."""
    return {
        part.name: {"amount": used.units(part.amount), "count": part.count}
        for part in used.parts[rank]
    }


def finding_json(finding: Finding, source: Source | None) -> dict[str, Any]:
    """One finding; `source` of a place is `file:line:column`, or null where no text made it."""
    return {
        "code": finding.code,
        "severity": finding.severity.name.lower(),
        "message": finding.message,
        "source": _where(finding.span, source),
        "expected": finding.expected,
        "found": finding.found,
        "hint": finding.hint,
        "places": [_place(place, source) for place in finding.places],
        "notes": list(finding.notes),
    }


def _place(place: Place, source: Source | None) -> dict[str, Any]:
    return {
        "rank": place.rank,
        "index": place.index,
        "instruction": place.instruction,
        "source": _where(place.span, source),
    }


def _where(span: Span | None, source: Source | None) -> str | None:
    return source.where(span) if span and source else None
