"""One colour per kind of work, in the terminal and in pictures; a second flow is lighter.

The colours are told apart with every common kind of colour blindness (after Okabe and Ito), and
black text can be read on all of them.
"""

from pipec.program.effects import Kind

COLOURS: dict[Kind, tuple[str, str]] = {
    Kind.F: ("#56a9e4", "#c3e1f7"),
    Kind.B: ("#e69f00", "#fbdf9d"),
    Kind.W: ("#1fab82", "#aee3d3"),
    Kind.BW: ("#cc79a7", "#f0cfe1"),
}
"""The full colour of each kind, and the lightest one."""

WORDS: dict[Kind, str] = {
    Kind.F: "F forward",
    Kind.B: "B backward for the input",
    Kind.W: "W backward for the weights",
    Kind.BW: "BW both",
}


def colour(kind: Kind, shade: int, shades: int = 2) -> str:
    """The fill of one operation: shade 0 is full, shade `shades - 1` the lightest."""
    full, light = COLOURS[kind]
    share = min(shade / (shades - 1), 1) if shades > 1 else 0
    parts = [
        round(int(full[at : at + 2], 16) * (1 - share) + int(light[at : at + 2], 16) * share)
        for at in (1, 3, 5)
    ]
    return "#" + "".join(f"{part:02x}" for part in parts)
