"""Schedules as people might write them: every construct, odd spacing, comments anywhere."""

import re
from itertools import count, pairwise

from hypothesis import strategies as st

from pipec.language.layout import layout
from pipec.source import Source

Draw = st.DrawFn

_GAP = st.sampled_from(["", " ", "  ", "     "])
_WORDS = re.compile(r"\w")
_COMMENT = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=12)
_PROSE = st.text(st.characters(exclude_characters='"\\', exclude_categories=["Cs"]), max_size=20)


def comments(text: str) -> list[str]:
    """All comments of a text, in order."""
    lines = layout(Source("text", text))
    spans = [*lines.comments, *(line.comment for line in lines.lines if line.comment)]
    return [text[span.start : span.end].rstrip() for span in sorted(spans)]


@st.composite
def texts(draw: Draw) -> str:
    """A text that can be read without a finding."""
    return _Author(draw).file()


class _Author:
    """Writes one text. An expression is a list of tokens; a line is tokens joined with gaps."""

    def __init__(self, draw: Draw):
        self._draw = draw
        self._fresh = count()
        self._flows: list[str] = []
        self._seen_settings = False

    def _pick(self, *values):
        return self._draw(st.sampled_from(values))

    def _chance(self, percent: int) -> bool:
        return self._draw(st.integers(1, 100)) <= percent

    # --- lines --------------------------------------------------------------------------------

    def file(self) -> str:
        parts = [self._docstring("")] if self._chance(30) else []
        parts += [self._schedule() for _ in range(self._draw(st.integers(1, 2)))]
        return "".join(self._between("") + part for part in parts) + self._between("")

    def _line(self, indent: str, tokens: list[str]) -> str:
        """Tokens joined with gaps; inside brackets a line may go on below."""
        text, depth = indent + tokens[0], 0
        for before, token in pairwise(tokens):
            depth += (before in "([") - (before in ")]")
            gap = self._draw(_GAP)
            if _WORDS.match(before[-1]) and _WORDS.match(token[0]):
                gap = gap or " "
            if depth and self._chance(4):
                comment = f"  #{self._draw(_COMMENT)}" if self._chance(40) else ""
                gap = f"{comment}\n{indent} {gap}"
            text += gap + token
        tail = f"{self._draw(_GAP)}#{self._draw(_COMMENT)}" if self._chance(20) else ""
        return f"{text}{tail}{self._draw(_GAP)}\n"

    def _between(self, indent: str) -> str:
        """Blank lines and comments on lines of their own."""
        text = ""
        while self._chance(15):
            comment = f"#{self._draw(_COMMENT)}" if self._chance(60) else ""
            text += f"{self._pick('', indent, '      ')}{comment}\n"
        return text

    def _docstring(self, indent: str) -> str:
        return self._line(indent, [f'"""{self._draw(_PROSE)}"""'])

    def _deeper(self, indent: str) -> str:
        return indent + " " * self._pick(1, 2, 4, 4, 4, 7)

    def _name(self) -> str:
        return f"n{next(self._fresh)}"

    # --- items --------------------------------------------------------------------------------

    def _schedule(self) -> str:
        names = ["P", "M"]
        head = ["schedule", self._name(), "(", "P", ",", "M"]
        for _ in range(self._draw(st.integers(0, 2))):
            head += [",", name := self._name(), "=", *self._number(names, 1)]
            names.append(name)
        indent = self._deeper("")
        text = self._line("", [*head, ")", ":"])
        text += self._docstring(indent) if self._chance(30) else ""
        self._flows, self._seen_settings = [], False
        for number in range(self._draw(st.integers(1, 2))):
            self._flows.append(f"flow{number}")
            text += self._between(indent) + self._line(indent, self._flow(names))
        text += self._pattern(indent, names) if self._chance(30) else ""
        for _ in range(self._draw(st.integers(0, 3))):
            text += self._between(indent) + self._line(indent, self._item(names))
        if self._chance(30):
            limit = ["limit", "memory", "<=", *self._decimal(names)]
            text += self._between(indent) + self._line(indent, limit)
        rank = self._name()
        way = self._pick("program", "program", "greedy", "every")
        head = {"greedy": ["greedy"], "every": ["every", *self._number(names, 1)]}.get(way, [])
        text += self._between(indent) + self._line(indent, [*head, "on", "rank", rank, ":"])
        inner, known = self._deeper(indent), [*names, rank]
        if way == "program":
            return text + self._body(inner, known, 3)
        lines = self._policy(known) if way == "greedy" else self._slots(known)
        return text + "".join(self._between(inner) + self._line(inner, line) for line in lines)

    def _pattern(self, indent: str, names: list[str]) -> str:
        parts = "attention dispatch mlp combine".split()
        head, inner = (
            ["overlap", *self._pick(["F", "&", "BW"], ["BW", "&", "F"]), ":"],
            self._deeper(indent),
        )
        lines = [["layers", *self._number([*names, "stage"], 1), ":", *parts], head]
        text = "".join(self._between(indent) + self._line(indent, line) for line in lines)
        lanes = {"compute": parts[::2], "wire": parts[1::2]}
        for lane in self._pick(["compute"], ["wire"], ["compute", "wire"]):
            kinds = "FBW" if lane == "compute" else "FB"
            named = [[kind, ".", part] for part in lanes[lane] for kind in kinds]
            words = self._draw(st.permutations(named))[: self._draw(st.integers(1, 4))]
            line = [lane, ":", *(token for word in words for token in word)]
            text += self._between(inner) + self._line(inner, line)
        return text

    def _policy(self, names: list[str]) -> list[list[str]]:
        kinds = self._pick(["F", "B", "W"], ["BW", "F"])
        prefer = ["prefer", kinds[0]]
        for kind in kinds[1:]:
            prefer += [">", *self._operation(kind, names, microbatch=False)]
        lines = [prefer]
        for _ in range(self._draw(st.integers(0, 2))):
            sign = self._pick("+", "-")
            count = self._operation(kinds[1], names, microbatch=False)
            lines.append(["limit", "F", sign, *count, "<=", *self._number(names, 2)])
        if self._chance(30):
            lines.append(["limit", "memory", "<=", *self._decimal(names)])
        return lines

    def _slots(self, names: list[str]) -> list[list[str]]:
        slots = [[kind, "at", *self._number(names, 2)] for kind in ("F", "B", "W")]
        return [["let", self._name(), "=", *self._number(names, 2)], *slots]

    def _flow(self, names: list[str]) -> list[str]:
        tokens = ["flow", self._flows[-1], "(", "stages", "=", *self._number(names, 1), ","]
        tokens += ["microbatches", "=", *self._number(names, 2)]
        tokens += [",", "backward", "=", *self._truth(names, 1)] if self._chance(30) else []
        return [*tokens, ")", ":", "rank", "=", *self._number([*names, "stage"], 2)]

    def _item(self, names: list[str]) -> list[str]:
        kind = self._pick("let", "require", "settings")
        if kind == "let":
            tokens = ["let", name := self._name(), "=", *self._number(names, 3)]
            names.append(name)
            return tokens
        if kind == "require":
            message = [",", f'"{self._name()} # (not a comment"'] if self._chance(50) else []
            return ["require", *self._truth(names, 3), *message]
        if self._seen_settings:
            return ["require", "true"]
        self._seen_settings = True
        tokens = ["cost", "F", "=", *self._decimal([*names, "stage"])]
        tokens += [",", "F", "&", "BW", "=", *self._decimal(names)] if self._chance(50) else []
        return tokens + ([",", "send", "=", "0.125"] if self._chance(50) else [])

    # --- statements ---------------------------------------------------------------------------

    def _body(self, indent: str, names: list[str], depth: int) -> str:
        names = list(names)
        text = ""
        for _ in range(self._draw(st.integers(1, 3))):
            text += self._between(indent) + self._statement(indent, names, depth)
        return text

    def _statement(self, indent: str, names: list[str], depth: int) -> str:
        kind = self._pick("units", "units", "let", "repeat", "for", "if") if depth else "units"
        if kind == "let":
            name = self._name()
            tokens = ["let", name, "=", *self._number(names, 3)]
            names.append(name)
            return self._line(indent, tokens)
        if kind == "if":
            return self._if(indent, names, depth)
        if kind == "units":
            return self._line(indent, self._units(names))
        head, inner = self._loop(kind, names)
        if self._chance(30):
            more, inner = self._loop(self._pick("repeat", "for"), inner)
            return self._line(indent, [*head, *more, *self._units(inner)])
        if self._chance(50):
            return self._line(indent, [*head, *self._units(inner)])
        return self._line(indent, head) + self._body(self._deeper(indent), inner, depth - 1)

    def _loop(self, kind: str, names: list[str]) -> tuple[list[str], list[str]]:
        if kind == "repeat":
            return ["repeat", *self._number(names, 2), ":"], names
        name = self._name()
        span = [*self._number(names, 2), "..", *self._number(names, 2)]
        return ["for", name, "in", *span, ":"], [*names, name]

    def _if(self, indent: str, names: list[str], depth: int) -> str:
        heads = [["if", *self._truth(names, 2), ":"]]
        while self._chance(30):
            heads.append(["elif", *self._truth(names, 2), ":"])
        heads += [["else", ":"]] if self._chance(50) else []
        text = ""
        for head in heads:
            if self._chance(40):
                text += self._line(indent, [*head, *self._units(names)])
            else:
                text += self._line(indent, head)
                text += self._body(self._deeper(indent), names, depth - 1)
        return text

    def _units(self, names: list[str]) -> list[str]:
        tokens: list[str] = []
        for _ in range(self._draw(st.integers(1, 3))):
            tokens += self._operation(self._pick("F", "B", "W", "BW"), names)
            if self._chance(20):
                tokens += [*self._operation("F", names), "&"]
                tokens += self._operation(self._pick("B", "BW"), names)
        return tokens

    def _operation(self, kind: str, names: list[str], microbatch: bool = True) -> list[str]:
        flow, chunk = self._chance(40), self._chance(40)
        inside = [self._flow_value(names)] if flow else []
        inside += [self._number(names, 1)] if chunk else []
        tokens = [kind]
        if inside:
            tokens += ["[", *inside[0], *([",", *inside[1]] if len(inside) > 1 else []), "]"]
        tokens += ["(", *self._number(names, 1), ")"] if microbatch and self._chance(25) else []
        return tokens

    # --- expressions --------------------------------------------------------------------------

    def _flow_value(self, names: list[str]) -> list[str]:
        if self._chance(70):
            return [self._pick(*self._flows)]
        sides = self._pick(*self._flows), self._pick(*self._flows)
        return [sides[0], "if", *self._truth(names, 1), "else", sides[1]]

    def _number(self, names: list[str], depth: int) -> list[str]:
        kind = self._pick("name", "digit", *(("sum", "minus", "call", "if", "()") if depth else ()))
        if kind == "name":
            return [self._pick(*names)]
        if kind == "digit":
            return [str(self._draw(st.integers(0, 20)))]
        inner = self._number(names, depth - 1)
        if kind == "minus":
            return ["-", *(["(", *inner, ")"] if "if" in inner else inner)]
        if kind == "()":
            return ["(", *inner, ")"]
        if kind == "call":
            name = self._pick("min", "max", "abs")
            more = [] if name == "abs" else [",", *self._number(names, depth - 1)]
            return [name, "(", *inner, *more, ")"]
        other = self._number(names, depth - 1)
        if kind == "if":
            return ["(", *inner, "if", *self._truth(names, depth - 1), "else", *other, ")"]
        return [*inner, self._pick("+", "-", "*", "/", "//", "%", "**"), *other]

    def _truth(self, names: list[str], depth: int) -> list[str]:
        kind = self._pick(
            "true", "false", *(("<", "<=", "not", "and", "or", "()") if depth else ())
        )
        if kind in ("true", "false"):
            return [kind]
        if kind in ("<", "<="):
            first, second = self._number(names, depth - 1), self._number(names, depth - 1)
            return [*first, kind, *second, *self._pick([], ["!=", *self._number(names, 0)])]
        inner = self._truth(names, depth - 1)
        if kind == "()":
            return ["(", *inner, ")"]
        if kind == "not":
            return ["not", *inner]
        return [*inner, kind, *self._truth(names, depth - 1)]

    def _decimal(self, names: list[str]) -> list[str]:
        return [self._pick("0.5", "2.25", "3"), self._pick("+", "*", "/"), *self._number(names, 2)]
