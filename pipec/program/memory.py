"""What a rank holds, and how large it is: in bytes, or in a unit of the author's own."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from pipec.amounts import amount_text, parse_amount
from pipec.findings import Finding, PipecError
from pipec.program.costs import PerStage
from pipec.program.effects import EFFECTS, Kind
from pipec.program.sizes import (
    CONSTANT,
    KEPT,
    RIVALS,
    SIZE_OF,
    SIZES,
    any_of,
    at_stage,
    read_stated,
    settle,
    unstated,
)
from pipec.source import Span


@dataclass(frozen=True)
class Limit:
    """The most that any rank may hold, and the text that says so."""

    most: Fraction
    in_bytes: bool = False
    span: Span | None = None

    @classmethod
    def of(cls, stated: Fraction | int | str) -> "Limit":
        """A limit from a number, or a text such as `"80GB"`. Raises `PipecError`."""
        amount = parse_amount(str(stated))
        if amount is None:
            message = "this is no limit of memory"
            expected = "a number of 0 or more, or bytes such as `40GB` or `512MiB`"
            raise PipecError([Finding("usage", message, None, expected, str(stated)[:60])])
        return cls(*amount)

    @property
    def text(self) -> str:
        """The limit as people read it."""
        return amount_text(self.most, self.in_bytes)


@dataclass(frozen=True)
class Memory:
    """Sizes per key of `SIZES`, one number or one per stage, in bytes or in the author's unit.

    Unless stated, an activation is 1 unit (0 bytes), a stash is as large as an activation, and the
    rest is 0. So peaks count activations of one stage from F to W, as papers do.
    """

    sizes: Mapping[str, PerStage] = field(default_factory=dict)
    in_bytes: bool = False
    limit: Limit | None = None

    @classmethod
    def of(cls, stated: Mapping[str, Any]) -> "Memory":
        """Sizes from numbers or texts such as `"1.5GB"`, or lists of them with one per stage.

        Raises `PipecError` for an unknown key, a value that is no amount, or a contradiction.
        """
        settled = settle({key: read_stated(key, value) for key, value in stated.items()})
        if settled.wrong:
            raise PipecError([replace(finding, code="usage") for _, finding in settled.wrong])
        return cls(settled.sizes, settled.in_bytes)

    def size(self, key: str, stage: int) -> Fraction:
        """The size of one thing of a stage."""
        stated = self.sizes.get(key)
        if stated is not None:
            return at_stage(stated, stage)
        if key == "stash":
            return self.size("activation", stage)
        return unstated(key, self.in_bytes)

    @property
    def differs(self) -> bool:
        """Whether some size differs from stage to stage."""
        return any(isinstance(stated, tuple) for stated in self.sizes.values())

    def per_stage(self, key: str, stages: int) -> list[Fraction]:
        """The sizes of one thing of each stage."""
        if self.differs:
            return [self.size(key, stage) for stage in range(stages)]
        return [self.size(key, 0)] * stages

    def constant(self, stage: int) -> Fraction:
        """What a held stage takes all the time."""
        return sum((self.size(key, stage) for key in CONSTANT), Fraction(0))

    def change(self, kind: Kind, stage: int) -> Fraction:
        """How much more a rank holds for a stage after an operation than before it."""
        effect = EFFECTS[kind]
        made, freed = (
            sum(
                (self.size(SIZE_OF[use.value], stage) for use in uses if use.value in KEPT),
                Fraction(0),
            )
            for uses in (effect.produces, effect.releases)
        )
        return made - freed

    @property
    def not_counted(self) -> tuple[str, ...]:
        """What has no size although others are known in bytes."""
        if not self.in_bytes:
            return ()
        known = {*self.sizes, *(CONSTANT if "state" in self.sizes else ()), "state", "stash"}
        return tuple(key for key in SIZES if key not in known)

    def text(self, amount: float | Fraction, of: float | Fraction = 0) -> str:
        """An amount as people read it (see `amount_text`)."""
        return amount_text(amount, self.in_bytes, of)

    def override(self, other: "Memory") -> "Memory":
        """These sizes and limit, with everything that `other` states taking its place.

        Raises `PipecError` where what is left is in another unit.
        """
        replaced = {*other.sizes} | {key for key in other.sizes for key in RIVALS.get(key, ())}
        kept = {key: size for key, size in self.sizes.items() if key not in replaced}
        left = [key for key, size in kept.items() if any_of(size)]
        if left and any(map(any_of, other.sizes.values())) and self.in_bytes != other.in_bytes:
            message = f"`{left[0]}` of the schedule is {_unit(self.in_bytes)}"
            found, hint = _unit(other.in_bytes), f"state `{left[0]}` as well"
            raise PipecError([Finding("usage", message, None, "one unit", found, hint)])
        in_bytes = other.in_bytes or (self.in_bytes and bool(left or not other.sizes))
        return Memory({**kept, **other.sizes}, in_bytes, other.limit or self.limit)

    def wrong_limit(self) -> Finding | None:
        """The finding for a limit in another unit than the sizes."""
        if not self.limit or not self.limit.most or self.limit.in_bytes == self.in_bytes:
            return None
        message, expected = "the limit is in bytes, the sizes are not", "a plain number"
        hint = "state sizes in bytes: `memory activation = 1.5GB`, or `--memory activation=1.5GB`"
        if self.in_bytes:
            message, expected = "the sizes are in bytes, the limit is not", "bytes, such as `80GB`"
            hint = "`--memory-limit` takes the place of the text's limit"
        code, found = "value" if self.limit.span else "usage", self.limit.text
        return Finding(code, message, self.limit.span, expected, found, hint)


def with_limit(memory: Memory | None, limit: Limit | None) -> Memory | None:
    """Sizes with a limit, or a limit alone, or None where neither is stated."""
    return replace(memory or Memory(), limit=limit) if limit else memory


def _unit(in_bytes: bool) -> str:
    return "in bytes" if in_bytes else "a plain number"
