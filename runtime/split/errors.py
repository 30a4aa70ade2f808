"""The one error that the split raises."""

from __future__ import annotations

from pipec.findings import Finding, PipecError


class SplitError(PipecError):
    """A module that cannot be split, or a call out of order: place, expected, found, way out."""

    def __init__(self, code: str, place: str, *, expected: str, found: str, hint: str) -> None:
        super().__init__([Finding(code, place, expected=expected, found=found, hint=hint)])
