"""A timeline in the terminal: one line per rank, time from left to right."""

from itertools import pairwise

from rich.text import Text

from pipec.program.effects import Kind
from pipec.program.program import Table
from pipec.simulate.timeline import Timeline
from pipec.view.blocks import Block, blocks
from pipec.view.colours import COLOURS, WORDS, colour

_SMALLEST = 20


def timeline_text(time: Timeline, width: int) -> Text:
    """The whole timeline in `width` columns. Colours tell the kinds apart; so do letters without
    them.
    """
    ranks = blocks(time)
    label = len(f"rank {len(ranks) - 1} ")
    last = max((block.end for rank in ranks for block in rank), default=0) or 1
    space = max(width - label, _SMALLEST)
    columns = min(space, max(_SMALLEST, 4 * _steps(ranks, last)))
    text = Text()
    for number, rank in enumerate(ranks):
        text.append(f"rank {number}".ljust(label), "bold")
        text.append(_line(rank, last, columns)).append("\n")
    return text.append(" " * label).append(_axis(time, last, columns), "dim")


def order_text(table: Table) -> str:
    """One line a rank: `F0.1` is F of stage 0, microbatch 1; `&` joins the halves of an OVERLAP."""
    split = table.placement.split(table.operation)
    lines: list[list[str]] = [[] for _ in range(table.ranks)]
    for row in table.compute.tolist():
        line = lines[table.rank[row]]
        word = f"{Kind(table.kind[row]).name}{split.stage[row]}.{split.microbatch[row]}"
        line.append(f"{line.pop()}&{word}" if table.tie[row] and line else word)
    return "\n".join(f"rank {rank}: {' '.join(words)}" for rank, words in enumerate(lines))


def legend_text() -> Text:
    """What the colours mean."""
    text = Text()
    for kind, (first, _) in COLOURS.items():
        text.append(f" {kind.name} ", f"black on {first}").append(f" {WORDS[kind][2:].strip()}   ")
    return text.append(" lighter: second flow", "dim")


def _steps(ranks: list[list[Block]], last: int) -> int:
    """How many of the shortest blocks fit in the whole time."""
    shortest = min((b.end - b.begin for rank in ranks for b in rank if b.end > b.begin), default=1)
    return max(1, last // shortest)


def _line(rank: list[Block], last: int, columns: int) -> Text:
    text = Text()
    place = 0
    for block in rank:
        begin, end = block.begin * columns // last, block.end * columns // last
        if begin > place:
            text.append("·" * (begin - place), "dim")
        halves = zip(block.parts, _split(begin, end, len(block.parts)), ("", "&"), strict=False)
        for (kind, flow, _, microbatch), (left, right), tie in halves:
            cell = _cell(tie, kind.name, microbatch, right - left)
            text.append(cell, f"black on {colour(kind, flow)}")
        place = max(place, end)
    return text.append("·" * (columns - place), "dim")


def _split(begin: int, end: int, parts: int) -> list[tuple[int, int]]:
    """The columns of each part of a block; an OVERLAP is drawn as two halves."""
    edges = [begin + (end - begin) * part // parts for part in range(parts + 1)]
    return list(pairwise(edges))


def _cell(tie: str, kind: str, microbatch: int, width: int) -> str:
    """As much of `F12`, or of `&BW12` behind it in an OVERLAP, as fits: the kind before all."""
    for label in (f"{tie}{kind}{microbatch}", f"{kind}{microbatch}", kind, kind[:1]):
        if len(label) <= width:
            return label.ljust(width)
    return ""


def _axis(time: Timeline, last: int, columns: int) -> str:
    """The time at the left and right end."""
    end = f"{float(time.units(last)):g}"
    return "0" + end.rjust(columns - 1)
