"""Schedules that can be said in the language: the library at given sizes, policies with knobs."""

from collections.abc import Iterator
from dataclasses import dataclass

from pipec.library import entries, find
from pipec.source import Source
from pipec.tune.recipe import Recipe

CHUNKS = (2, 3, 4)
"""How many chunks a rank may have where a schedule leaves it open."""


def library(ranks: int, microbatches: int) -> Iterator[Recipe]:
    """Every library schedule with every choice that it leaves open, legal at this size or not."""
    for entry in entries():
        names = [parameter.partition("=")[0].strip() for parameter in entry.parameters]
        source = find(entry.name)
        for extra in _choices(names[2:], ranks):
            sizes = {names[0]: ranks, names[1]: microbatches, **extra}
            yield Recipe("library", entry.name, sizes, source)


def _choices(names: list[str], ranks: int) -> Iterator[dict[str, int]]:
    """Values for the parameters beyond the sizes."""
    if not names:
        yield {}
    elif names == ["v"]:
        yield from ({"v": chunks} for chunks in CHUNKS)
    elif names == ["waves"]:
        yield from ({"waves": waves} for waves in (1, 2))
    elif names == ["most"]:
        step = max(1, ranks // 4)
        yield from ({"most": most} for most in range(2, 4 * ranks + 1, step))
    else:
        yield {}


@dataclass(frozen=True)
class Knobs:
    """A policy: what it prefers, and how many microbatches and stages a rank may hold.

    `caps` are per flow and chunk (a, b): at most `a + b * r` in flight on rank `r`; `held` bounds
    F - W of the whole rank, in stages.
    """

    placement: str
    prefer: str
    caps: tuple[tuple[int, int], ...]
    held: int
    chunks: int = 1


def policy(knobs: Knobs, ranks: int, microbatches: int) -> Recipe:
    """The text of a policy. Its numbers are parameters, so that people can change them."""
    numbers = {"held": knobs.held}
    lines = []
    last = "BW" if "BW" in knobs.prefer else "W"
    for number, (start, slope) in enumerate(knobs.caps):
        one, back = _selected(knobs, number)
        name = chr(ord("a") + number)
        numbers |= {name: start}
        sign, by = ("-" if slope < 0 else "+"), abs(slope)
        times = "" if by == 1 else f"{by} * "
        bound = f"max({name} {sign} {times}r, 1)" if slope else name
        lines.append(f"        limit {one} - {back} <= {bound}")
    parameters = ", ".join(["P", "M", *(f"{name}={value}" for name, value in numbers.items())])
    text = "\n".join(
        [
            f'"""A policy found by `pipec tune`: {knobs.placement}."""',
            f"schedule tuned({parameters}):",
            *_flows(knobs),
            "",
            "    greedy on rank r:",
            f"        prefer {knobs.prefer}",
            *lines,
            f"        limit F - {last} <= held",
            "",
        ]
    )
    sizes = {"P": ranks, "M": microbatches}
    return Recipe("policy", f"policy {knobs.placement}", sizes, Source("tuned.pipe", text))


def _selected(knobs: Knobs, number: int) -> tuple[str, str]:
    """The F and the backward of a chunk or a flow."""
    back = "BW" if "BW" in knobs.prefer else "B"
    if knobs.placement == "bidirectional":
        flow = ("down", "up")[number]
        return f"F[{flow}]", f"{back}[{flow}]"
    return (f"F[{number}]", f"{back}[{number}]") if knobs.chunks > 1 else ("F", back)


def _flows(knobs: Knobs) -> list[str]:
    match knobs.placement:
        case "linear":
            return ["    flow main(stages=P, microbatches=M): rank = stage"]
        case "v":
            place = "rank = min(stage, 2 * P - 1 - stage)"
            return [f"    flow main(stages=2 * P, microbatches=M): {place}"]
        case "interleaved":
            stages = f"{knobs.chunks} * P"
            return [f"    flow main(stages={stages}, microbatches=M): rank = stage % P"]
    return [
        "    flow down(stages=P, microbatches=M/2): rank = stage",
        "    flow up  (stages=P, microbatches=M/2): rank = P - 1 - stage",
    ]


def knobs_of(placement: str, chunks: int, ranks: int) -> Iterator[Knobs]:
    """Policies worth trying, in a fixed order."""
    for held in range(max(1, chunks), 4 * ranks * chunks // 2 + 1):
        for prefer in ("F > B > W", "B > F > W", "BW > F", "F > BW"):
            for caps in _caps(placement, chunks, ranks, held):
                yield Knobs(placement, prefer, caps, held, chunks)


def _caps(
    placement: str, chunks: int, ranks: int, held: int
) -> Iterator[tuple[tuple[int, int], ...]]:
    """Ways to bound what is in flight: not at all, or less the nearer to the end of the flow."""
    yield ()
    for more in (0, 1, 2, ranks // 2, ranks):
        for slope in (1, 2):
            deepest = slope * (ranks - 1)
            down, up = (deepest + 1 + more, -slope), (1 + more, slope)
            match placement:
                case "linear":
                    yield (down,)
                case "bidirectional":
                    yield (down, up)
                case "v":
                    yield ((2 * ranks + more, -1), up)
                    yield ((2 * ranks + more, -slope), (held, 0))
                case "interleaved":
                    yield tuple(
                        (deepest + 1 + more + ranks * (chunks - 1 - chunk), -slope)
                        for chunk in range(chunks)
                    )
