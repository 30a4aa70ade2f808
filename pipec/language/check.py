"""What can be known of a schedule before any size is: what is found here is wrong at every size."""

from collections.abc import Iterator
from typing import Any

from pipec.findings import Finding, listed, nearest
from pipec.language import syntax as s
from pipec.language.kinds import (
    BOOL,
    BYTES,
    DECIMAL,
    DECIMALS,
    FLOW,
    INT,
    Scope,
    bound_twice,
    check_selectors,
)
from pipec.language.patterns import OUT, WIRES, check_pattern, overlaps
from pipec.language.policies import check_policy, check_slots
from pipec.language.syntax import names_in
from pipec.source import Span

COSTS = ("F", "B", "W", "BW", "F & BW", "send", "sum", "dispatch", "combine")
PAIR_NAMES = ("rank", "peer")
"""In the cost of a message: the rank that sends it, and the one that receives it."""
CONSTANT = ("parameters", "gradients", "optimizer", "state")
AMOUNTS = (*CONSTANT, "activation", "stash", "message", "dispatch", "F", "B", "W", "BW")


def check(tree: s.File) -> list[Finding]:
    """All mistakes of a tree that do not depend on sizes, in the order of the text."""
    findings: list[Finding] = []
    schedules = [item for item in tree.items if isinstance(item, s.ScheduleItem)]
    if not schedules and not any(isinstance(item, s.Broken) for item in tree.items):
        message, expected = "the file holds no schedule", "`schedule name(P, M):`"
        findings.append(Finding("incomplete", message, Span(0, 0), expected, "nothing"))
    taken: set[str] = set()
    for item in schedules:
        if item.name.name in taken:
            findings.append(bound_twice(item.name))
        taken.add(item.name.name)
        _schedule(item, Scope(findings, frozenset(_bound(item.items))))
    for broken in tree.items:
        if isinstance(broken, s.Broken) and broken.names:
            _broken(broken, Scope(findings, frozenset(_bound(broken.body))))
    return sorted(findings, key=lambda finding: finding.span or Span(0, 0))


def _bound(body: tuple[Any, ...]) -> Iterator[str]:
    """All names that the lines of a schedule bind, at any depth."""
    for node in body:
        if isinstance(node, s.Let | s.FlowItem | s.Block | s.For):
            yield node.name.name
        inner = node.branches if isinstance(node, s.If) else getattr(node, "body", ())
        yield from _bound(inner)


def setting_key(setting: s.Setting) -> str:
    """`F`, `F & BW` or `send`: what a setting is about. `F & B` means the same pair as `F & BW`."""
    if isinstance(setting.pattern, s.Name):
        return setting.pattern.name
    if isinstance(setting.pattern, s.PartOf):
        return f"{setting.pattern.kind}.{setting.pattern.part.name}"
    operations = setting.pattern.operations
    if any(operation.selectors or operation.microbatch for operation in operations):
        return " & ".join(f"{operation.kind}[...]" for operation in operations)
    kinds = [operation.kind for operation in operations]
    return "F & BW" if overlaps(kinds) else " & ".join(kinds)


# --- items ----------------------------------------------------------------------------------------


def _schedule(schedule: s.ScheduleItem, scope: Scope) -> None:
    if not schedule.parameters:
        expected = "the number of ranks first: `(P, M)`"
        scope.add(
            "incomplete", "a schedule needs a parameter", schedule.name.span, expected, "none"
        )
    for parameter in schedule.parameters:
        kind = scope.kind(parameter.default) if parameter.default else INT
        if kind not in (INT, BOOL, None):
            scope.add("kind", "this default cannot be used", parameter.span, INT, kind)
        scope.bind(parameter.name, kind)
    for item in schedule.items:
        if isinstance(item, s.Docstring) and item is not schedule.items[0]:
            expected, hint = "the first line of the schedule", "comments begin with `#`"
            message, found = "a docstring stands first", "a docstring behind other lines"
            scope.add("syntax", message, item.span, expected, found, hint)
        _item(item, scope)
    for word in ("cost", "memory"):
        _settings_once(word, schedule, scope)
    _whole(schedule, scope)


