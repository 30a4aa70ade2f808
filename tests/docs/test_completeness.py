"""The documentation is whole: nothing of the project is left out of the page that lists it."""

import ast
import importlib
import inspect
import re
import shlex
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from pages import ROOT

from pipec.cli import main
from pipec.compiler import Settings, build
from pipec.library import names
from pipec.program.costs import KEYS, durations
from pipec.program.effects import EFFECTS
from pipec.program.graph import Channels, event_graph
from pipec.program.links import Links
from pipec.simulate.report import report
from pipec.simulate.timeline import simulate
from pipec.simulate.usage import usage
from pipec.view.svg import timeline_svg

DOCS = ROOT / "docs"
_SECTION = re.compile(r"(<!-- modules: ([\w/]+) -->\n)((?:\n?\|.*\n)*)")


def page(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def modules() -> list[Path]:
    """The modules of the compiler and the runtime."""
    return [*sorted((ROOT / "pipec").rglob("*.py")), *sorted((ROOT / "runtime").rglob("*.py"))]


def test_every_module_is_on_the_architecture_page(request: pytest.FixtureRequest) -> None:
    """The tables of modules are the tree, with the first line of each docstring."""
    text = page("architecture")
    listed = _SECTION.sub(lambda found: f"{found[1]}\n{_table(ROOT / found[2])}", text)
    if request.config.getoption("--update-goldens"):
        (DOCS / "architecture.md").write_text(listed, encoding="utf-8")
        return
    assert text == listed, "run `pytest --update-goldens`, read it"
    folders = {ROOT / found[2] for found in _SECTION.finditer(text)}
    assert {module.parent for module in modules()} <= folders


def _table(folder: Path) -> str:
    lines = ["| module | what is in it |", "| --- | --- |"]
    for module in sorted(folder.glob("*.py")):
        docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
        first = " ".join(docstring.split("\n\n")[0].split()).replace("|", "\\|")
        if module.name != "__init__.py":
            lines.append(f"| `{module.name}` | {first} |")
    return "\n".join(lines) + "\n"


def test_every_public_name_is_on_its_page(request: pytest.FixtureRequest) -> None:
    """The tables of names are what the modules export, with the first line of each docstring."""
    text = page("python")
    listed = _NAMES.sub(lambda found: f"{found[1]}\n{_name_table(found[2])}", text)
    if request.config.getoption("--update-goldens"):
        (DOCS / "python.md").write_text(listed, encoding="utf-8")
        return
    assert text == listed, "run `pytest --update-goldens`, read it"
    there = {found[2] for found in _NAMES.finditer(text)}
    assert there == {"pipec", *(f"pipec.runtime{one}" for one in ("", ".experts", ".split"))}


_NAMES = re.compile(r"(<!-- names: ([\w.]+) -->\n)((?:\n?\|.*\n)*)")


def _name_table(package: str) -> str:
    module = importlib.import_module(package)
    lines = ["| name | what it is |", "| --- | --- |"]
    for name in sorted(module.__all__, key=str.lower):
        first = " ".join(_said(package, getattr(module, name), name).split("\n\n")[0].split())
        assert first, f"{package}.{name} says nothing of itself"
        lines.append(f"| `{name}` | {first.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def _said(package: str, thing: object, name: str) -> str:
    """The docstring of a name; of a constant, the text below it."""
    if callable(thing):
        return inspect.getdoc(thing) or ""
    folder = ROOT.joinpath(*package.removeprefix("pipec.").split("."))
    for path in sorted(folder.glob("*.py")):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        for node, below in pairwise(body):
            named = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name
            if named and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                return str(below.value.value)
    return ""


def test_every_folder_of_tests_is_on_the_architecture_page() -> None:
    """The table of tests names every folder below `tests/` that holds anything."""
    listed = set(re.findall(r"^\| `tests/(\w+)` \|", page("architecture"), flags=re.MULTILINE))
    there = {path.name for path in (ROOT / "tests").iterdir() if any(path.glob("*.*"))}
    assert there - {"__pycache__"} <= listed


def test_rooms_import_from_rooms_above_them() -> None:
    """No module imports from a room below its own in the table of rooms."""
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", page("architecture"), flags=re.MULTILINE)
    order = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    checked = 0
    for module in modules():
        parts = module.relative_to(ROOT).with_suffix("").parts
        here = parts[0] if parts[0] == "runtime" else parts[1]
        if here == "__init__":
            continue
        for name in _imported(module):
            there = name.split(".")[1]
            assert {here, there} <= set(order), f"a room is missing in the table: {here}, {there}"
            assert order.index(there) <= order.index(here), f"{module.name} imports {name}"
            checked += 1
    assert checked > 100


def _imported(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipec."):
            yield str(node.module)


def test_every_finding_is_explained() -> None:
    """Every code that a finding can have is on the certificate's page, and no other one."""
    used = {code for module in modules() for code in _codes(module)}
    text = page("certificate")
    explained = set(re.findall(r"^\| `([a-z-]+)` \| .* \|", text, flags=re.MULTILINE))
    explained |= set(re.findall(r"^####? ([a-z-]+)$", text, flags=re.MULTILINE))
    fields = {"ok", "findings", "channels", "costs", "makespan", "memory", "ranks"}
    fields |= {"code", "severity", "message", "source", "places", "notes", "warnings"}
    assert used
    assert used - explained == set()
    assert explained - fields - used == set()


def _codes(module: Path) -> Iterator[str]:
    """The first argument where findings are made, and what is given as `code`."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = getattr(node.func, "id", getattr(node.func, "attr", ""))
        given = [key.value for key in node.keywords if key.arg == "code"]
        if called in ("Finding", "SplitError", "Rejecting", "finding", "add", "_finding"):
            given += node.args[:1]
        if called == "PipelineError" and not given:
            yield "runtime"
        texts = [value.value for value in given if isinstance(value, ast.Constant)]
        yield from (text for text in texts if re.fullmatch(r"[a-z]+(-[a-z]+)*", str(text)))


def test_every_command_and_option_is_explained() -> None:
    """Every command has a section, and every option a mention."""
    text = page("command-line")
    context = click.Context(main)
    for name in main.list_commands(context):
        assert f"\n## {name}\n" in text
        command = main.get_command(context, name)
        assert command
        for parameter in command.params:
            for option in parameter.opts if isinstance(parameter, click.Option) else ():
                assert option in text, f"{name} {option}"


def test_every_instruction_and_cost_is_explained() -> None:
    """Instructions, lanes and cost keys stand in the tables that explain them."""
    for kind, effect in EFFECTS.items():
        lines = [row for row in page("instructions").splitlines() if f"`{kind.name}`" in row]
        assert any(effect.lane.value in row and f"`{effect.cost}`" in row for row in lines)
    for key in KEYS:
        assert f"`{key.replace('&', ' & ')}`" in page("language")


def test_the_picture_of_a_pair(tmp_path: Path, golden: Callable[[Path, str], None]) -> None:
    """The page on experts has the picture that its command draws today."""
    command = re.search(
        r"^pipec (show dualpipe P=2.*--svg) overlap.svg$", page("experts"), re.M | re.S
    )
    assert command and "](pictures/overlap.svg)" in page("experts")
    words = shlex.split(command[1].replace("\\\n", " "))
    assert CliRunner().invoke(main, [*words, str(tmp_path / "x.svg")]).exit_code == 0
    golden(DOCS / "pictures" / "overlap.svg", (tmp_path / "x.svg").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", names())
def test_every_schedule_has_a_section_and_a_picture(
    name: str, golden: Callable[[Path, str], None]
) -> None:
    """The library's page has a section for each schedule, with the picture that is drawn today."""
    assert f"\n## {name}\n" in page("library")
    assert f"](pictures/{name}.svg)" in page("library")
    compiled = build(name, {"P": 4, "M": 8}, Settings())
    graph = event_graph(compiled.program, Links(compiled.program), Channels())
    time = simulate(graph, durations(compiled.program, compiled.costs)).timeline
    used = usage(compiled.memory, time)
    title = " ".join([compiled.name, *(f"{k}={v}" for k, v in compiled.parameters.items())])
    golden(DOCS / "pictures" / f"{name}.svg", timeline_svg(time, report(time, used), title, used))
