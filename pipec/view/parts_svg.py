"""Parts as a picture: two rows per rank, compute and all-to-all, as SVG that stands alone."""

from html import escape

from pipec.program.effects import Kind
from pipec.simulate.timeline import Timeline
from pipec.view.colours import WORDS, colour
from pipec.view.lanes import LANES, Stroke, lanes
from pipec.view.marks import STYLE, box, breadth, cut, ticks, word
from pipec.view.shades import shades

_ROW, _GAP, _TOP, _MARGIN, _TICK = 22, 10, 58, 14, 90
_NARROWEST, _WIDEST, _CELL = 560, 12000, 44


def parts_svg(
    time: Timeline, title: str, window: tuple[int, int] | None = None, costs: str = ""
) -> str:
    """Both lanes of every rank; hover over a part for its details.

    window: the time that is drawn, in ticks; all of it unless stated. costs: what it comes from.
    """
    ranks = lanes(time)
    strokes = [stroke for both in ranks for lane in both for stroke in lane]
    begin, end = window or (0, max((stroke.end for stroke in strokes), default=1))
    width = _width(strokes, end - begin)
    left = 2 * _MARGIN + breadth(f"rank {len(ranks)}  {LANES[1]}")
    pitch = 2 * _ROW + 2 + _GAP
    bottom = _TOP + pitch * len(ranks) - _GAP
    drawn = [word(_MARGIN, 24, title, "title")]
    said = cut(f"costs {costs}", left + width - _MARGIN)
    drawn += [word(_MARGIN, 42, said, "faint")] if costs else []
    for value in ticks((end - begin) / time.scale, int(width // _TICK) + 1):
        x = left + value * time.scale * width / (end - begin)
        drawn.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 4}" y2="{bottom + 5}"/>'
        )
        at = value + float(time.units(begin))
        drawn.append(word(x, bottom + 17, f"{at:g}", "faint small middle"))
    for rank, both in enumerate(ranks):
        top = _TOP + rank * pitch
        drawn.append(word(_MARGIN, top + 15, f"rank {rank}"))
        for lane, row in enumerate(both):
            y = top + lane * (_ROW + 2)
            drawn.append(word(left - 6, y + 15, LANES[lane], "faint small end"))
            drawn.append(box(left, y, width, _ROW, "idle"))
            for stroke in row:
                if begin < stroke.end and stroke.begin < end:
                    drawn += _stroke(time, stroke, left, y, width, begin, end)
    names = shades(time.table.placement)
    drawn += _legend({stroke.kind for stroke in strokes}, names, bottom + 40)
    whole, height = left + width + _MARGIN, bottom + 52
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{whole:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {whole:.0f} {height:.0f}" role="img">'
    )
    back = '<rect class="back" width="100%" height="100%" rx="6"/>'
    said = escape(f"{title}; costs {costs}" if costs else title)
    style = f"<title>{said}</title><style>{STYLE}</style>"
    return "\n".join([head, style, back, *drawn, "</svg>\n"])


def _width(strokes: list[Stroke], span: int) -> float:
    """Wide enough for a label in all but the very shortest parts, within reason."""
    lengths = sorted(stroke.end - stroke.begin for stroke in strokes)
    short = lengths[len(lengths) // 20] if lengths else span
    return min(max(_NARROWEST, span / short * _CELL), _WIDEST)


def _stroke(
    time: Timeline, stroke: Stroke, left: float, y: float, width: float, begin: int, end: int
) -> list[str]:
    first, last = (
        left + (min(max(at, begin), end) - begin) * width / (end - begin)
        for at in (stroke.begin, stroke.end)
    )
    units = [float(time.units(at)) for at in (stroke.begin, stroke.end)]
    flow = time.table.placement.flows[stroke.flow].name
    what = f"{stroke.kind.name} of flow {flow}, stage {stroke.stage}"
    what += f", microbatch {stroke.microbatch}, {stroke.part}.{stroke.layer}"
    details = f"{what}: {units[0]:g} to {units[1]:g}"
    fill = colour(stroke.kind, stroke.shade, len(shades(time.table.placement)))
    drawn = [box(first + 0.5, y, last - first - 1, _ROW, "", fill, details)]
    name = f"{stroke.kind.name}{stroke.microbatch}"
    for label in (f"{name} {stroke.part}", f"{name} {stroke.part[:1]}", name):
        if breadth(label, 10) + 2 <= last - first:
            return [*drawn, word((first + last) / 2, y + 14.6, label, "cell")]
    return drawn


def _legend(kinds: set[Kind], names: tuple[str, ...], y: float) -> list[str]:
    """What colours and shades mean; an all-to-all has those of its operation."""
    entries = [(colour(kind, 0), WORDS[kind]) for kind in WORDS if kind in kinds]
    if len(names) > 1:
        entries += [(colour(Kind.F, at, len(names)), name) for at, name in enumerate(names)]
    drawn, x = [], float(_MARGIN)
    for fill, words in entries:
        drawn += [box(x, y - 10, 12, 12, "", fill), word(x + 18, y, words)]
        x += 28 + breadth(words)
    return [*drawn, word(x, y, "numbers: microbatches", "faint")]
