"""What commands are told: K=V arguments and the common options."""

import os
from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import click

from pipec.compiler import Settings, layers_of
from pipec.order.expand import BUDGET
from pipec.program.costs import Costs
from pipec.program.costs_file import load_costs, load_sizes
from pipec.program.graph import TOPOLOGIES, Channels
from pipec.program.memory import Limit, Memory, with_limit

Command = TypeVar("Command", bound=Callable[..., Any])

LARGEST = 10**18
"""No size is larger."""


def _before_sizes(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if "=" in value and not Path(value).exists():
        raise click.UsageError(f"name the schedule before its sizes, not {value!r} first")
    return value


schedule_argument = click.argument("schedule", metavar="SCHEDULE|PLAN", callback=_before_sizes)
sizes_argument = click.argument("sizes", nargs=-1, metavar="[K=V]...")
format_option = click.option(
    "--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True
)


_LAYERS = click.option(
    "--layers",
    metavar="LAYERS",
    help="Parts of every chunk, e.g. '4 x attention dispatch mlp combine'.",
)
_NUMBER = click.IntRange(0, 8)
_NEIGHBOURS = click.option(
    "--neighbours",
    type=_NUMBER,
    default=1,
    show_default=True,
    help="How many operations of a rank may be interleaved part by part.",
)
_SEVERAL_NEIGHBOURS = click.option(
    "--neighbours",
    type=_NUMBER,
    default=(1,),
    show_default=True,
    multiple=True,
    help="How many operations of a rank may be interleaved part by part; several are compared.",
)

_COSTS = (
    click.option(
        "--cost",
        multiple=True,
        metavar="K=X,...",
        help="Times, e.g. 'F=1,B=1,W=1,F&B=3,send=0'.",
    ),
    click.option(
        "--costs",
        "costs_file",
        metavar="FILE",
        help="Times, and sizes if it has any, from a costs file.",
    ),
)
_CHANNELS = (
    click.option(
        "--channels",
        type=click.Choice(TOPOLOGIES[::-1]),
        default="pair",
        show_default=True,
        help="How posted messages queue: by pair of ranks, directed pair, rank, or not at all.",
    ),
    click.option(
        "--credits",
        type=click.IntRange(0, 2**31 - 1),
        default=0,
        show_default=True,
        help="Messages that a sender may complete before they are received.",
    ),
)
_MEMORY = (
    click.option(
        "--memory",
        multiple=True,
        metavar="K=X,...|FILE",
        help="Sizes, e.g. 'parameters=4GB,activation=1.5GB', or a TOML or JSON file of them.",
    ),
    click.option("--memory-limit", metavar="X", help="The most that any rank may hold, e.g. 80GB."),
)
_GROUPED = click.option(
    "--grouped", is_flag=True, help="Issue the two sides of an exchange in one launch."
)
_CUT = click.option(
    "--cut",
    type=click.IntRange(1, 2**15),
    help="Equal pieces of the model that costs and sizes are stated for; stages take their shares.",
)
_BUDGET = click.option(
    "--budget",
    type=click.IntRange(1),
    default=BUDGET,
    show_default=True,
    help="The most operations that a program may make.",
)


def compiling(command: Command) -> Command:
    """The options of every command that compiles."""
    return _compiling(command, _NEIGHBOURS)


def comparing(command: Command) -> Command:
    """The options of a command that compiles several programs."""
    return _compiling(command, _SEVERAL_NEIGHBOURS)


def _compiling(command: Command, neighbours: Callable[[Command], Command]) -> Command:
    opening = (_GROUPED, _LAYERS, neighbours)
    return _with(command, (*_COSTS, *_CHANNELS, *opening, *_MEMORY, _CUT, _BUDGET))


def stating(command: Command) -> Command:
    """The options that say what things cost and how large they are, and what chunks are made of."""
    return _with(command, (*_COSTS, *_CHANNELS, _LAYERS, *_MEMORY))


def _with(command: Command, options: tuple[Callable[[Command], Command], ...]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def settings(options: dict[str, Any]) -> Settings:
    """The common options as settings. Raises `click.UsageError`."""
    file = load_costs(options["costs_file"]) if options["costs_file"] else None
    costs = file.costs if file else None
    words = [word for cost in options["cost"] for word in cost.split(",")]
    if words:
        stated = Costs.of(_assigned(words, "--cost"))
        costs = costs.override(stated) if costs else stated
    channels = Channels(options["channels"], options["credits"])
    layers = None if options["layers"] is None else layers_of(options["layers"])
    files = [load_sizes(words) for words in options["memory"] if "=" not in words]
    files = [*([file] if file else []), *files]
    return Settings(
        costs,
        _memory(options, [file.memory for file in files if file.memory]),
        channels,
        options["budget"],
        options["grouped"],
        layers,
        options["neighbours"],
        options["cut"] or 0,
        tuple(file.source for file in files if file.source),
    )


def _memory(options: dict[str, Any], stated: list[Memory]) -> Memory | None:
    """What files state first, then the command line; the limit apart."""
    limit = None if options["memory_limit"] is None else Limit.of(options["memory_limit"])
    words = [word for words in options["memory"] if "=" in words for word in words.split(",")]
    stated = [*stated, *([Memory.of(_assigned(words, "--memory"))] if words else [])]
    return with_limit(reduce(Memory.override, stated) if stated else None, limit)


def spare(output: str | None, options: dict[str, Any], **read: str | None) -> None:
    """Refuse to replace what a person wrote and this command reads by what is made of it.

    `read` says what the file is: `schedule="mine.pipe"`. Raises `click.UsageError`.
    """
    sources = [*read.items(), ("costs_file", options["costs_file"])]
    sources += [("memory_file", words) for words in options["memory"] if "=" not in words]
    target = Path(output or "")
    for what, name in sources:
        source = Path(name or "")
        same = source.is_file() and target.is_file() and target.samefile(source)
        if same and source.suffix != ".plan":
            said = f"the {what.replace('_', ' ')} itself"
            raise click.UsageError(f"{output} is {said}: name another file to write")


def ready(*outputs: str | None) -> None:
    """Refuse, before long work, files that could not be written after it, and one named twice.

    Raises `click.UsageError`.
    """
    named = [Path(output) for output in outputs if output is not None]
    for number, path in enumerate(named):
        if path.is_dir():
            raise click.UsageError(f"{path} is a folder: name a file to write")
        if not path.absolute().parent.is_dir():
            raise click.UsageError(f"there is no folder for {path}")
        if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
            raise click.UsageError(f"{path} cannot be written: permission denied")
        if path in named[:number]:
            raise click.UsageError(f"{path} is named twice: name another file to write")


def parameters(words: Iterable[str]) -> dict[str, int | bool]:
    """`P=4 M=8` as parameters. Raises `click.UsageError`."""
    return {key: _size(key, value) for key, value in _assigned(words, "a size").items()}


def _size(key: str, value: str) -> int | bool:
    if value in ("true", "false"):
        return value == "true"
    try:
        size = int(value)
        if abs(size) > LARGEST:
            raise click.UsageError(f"{key} is too large: at most {LARGEST}, not {value}")
    except ValueError:
        raise click.UsageError(f"{key} takes an integer, true or false, not {value!r}") from None
    return size


def _assigned(words: Iterable[str], where: str) -> dict[str, str]:
    assigned: dict[str, str] = {}
    for key, value in _assignments(words, where):
        if key in assigned:
            raise click.UsageError(f"{key} is given twice")
        assigned[key] = value
    return assigned


def _assignments(words: Iterable[str], where: str) -> Iterator[tuple[str, str]]:
    for word in words:
        key, equals, value = (part.strip() for part in word.partition("="))
        if not equals or not key or not value:
            raise click.UsageError(f"{where} is given as K=V, not as {word!r}")
        yield key, value
