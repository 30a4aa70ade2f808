"""A text that people wrote, and places in it: computed on demand, so a span costs two integers."""

from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A range of characters in a source: `start` is in it, `end` is not."""

    start: int
    end: int

    def to(self, other: "Span") -> "Span":
        """The span from the beginning of this one to the end of `other`."""
        return Span(self.start, other.end)


@dataclass(frozen=True)
class Source:
    """A text with the name that messages call it by."""

    name: str
    text: str = field(repr=False)

    @cached_property
    def lines(self) -> list[str]:
        """The lines without their ends; only a newline ends a line."""
        return self.text.split("\n")

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *accumulate(len(line) + 1 for line in self.lines)]

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column of a character, both counted from 1."""
        offset = min(max(offset, 0), len(self.text))
        line = bisect_right(self._starts, offset, hi=len(self.lines)) - 1
        return line + 1, offset - self._starts[line] + 1

    def where(self, span: Span) -> str:
        """`name:line:column`, as editors understand it."""
        line, column = self.position(span.start)
        return f"{self.name}:{line}:{column}"
