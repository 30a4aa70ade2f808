"""Reading JSON that may hold anything: each access says where it was and what it expected."""

from typing import Any, TypeVar

T = TypeVar("T")


class Misshapen(Exception):
    """A plan file that is not what it should be."""

    def __init__(
        self,
        message: str,
        expected: str | None = None,
        found: str | None = None,
        hint: str | None = None,
    ):
        super().__init__(message)
        self.message, self.expected, self.found, self.hint = message, expected, found, hint


_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "an integer",
    bool: "true or false",
}


def of_type(value: Any, kind: type[T], where: str) -> T:
    """`value`, if it is of this JSON type (an integer is not a boolean)."""
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise Misshapen(f"`{where}` has the wrong form", _NAMES.get(kind), repr(value)[:60])


def member(value: Any, key: str, kind: type[T], where: str) -> T:
    """The member `key` of an object, of this JSON type."""
    holder = of_type(value, dict, where)
    if key not in holder:
        raise Misshapen(f"`{where}` has no `{key}`")
    return of_type(holder[key], kind, f"{where}.{key}")


def whole(value: Any, where: str, least: int, most: int) -> int:
    """An integer from `least` to `most`."""
    number = of_type(value, int, where)
    if not least <= number <= most:
        raise Misshapen(f"`{where}` is out of range", f"from {least} to {most}", str(number))
    return number
