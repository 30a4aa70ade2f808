"""What a search found: printed, as JSON, and written to files."""

from pathlib import Path
from typing import Any

from pipec.cli.output import console, figures
from pipec.compiler import plan_of
from pipec.files import replace_text
from pipec.findings import Finding
from pipec.program.listing import listing
from pipec.tune.points import Point
from pipec.tune.recipe import Trial
from pipec.tune.search import State
from pipec.tune.setting import Setting
from pipec.view.front import front_svg, front_table, front_text, refused_text, said

OUTPUTS = ("output", "text", "svg")
"""Options that name files to write."""

OPENED = (
    "chunks are opened: what has a text is compared as it is; cycles, moved orders and the solver "
    "are left out"
)


def nothing(setting: Setting, state: State | None) -> Finding:
    """That nothing was found, and why."""
    limit = f"at most {setting.limit.text} on any rank" if setting.limit else "any schedule"
    message = "no schedule was found that can be certified here"
    hint = "raise the limit or allow more placements" if setting.limit else "allow more placements"
    if state is None:
        message, hint = "no schedule was tried", "give it more time or allow more placements"
    reasons = refused_text(state.refused) if state else ""
    notes = (f"of {state.tried:,} candidates {reasons}",) if state and reasons else ()
    return Finding("tune", message, None, limit, "nothing", hint, notes=notes)


def write(setting: Setting, found: list[Point], state: State, options: dict[str, Any]) -> None:
    """The plan, the text and the picture of what was found."""
    best = found[0]
    if options["output"]:
        plan_of(best.compiled, best.certificate).save(Path(options["output"]))
    if options["text"]:
        replace_text(Path(options["text"]), _text(best))
    if options["svg"]:
        title = f"The shortest schedules, P={setting.ranks} M={setting.microbatches}"
        replace_text(Path(options["svg"]), front_svg(found, state.trials, title))


def _text(point: Point) -> str:
    source = point.trial.recipe.source
    return source.text if source else listing(point.compiled.program)


def show(found: list[Point], state: State, setting: Setting, options: dict[str, Any]) -> None:
    """The front as a table and as a picture, and the shortest schedule."""
    best = found[0]
    screen = console()
    figures(front_table(found))
    screen.print(front_text(found, state.trials))
    screen.print(f"\n{state.tried:,} candidates; costs {setting.costs} of a model in ", end="")
    screen.print(f"{setting.pieces} pieces; every line is certified")
    if state.refused:
        screen.print(f"of the candidates {refused_text(state.refused)}")
    if setting.layers:
        screen.print(OPENED)
    if known := _of_library(state, best.trial.copies):
        shorter = known.makespan > best.trial.makespan > 0
        more = f", {float(known.makespan / best.trial.makespan) - 1:.1%} longer" if shorter else ""
        figure = f"{float(known.makespan):,.6g}"
        screen.print(f"the shortest of the library: {said(known)}, {figure}{more}")
    screen.print(f"the shortest is {said(best.trial)}:")
    recipe = best.trial.recipe
    if recipe.origin == "library":
        sizes = " ".join(f"{name}={value}" for name, value in recipe.parameters.items())
        screen.print(f"  {recipe.name} {sizes}")
    elif recipe.source:
        screen.print(recipe.source.text)
    else:
        screen.print("  an order of its own: `-o` writes its plan, `--text` its listing")
    for name in OUTPUTS:
        if options[name]:
            screen.print(f"  {'plan' if name == 'output' else name:<6}{options[name]}")


def _of_library(state: State, copies: int) -> Trial | None:
    """The shortest library schedule that holds no more copies of a stage."""
    known = [one for one in state.trials if one.recipe.origin == "library" and one.copies <= copies]
    return min(known, key=lambda trial: trial.rank, default=None)


def front_json(found: list[Point], state: State) -> dict[str, Any]:
    """The front, how many candidates were tried, and how many of them came to nothing, by code."""
    return {
        "ok": True,
        "tried": state.tried,
        "refused": dict(sorted(state.refused.items())),
        "front": [
            {
                "schedule": point.trial.recipe.name,
                "origin": point.trial.recipe.origin,
                "placement": point.trial.placement,
                "parameters": dict(point.trial.recipe.parameters),
                "makespan": float(point.trial.makespan),
                "bound": float(point.bound),
                "bound_by": point.proof,
                "peak_memory": float(point.trial.peak),
                "copies": point.trial.copies,
                "text": point.trial.recipe.source and point.trial.recipe.source.text,
            }
            for point in found
        ],
    }
