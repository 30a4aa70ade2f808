"""What a finding's code means, and the way out: quoted from the page that documents all codes."""

import re
from functools import cache
from importlib.resources import files

from pipec.findings import Finding, PipecError, listed, nearest

_SECTION = r"^#### {code}\n(.*?)(?=^#{{2,4}} |\Z)"
_ROW = r"^\| `({code})` \| ([^|]*) \|(?: ([^|]*) \|)?$"
_MARK = re.compile(r"^<!--.*?-->\n", re.MULTILINE)


@cache
def _page() -> str:
    text = files("pipec.docs").joinpath("certificate.md").read_text(encoding="utf-8")
    return text.partition("\n## Findings\n")[2]


def codes() -> tuple[str, ...]:
    """Every code of a finding, in alphabetical order."""
    sections = re.findall(r"^#### ([\w-]+)$", _page(), re.MULTILINE)
    rows = re.findall(_ROW.format(code=r"[\w-]+"), _page(), re.MULTILINE)
    return tuple(sorted({*sections, *(row[0] for row in rows)}))


def explanation(code: str) -> str:
    """The meaning of a code as Markdown, with an example. Raises `PipecError`."""
    name = re.escape(code)
    section = re.search(_SECTION.format(code=name), _page(), re.MULTILINE | re.DOTALL)
    if section:
        return f"# {code}\n{_MARK.sub('', section[1]).rstrip()}\n"
    row = re.search(_ROW.format(code=name), _page(), re.MULTILINE)
    if row:
        way_out = f"\nThe way out: {row[3]}.\n" if row[3] else ""
        return f"# {code}\n\n{row[2]}.\n{way_out}"
    message, hint = f"there is no finding `{code}`", nearest(code, codes())
    raise PipecError([Finding("usage", message, None, listed(codes()), None, hint)])
