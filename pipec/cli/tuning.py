"""`pipec tune`: costs and memory in, the best schedules out."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from pipec.cli.options import format_option, parameters, ready, settings, spare, stating
from pipec.cli.output import console, emit, say
from pipec.cli.tuned import OUTPUTS, front_json, nothing, show, write
from pipec.findings import PipecError
from pipec.processes import interruptible, uninterrupted
from pipec.program.costs import Costs
from pipec.program.memory import Memory
from pipec.program.placement import Flow, Placement
from pipec.stated import Files, at_most, pairs_known, parts_exist
from pipec.tune.points import points
from pipec.tune.recipe import PLACEMENTS
from pipec.tune.search import Budget, State, search
from pipec.tune.setting import Setting

DEFAULT_SECONDS = 60.0


@click.command("tune")
@click.argument("sizes", nargs=-1, required=True, metavar="P=N M=N")
@stating
@click.option("--cut", type=click.IntRange(1, 2**15), help="Pieces that costs are stated for.")
@click.option("--time", "seconds", metavar="S", help="Seconds to search, e.g. 60s; 60 if left out.")
@click.option("--candidates", type=click.IntRange(1), help="Stop after so many candidates.")
@click.option(
    "--placements",
    default=",".join(PLACEMENTS),
    show_default=True,
    metavar="A,B,...",
    help="How stages may lie on ranks.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31 - 1),
    default=0,
    show_default=True,
    help="Which random choices are made.",
)
@click.option("-o", "--output", metavar="PLAN", help="Where to write the plan of the shortest.")
@click.option("--text", metavar="FILE", help="Where to write its text, or its listing.")
@click.option("--svg", metavar="FILE", help="Where to draw the front.")
@format_option
def tune_command(sizes: tuple[str, ...], form: str, **options: Any) -> None:
    """Search for the shortest schedules at every peak of memory.

    \b
    pipec tune P=8 M=32 --costs costs.toml --memory-limit 40GB --time 60s -o best.plan
    pipec tune P=4 M=8 --cost F=1,B=1.2,W=0.8 --candidates 5000 --seed 1
    """
    setting = _setting(sizes, options)
    placements = _placements(options["placements"])
    budget = Budget(options["candidates"], _seconds(options))
    _check_outputs(options)
    with uninterrupted():
        state = _searched(setting, placements, budget)
        if state is None or not state.front:
            raise PipecError([nothing(setting, state)])
        found = points(state.front, setting, state.proofs)
        write(setting, found, state, options)
        if form == "json":
            emit(front_json(found, state))
            return
        show(found, state, setting, options)


def _setting(sizes: tuple[str, ...], options: dict[str, Any]) -> Setting:
    given = parameters(sizes)
    if unknown := [name for name in given if name not in ("P", "M")]:
        raise click.UsageError(f"a search has no size {unknown[0]!r}: say P and M, as in P=8 M=32")
    if len(given) < 2 or any(isinstance(size, bool) for size in given.values()):
        raise click.UsageError("say how many ranks and microbatches: P=8 M=32")
    for name, most in (("P", 64), ("M", 1024)):
        if not 1 <= given[name] <= most:
            raise click.UsageError(f"{name} is from 1 to {most} here, not {given[name]}")
    if given["P"] * given["M"] > _LARGEST:
        raise click.UsageError(f"P times M is at most {_LARGEST:,} here")
    chosen = settings({**options, **_NOT_SAID})
    costs = chosen.costs or Costs()
    parts_exist(costs, [chosen.layers] if chosen.layers else [], chosen.files)
    setting = Setting(
        given["P"],
        given["M"],
        costs,
        _checked(chosen.memory or Memory()),
        chosen.channels,
        options["cut"] or 0,
        options["seed"],
        chosen.layers,
    )
    _check_amounts(setting, chosen.files)
    return setting


def _check_amounts(setting: Setting, files: Files) -> None:
    """Refuse amounts of more pieces than there are, and messages without a cost."""
    at_most(setting.costs, setting.memory, setting.pieces, "piece", files)
    linear = Flow("main", setting.microbatches, tuple(range(setting.ranks)))
    pairs_known(setting.costs, Placement(setting.ranks, (linear,)), files)


_LARGEST = 16_384

_NOT_SAID = {"neighbours": 1, "grouped": False, "budget": 10**7, "cut": None}


def _checked(memory: Memory) -> Memory:
    if wrong := memory.wrong_limit():
        raise PipecError([wrong])
    return memory


def _placements(text: str) -> list[str]:
    named = [name.strip() for name in text.split(",")]
    if unknown := [name for name in named if name not in PLACEMENTS]:
        raise click.UsageError(
            f"there is no placement {unknown[0]!r}: there are {', '.join(PLACEMENTS)}"
        )
    return named


def _seconds(options: dict[str, Any]) -> float | None:
    """Seconds from `60s`, `2m` or a number; the default unless candidates are counted."""
    text = options["seconds"]
    if text is None:
        return None if options["candidates"] else DEFAULT_SECONDS
    number, unit = text.rstrip("smh"), text[len(text.rstrip("smh")) :]
    try:
        seconds = float(number) * {"": 1, "s": 1, "m": 60, "h": 3600}[unit]
    except (ValueError, KeyError):
        raise click.UsageError(f"--time is given as 60s or 5m, not as {text!r}") from None
    if not 0 < seconds < 10**6:
        raise click.UsageError("--time is more than 0 and less than a million seconds")
    return seconds


def _check_outputs(options: dict[str, Any]) -> None:
    outputs = [options[name] for name in OUTPUTS]
    ready(*outputs)
    for output in outputs:
        spare(output, options)


def _searched(setting: Setting, placements: list[str], budget: Budget) -> State | None:
    """The last state of a search; a signal to end ends it, and loses nothing."""
    state = None
    try:
        with (
            interruptible(),
            closing(search(setting, placements, budget)) as states,
            _progress(budget) as show,
        ):
            for state in states:
                show(state)
    except KeyboardInterrupt:
        say("interrupted: what was found until now follows")
    except ChildProcessError as error:
        say(f"{error}: what was found until then follows")
    return state


@contextmanager
def _progress(budget: Budget) -> Iterator[Any]:
    """On a terminal, a bar: what is tried, and the shortest until now."""
    screen = console(stderr=True)
    if not screen.is_terminal:
        yield lambda state: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True) as progress:
        total = budget.candidates or budget.seconds
        task = progress.add_task("tune", total=total)

        def show(state: State) -> None:
            best = f", shortest {float(state.front[0].makespan):g}" if state.front else ""
            words = f"{state.phase}: {state.tried:,} tried{best}"
            done = state.tried if budget.candidates else progress.tasks[task].elapsed or 0
            progress.update(task, description=words, completed=done)

        yield show
