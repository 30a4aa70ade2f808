"""What Lark says about a line it cannot read -> a finding that a person can act on."""

import re

from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from pipec.amounts import SUFFIXES
from pipec.findings import Finding, listed, nearest
from pipec.language.syntax import LATER, RESERVED
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
    "LANE": "`compute` or `wire`",
    "DOT": "`.`",
    "DOCSTRING": "a docstring",
}
_VALUE = frozenset(("NUMBER", "NAME", "FUNCTION"))
_VALUE_TERMS = _VALUE | {"TRUE", "FALSE", "MINUS", "NOT", "KIND", "LPAR", "_MEMORY"}
_KINDS = ("F", "B", "W", "BW")
_OPERATORS = frozenset(("PLUS", "MINUS", "TIMES", "OVER", "POWER", "AND", "OR", "COMPARE", "_IF"))
_LINES = (
    "schedule",
    "require",
    "flow",
    "layers",
    "overlap",
    "compute",
    "wire",
    "let",
    "cost",
    "memory",
    "limit",
    "on",
    "greedy",
    "prefer",
    "every",
    "repeat",
    "for",
    "if",
    "elif",
    "else",
    *_KINDS,
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
    found = line[at : at + 2] if line[at : at + 2] in _FOREIGN else found
    span = Span(base + at, base + at + max(len(found), 1))
    words = _quoted(found) if found else "the end of the line"
    if at == 0:
        return _beginning(line, span, found, words)
    if expected == {"NAME"} and found in RESERVED:
        what = "an operation" if found in _KINDS else "a word of the language"
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


def _beginning(line: str, span: Span, found: str, words: str) -> Finding:
    """The finding for a line that begins with nothing a line can begin with."""
    expected = "a word of the language or an operation"
    if found in LATER:
        message = f"`{found}` is reserved for a later version"
        return Finding("syntax", message, span, expected, words)
    message = f"a line cannot begin with {words}"
    return Finding("syntax", message, span, expected, words, _first_hint(line, found))


def _quoted(found: str) -> str:
    """A piece of text for people: what cannot be seen is given by its number."""
    return f"`{found}`" if found.isprintable() else f"the character U+{ord(found[0]):04X}"


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
    if rest & _OPERATORS:
        parts.append("an operator")
        rest -= _OPERATORS
    parts += sorted(_word(terminal) for terminal in rest)
    return parts[-1] if len(parts) < 2 else f"{', '.join(parts[:-1])} or {parts[-1]}"


def _word(terminal: str) -> str:
    return _WORDS.get(terminal) or f"`{terminal.strip('_').lower()}`"


def _first_hint(line: str, found: str) -> str | None:
    if re.match(r"[A-Za-z_]\w*\s*=(?!=)", line):
        return "bind a name with `let name = value`"
    if found in ("while", "loop"):
        return "loops are `repeat n:` and `for k in a .. b:`"
    return _operation_hint(found) or nearest(found, _LINES) or _alien_hint(found)


def _operation_hint(found: str) -> str | None:
    """`f` and `WB` are meant as operations."""
    for kind in _KINDS:
        if sorted(found.upper()) == sorted(kind):
            return f"did you mean `{kind}`?"
    return None


def _alien_hint(found: str) -> str | None:
    if found in _FOREIGN:
        return _FOREIGN[found]
    if not found.isascii():
        return "outside of comments and strings only ASCII letters, digits and signs have a meaning"
    if found in ("$", "{", "}", ";", "\\", "@", "?", "~", "^", "`"):
        return f"`{found}` has no meaning in this language"
    return None


_FOREIGN = {
    "&&": "write `and`",
    "||": "write `or`",
    "!": "write `not`",
    "'": "strings stand in double quotes",
}


def _hint(line: str, at: int, found: str, expected: set[str]) -> str | None:
    before, first = line[:at].rstrip(), re.split(r"\W", line, maxsplit=1)[0]
    if found == "=" and "COMPARE" in expected:
        return "equality is written `==`"
    if found in _LINES and found not in _KINDS and before.endswith(":"):
        return f"put `{found}` on a line of its own, indented below"
    if found == "if" and before == "else":
        return "write `elif`"
    if "_ELSE" in expected:
        return "both sides must be there: `a if test else b`"
    if first == "on" and expected == {"_RANK"}:
        return "write `on rank r:`"
    if first == "greedy" and expected & {"_ON", "_RANK"}:
        return "write `greedy on rank r:`"
    if first == "every" and found != "" and expected & {"_ON", "_RANK"}:
        return "write `every 6 on rank r:`"
    if first == "flow" and expected == {"EQUAL"}:
        return "every argument has its name: `stages=P, microbatches=M`"
    if first == "flow" and found == "" and "COLON" in expected:
        return "a flow ends in its placement: `flow main(...): rank = stage`"
    if found == "" and "COLON" in expected:
        return "a line with a block below it ends in `:`"
    if "KIND" in expected and (hint := _operation_hint(found)):
        return hint
    return _value_hint(before, found, expected) or _alien_hint(found)


def _value_hint(before: str, found: str, expected: set[str]) -> str | None:
    """What was meant inside an expression."""
    name = re.search(r"([A-Za-z_]\w*)$", before)
    if found == "(" and name and expected & _OPERATORS:
        if name[1] == "range":
            return _RANGE
        return nearest(name[1], ("min", "max", "abs")) or "the functions are `min`, `max` and `abs`"
    if found == "." and ("__ANON_0" in expected or before.endswith("..")):
        return _RANGE
    if before[-1:].isdigit() and found.upper() in map(str.upper, SUFFIXES):
        return f"bytes are written {listed(SUFFIXES)}, such as `1.5GB`"
    if found == ".":
        return "decimals stand in `cost` and `memory` only, with digits on both sides of the dot"
    return None


_RANGE = "a range is written `0 .. n`"
