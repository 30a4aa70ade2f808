"""Where something stands in a costs file: readers of TOML and JSON forget it."""

import json
import re
from collections.abc import Sequence

from pipec.source import Source, Span

NOWHERE = Span(0, 0)

_HEADER = re.compile(r"\s*\[+\s*([^\]]*?)\s*\]+\s*(#.*)?")
_AT = re.compile(r"\(at (?:line (\d+), column (\d+)|end of document)\)")
_LONG = re.compile(r"\d[\d_]{1000,}", re.ASCII)
"""An integer that Python may refuse to read."""


def key_at(text: str, key: str, table: str = "") -> Span:
    """The span of a key, in a table of the file if one is named; of the table if it is not found.

    Both may be written with and without quotes. Tables of JSON are not told apart.
    """
    found, inside, start = NOWHERE, "", 0
    nested = text.lstrip().startswith("{")
    for line in text.split("\n"):
        if header := _HEADER.fullmatch(line):
            inside = header[1].strip("\"'")
            if inside in (table or key, f"{table}.{key}"):
                found = Span(start, start + len(line.rstrip()))
                if inside != table:
                    return found
        match = re.search(rf"(?:^|[{{,])\s*([\"']?)({re.escape(key)})\1\s*[=:.]", line)
        if match and (inside == table or nested):
            return Span(start + match.start(2), start + match.end(2))
        start += len(line) + 1
    return found


def stated_at(files: Sequence[Source], key: str) -> tuple[Source, Span] | None:
    """Where files state a key: `send`, `F.mlp` or `memory.stash`; the last of them that does.

    A file of sizes alone has no table `memory`.
    """
    table, dot, name = key.partition(".")
    for source in reversed(files):
        places = [key_at(source.text, key)]
        places += [key_at(source.text, name, table)] if dot else []
        places += [key_at(source.text, name)] if table == "memory" else []
        if span := next((one for one in places if one != NOWHERE), None):
            return source, span
    return None


def broken_at(text: str, error: Exception) -> tuple[Span, str]:
    """Where a reader gave up, and why."""
    if isinstance(error, json.JSONDecodeError):
        return Span(error.pos, error.pos + 1), error.msg
    if isinstance(error, RecursionError):
        return Span(0, 1), "it is nested too deeply"
    if (long := _LONG.search(text)) and said(error) != str(error):
        return Span(long.start(), long.end()), said(error)
    place, message = _AT.search(str(error)), _AT.sub("", str(error)).strip()
    if not place or not place[1]:
        return Span(len(text.rstrip()), len(text.rstrip()) + 1), message
    before = text.split("\n")[: int(place[1]) - 1]
    at = sum(len(line) + 1 for line in before) + int(place[2]) - 1
    return Span(at, at + 1), message


def said(error: Exception) -> str:
    """What a reader says; of integers that Python does not read, in words about the file."""
    return "a number has too many digits" if "int_max_str_digits" in str(error) else str(error)
