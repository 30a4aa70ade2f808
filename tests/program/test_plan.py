"""A plan file is what was saved, or an error that says what is wrong; never anything else."""

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_programs import programs

import pipec
from pipec.compiler import Settings, build, certify
from pipec.findings import PipecError
from pipec.library import names
from pipec.program.costs import KEYS as COST_KEYS
from pipec.program.costs import Costs
from pipec.program.listing import listing
from pipec.program.memory import Limit, Memory
from pipec.program.plan import VERSION, Plan, _digest, load_plan, parse_plan
from pipec.program.program import Origins, Program
from pipec.program.sizes import SIZES
from pipec.source import Source, Span
from pipec.verify.certificate import verify
from pipec.view.findings import findings_text

TIMES = st.fractions(0, 1000, max_denominator=10**6)


def amounts(keys: tuple[str, ...], values: st.SearchStrategy[Fraction]) -> st.SearchStrategy[Any]:
    """One number per key, or one per stage."""
    per_stage = st.lists(values, min_size=1, max_size=3).map(tuple)
    return st.dictionaries(st.sampled_from(keys), values | per_stage, max_size=4)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Any program with any costs and memory, with or without the text that it came from."""
    program = draw(programs())
    source = draw(st.none() | st.builds(Source, st.text(max_size=5), st.text(max_size=20)))
    if source:
        program = with_origins(program, source)
    limits = st.builds(Limit, TIMES, st.booleans(), st.none() | st.just(Span(0, 2)))
    return Plan(
        draw(st.text(max_size=5)),
        draw(st.dictionaries(st.text(max_size=3), st.integers(-(2**60), 2**60) | st.booleans())),
        program,
        Costs(draw(amounts(COST_KEYS, TIMES)), draw(st.booleans())),
        Memory(draw(amounts(SIZES, TIMES)), draw(st.booleans()), draw(st.none() | limits)),
        {"ok": True, "findings": []},
    )


def with_origins(program: Program, source: Source) -> Program:
    spans = (Span(0, 1), Span(1, 3))
    origin = program.origin.copy()
    origin[::2] = 1
    return replace(program, origin=origin, origins=Origins(source, spans))


def saved(plan: Plan, folder: Path) -> str:
    plan.save(folder / "x.plan")
    return (folder / "x.plan").read_text(encoding="utf-8")


@settings(deadline=None, max_examples=150)
@given(plans())
def test_any_plan_reads_back(tmp_path_factory: pytest.TempPathFactory, plan: Plan) -> None:
    """Everything that was saved is loaded, and the digest is the same."""
    folder = tmp_path_factory.mktemp("plans")
    again = parse_plan(saved(plan, folder), "x.plan")
    assert again.program.same(plan.program)
    assert (again.name, dict(again.parameters)) == (plan.name, dict(plan.parameters))
    assert (again.costs, again.memory) == (plan.costs, plan.memory)
    assert again.program.origins == plan.program.origins
    assert list(again.program.origin) == list(plan.program.origin)
    assert again.certificate == plan.certificate
    assert again.digest == plan.digest


@pytest.mark.parametrize("name", names())
def test_library_plans_read_back_and_verify_the_same(name: str, tmp_path: Path) -> None:
    """A loaded plan is certified just as what was compiled, and points into the same text."""
    plan = pipec.compile(name, P=2, M=4, memory_limit=100, costs=Costs.of({"F": "0.7"}))
    plan.save(tmp_path / "x.plan")
    again = load_plan(tmp_path / "x.plan")
    assert again.digest == plan.digest and again.program.same(plan.program)
    assert again.memory.limit == Limit(Fraction(100))
    compiled = build(str(tmp_path / "x.plan"), {})
    certificate = certify(compiled, Settings())
    assert certificate.ok and certificate.report is not None
    assert certificate.report.makespan == plan.certificate["makespan"]
    assert again.program.origins.source == plan.program.origins.source


def test_the_digest_is_over_everything() -> None:
    """A change of sizes, costs, limit, text or name is another digest; compiling again is not."""
    base: dict[str, Any] = {"schedule": "1f1b", "P": 2, "M": 4}
    others = [
        {**base, "M": 5},
        {**base, "schedule": "gpipe"},
        {**base, "costs": Costs.of({"F": 2})},
        {**base, "costs": Costs.of({"send": "1/3"})},
        {**base, "memory_limit": 9},
        {**base, "channels": pipec.Channels("rank")},
    ]
    digests = {pipec.compile(**arguments).digest for arguments in (base, base, *others)}
    assert len(digests) == 1 + len(others)


@pytest.fixture(scope="module")
def good() -> str:
    return json.dumps(content_of(pipec.compile("dualpipe", P=2, M=4, memory_limit=50)))


def content_of(plan: Plan) -> dict[str, Any]:
    return {
        "format": "pipec-plan",
        "version": VERSION,
        "digest": plan.digest,
        "digests": plan.digests,
        **plan._sections,
    }


def refused(content: str) -> str:
    """The message with which a plan is refused, which is a `plan` finding that names the file."""
    with pytest.raises(PipecError) as caught:
        parse_plan(content, "x.plan")
    (finding,) = caught.value.findings
    assert finding.code == "plan" and finding.message.startswith("x.plan: ")
    return str(caught.value)


@pytest.mark.parametrize("section", ["schedule", "program", "costs", "memory", "certificate"])
def test_a_changed_section_is_named(good: str, section: str) -> None:
    """A plan that was edited is refused, and the message says where."""
    plan = json.loads(good)
    plan[section]["extra"] = 1
    assert f"the section `{section}` was changed" in refused(json.dumps(plan))
    del plan[section]
    assert f"the section `{section}` is missing" in refused(json.dumps(plan))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plan: plan.update(version=0), "of another version"),
        (lambda plan: plan.update(version=VERSION + 1), "of another version"),
        (lambda plan: plan.update(version="1"), "of another version"),
        (lambda plan: plan.update(version=True), "of another version"),
        (lambda plan: plan.pop("version"), "of another version"),
        (lambda plan: plan.update(format="other"), "not a plan file"),
        (lambda plan: plan.pop("format"), "not a plan file"),
        (lambda plan: plan.update(digest="0" * 64), "digests were changed"),
        (lambda plan: plan.update(digests=[]), "was changed"),
        (lambda plan: plan["digests"].update(extra="0"), "digests were changed"),
        (lambda plan: plan.pop("digests"), "`digests` is missing"),
    ],
)
def test_a_changed_head_is_named(
    good: str, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    """Other formats, other versions and changed digests are told apart."""
    plan = json.loads(good)
    change(plan)
    assert message in refused(json.dumps(plan))


@pytest.mark.parametrize(
    "change",
    [
        {"ok": 1},
        {"findings": {}},
        {"findings": [1]},
        {"channels": []},
        {"channels": {"pair": 0}},
        {"channels": {"pair": {"safe": True, "credits_needed": "0"}}},
        {"channels": {"pair": {"safe": True, "credits_needed": -1}}},
    ],
)
def test_a_certificate_of_another_form_is_refused(good: str, change: dict[str, Any]) -> None:
    """What the runtime looks into is there in its form, also in a plan with right digests."""
    plan = json.loads(good)
    plan["certificate"] |= change
    plan["digests"]["certificate"] = _digest(plan["certificate"])
    plan["digest"] = _digest(plan["digests"])
    assert "`certificate." in refused(json.dumps(plan))


FOREIGN = ["", " ", "null", "[]", "1", '"x"', "{", "{}", '{"format": 1}', "NaN", "\x00", "\ud800"]
DEEP = ["[" * 10**5, '{"a":' * 10**5, '{"format": "pipec-plan", "version": 1e400}']


@pytest.mark.parametrize("content", [*FOREIGN, *DEEP])
def test_other_files_are_refused(content: str) -> None:
    """Foreign JSON, no JSON, deep nesting."""
    refused(content)


@pytest.mark.parametrize("depth", [100, 300, 500, 900, 950, 1000, 3000])
def test_deep_nesting_inside_is_refused(good: str, depth: int) -> None:
    """However deep: what can be read but not be digested is refused like the rest."""
    plan = json.loads(good)
    plan["certificate"] = "HERE"
    refused(json.dumps(plan).replace('"HERE"', '{"a":' * depth + "1" + "}" * depth))


def test_every_cut_is_noticed(good: str) -> None:
    """A file that ends too early is refused wherever it ends, and mostly said to be cut."""
    for length in range(0, len(good), max(1, len(good) // 200)):
        refused(good[:length])
    assert "the file ends too early" in refused(good[: len(good) // 2])


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_every_changed_character_is_noticed(good: str, data: st.DataObject) -> None:
    """One character replaced: refused, unless it says the same JSON."""
    at = data.draw(st.integers(0, len(good) - 1))
    put = data.draw(st.characters())
    changed = good[:at] + put + good[at + 1 :]
    try:
        plan = parse_plan(changed, "x.plan")
    except PipecError:
        return
    assert plan.digest == parse_plan(good, "x.plan").digest


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 40)
    | st.sampled_from([2**31, -(2**40), 10**30, 0.5, float("inf"), "", "1/0", "F", "9" * 5000])
    | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=4,
)


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where the values of some JSON stand."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, part in inner:
        found.append((*prefix, key))
        if isinstance(part, dict | list):
            found += paths(part, (*prefix, key))
    return found


@settings(deadline=None, max_examples=600)
@given(data=st.data())
def test_a_forged_plan_is_refused_or_whole(good: str, data: st.DataObject) -> None:
    """Wrong types and values anywhere inside, with digests made right again.

    Whatever is accepted can be verified, listed and saved; nothing raises anything else.
    """
    plan = json.loads(good)
    names = ("schedule", "program", "costs", "memory", "certificate")
    places = [path for path in paths({name: plan[name] for name in names}) if len(path) > 1]
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(places))
        try:
            replaced(plan, path, data.draw(VALUES), data.draw(st.booleans()))
        except (KeyError, IndexError, TypeError):
            continue  # the first change took this place away
    plan = json.loads(json.dumps(plan))  # or made it an object, whose keys are texts
    plan["digests"] = {name: _digest(plan[name]) for name in names}
    plan["digest"] = _digest(plan["digests"])
    try:
        forged = parse_plan(json.dumps(plan), "x.plan")
    except PipecError as error:
        assert [finding.code for finding in error.findings] == ["plan"]
        return
    again = parse_plan(json.dumps(content_of(forged)), "x.plan")
    assert again.program.same(forged.program)
    try:
        findings = verify(forged.program, forged.costs, forged.memory).findings
    except PipecError:
        return  # costs that are too large for the clock
    findings_text(findings, forged.program.origins.source, forged.program)
    listing(forged.program, origins=True)


def replaced(plan: Any, path: tuple[Any, ...], value: Any, remove: bool) -> None:
    for key in path[:-1]:
        plan = plan[key]
    if remove:
        del plan[path[-1]]
    else:
        plan[path[-1]] = value
