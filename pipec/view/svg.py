"""A timeline as a picture: SVG that stands alone, on light and on dark pages."""

from dataclasses import dataclass
from html import escape

import numpy as np

from pipec.program.effects import Kind
from pipec.program.placement import Placement
from pipec.simulate.report import RankReport, Report
from pipec.simulate.timeline import Timeline
from pipec.simulate.usage import Usage
from pipec.view.blocks import Block, blocks
from pipec.view.colours import WORDS, colour
from pipec.view.marks import STYLE, box, breadth, cut, ticks, word
from pipec.view.shades import shade, shades

_ROW, _STRIP, _GAP, _TOP, _MARGIN = 28, 11, 9, 66, 14
_NARROWEST, _WIDEST, _CELL, _TICK = 560, 6000, 26, 90
_COLUMN = 52
"""Pixels of a column of figures behind the rows."""


@dataclass(frozen=True)
class _Picture:
    """What is drawn, and where: a tick of time is `scale` pixels."""

    time: Timeline
    report: Report
    used: Usage | None
    ranks: list[list[Block]]
    last: int
    left: float
    width: float

    @property
    def placement(self) -> Placement:
        return self.time.table.placement

    @property
    def scale(self) -> float:
        return self.width / self.last

    @property
    def pitch(self) -> float:
        """From the top of one rank to the top of the next."""
        return _ROW + _GAP + (_STRIP + 1 if self.used else 0)

    @property
    def bottom(self) -> float:
        """The end of the last rank's row."""
        return _TOP + len(self.ranks) * self.pitch - _GAP

    @property
    def shades(self) -> tuple[str, ...]:
        return shades(self.placement)


def timeline_svg(
    time: Timeline, report: Report, title: str, used: Usage | None = None, costs: str = ""
) -> str:
    """The picture of a timeline with its figures; hover over an operation for its details.

    used: the memory over time of the same timeline, drawn as a strip below each rank.
    costs: what the figures were computed with.
    """
    said = f"; costs {costs}" if costs else ""
    picture = _picture(time, report, used)
    legend, depth = _legend(picture)
    width = picture.left + picture.width + 2 * _COLUMN + _MARGIN
    height = picture.bottom + 34 + depth
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img">',
        f"<title>{escape(title + said)}</title><style>{STYLE}</style>",
        '<rect class="back" width="100%" height="100%" rx="6"/>',
        word(_MARGIN, 24, cut(title, width - 2 * _MARGIN, 15), "title"),
        word(_MARGIN, 42, cut(_figures(report) + said, width - 2 * _MARGIN, 11), "faint"),
        *_axis(picture),
    ]
    for rank in range(len(picture.ranks)):
        parts += _rank(picture, rank, _TOP + rank * picture.pitch)
    return "\n".join([*parts, *legend, "</svg>\n"])


def _picture(time: Timeline, report: Report, used: Usage | None) -> _Picture:
    ranks = blocks(time)
    last = max((block.end for rank in ranks for block in rank), default=1) or 1
    labels = [_stages(time.table.placement, rank) for rank in range(len(ranks))]
    left = 2 * _MARGIN + max(breadth(f"rank {len(ranks)}"), *(breadth(it, 9.5) for it in labels))
    return _Picture(time, report, used, ranks, last, left, _width(ranks, last))


