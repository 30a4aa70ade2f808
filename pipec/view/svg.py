"""A timeline as a picture: SVG that stands alone, light and dark."""

from html import escape

from pipec.program.effects import Kind
from pipec.program.placement import Placement
from pipec.simulate.report import Report
from pipec.simulate.timeline import Timeline
from pipec.view.blocks import Block, blocks
from pipec.view.colours import COLOURS, WORDS, colour

_ROW, _GAP, _LEFT, _TOP, _BOTTOM = 26, 4, 64, 56, 76
_NARROWEST, _WIDEST, _CELL = 560, 6000, 26

_STYLE = """
text { font: 11px ui-sans-serif, system-ui, sans-serif; fill: #222 }
.title { font-size: 15px; font-weight: 600 } .faint { fill: #777 }
.cell { text-anchor: middle; font-size: 10px; fill: #111; pointer-events: none }
.idle { fill: #eee } .grid { stroke: #ccc; stroke-width: 1 }
@media (prefers-color-scheme: dark) {
  text { fill: #ddd } .faint { fill: #999 } .idle { fill: #2a2a2a } .grid { stroke: #444 }
  .cell { fill: #111 } .back { fill: #161616 }
}
.back { fill: none }
"""


def timeline_svg(time: Timeline, report: Report, title: str) -> str:
    """The picture of a timeline with its figures; one rectangle an operation, hover for details."""
    ranks = blocks(time)
    placement = time.table.placement
    last = max((block.end for rank in ranks for block in rank), default=1)
    width = _width(ranks, last)
    height = _TOP + len(ranks) * (_ROW + _GAP) + _BOTTOM
    scale = width / last
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + width + 16}" height="{height}" '
        f'viewBox="0 0 {_LEFT + width + 16} {height}" role="img">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        '<rect class="back" width="100%" height="100%"/>',
        f'<text class="title" x="12" y="22">{escape(title)}</text>',
        f'<text class="faint" x="12" y="40">{escape(_figures(report))}</text>',
    ]
    for number, rank in enumerate(ranks):
        top = _TOP + number * (_ROW + _GAP)
        parts.append(f'<text x="12" y="{top + 17}">rank {number}</text>')
        parts.append(
            f'<rect class="idle" x="{_LEFT}" y="{top}" width="{width}" height="{_ROW}" rx="2"/>'
        )
        for block in rank:
            parts += _block(block, top, scale, placement, time)
    parts += _axis(time, last, width, _TOP + len(ranks) * (_ROW + _GAP))
    parts += _legend(placement, height - 34)
    return "\n".join([*parts, "</svg>\n"])


def _figures(report: Report) -> str:
    return (
        f"makespan {float(report.makespan):g}, bubble {report.bubble_rate:.1%} on the worst rank "
        f"(span bubble {report.span_bubble_rate:.1%}), peak memory {float(report.peak_memory):g}"
    )


def _width(ranks: list[list[Block]], last: int) -> int:
    """Wide enough for a label in the shortest block, within reason."""
    shortest = min(
        ((b.end - b.begin) / len(b.parts) for rank in ranks for b in rank if b.end > b.begin),
        default=1,
    )
    return int(min(max(_NARROWEST, last / shortest * _CELL), _WIDEST))


def _block(
    block: Block, top: float, scale: float, placement: Placement, time: Timeline
) -> list[str]:
    drawn = []
    share = (block.end - block.begin) * scale / len(block.parts)
    begin, end = (float(time.units(tick)) for tick in (block.begin, block.end))
    for number, (kind, flow, stage, microbatch) in enumerate(block.parts):
        left = _LEFT + block.begin * scale + number * share
        what = f"{kind.name} {placement.flows[flow].name}, stage {stage}, microbatch {microbatch}"
        overlap = ", in an OVERLAP" if len(block.parts) > 1 else ""
        drawn.append(
            f'<rect x="{left + 0.5:.2f}" y="{top}" width="{max(share - 1, 0.4):.2f}" '
            f'height="{_ROW}" rx="2" fill="{colour(kind, flow)}">'
            f"<title>{escape(what)}{overlap}: {begin:g} to {end:g}</title></rect>"
        )
        if share >= 14:
            x = left + share / 2
            drawn.append(f'<text class="cell" x="{x:.2f}" y="{top + 17}">{microbatch}</text>')
    if len(block.parts) > 1:
        left, width = _LEFT + block.begin * scale + 0.5, (block.end - block.begin) * scale - 1
        drawn.append(
            f'<rect x="{left:.2f}" y="{top}" width="{max(width, 0.4):.2f}" height="{_ROW}" '
            'rx="2" fill="none" stroke="#333" stroke-width="1.2" pointer-events="none"/>'
        )
    return drawn


def _axis(time: Timeline, last: int, width: int, top: float) -> list[str]:
    drawn = []
    for part in range(5):
        x = _LEFT + width * part / 4
        value = float(time.units(last)) * part / 4
        anchor = ("start", "middle", "middle", "middle", "end")[part]
        drawn.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{top + 5}"/>')
        drawn.append(f'<text class="faint" x="{x:.1f}" y="{top + 17}" ')
        drawn.append(f'text-anchor="{anchor}">{value:g}</text>')
    return drawn


def _legend(placement: Placement, y: float) -> list[str]:
    drawn, x = [], 12
    for kind in (Kind.F, Kind.B, Kind.W, Kind.BW):
        drawn.append(
            f'<rect x="{x}" y="{y - 10}" width="12" height="12" rx="2" fill="{COLOURS[kind][0]}"/>'
        )
        drawn.append(f'<text x="{x + 17}" y="{y}">{WORDS[kind]}</text>')
        x += 30 + 6 * len(WORDS[kind])
    flows = ", ".join(flow.name for flow in placement.flows[1:])
    note = "numbers: microbatch; framed: OVERLAP" + (f"; lighter: flow {flows}" if flows else "")
    return [*drawn, f'<text class="faint" x="12" y="{y + 20}">{escape(note)}</text>']
