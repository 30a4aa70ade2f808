"""One colour per kind of work, in the terminal and in pictures; a second flow is lighter."""

from pipec.program.effects import Kind

COLOURS: dict[Kind, tuple[str, str]] = {
    Kind.F: ("#4c78a8", "#9ecae9"),
    Kind.B: ("#e07b39", "#f7c08a"),
    Kind.W: ("#54a24b", "#a3d39c"),
    Kind.BW: ("#d1605e", "#f1a7a5"),
}
WORDS: dict[Kind, str] = {
    Kind.F: "F forward",
    Kind.B: "B backward for the input",
    Kind.W: "W backward for the weights",
    Kind.BW: "BW both",
}
IDLE = "#f2f2f2"


def colour(kind: Kind, flow: int) -> str:
    """The fill of one operation."""
    return COLOURS[kind][min(flow, 1)]