def _settings_once(word: str, schedule: s.ScheduleItem, scope: Scope) -> None:
    seen: set[str] = set()
    for item in schedule.items:
        for setting in item.settings if isinstance(item, s.Settings) and item.word == word else ():
            key, span = setting_key(setting), setting.pattern.span
            if key in seen:
                scope.add("name", f"`{key}` is set already", span, "each once", f"`{key}` again")
            seen.add(key)


def _whole(schedule: s.ScheduleItem, scope: Scope) -> None:
    """What a schedule must hold, and hold once."""
    for second in [item for item in schedule.items if isinstance(item, s.Block)][1:]:
        hint = "decide by the rank inside it: `if r == 0:`"
        message, expected = "a schedule has one program", "one block `on rank`"
        scope.add("incomplete", message, second.name.span, expected, "a second one", hint)
    patterns: set[tuple[str, ...]] = set()
    for pattern in [item for item in schedule.items if isinstance(item, s.Pattern)]:
        pair = tuple(sorted(operation.kind for operation in pattern.pair.operations))
        if pair in patterns:
            message, expected = "a pair has one pattern", "each pair once"
            scope.add("name", message, pattern.pair.span, expected, "a second one")
        patterns.add(pair)
    limits = [item for item in schedule.items if isinstance(item, s.Limit)]
    for limit in [limit for limit in limits if _limits_memory(limit)][1:]:
        message, expected = "a schedule has one limit", "one `limit memory`"
        scope.add("incomplete", message, limit.span, expected, "a second one")
    if not schedule.items or any(isinstance(item, s.Broken) for item in schedule.items):
        return
    needed = (
        ("program", s.Block, "an `on rank r:`, `greedy on rank r:` or `every N on rank r:` block"),
        ("flow", s.FlowItem, "`flow main(stages=P, microbatches=M): rank = stage`"),
    )
    for what, kind, expected in needed:
        if not any(isinstance(item, kind) for item in schedule.items):
            message = f"schedule `{schedule.name.name}` has no {what}"
            scope.add("incomplete", message, schedule.name.span, expected, "none")


def _item(item: s.Item, scope: Scope) -> None:
    match item:
        case s.Let():
            scope.bind(item.name, scope.kind(item.value))
        case s.Require():
            scope.expect(item.test, BOOL)
        case s.FlowItem():
            _flow(item, scope)
        case s.Layers():
            _layers(item, scope)
        case s.Pattern():
            check_pattern(item, scope)
        case s.Settings():
            _settings(item, scope)
        case s.Limit():
            _limit(item, scope)
        case s.OnRank():
            with scope.inner():
                scope.bind(item.name, INT)
                _body(item.body, scope)
        case s.Greedy():
            with scope.inner():
                scope.bind(item.name, INT)
                check_policy(item, scope)
        case s.Every():
            scope.expect(item.period, INT)
            with scope.inner():
                scope.bind(item.name, INT)
                check_slots(item, scope)
        case s.Broken():
            _broken(item, scope)


def _broken(item: s.Broken, scope: Scope) -> None:
    """Look below a line that could not be read; what it bound may be anything."""
    for name in item.names:
        scope.assume(name, None)
    with scope.inner():
        _body(item.body, scope)


_ARGUMENTS = {"stages": INT, "microbatches": INT, "slices": INT, "backward": BOOL}


def _flow(item: s.FlowItem, scope: Scope) -> None:
    given: set[str] = set()
    for argument in item.arguments:
        name, span = argument.name.name, argument.name.span
        if name not in _ARGUMENTS:
            expected, hint = listed(_ARGUMENTS), nearest(name, _ARGUMENTS)
            scope.add("name", f"a flow has no `{name}`", span, expected, f"`{name}`", hint)
        elif name in given:
            scope.add("name", f"`{name}` is said already", span, "each once", f"`{name}` again")
        given.add(name)
        scope.expect(argument.value, _ARGUMENTS.get(name))
    for name in ("stages", "microbatches"):
        if name not in given and given <= set(_ARGUMENTS):
            message = f"flow `{item.name.name}` does not say its {name}"
            scope.add("incomplete", message, item.name.span, f"`{name}=...`", "nothing")
    with scope.inner():
        scope.assume("stage", INT)
        scope.expect(item.placement, INT)
    scope.bind(item.name, FLOW)


