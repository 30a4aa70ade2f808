"""The one error of the runtime: what happened, where in the plan, and what to do."""

from pipec.findings import Finding, PipecError, Place
from pipec.source import Source


class PipelineError(PipecError):
    """A pipeline that cannot be made, or a step that failed; `findings[0]` says what."""

    def __init__(
        self,
        message: str,
        *,
        expected: str | None = None,
        found: str | None = None,
        hint: str | None = None,
        place: Place | None = None,
        source: Source | None = None,
        code: str = "runtime",
    ):
        span = place.span if place else None
        places = (place,) if place else ()
        super().__init__([Finding(code, message, span, expected, found, hint, places)], source)
