"""Amounts of memory as people write and read them: `1.5GB`, `512MiB`, or a plain number."""

import re
from fractions import Fraction
from typing import Any

SUFFIXES = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
"""Bytes in each unit."""

LARGEST = 10**18
"""No amount is larger."""

_DECIMAL = r"(?:\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})(?:[eE][+-]?\d{1,2})?"
_AMOUNT = re.compile(rf"({_DECIMAL}|\d{{1,30}}/0*[1-9]\d{{0,29}})\s*([A-Za-z]*)", re.ASCII)
_SCALES = [(10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "KB"), (1, "B")]


def parse_amount(text: str) -> tuple[Fraction, bool] | None:
    """A number of 0 or more and whether it is in bytes, then whole ones; None if it is neither."""
    match = _AMOUNT.fullmatch(text.strip())
    if not match or (match[2] and match[2] not in SUFFIXES):
        return None
    amount = Fraction(match[1]) * SUFFIXES.get(match[2], 1)
    if amount > LARGEST or amount.denominator > LARGEST:
        return None
    return (Fraction(-(-amount // 1)), True) if match[2] else (amount, False)


def amount_text(amount: float | Fraction, in_bytes: bool, of: float | Fraction = 0) -> str:
    """`21.4 GB`, or a plain number. With `of`, a share of that amount: in its unit, without it."""
    if not in_bytes:
        return f"{float(amount):,.6g}"
    largest = abs(float(of or amount))
    scale, unit = next(pair for pair in _SCALES if largest >= pair[0] or pair[0] == 1)
    number = f"{float(amount) / scale:.4g}"
    return number if of else f"{number} {unit}"


def written(value: Any) -> str:
    """A value as text; of an integer that is larger than any amount only how long it is."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length():,} bits"
    return str(value)
