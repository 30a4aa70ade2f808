"""Parts: what a chunk is made of. Layers of compute parts and of the two all-to-alls of experts.

A part called `dispatch` or `combine` is an all-to-all, and every other part computes. A chunk
begins and ends with compute: where its last layer ends in an all-to-all, the part `out` follows,
which adds what came back to the residual and costs nothing unless stated.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from pipec.program.effects import Kind
from pipec.source import Span

WIRES = {"dispatch": Kind.DISPATCH, "combine": Kind.COMBINE}
OUT = "out"
MOST_PARTS = 2**12
"""Parts of one chunk."""


@dataclass(frozen=True)
class Part:
    """One part of a chunk: `mlp` of layer 3, written `mlp.3`."""

    name: str
    layer: int

    @property
    def wire(self) -> Kind | None:
        """DISPATCH or COMBINE; None for compute."""
        return WIRES.get(self.name)

    def __str__(self) -> str:
        return f"{self.name}.{self.layer}"


Layout = tuple[Part, ...]
"""The parts of one chunk in the order of its forward."""


def layout(layers: Iterable[Sequence[str]]) -> Layout:
    """The parts of a chunk from the names in each of its layers, with `out` where it is needed.

    Raises `ValueError`, with what is wrong, for layers that no chunk can have.
    """
    parts = [Part(name, number) for number, layer in enumerate(layers) for name in layer]
    if parts and parts[-1].wire is not None:
        parts.append(Part(OUT, parts[-1].layer + 1))
    return checked(tuple(parts))


def checked(parts: Layout) -> Layout:
    """The same parts. Raises `ValueError` if a chunk cannot be made of them."""
    if not parts:
        raise ValueError("a chunk has at least one part")
    if len(parts) > MOST_PARTS:
        raise ValueError(f"a chunk has at most {MOST_PARTS} parts, not {len(parts)}")
    if parts[0].wire is not None or parts[-1].wire is not None:
        raise ValueError(f"a chunk begins with compute, not with `{parts[0].name}`")
    for part, after in pairwise(parts):
        if part.wire is not None and after.wire is not None:
            raise ValueError(f"compute stands between `{part.name}` and `{after.name}`")
    seen: set[Part] = set()
    for part in parts:
        if part in seen:
            raise ValueError(f"a layer has one `{part.name}`, not two")
        seen.add(part)
    return parts


@dataclass(frozen=True)
class Entry:
    """`F.mlp` in a pattern: a step of one of the two operations, and the name of a part."""

    kind: Kind
    name: str
    span: Span | None = None

    def __str__(self) -> str:
        return f"{self.kind.name}.{self.name}"


@dataclass(frozen=True)
class Pattern:
    """How the parts of an OVERLAP of an F and a `backward` are issued, for each lane.

    A lane repeats its entries for every layer; what stands on none is issued where it fits.
    """

    backward: Kind
    compute: tuple[Entry, ...] = ()
    wire: tuple[Entry, ...] = ()


# --- as text --------------------------------------------------------------------------------------


def layout_text(parts: Layout) -> str:
    """`4 x attention dispatch mlp combine | out`: equal layers in a row are counted."""
    layers = [
        " ".join(part.name for part in layer)
        for _, layer in groupby(parts, key=lambda part: part.layer)
    ]
    counted = [(names, len(list(alike))) for names, alike in groupby(layers)]
    return " | ".join(f"{count} x {names}" if count > 1 else names for names, count in counted)


_LAYERS = re.compile(r"(?:(?P<count>\d{1,4})\s*x\s+)?(?P<names>[A-Za-z_]\w*(?:\s+[A-Za-z_]\w*)*)")


def parse_layout(text: str) -> Layout:
    """The inverse of `layout_text`. Raises `ValueError`, with what is wrong."""
    layers: list[list[str]] = []
    for piece in text.split("|"):
        match = _LAYERS.fullmatch(piece.strip())
        if not match:
            raise ValueError(f"`{piece.strip()}` is not `4 x attention dispatch mlp combine`")
        layers += [match["names"].split()] * int(match["count"] or 1)
        if len(layers) > MOST_PARTS:
            raise ValueError(f"a chunk has at most {MOST_PARTS} parts")
    return layout(layers)
