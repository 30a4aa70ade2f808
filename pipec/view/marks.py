"""The marks that pictures are made of: boxes and words as SVG, and the style that they share."""

from html import escape

STYLE = """
text { font: 11px ui-sans-serif, system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: #24292f }
.title { font-size: 15px; font-weight: 600 } .faint { fill: #6a737d } .small { font-size: 9.5px }
.cell { text-anchor: middle; font-size: 10px; fill: #111; pointer-events: none }
.half { font-size: 9px } .end { text-anchor: end } .middle { text-anchor: middle }
.back { fill: #ffffff } .idle { fill: #eceff2 } .grid { stroke: #d0d7de; stroke-width: 1 }
.frame { fill: none; stroke: #24292f; stroke-width: 1.4; pointer-events: none }
.held { fill: #8c96a0 } .room { fill: #f4f6f8 }
@media (prefers-color-scheme: dark) {
  text { fill: #d5dbe1 } .faint { fill: #98a2ad } .cell { fill: #111 }
  .back { fill: #14181d } .idle { fill: #262c33 } .grid { stroke: #3a424b }
  .frame { stroke: #f0f3f6 } .held { fill: #77828d } .room { fill: #1c2127 }
}
"""


def box(
    x: float,
    y: float,
    width: float,
    height: float,
    style: str = "",
    fill: str = "",
    hover: str = "",
) -> str:
    """A rectangle: its style is a class, `fill` a colour; `hover` is shown under the pointer."""
    attributes = f' class="{style}"' if style else ""
    attributes += f' fill="{fill}"' if fill else ""
    inside = f"><title>{escape(hover)}</title></rect>" if hover else "/>"
    return (
        f'<rect x="{x:.2f}" y="{y:.2f}" width="{max(width, 0.4):.2f}" height="{height:.2f}" '
        f'rx="2"{attributes}{inside}'
    )


def word(x: float, y: float, content: str, style: str = "") -> str:
    """A line of text; `y` is its baseline."""
    attribute = f' class="{style}"' if style else ""
    return f'<text x="{x:.2f}" y="{y:.2f}"{attribute}>{escape(content)}</text>'


def breadth(content: str, size: float = 11) -> float:
    """About how wide a text is drawn, in pixels: fonts differ, so it is rather too much."""
    return size * sum(_BREADTHS.get(letter, 0.62) for letter in content)


def cut(content: str, room: float, size: float = 11) -> str:
    """As much of a text as fits into so many pixels."""
    if breadth(content, size) <= room:
        return content
    while content and breadth(f"{content}…", size) > room:
        content = content[:-1]
    return f"{content}…"


_BREADTHS = {**dict.fromkeys("WMmw%", 0.95), **dict.fromkeys("iljtfr.,:;'()|[] ", 0.4)}
"""Shares of the size that letters take which are far from the usual."""


def ticks(last: float, most: int) -> list[float]:
    """Round values from 0 to `last`, at most about `most` of them."""
    if last <= 0:
        return [0.0]
    step = 10.0**-12
    while step * most < last:
        for factor in (2, 2.5, 2):
            step *= factor
            if step * most >= last:
                break
    return [step * number for number in range(int(last / step + 1e-9) + 1)]