def _width(ranks: list[list[Block]], last: int) -> int:
    """Wide enough for a label in all but the very shortest blocks, within reason."""
    lengths = sorted(b.end - b.begin for rank in ranks for b in rank if b.end > b.begin)
    short = lengths[len(lengths) // 20] if lengths else last
    return int(min(max(_NARROWEST, last / short * _CELL), _WIDEST))


def _figures(report: Report) -> str:
    return (
        f"makespan {float(report.makespan):g}, bubble {report.bubble_rate:.1%} on the worst rank "
        f"(span bubble {report.span_bubble_rate:.1%}), peak memory {report.peak_text}"
    )


# --- rows -----------------------------------------------------------------------------------------


def _rank(picture: _Picture, rank: int, top: float) -> list[str]:
    """One rank: its name, its operations, its memory, its figures."""
    drawn = [
        word(_MARGIN, top + (13 if picture.used else 12), f"rank {rank}"),
        word(_MARGIN, top + 25, _stages(picture.placement, rank), "faint small"),
        box(picture.left, top, picture.width, _ROW, "idle"),
    ]
    for block in picture.ranks[rank]:
        drawn += _block(picture, block, top)
    if picture.used:
        drawn += _memory(picture, picture.used, rank, top + _ROW + 1)
    return drawn + _rank_figures(picture, picture.report.ranks[rank], top)


def _stages(placement: Placement, rank: int) -> str:
    held = [str(stage) for stage in placement.held(rank)]
    shown = held if len(held) <= 4 else [*held[:2], "…", held[-1]]
    return f"stage{'s' if len(held) > 1 else ''} {' '.join(shown)}"


def _block(picture: _Picture, block: Block, top: float) -> list[str]:
    """An operation, or an OVERLAP: its halves run at the same time, so one is above the other."""
    left, width = _span(picture, block)
    height = _ROW / len(block.parts)
    drawn = []
    for number, part in enumerate(block.parts):
        kind, flow, stage, _ = part
        fill = colour(kind, shade(picture.placement, block.rank, flow, stage), len(picture.shades))
        y = top + number * height
        drawn.append(box(left, y, width, height, "", fill, _details(picture, block, part)))
        drawn += _label(part, left, y + height / 2, width, len(block.parts) > 1)
    if len(block.parts) > 1:
        drawn.append(box(left + 0.4, top + 0.4, width - 0.8, _ROW - 0.8, "frame"))
    return drawn


def _span(picture: _Picture, block: Block) -> tuple[float, float]:
    begin, end = block.begin * picture.scale, block.end * picture.scale
    return picture.left + begin + 0.5, end - begin - 1


def _details(picture: _Picture, block: Block, part: tuple[Kind, int, int, int]) -> str:
    kind, flow, stage, microbatch = part
    begin, end = (float(picture.time.units(tick)) for tick in (block.begin, block.end))
    overlap = ", in an OVERLAP" if len(block.parts) > 1 else ""
    name = picture.placement.flows[flow].name
    what = f"{kind.name} of flow {name}, stage {stage}, microbatch {microbatch}{overlap}"
    return f"{what}: {begin:g} to {end:g}"


def _label(
    part: tuple[Kind, int, int, int], left: float, middle: float, width: float, half: bool
) -> list[str]:
    """`F12`, or only `12`, or nothing: what fits."""
    kind, _, _, microbatch = part
    size = 9 if half else 10
    for label in (f"{kind.name}{microbatch}", str(microbatch)):
        if breadth(label, size) + 2 <= width:
            style = "cell half" if half else "cell"
            return [word(left + width / 2, middle + 0.36 * size, label, style)]
    return []


def _memory(picture: _Picture, used: Usage, rank: int, top: float) -> list[str]:
    """The memory that a rank holds over time, as a share of the largest peak of any rank."""
    table, most = picture.time.table, max(int(used.peak.max()), 1)
    rows = table.compute[table.rank[table.compute] == rank]
    room = box(picture.left, top, picture.width, _STRIP, "room")
    if not len(rows):
        return [room]
    begins = picture.left + picture.time.begin[rows] * picture.scale
    end = picture.left + int(picture.time.end[rows[-1]]) * picture.scale
    heights = _STRIP * np.clip(used.held[rows] / most, 0, 1)
    path = "".join(
        f"H{x:.1f}V{top + _STRIP - height:.2f}"
        for x, height in zip(begins.tolist(), heights.tolist(), strict=True)
    )
    first = f"M{begins[0]:.1f} {top + _STRIP}"
    peak = f"peak memory {used.text(used.peak[rank])}"
    curve = f'<path class="held" d="{first}{path}H{end:.1f}V{top + _STRIP}Z"><title>{peak}</title>'
    return [room, f"{curve}</path>"]


def _rank_figures(picture: _Picture, row: RankReport, top: float) -> list[str]:
    right = picture.left + picture.width
    share = float(row.bubble) / (float(picture.report.makespan) or 1)
    return [
        word(right + _COLUMN - 4, top + 18, f"{share:.1%}", "end"),
        word(right + 2 * _COLUMN - 4, top + 18, f"{float(row.peak_memory):.4g}", "end"),
    ]


# --- axis and legend ------------------------------------------------------------------------------


def _axis(picture: _Picture) -> list[str]:
    """Round times below the rows, and the names of the figures behind them."""
    right = picture.left + picture.width
    drawn = [
        word(right + _COLUMN - 4, _TOP - 7, "bubble", "faint small end"),
        word(right + 2 * _COLUMN - 4, _TOP - 7, "memory", "faint small end"),
    ]
    for value in ticks(picture.last / picture.time.scale, int(picture.width // _TICK) + 1):
        x = picture.left + value * picture.time.scale * picture.scale
        drawn.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 4}" '
            f'y2="{picture.bottom + 5:.1f}"/>'
        )
        drawn.append(word(x, picture.bottom + 17, f"{value:g}", "faint small middle"))
    return drawn


def _legend(picture: _Picture) -> tuple[list[str], float]:
    """What colours, shades and frames mean, and how much room that takes."""
    parts = [part for rank in picture.ranks for block in rank for part in block.parts]
    kinds = [kind for kind in WORDS if any(part[0] is kind for part in parts)]
    entries: list[tuple[str, tuple[str, ...]]]
    entries = [(WORDS[kind], (colour(kind, 0),)) for kind in kinds]
    if len(picture.shades) > 1 and kinds:
        count = len(picture.shades)
        some = range(count) if count <= 4 else (0, count - 1)
        entries += [(picture.shades[n], (colour(kinds[0], n, count),)) for n in some]
    if any(len(block.parts) > 1 for rank in picture.ranks for block in rank):
        back = colour(Kind.BW if Kind.BW in kinds else Kind.B, 0)
        entries.append(("OVERLAP, both at once", (colour(Kind.F, 0), back)))
    drawn, x, y = [], float(_MARGIN), picture.bottom + 40
    for words, fills in entries:
        taken = 18 + breadth(words) + 10
        if x + taken > picture.left + picture.width + 2 * _COLUMN and x > _MARGIN:
            x, y = _MARGIN, y + 19
        height = 12 / len(fills)
        drawn += [box(x, y - 10 + i * height, 12, height, "", f) for i, f in enumerate(fills)]
        drawn += [box(x, y - 10, 12, 12, "frame")] if len(fills) > 1 else []
        drawn.append(word(x + 18, y, words))
        x += taken
    note = "numbers: microbatches" + (
        "; grey strips: memory held meanwhile" if picture.used else ""
    )
    return [*drawn, word(_MARGIN, y + 19, note, "faint")], y + 19 - picture.bottom - 20
