"""What Lark says about a line it cannot read -> a finding that a person can act on."""

import re

from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from pipec.findings import Finding, nearest
from pipec.language.syntax import RESERVED
from pipec.source import Span

_WORDS = {
    "LPAR": "`(`",
    "RPAR": "`)`",
    "LSQB": "`[`",
    "RSQB": "`]`",
    "COMMA": "`,`",
    "COLON": "`:`",
    "EQUAL": "`=`",
    "AMPERSAND": "`&`",
    "__ANON_0": "`..`",
    "NAME": "a name",
    "NUMBER": "a number",
    "STRING": "a message in quotes",
    "$END": "the end of the line",
    "COMPARE": "a comparison",
    "KIND": "an operation (F, B, W, BW)",
    "DOCSTRING": "a docstring",
}
_VALUE = frozenset(("NUMBER", "NAME", "FUNCTION"))
_VALUE_TERMS = _VALUE | {"TRUE", "FALSE", "MINUS", "NOT", "KIND", "LPAR", "_MEMORY"}
_OPERATORS = frozenset(("PLUS", "MINUS", "TIMES", "OVER", "POWER", "AND", "OR", "COMPARE", "_IF"))
_LINES = (
    "schedule",
    "require",
    "flow",
    "let",
    "cost",
    "memory",
    "limit",
    "on",
    "repeat",
    "for",
    "if",
    "elif",
    "else",
    "F",
    "B",
    "W",
    "BW",
)


def complaint(error: UnexpectedInput, line: str, base: int) -> Finding:
    """The finding for `error` in `line`, which begins at character `base` of the text."""
    if isinstance(error, UnexpectedCharacters):
        at = error.pos_in_stream or 0
        return _finding(line, base, at, line[at : at + 1], _accepts(error))
    assert isinstance(error, UnexpectedToken)
    expected = _accepts(error)
    if error.token.type == "$END":
        return _finding(line, base, len(line), "", expected)
    return _finding(line, base, error.token.start_pos or 0, str(error.token), expected)


def _accepts(error: UnexpectedCharacters | UnexpectedToken) -> set[str]:
    """The terminals that could really come next (Lark's own `expected` also holds some that could
    not).
    """
    parser = getattr(error, "interactive_parser", None)
    return set(parser.accepts()) if parser else set()


def _finding(line: str, base: int, at: int, found: str, expected: set[str]) -> Finding:
    span = Span(base + at, base + at + max(len(found), 1))
    words = f"`{found}`" if found else "the end of the line"
    if at == 0:
        return Finding(
            "syntax",
            f"a line cannot begin with {words}",
            span,
            "a word of the language or an operation",
            words,
            nearest(found, _LINES) or _first_word_hint(line),
        )
    if expected == {"NAME"} and found in RESERVED:
        what = "an operation" if found in ("F", "B", "W", "BW") else "a word of the language"
        return Finding(
            "syntax", f"`{found}` is {what}", span, "a name", words, "choose another name"
        )
    return Finding(
        "syntax",
        "this line cannot be read",
        span,
        _expected(expected),
        words,
        _hint(line, at, found, expected),
    )


def _expected(terminals: set[str]) -> str:
    """Words for a set of terminals: a value, an operator, or the few that are left."""
    parts: list[str] = []
    rest = set(terminals)
    if rest >= _VALUE:
        parts.append("a value")
        rest -= _VALUE_TERMS
    elif "KIND" in rest:
        parts.append(_WORDS["KIND"])
        rest -= {"KIND"}
    if len(rest & _OPERATORS) > 2:
        parts.append("an operator")
        rest -= _OPERATORS
    parts += sorted(_word(terminal) for terminal in rest)
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} or {parts[-1]}"


def _word(terminal: str) -> str:
    return _WORDS.get(terminal) or f"`{terminal.strip('_').lower()}`"


def _first_word_hint(line: str) -> str | None:
    if re.match(r"\w+\s*=", line):
        return "bind a name with `let name = value`"
    return None


def _hint(line: str, at: int, found: str, expected: set[str]) -> str | None:
    before = line[:at].rstrip()
    if found == "=" and "COMPARE" in expected:
        return "equality is written `==`"
    if found in ("if", "elif", "else") and before.endswith(":"):
        return f"put `{found}` on a line of its own, indented below"
    if found == "if" and before.endswith("else"):
        return "write `elif`"
    if found == "(" and (name := re.search(r"(\w+)$", before)):
        return nearest(name[1], ("min", "max", "abs")) or "the functions are `min`, `max` and `abs`"
    if found == "" and "COLON" in expected:
        return "a line with a block below it ends in `:`"
    if found in ("$", "{", "}", ";", "\\"):
        return f"`{found}` has no meaning in this language"
    if found == "." and "__ANON_0" in expected:
        return "a range is written `0 .. n`"
    if "." in found and re.match(r"\d", before[-1:]):
        return (
            "decimals are allowed in `cost` and `memory` only, with digits on both sides of the dot"
        )
    return None
