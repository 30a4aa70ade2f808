"""The closed instruction set and its one effects table.

What an instruction consumes, produces and releases, which lane it takes and what it costs stands
here and nowhere else; lowering, verifier, simulator, memory and runtime read it.
"""

from dataclasses import dataclass
from enum import Enum, IntEnum

import numpy as np


class Kind(IntEnum):
    """The instructions. OVERLAP is not among them: it is a tie between an F and a B or BW."""

    F = 0
    B = 1
    W = 2
    BW = 3
    SEND = 4
    RECV = 5
    SUM = 6
    DISPATCH = 7
    COMBINE = 8


class Step(IntEnum):
    """The three things that happen to a microbatch in a stage; the middle part of an operation's
    id.
    """

    FORWARD = 0
    BACKWARD = 1
    WEIGHTS = 2


class Lane(Enum):
    """Where an instruction runs; instructions of one lane run one after the other."""

    COMPUTE = "compute"
    WIRE = "point-to-point"
    REDUCE = "gradient sum"
    EXPERTS = "all-to-all"


class Value(Enum):
    """What passes between instructions."""

    ACTIVATION = "activation"
    GRADIENT = "gradient"
    SAVED = "what F saved for the backward"
    STASH = "what B kept for W"
    CARRIED = "what a slice hands on to the next of its sequence"
    RETURNED = "the gradient of what a slice handed on"


@dataclass(frozen=True)
class Use:
    """A value of the instruction's own stage, or of the one `stage` further along the flow; of its
    own microbatch, or of the one `slice` further along the sequence.
    """

    value: Value
    stage: int = 0
    slice: int = 0


@dataclass(frozen=True)
class Effect:
    """What one kind of instruction does. `step` is None where the id names no compute step."""

    kind: Kind
    step: Step | None
    lane: Lane
    cost: str
    consumes: tuple[Use, ...] = ()
    produces: tuple[Use, ...] = ()
    releases: tuple[Use, ...] = ()


_ACTIVATION, _GRADIENT = Use(Value.ACTIVATION), Use(Value.GRADIENT)
_SAVED, _STASH = Use(Value.SAVED), Use(Value.STASH)
_CARRIED, _RETURNED = Use(Value.CARRIED), Use(Value.RETURNED)

EFFECTS: dict[Kind, Effect] = {
    effect.kind: effect
    for effect in (
        Effect(
            Kind.F,
            Step.FORWARD,
            Lane.COMPUTE,
            cost="F",
            consumes=(_ACTIVATION, _CARRIED),
            produces=(Use(Value.ACTIVATION, +1), _SAVED, Use(Value.CARRIED, slice=+1)),
        ),
        Effect(
            Kind.B,
            Step.BACKWARD,
            Lane.COMPUTE,
            cost="B",
            consumes=(_SAVED, _GRADIENT, _RETURNED),
            produces=(Use(Value.GRADIENT, -1), _STASH, Use(Value.RETURNED, slice=-1)),
            releases=(_SAVED,),
        ),
        Effect(
            Kind.W,
            Step.WEIGHTS,
            Lane.COMPUTE,
            cost="W",
            consumes=(_STASH,),
            releases=(_STASH,),
        ),
        Effect(
            Kind.BW,
            Step.BACKWARD,
            Lane.COMPUTE,
            cost="BW",
            consumes=(_SAVED, _GRADIENT, _RETURNED),
            produces=(Use(Value.GRADIENT, -1), Use(Value.RETURNED, slice=-1)),
            releases=(_SAVED,),
        ),
        Effect(Kind.SEND, None, Lane.WIRE, cost="send"),
        Effect(Kind.RECV, None, Lane.WIRE, cost="send"),
        Effect(Kind.SUM, None, Lane.REDUCE, cost="sum"),
        Effect(Kind.DISPATCH, None, Lane.EXPERTS, cost="dispatch"),
        Effect(Kind.COMBINE, None, Lane.EXPERTS, cost="combine"),
    )
}


@dataclass(frozen=True)
class Need:
    """A value that a step waits for: made by `step` of the stage `stage` further along the flow and
    of the microbatch `slice` further along the sequence.
    """

    value: Value
    step: Step
    stage: int
    slice: int = 0


def _needs(step: Step) -> tuple[Need, ...]:
    """Join what a step consumes with what the table says produces it."""
    consumer = next(effect for effect in EFFECTS.values() if effect.step is step)
    needs = {
        Need(use.value, effect.step, use.stage - made.stage, use.slice - made.slice)
        for use in consumer.consumes
        for effect in EFFECTS.values()
        for made in effect.produces
        if made.value is use.value and effect.step is not None
    }
    return tuple(sorted(needs, key=lambda need: (need.step, need.stage, need.slice)))


NEEDS: dict[Step, tuple[Need, ...]] = {step: _needs(step) for step in Step}
"""For each step, all that must have happened before it. At the ends of a flow, and of a sequence,
there is less.
"""

TRAVELS: dict[Step, Need] = {step: need for step in Step for need in NEEDS[step] if need.stage != 0}
"""The value that may cross ranks to reach a step: what a SEND with that step's id carries."""

STEP = np.array(
    [-1 if EFFECTS[kind].step is None else EFFECTS[kind].step for kind in Kind], np.int8
)
"""The step of each kind as an array, -1 where it has none."""

COMPUTE = np.array([EFFECTS[kind].lane is Lane.COMPUTE for kind in Kind])
"""Whether each kind takes the compute lane, as an array."""

EXPERTS = np.array([EFFECTS[kind].lane is Lane.EXPERTS for kind in Kind])
"""Whether each kind takes the all-to-all lane, as an array."""
