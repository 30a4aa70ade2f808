"""Text -> syntax: the grammar, the syntax tree, and every mistake that needs no sizes."""

from functools import lru_cache

from pipec.findings import PipecError
from pipec.language.check import check
from pipec.language.parser import MOST_FINDINGS, parse, parse_expression
from pipec.language.syntax import File
from pipec.source import Source

__all__ = ["File", "parse_expression", "read"]


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
