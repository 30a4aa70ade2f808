"""The library of schedules, and names for them."""

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from pipec.findings import Finding, PipecError, listed, nearest
from pipec.language import File, read
from pipec.language.syntax import Docstring, Require, ScheduleItem
from pipec.source import Source

ALIASES = {"onef1b": "1f1b", "zbh1": "zb1p", "zbh2": "zb2p", "vpp": "interleaved"}
"""Other names of library schedules, in lower case without `-` and `_`."""


@cache
def names() -> tuple[str, ...]:
    """The schedules of the library, in alphabetical order."""
    found = (entry.name for entry in files("pipec.schedules").iterdir())
    return tuple(sorted(name.removesuffix(".pipe") for name in found if name.endswith(".pipe")))


def library_name(target: str) -> str | None:
    """The library schedule that is meant by a name in any spelling, such as `1F1B` or `zb-h1`."""
    plain = _plain(target)
    plain = ALIASES.get(plain, plain)
    return {_plain(name): name for name in names()}.get(plain)


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def find(target: str) -> Source:
    """The text of a library schedule or of a file. Raises `PipecError` where there is neither."""
    known = library_name(target)
    if known:
        text = files("pipec.schedules").joinpath(f"{known}.pipe").read_text(encoding="utf-8")
        return Source(f"{known}.pipe", text)
    path = Path(target)
    if path.is_file():
        return Source(target, path.read_text(encoding="utf-8", errors="replace"))
    if path.is_dir():
        raise PipecError([Finding("usage", f"`{target}` is a folder", None, "a file", None)])
    hint = nearest(target.lower(), [*names(), *ALIASES]) or "`pipec list` shows the library"
    expected = f"a file, or one of {listed(names())}"
    raise PipecError(
        [Finding("usage", f"there is no schedule `{target}`", None, expected, None, hint)]
    )


@dataclass(frozen=True)
class Entry:
    """A library schedule as `pipec list` shows it."""

    name: str
    parameters: tuple[str, ...]
    summary: str
    constraints: tuple[str, ...]
    bubble: str | None
    """What the docstring says of the bubble of the worst rank, once the pipeline is full."""
    peak: str | None
    """The same of the peak, in activations of one stage."""


def entries() -> list[Entry]:
    """The whole library."""
    return [_entry(name) for name in names()]


def _entry(name: str) -> Entry:
    source = find(name)
    tree = read(source)
    item = only_schedule(tree, source)
    docs = [node.text for node in (*tree.items, *item.items) if isinstance(node, Docstring)]
    parameters = tuple(
        source.text[parameter.span.start : parameter.span.end] for parameter in item.parameters
    )
    constraints = tuple(
        source.text[node.test.span.start : node.test.span.end]
        for node in item.items
        if isinstance(node, Require)
    )
    text = docs[0].strip() if docs else ""
    said = dict(_FIGURE.findall(text))
    summary = text.partition("\n")[0]
    return Entry(name, parameters, summary, constraints, said.get("bubble"), said.get("peak"))


_FIGURE = re.compile(r"^(bubble|peak): (.+)$", re.MULTILINE)


def only_schedule(tree: File, source: Source) -> ScheduleItem:
    """The schedule of a file that holds one."""
    found = [item for item in tree.items if isinstance(item, ScheduleItem)]
    if len(found) > 1:
        message = f"this file holds {len(found)} schedules"
        raise PipecError(
            [Finding("usage", message, found[1].name.span, "one schedule a file")], source
        )
    return found[0]
