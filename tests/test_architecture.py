"""The shape of the project: rooms in order, imports at the top, modules that stay small."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parent.parent

ROOMS = """
    loading source findings files processes amounts
    language
    program
    order
    simulate
    lower
    verify
    interop
    library stated compiler families explain
    tune
    runtime
    view
    cli
    examples
""".split()
"""Each room (a folder or a module of `pipec`) imports only from rooms before it.

Data passes language -> order -> program -> verify, but a room stands behind what it is made of:
`order` says what a text means in the tables of `program`, and `lower` decides places by simulated
time. `runtime` needs only the waist: program, simulate, lower, verify.
"""

FOLDERS = {"pipec": "", "runtime": "runtime", "examples": "examples", "schedules": "schedules"}
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
EVERYTHING = sorted([*MODULES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "bench").rglob("*.py")])
by_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))


def name_of(path: Path) -> str:
    """The name under which a module is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "pipec" else ("pipec", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """`pipec.program.graph` -> `program`; `pipec` itself is above all that it offers."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "pipec"


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path, node: ast.AST) -> Iterator[str]:
    """The modules (or names in modules) that an import statement may load, in full."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        package = name_of(path.parent / "__init__.py").split(".")
        base = package[: len(package) + 1 - node.level] if node.level else []
        base = [*base, *([node.module] if node.module else [])]
        yield from (".".join([*base, alias.name]) for alias in node.names)


KNOWN = {name_of(path): path for path in MODULES}


def loaded(path: Path) -> set[str]:
    """The modules of ours that a module imports: `from a import b` is `a.b` if that is one."""
    targets = {target for node in ast.walk(tree_of(path)) for target in imports(path, node)}
    found = {name if name in KNOWN else name.rpartition(".")[0] for name in targets}
    return found & KNOWN.keys() - {name_of(path)}


@by_module
def test_rooms_stand_in_order(path: Path) -> None:
    """A room imports from rooms before it and from nowhere else."""
    room = room_of(name_of(path))
    if room in ("pipec", "schedules"):
        assert room == "pipec" or not loaded(path)
        return
    assert room in ROOMS, f"say in ROOMS where `{room}` stands"
    above = {
        name
        for name in loaded(path)
        if room_of(name) not in ("schedules", room)
        and (name == "pipec" or ROOMS.index(room_of(name)) > ROOMS.index(room))
    }
    assert room == "examples" or not above


def test_the_runtime_needs_only_the_waist() -> None:
    """No text is parsed, drawn or looked up where training runs."""
    rooms = {
        room_of(name)
        for path in (ROOT / "runtime").rglob("*.py")
        for name in loaded(path)
        if room_of(name) != "runtime"
    }
    assert {"program", "findings"} <= rooms
    assert rooms <= {"source", "findings", "program", "simulate", "lower", "verify"}


def test_no_module_imports_itself_by_a_detour() -> None:
    """The imports of all modules are free of cycles."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    for path in MODULES:
        graph.add_edges_from((name_of(path), name) for name in loaded(path))
    assert list(nx.simple_cycles(graph)) == []


@by_module
def test_imports_stand_at_the_top(path: Path) -> None:
    """No import is hidden in a function or behind a condition."""
    tree = tree_of(path)
    inside = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom) and node not in tree.body
    ]
    assert not inside, f"line {inside[0].lineno}"


@by_module
def test_only_commands_print(path: Path) -> None:
    """`print` and the standard streams belong to the command line and the examples."""
    if room_of(name_of(path)) in ("cli", "examples"):
        return
    for node in ast.walk(tree_of(path)):
        assert not (isinstance(node, ast.Name) and node.id == "print"), node.lineno
        standard = isinstance(node, ast.Attribute) and node.attr in ("stdout", "__stdout__")
        assert not standard, node.lineno


@by_module
def test_nothing_is_evaluated_or_unpickled(path: Path) -> None:
    """Files are data: no eval, no exec, no pickle, no marshal."""
    tree = tree_of(path)
    called = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert not called & {"eval", "exec", "__import__"}
    targets = {target.split(".")[0] for node in ast.walk(tree) for target in imports(path, node)}
    assert not targets & {"pickle", "marshal", "shelve", "dill"}


@pytest.mark.parametrize("path", EVERYTHING, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_stay_small(path: Path) -> None:
    """At most 400 lines; beyond that a module is two."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@by_module
def test_functions_stay_small(path: Path) -> None:
    """At most 60 lines, signature and docstring included (40 is what we aim at)."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef) and node.end_lineno:
            assert node.end_lineno - node.lineno < 60, f"{node.name}, line {node.lineno}"


@pytest.mark.parametrize(
    "code",
    [
        "import pipec",
        "import pipec.cli",
        "import pipec; pipec.compile('dualpipe', P=2, M=4)",
        "from pipec.cli import main; main(['verify', '1f1b', 'P=2', 'M=2'], standalone_mode=False)",
        "from pipec.cli import main; main(['show', 'zbv', 'P=2', 'M=4'], standalone_mode=False)",
        "from pipec.cli import main; main(['run', '--help'], standalone_mode=False)",
    ],
)
def test_the_compiler_runs_without_torch(code: str) -> None:
    """Nothing of the compiler or the command line imports torch."""
    check = "import sys; assert 'torch' not in sys.modules and 'pipec.runtime' not in sys.modules"
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\n{check}"],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert result.returncode == 0, result.stderr


def test_every_package_is_shipped() -> None:
    """Each folder with modules is in the list of packages: an installed pipec is whole."""
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    folders = {path.parent for path in MODULES if path.name == "__init__.py"}
    for folder in folders:
        assert f'"{name_of(folder / "__init__.py")}"' in declared
    assert all((path.parent / "__init__.py").exists() for path in MODULES)


def test_tests_have_unique_names() -> None:
    """Test modules are told apart by their names alone, since their folders are no packages."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert len(names) == len(set(names))
