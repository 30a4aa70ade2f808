"""What can be known of `greedy` and `every` blocks before any size is."""

from pipec.findings import listed
from pipec.language import syntax as s
from pipec.language.kinds import BYTES, DECIMAL, INT, Scope, check_selectors


def check_policy(block: s.Greedy, scope: Scope) -> None:
    """A policy has one `prefer`, names every kind of work, and limits what it issues."""
    known: list[s.Prefer] = []
    issued = tuple(
        op.kind for item in block.body if isinstance(item, s.Prefer) for op in item.operations
    )
    for item in block.body:
        match item:
            case s.Prefer():
                _prefer(item, known, scope)
            case s.Limit():
                _limit(item, issued, scope)
            case _:
                _other(item, scope)
    if not known and not any(isinstance(item, s.Broken) for item in block.body) and block.body:
        expected, found = "`prefer F > B > W`, or `prefer BW > F`", "none"
        scope.add("incomplete", "the policy prefers nothing", block.span, expected, found)


def _other(item: object, scope: Scope) -> None:
    match item:
        case s.Let():
            scope.bind(item.name, scope.kind(item.value))
        case s.Broken():
            for name in item.names:
                scope.assume(name, None)


def _prefer(item: s.Prefer, known: list[s.Prefer], scope: Scope) -> None:
    if known:
        message, expected = "a policy has one `prefer`", "all kinds in one line"
        scope.add("incomplete", message, item.span, expected, "a second one")
    known.append(item)
    for place, operation in enumerate(item.operations):
        check_selectors(operation, scope)
        _no_microbatch(operation, "a preference", scope)
        if operation in item.operations[:place]:
            expected, found = "each once", f"`{operation.kind}` again"
            message = "this is preferred already"
            scope.add("name", message, operation.span, expected, found)
    kinds = [operation.kind for operation in item.operations]
    for kind, other in (("B", "W"), ("W", "B")):
        if kind in kinds and other not in kinds:
            expected = f"`{other}` too, or `BW` in place of both"
            scope.add("incomplete", f"`{kind}` without `{other}`", item.span, expected, "none")
    if "F" not in kinds:
        message = "the policy never runs a forward"
        scope.add("incomplete", message, item.span, "`F` among what is preferred", "none")


def _no_microbatch(operation: s.Operation, what: str, scope: Scope) -> None:
    if operation.microbatch is not None:
        hint = "microbatches come in order by themselves"
        message, expected = f"{what} is about all microbatches", "no round brackets"
        scope.add("kind", message, operation.microbatch.span, expected, "a microbatch", hint)


_FORMS = "`limit memory <= ...`, or counts such as `limit F[0] - B[0] <= ...`"


def _limit(item: s.Limit, issued: tuple[str, ...], scope: Scope) -> None:
    test = item.test
    if not isinstance(test, s.Comparison) or test.operators != ("<=",):
        scope.add("syntax", "this limit is not known", test.span, _FORMS, "a limit of another form")
        return
    left, right = test.operands
    if isinstance(left, s.Name) and left.name == "memory":
        with scope.inner(BYTES):
            scope.expect(right, DECIMAL)
        return
    if not _counts(left, issued, scope):
        scope.add("syntax", "this limits no operation", left.span, _FORMS, "no operation")
    scope.expect(right, INT)


def _counts(node: s.Expression, issued: tuple[str, ...], scope: Scope) -> bool:
    """Whether an expression counts operations; reports what cannot stand in such a sum."""
    match node:
        case s.Operation():
            check_selectors(node, scope)
            _no_microbatch(node, "a count", scope)
            if issued and node.kind not in issued:
                message = f"the policy issues no `{node.kind}`"
                scope.add(
                    "kind", message, node.span, listed(dict.fromkeys(issued)), f"`{node.kind}`"
                )
            return True
        case s.Unary(operator="-"):
            return _counts(node.operand, issued, scope)
        case s.Binary(operator="+" | "-"):
            left, right = (_counts(side, issued, scope) for side in (node.left, node.right))
            return left or right
        case s.Binary(operator="*"):
            sides = [_has_counts(side) for side in (node.left, node.right)]
            if all(sides):
                expected, found = "a count times a number", "a product of counts"
                scope.add("kind", "this limit is not a sum", node.span, expected, found)
                return True
            left, right = (_counts(side, issued, scope) for side in (node.left, node.right))
            return left or right
    if _has_counts(node):
        expected, found = "sums, differences and multiples of counts", "another form"
        scope.add("kind", "this limit is not a sum", node.span, expected, found)
        return True
    scope.expect(node, INT)
    return False


def _has_counts(node: s.Expression) -> bool:
    match node:
        case s.Operation():
            return True
        case s.Unary():
            return _has_counts(node.operand)
        case s.Binary():
            return _has_counts(node.left) or _has_counts(node.right)
        case s.Comparison():
            return any(map(_has_counts, node.operands))
        case s.Conditional():
            return any(map(_has_counts, (node.test, node.chosen, node.other)))
        case s.Call():
            return any(map(_has_counts, node.arguments))
    return False


def check_slots(block: s.Every, scope: Scope) -> None:
    """Slots say once where each operation of one microbatch stands."""
    seen: list[s.Operation] = []
    for item in block.body:
        if not isinstance(item, s.Slot):
            _other(item, scope)
            continue
        check_selectors(item.operation, scope)
        _no_microbatch(item.operation, "a slot", scope)
        scope.expect(item.value, INT)
        if item.operation in seen:
            message, found = "this has a slot already", f"`{item.operation.kind}` again"
            scope.add("name", message, item.operation.span, "each once", found)
        seen.append(item.operation)
