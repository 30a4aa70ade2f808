"""Functions of torch written in Python that call covered operations inside.

Such a function hands the whole call to `__torch_function__` and what it calls inside is seen no
more. A copy whose `has_torch_function` answers False runs its body in the open instead.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

_ASKERS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")


def opened(function: Callable[..., Any]) -> Callable[..., Any]:
    """A copy of `function` with the same body and defaults, which does not hand itself over.

    Made anew for each call (3 us), so that names replaced in its module count. A callable that is
    not written in Python comes back as it is: what it calls inside is then not covered.
    """
    if not isinstance(function, FunctionType):
        return function
    names = {**function.__globals__, **dict.fromkeys(_ASKERS, _never)}
    copy = FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _never(*_: object) -> bool:
    return False
