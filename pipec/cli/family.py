"""`pipec verify --for`: every size in the ranges, with progress, counts and the first failure."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipec.cli.output import console, emit
from pipec.compiler import Settings
from pipec.families import Proof, Sizes, members, parse_range, prove
from pipec.processes import interruptible


@dataclass
class Tally:
    """What was proved of a family until now."""

    seconds: float = 0.0
    instructions: int = 0
    failed: Sizes | None = None
    counts: Counter[str] = field(default_factory=Counter)


def prove_family(
    target: str, ranges: Sequence[str], fixed: Sizes, settings: Settings, form: str
) -> Sizes | None:
    """Prove every member and print the counts; the sizes of the first failure, or None."""
    family = members([parse_range(text) for text in ranges], fixed)
    tally, begin = Tally(), time.perf_counter()
    with interruptible():
        for proof in _watched(prove(target, family, settings), target, len(family)):
            tally.counts[proof.outcome] += 1
            tally.instructions += proof.instructions
            if proof.outcome == "failed":
                tally.failed = proof.sizes
                break
    if not tally.counts["certified"]:  # nothing was proved: the first size says why
        tally.failed = tally.failed or family[0]
    tally.seconds = time.perf_counter() - begin
    if form == "json":
        emit(_json(tally))
    else:
        console().print(_text(target, tally))
    return tally.failed


def _watched(proofs: Iterator[Proof], target: str, count: int) -> Iterable[Proof]:
    """The same proofs, with a progress bar on a terminal."""
    screen = console(stderr=True)
    if not screen.is_terminal:
        return proofs
    columns = (TextColumn(target), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return _tracked(proofs, Progress(*columns, console=screen, transient=True), count)


def _tracked(proofs: Iterator[Proof], progress: Progress, count: int) -> Iterator[Proof]:
    with progress:
        yield from progress.track(proofs, total=count)


def _text(target: str, tally: Tally) -> str:
    counts = tally.counts
    line = (
        f"{counts['certified']:,} sizes of {target} certified, {tally.instructions:,} instructions"
    )
    if counts["refused"]:
        line += f"; {counts['refused']:,} are not legal sizes of it"
    line += f"; {tally.seconds:.1f} s"
    if tally.failed is None:
        return line
    sizes = " ".join(f"{name}={value}" for name, value in tally.failed.items())
    return f"{line}\nthe first failure: {sizes}"


def _json(tally: Tally) -> dict[str, object]:
    return {
        "ok": tally.failed is None,
        "certified": tally.counts["certified"],
        "refused": tally.counts["refused"],
        "instructions": tally.instructions,
        "seconds": round(tally.seconds, 3),
        "failed": None if tally.failed is None else dict(tally.failed),
    }
