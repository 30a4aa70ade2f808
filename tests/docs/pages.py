"""Markdown pages taken apart: fenced blocks with what the comment above each says, and links.

A comment directly above a block says how it is to be taken:

    <!-- not run: why -->       leave it alone
    <!-- exit: 1 -->            its last command ends with this status
    <!-- code: deadlock -->     and prints a finding of this code
    <!-- file: mine.pipe -->    write it to this file, for the commands below it

A `text` or `json` block right below a `sh` block is what its last command prints.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PAGES = [page for page in PAGES if page.exists()]

_FENCE = re.compile(r"^```(\w*)\s*$")
_COMMENT = re.compile(r"^<!-- ([a-z ]+?)(?:: (.*?))? -->$")
_LINK = re.compile(r"!?\[[^\]\n]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block; `begin` and `end` are the lines of its content, counted from 0."""

    language: str
    content: str
    begin: int
    end: int
    marks: dict[str, str] = field(default_factory=dict)

    @property
    def commands(self) -> list[str]:
        """The lines of a `sh` block that call pipec or sed, continuation lines joined."""
        lines = self.content.replace("\\\n", " ").splitlines()
        return [line for line in lines if re.match(r"(pipec|sed)\s", line)]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    lines = page.read_text(encoding="utf-8").splitlines()
    found, begin, language = [], -1, ""
    for number, line in enumerate(lines):
        fence = _FENCE.match(line)
        if not fence:
            continue
        if begin < 0:
            begin, language = number + 1, fence[1]
            continue
        content = "\n".join(lines[begin:number]) + "\n"
        found.append(Block(language, content, begin, number, _marks(lines, begin - 2)))
        begin = -1
    assert begin < 0, f"{page.name}: the block of line {begin} is not closed"
    return found


def _marks(lines: list[str], above: int) -> dict[str, str]:
    marks = {}
    while above >= 0 and (comment := _COMMENT.match(lines[above])):
        marks[comment[1]] = comment[2] or ""
        above -= 1
    return marks


def output_of(page: Path, block: Block) -> Block | None:
    """The block right below, if it is what `block` prints."""
    lines = page.read_text(encoding="utf-8").splitlines()
    for other in blocks(page):
        between = lines[block.end + 1 : other.begin - 1]
        if other.begin > block.end and other.language in ("text", "json"):
            return None if any(between) else other
    return None


def links(page: Path) -> Iterator[str]:
    """The targets of the links of a page, code left out."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for match in _LINK.finditer(re.sub(r"`[^`\n]*`", "", text)):
        yield match[1]


def anchors(page: Path) -> set[str]:
    """What a link to a heading of this page may end in, after the rule of GitHub."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", title.lower()) for title in titles)
    return {title.strip().replace(" ", "-") for title in plain}
