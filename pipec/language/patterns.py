"""What can be known of an `overlap` block before any size is."""

from pipec.findings import listed, nearest
from pipec.language import syntax as s
from pipec.language.kinds import Scope

WIRES, OUT = ("dispatch", "combine"), "out"
"""The parts that are all-to-alls, and the one that follows the last of them."""
WIRE = "wire"
"""The lane of all-to-alls."""


def overlaps(kinds: list[str]) -> bool:
    """Whether operations of these kinds can be an OVERLAP."""
    return sorted(kinds) in (["B", "F"], ["BW", "F"])


def check_pattern(pattern: s.Pattern, scope: Scope) -> None:
    """A pair, and each lane and each part at most once, where it can run."""
    operations = pattern.pair.operations
    kinds = [operation.kind for operation in operations]
    whole = not any(one.selectors or one.microbatch for one in operations)
    if not overlaps(kinds) or not whole:
        expected = "`overlap F & BW:` or `overlap F & B:`"
        found = "other operations" if whole else "operations with brackets"
        message = "this is not a pair that may be interleaved"
        scope.add("kind", message, pattern.pair.span, expected, found)
    lanes: set[str] = set()
    parts: set[tuple[str, str]] = set()
    for lane in pattern.body:
        if not isinstance(lane, s.Lane):
            continue
        if lane.name in lanes:
            message, found = f"the lane `{lane.name}` is said already", f"`{lane.name}` again"
            scope.add("name", message, lane.span, "each lane once", found)
        lanes.add(lane.name)
        for part in lane.parts:
            known = _kind(part, kinds, scope) and _part(part, lane.name, scope)
            key = (part.kind, part.part.name)
            if known and key in parts:
                message, found = f"`{_text(part)}` stands here already", f"`{_text(part)}` again"
                scope.add("name", message, part.span, "each part once", found)
            parts.add(key)


def _kind(part: s.PartOf, kinds: list[str], scope: Scope) -> bool:
    """Whether the pair has parts of this kind. A BW has B and W parts."""
    known = ["F", "B", "W"] if "BW" in kinds else ["F", "B"]
    if part.kind in known:
        return True
    hint = None
    if part.kind == "BW":
        hint = f"write `B.{part.part.name}`, and `W.{part.part.name}` where it is to run"
    pair = " & ".join(kinds)
    scope.add("kind", f"{pair} has no such parts", part.span, listed(known), f"`{part.kind}`", hint)
    return False


def _part(part: s.PartOf, lane: str, scope: Scope) -> bool:
    """Whether a layer has this part, and it runs on this lane."""
    name, known = part.part.name, sorted({*scope.parts, OUT})
    if name not in known:
        hint = nearest(name, known) or "state `layers` before the pattern"
        message, found = f"no layer has a part `{name}`", f"`{name}`"
        scope.add("name", message, part.span, listed(known), found, hint)
        return False
    if name in WIRES and part.kind == "W":
        message, expected = "an all-to-all has no W", "W of a part that computes"
        scope.add("kind", message, part.span, expected, f"`{_text(part)}`")
        return False
    if (name in WIRES) != (lane == WIRE):
        does = "is an all-to-all" if name in WIRES else "computes"
        message = f"`{name}` {does}"
        expected = f"it behind `{'compute' if lane == WIRE else WIRE}:`"
        scope.add("kind", message, part.span, expected, f"it behind `{lane}:`")
        return False
    return True


def _text(part: s.PartOf) -> str:
    return f"{part.kind}.{part.part.name}"
