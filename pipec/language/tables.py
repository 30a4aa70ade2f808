"""The grammar -> its parser, from tables that stand beside it: making them takes longer than
reading, lowering and verifying a schedule.
"""

import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import Any

import lark
from lark import Lark
from lark.grammar import Rule
from lark.lexer import TerminalDef

TABLES = "grammar.json"


@cache
def parser() -> Lark:
    """The parser of lines (start `line`) and of single expressions (start `expression`).

    Tables of another grammar, or of another version of Lark, are not used.
    """
    grammar = _read("grammar.lark")
    tables = json.loads(_read(TABLES), object_hook=_numbered)
    return Lark.load(tables) if tables["of"] == digest(grammar) else _built(grammar)


def made_tables() -> str:
    """What the tables of the present grammar are, as JSON."""
    grammar = _read("grammar.lark")
    data, memo = _built(grammar).memo_serialize([TerminalDef, Rule])
    return (
        json.dumps({"of": digest(grammar), "data": data, "memo": memo}, separators=(",", ":"))
        + "\n"
    )


def digest(grammar: str) -> str:
    """What the tables depend on."""
    return hashlib.sha256(f"{lark.__version__}\n{grammar}".encode()).hexdigest()


def _built(grammar: str) -> Lark:
    starts = ["line", "expression"]
    return Lark(grammar, start=starts, parser="lalr", propagate_positions=True)


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _numbered(entries: dict[str, Any]) -> dict[Any, Any]:
    """JSON's names are texts; the tables' are numbers too."""
    return {int(name) if name.isdigit() else name: entry for name, entry in entries.items()}
