"""torch's own schedules, built in process by torch: `torch:ZBVZeroBubble`.

The only part of the compiler that needs torch, and only when it is asked for.
"""

import importlib
from collections.abc import Mapping
from typing import Any

from pipec.findings import Finding, PipecError, listed, nearest
from pipec.source import Source

PREFIX = "torch:"
_NAMES = (
    "1F1B",
    "DualPipeV",
    "GPipe",
    "Interleaved1F1B",
    "InterleavedZeroBubble",
    "LoopedBFS",
    "ZBVZeroBubble",
)
SIZES = ("P", "M", "v", "defer_recv", "comms")


def torch_schedule(target: str, parameters: Mapping[str, int | bool]) -> Source:
    """The CSV of one of torch's schedules as torch lowers it.

    target: `torch:NAME`. parameters: P ranks, M microbatches, v stages per rank (2 if the schedule
    has several and nothing is said), `defer_recv` for torch's option `defer_pp_recv`,
    `comms=false` for the order alone. Raises `PipecError` where torch is missing or refuses.
    """
    name = _known(target.removeprefix(PREFIX))
    sizes = _checked(parameters)
    module = _visualizer()
    single = name in ("1F1B", "GPipe")
    try:
        streams = module.get_schedule_ops(
            name,
            sizes["P"],
            sizes["M"],
            num_stages_per_rank=1 if single else sizes.get("v", 2),
            with_comms=bool(sizes.get("comms", not single)),
            defer_pp_recv=bool(sizes.get("defer_recv", False)),
        )
    except Exception as error:  # whatever torch says about these sizes is what the user must see
        message = f"torch does not build `{name}` at these sizes: {type(error).__name__}: {error}"
        raise PipecError([Finding("usage", message, None, "sizes that torch accepts")]) from None
    rows = (",".join("" if cell is None else str(cell) for cell in stream) for stream in streams)
    return Source(target, "\n".join(rows) + "\n")


def _known(name: str) -> str:
    if name in _NAMES:
        return name
    message, hint = f"torch has no schedule `{name}`", nearest(name, _NAMES)
    raise PipecError([Finding("usage", message, None, listed(_NAMES), f"`{name}`", hint)])


def _checked(parameters: Mapping[str, int | bool]) -> dict[str, int]:
    unknown = sorted(set(parameters) - set(SIZES))
    if unknown:
        message = f"torch's schedules have no parameter `{unknown[0]}`"
        hint = nearest(unknown[0], SIZES)
        raise PipecError([Finding("usage", message, None, listed(SIZES), None, hint)])
    for key in ("P", "M"):
        if int(parameters.get(key, 0)) < 1:
            message = f"torch's schedules need `{key}`"
            raise PipecError([Finding("usage", message, None, f"{key}=4, for example")])
    return {key: int(value) for key, value in parameters.items()}


def _visualizer() -> Any:
    try:
        return importlib.import_module("torch.distributed.pipelining._schedule_visualizer")
    except ImportError as error:
        message = f"torch's schedules need torch, which cannot be imported: {error}"
        hint = 'install the runtime extra: pip install "pipec[runtime]"'
        raise PipecError([Finding("usage", message, None, "torch 2.9 or later", None, hint)]) from (
            None
        )
