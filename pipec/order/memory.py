"""`memory` statements -> sizes in one unit, with what is wrong shown where it is stated."""

from collections.abc import Mapping
from dataclasses import replace

from pipec.findings import Finding
from pipec.language import syntax as s
from pipec.language.check import setting_key
from pipec.program.costs import PerStage
from pipec.program.memory import Limit, Memory
from pipec.program.sizes import Stated, settle


def memory_of(
    items: list[s.Settings], amounts: Mapping[str, PerStage], limit: Limit | None
) -> tuple[Memory, list[Finding]]:
    """The memory that a schedule states: `amounts` are the values of its settings by their keys."""
    settings = {setting_key(setting): setting for item in items for setting in item.settings}
    settled = settle(
        {key: Stated(amounts[key], in_bytes(one.value)) for key, one in settings.items()}
    )
    wrong = [replace(finding, span=settings[key].span) for key, finding in settled.wrong]
    return Memory(settled.sizes, settled.in_bytes, limit), wrong


def in_bytes(expression: s.Expression) -> bool:
    """Whether an expression holds an amount of bytes, and so is one."""
    match expression:
        case s.Number():
            return expression.in_bytes
        case s.Unary():
            return in_bytes(expression.operand)
        case s.Binary():
            return in_bytes(expression.left) or in_bytes(expression.right)
        case s.Conditional():
            return in_bytes(expression.chosen) or in_bytes(expression.other)
        case s.Call():
            return any(map(in_bytes, expression.arguments))
    return False
