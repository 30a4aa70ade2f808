"""Text -> syntax: the grammar, the syntax tree, and every mistake that needs no sizes."""

from collections.abc import Iterable
from functools import lru_cache

from pipec.findings import PipecError
from pipec.language.check import check
from pipec.language.kinds import INT, Scope
from pipec.language.parser import MOST_FINDINGS, parse, parse_expression
from pipec.language.syntax import Expression, File
from pipec.source import Source

__all__ = ["File", "read", "read_integer"]


@lru_cache(maxsize=16)
def read(source: Source) -> File:
    """Parse and check a text. Raises `PipecError` with all of its mistakes."""
    tree, findings = parse(source)
    findings = sorted(
        findings + check(tree), key=lambda finding: finding.span.start if finding.span else 0
    )
    if findings:
        raise PipecError(findings[:MOST_FINDINGS], source)
    return tree


def read_integer(source: Source, names: Iterable[str]) -> Expression:
    """Parse and check a text that is one integer expression, such as `2 * P`.

    names: those that it may use, all integers. Raises `PipecError` with all of its mistakes.
    """
    expression, findings = parse_expression(source)
    if expression is not None:
        scope = Scope(findings)
        for name in names:
            scope.assume(name, INT)
        scope.expect(expression, INT)
    if findings:
        raise PipecError(findings, source)
    assert expression is not None
    return expression