def _settings(item: s.Settings, scope: Scope) -> None:
    known = COSTS if item.word == "cost" else AMOUNTS
    for setting in item.settings:
        key, span = setting_key(setting), setting.pattern.span
        if isinstance(setting.pattern, s.PartOf) and item.word == "cost":
            _part_is_known(setting.pattern, scope)
        elif key not in known:
            expected, hint = listed(known), nearest(key, known)
            scope.add("name", f"`{key}` has no {item.word}", span, expected, f"`{key}`", hint)
        with scope.inner(DECIMALS if item.word == "cost" else BYTES):
            sends = (item.word, key) == ("cost", "send")
            between = sends and scope.free(names_in(setting.value) & {*PAIR_NAMES})
            for name in PAIR_NAMES if between else ("stage",):
                scope.assume(name, INT)
            scope.expect(setting.value, DECIMAL)


def _layers(item: s.Layers, scope: Scope) -> None:
    with scope.inner():
        scope.assume("stage", INT)
        scope.expect(item.count, INT)
    scope.parts |= {part.name for part in item.parts}
    names = [part.name for part in item.parts]
    for before, part in zip([None, *names], item.parts, strict=False):
        if before in WIRES and part.name in WIRES:
            message = f"compute stands between `{before}` and `{part.name}`"
            scope.add("parts", message, part.span, "a compute part", f"`{part.name}`")
        if names.count(part.name) > 1 and part is not item.parts[names.index(part.name)]:
            message = f"a layer has one `{part.name}`"
            scope.add("parts", message, part.span, "each part once", f"`{part.name}` again")
    if names[0] in WIRES:
        message, expected = "a layer begins with compute", "a compute part first"
        scope.add("parts", message, item.parts[0].span, expected, f"`{names[0]}`")


def _part_is_known(pattern: s.PartOf, scope: Scope) -> None:
    """A cost is of a part that some layer has; all-to-alls have costs of their own."""
    name, known = pattern.part.name, sorted({*scope.parts, OUT} - set(WIRES))
    if name in WIRES:
        message, expected = f"`{name}` is an all-to-all", f"`cost {name} = ...`"
        scope.add("name", message, pattern.span, expected, f"`{pattern.kind}.{name}`")
    elif name not in known:
        hint = nearest(name, known) or "state `layers` before their costs"
        expected = listed(known)
        scope.add(
            "name", f"no layer has a part `{name}`", pattern.span, expected, f"`{name}`", hint
        )


def _limit(item: s.Limit, scope: Scope) -> None:
    if isinstance(item.test, s.Comparison) and _limits_memory(item):
        with scope.inner(BYTES):
            scope.expect(item.test.operands[1], DECIMAL)
        return
    expected, found = "`limit memory <= ...`", "a limit of another form"
    scope.add("syntax", "this limit is not known", item.test.span, expected, found)


def _limits_memory(item: s.Limit) -> bool:
    """Whether a limit has the form `memory <= ...`."""
    match item.test:
        case s.Comparison(operators=("<=",), operands=(s.Name(name="memory"), _)):
            return True
    return False


# --- statements -----------------------------------------------------------------------------------


def _body(body: tuple[s.Statement | s.Item, ...], scope: Scope) -> None:
    for statement in body:
        _statement(statement, scope)


def _statement(statement: s.Statement | s.Item, scope: Scope) -> None:
    match statement:
        case s.Repeat():
            scope.expect(statement.times, INT)
            with scope.inner():
                _body(statement.body, scope)
        case s.For():
            scope.expect(statement.start, INT)
            scope.expect(statement.stop, INT)
            with scope.inner():
                scope.bind(statement.name, INT)
                _body(statement.body, scope)
        case s.If():
            for branch in statement.branches:
                if branch.test is not None:
                    scope.expect(branch.test, BOOL)
                with scope.inner():
                    _body(branch.body, scope)
        case s.Units():
            for unit in statement.units:
                _unit(unit, scope)
        case _:
            _item(statement, scope)


def _unit(unit: s.Unit, scope: Scope) -> None:
    kinds = [operation.kind for operation in unit.operations]
    if len(kinds) == 2 and not overlaps(kinds):
        expected, found = "one F and one B or BW", " and ".join(kinds)
        scope.add("kind", "these two cannot overlap", unit.span, expected, found)
    for operation in unit.operations:
        check_selectors(operation, scope)
        if operation.microbatch is not None:
            hint = f"a flow is named in square brackets, as in `{operation.kind}[flow]`"
            scope.expect(operation.microbatch, INT, flow_hint=hint)
