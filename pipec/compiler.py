"""From a text to a plan: the stages in order, each a pure function from one type to the next.

text --read--> File --bind--> Schedule --arrange--> Order --lower--> Program --verify--> Certificate
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

from pipec.findings import Finding, PipecError
from pipec.interop.torch_csv import is_torch_csv, read_torch_csv
from pipec.interop.torch_live import PREFIX, SIZES, torch_schedule
from pipec.language import read
from pipec.library import find, library_name, only_schedule
from pipec.lower.ahead import ahead
from pipec.lower.beside import beside
from pipec.lower.grouped import grouped as with_launches
from pipec.lower.lower import lower
from pipec.lower.parts import open_chunks
from pipec.lower.units import natural, overlapped
from pipec.lower.weave import assumed, weaving
from pipec.order.arrange import arrange
from pipec.order.expand import BUDGET
from pipec.order.schedule import Schedule, bind
from pipec.program.costs import Costs
from pipec.program.costs_file import CostsFile, load_costs
from pipec.program.cut import cut_costs, cut_memory
from pipec.program.graph import Channels
from pipec.program.memory import Limit, Memory, with_limit
from pipec.program.parts import Layout, Pattern, parse_layout
from pipec.program.placement import Placement
from pipec.program.plan import Plan, is_plan, parse_plan
from pipec.program.program import Order, Program
from pipec.program.reading import is_listing, parse_listing
from pipec.source import Source
from pipec.stated import at_most, entries_exist, pairs_known, parts_exist, refuse
from pipec.verify.certificate import Certificate, verify
from pipec.verify.json import certificate_json


@dataclass(frozen=True)
class Settings:
    """What a caller may say besides sizes; what is None is left as the text or the plan has it."""

    costs: Costs | None = None
    memory: Memory | None = None
    """Sizes, and the limit, if any."""
    channels: Channels = Channels()
    budget: int = BUDGET
    grouped: bool = False
    """Whether the two sides of an exchange are issued in one launch."""
    layers: Layout | None = None
    """The parts of every chunk, in place of what the text says."""
    neighbours: int = 1
    """How many operations the parts of opened chunks may be issued of in turn: with 1 those of an
    OVERLAP, and of a BW its own W; with 0 one runs after the other.
    """
    cut: int = 0
    """The equal pieces of the model that costs and sizes are stated for; 0: one per stage."""
    files: tuple[Source, ...] = field(default=(), compare=False, repr=False)
    """The files that state costs and sizes, the later over the earlier, to point into."""


@dataclass(frozen=True)
class Compiled:
    """A program that is not verified yet, with what it is to be verified with."""

    name: str
    parameters: Mapping[str, int | bool]
    program: Program
    costs: Costs
    memory: Memory

    @property
    def source(self) -> Source | None:
        """The text that findings point into."""
        return self.program.origins.source


def compile(
    schedule: str | os.PathLike[str],
    *,
    costs: Costs | CostsFile | str | os.PathLike[str] | None = None,
    memory: Memory | None = None,
    memory_limit: Fraction | int | str | None = None,
    channels: Channels | None = None,
    grouped: bool = False,
    layers: str | None = None,
    neighbours: int = 1,
    cut: int = 0,
    **parameters: int | bool,
) -> Plan:
    """Compile and verify a library schedule or a `.pipe` file: `compile("dualpipe", P=4, M=8)`.

    channels: what it is verified under, and is made short under where messages take time.
    grouped: the two sides of an exchange in one launch.
    costs: times, or a costs file (read, or its name), whose sizes `memory` overrides.
    layers: the parts of every chunk, such as `"4 x attention dispatch mlp combine"`.
    neighbours: how many operations of a rank may be interleaved part by part (see `Settings`).
    cut: the equal pieces of the model that costs and sizes are for; left out: one per stage.
    Raises `PipecError` with the findings if anything is wrong with the text or the program.
    """
    limit = None if memory_limit is None else Limit.of(memory_limit)
    opened = None if layers is None else layers_of(layers)
    file = _costs_file(costs)
    sizes = file.memory.override(memory) if file.memory and memory else memory or file.memory
    settings = Settings(
        file.costs,
        with_limit(sizes, limit),
        channels or Channels(),
        grouped=grouped,
        layers=opened,
        neighbours=neighbours,
        cut=cut,
        files=() if file.source is None else (file.source,),
    )
    compiled = build(os.fspath(schedule), parameters, settings)
    certificate = certify(compiled, settings)
    if not certificate.ok:
        raise PipecError(certificate.findings, compiled.source)
    return plan_of(compiled, certificate)


def _costs_file(costs: Costs | CostsFile | str | os.PathLike[str] | None) -> CostsFile:
    if isinstance(costs, CostsFile):
        return costs
    if isinstance(costs, Costs) or costs is None:
        return CostsFile(costs or Costs())
    return load_costs(costs)


def build(
    target: str, parameters: Mapping[str, int | bool], settings: Settings | None = None
) -> Compiled:
    """The program of a library name, a `.pipe` file, a plan, a listing, a CSV or `torch:NAME`.

    Raises `PipecError`.
    """
    settings = settings or Settings()
    content = _peek(target)
    if content is not None and _is_plan(content, target):
        return _with(_from_plan(parse_plan(content, target), parameters), settings)
    if content is not None and _is_listing(content, target):
        _no_parameters(parameters, "a listing")
        program = parse_listing(Source(target, content))
        return _with(Compiled(Path(target).stem, {}, program, Costs(), Memory()), settings)
    if target.startswith(PREFIX):
        return _with(_imported(torch_schedule(target, parameters)), settings)
    if content is not None and is_torch_csv(content):
        _no_parameters(parameters, "a CSV")
        return _with(_imported(Source(target, content)), settings)
    source = find(target)
    return build_text(source, parameters, settings, library_name(target))


def build_text(
    source: Source,
    parameters: Mapping[str, int | bool],
    settings: Settings,
    name: str | None = None,
) -> Compiled:
    """The program of a text, called `name` or what the text calls it. Raises `PipecError`."""
    schedule = bind(only_schedule(read(source), source), parameters, source)
    settings = _in_stages(settings, schedule, schedule.placement, bool(schedule.layouts))
    costs = schedule.costs.override(settings.costs) if settings.costs else schedule.costs
    memory = _settled(schedule.memory, settings.memory, source)
    pairs_known(costs, schedule.placement, settings.files)
    at_most(costs, memory, int(schedule.placement.stages.max()), "stage", settings.files)
    schedule = replace(schedule, costs=costs, memory=memory)
    orders, layouts = [arrange(schedule, settings.budget)], schedule.layouts
    if settings.layers:
        layouts = (settings.layers,) * schedule.placement.flows[0].stages
    likely = costs
    if layouts and schedule.placement.sliced:
        message, found = "the chunks of a flow with slices cannot be opened", "`layers`"
        span = schedule.flow_spans[0]
        raise PipecError([Finding("parts", message, span, "whole chunks", found)], source)
    if layouts:
        likely = assumed(costs, layouts)
        orders = _opened(orders[0], layouts, schedule.patterns, likely, settings.neighbours)
    program = _fitting(orders, likely, memory, settings.channels)
    compiled = Compiled(name or schedule.name, schedule.parameters, program, costs, memory)
    return _with(compiled, Settings(grouped=settings.grouped, files=settings.files))


def _opened(
    order: Order,
    layouts: tuple[Layout, ...],
    patterns: tuple[Pattern, ...],
    costs: Costs,
    neighbours: int,
) -> list[Order]:
    """The orders of the opened chunks that come into question, the shortest first."""
    entries_exist(patterns, layouts, order.origins.source)
    issue = overlapped if neighbours else natural
    weave = weaving(issue, costs, layouts, patterns if neighbours else ())
    opened = open_chunks(order, layouts, weave)
    return beside(order, opened, costs, neighbours) if neighbours > 1 else [opened]


def _fitting(orders: Sequence[Order], costs: Costs, memory: Memory, channels: Channels) -> Program:
    """The program of the first order that is within the limit, or else of the least one."""
    if memory.limit is None or len(orders) == 1:
        return _lowered(orders[0], costs, memory, channels)
    found = []
    for order in orders:
        program = _lowered(order, costs, memory, channels)
        used = verify(program, costs, memory, channels).used
        if used is None or used.units(used.peak.max()) <= memory.limit.most:
            return program
        found.append((used.units(used.peak.max()), program))
    return min(found, key=lambda pair: pair[0])[1]


def _lowered(order: Order, costs: Costs, memory: Memory, channels: Channels) -> Program:
    return ahead(order, lower(order, costs), costs, memory, channels)


def layers_of(text: str) -> Layout:
    """The parts of a chunk: `4 x attention dispatch mlp combine | head`. Raises `PipecError`."""
    try:
        return parse_layout(text)
    except ValueError as error:
        expected = "layers of parts, such as `4 x attention dispatch mlp combine`"
        raise PipecError([Finding("usage", f"{error}", None, expected, f"`{text}`")]) from None


def takes(target: str) -> tuple[str, ...]:
    """The parameters of a library schedule, a `.pipe` file or `torch:NAME`; other files have none.

    Raises `PipecError` where the text cannot be read.
    """
    content = _peek(target)
    if target.startswith(PREFIX):
        return SIZES
    if content is not None and any(is_one(content, target) for is_one in _WITH_SIZES):
        return ()
    source = find(target)
    return tuple(
        parameter.name.name for parameter in only_schedule(read(source), source).parameters
    )


def certify(compiled: Compiled, settings: Settings) -> Certificate:
    """Verify a program under the channels of the settings."""
    return verify(compiled.program, compiled.costs, compiled.memory, settings.channels)


def plan_of(compiled: Compiled, certificate: Certificate) -> Plan:
    """The plan of a certified program."""
    return Plan(
        compiled.name,
        dict(compiled.parameters),
        compiled.program,
        compiled.costs,
        compiled.memory,
        certificate_json(certificate, compiled.source),
    )


def _peek(target: str) -> str | None:
    path = Path(target)
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


def _imported(source: Source) -> Compiled:
    """torch's schedule: lowered here if it is an order alone, taken as it stands if not."""
    made = read_torch_csv(source)
    program = made if isinstance(made, Program) else lower(made, Costs())
    return Compiled(Path(source.name).stem, {}, program, Costs(), Memory())


def _is_plan(content: str, target: str) -> bool:
    """By its name, or because it looks like one."""
    return Path(target).suffix == ".plan" or is_plan(content)


def _is_listing(content: str, target: str) -> bool:
    return Path(target).suffix == ".listing" or is_listing(content)


_WITH_SIZES = (_is_plan, _is_listing, lambda content, _: is_torch_csv(content))


def _from_plan(plan: Plan, parameters: Mapping[str, int | bool]) -> Compiled:
    _no_parameters(parameters, "a plan")
    return Compiled(plan.name, plan.parameters, plan.program, plan.costs, plan.memory)


def _no_parameters(parameters: Mapping[str, int | bool], what: str) -> None:
    if parameters:
        message = f"{what} has its sizes already"
        found = " ".join(f"{name}={value}" for name, value in parameters.items())
        raise PipecError([Finding("usage", message, None, "no K=V arguments", found)])


def _with(compiled: Compiled, settings: Settings) -> Compiled:
    """A compiled program with the caller's costs, sizes and limit in place of its own."""
    placement = compiled.program.placement
    settings = _in_stages(settings, compiled, placement, bool(placement.layouts))
    costs = compiled.costs.override(settings.costs) if settings.costs else compiled.costs
    memory = _settled(compiled.memory, settings.memory, compiled.source)
    program = with_launches(compiled.program) if settings.grouped else compiled.program
    if settings.layers:
        message = "only the chunks of a text can be opened"
        expected, found = "a library schedule or a `.pipe` file", f"`{compiled.name}`"
        raise PipecError([Finding("usage", message, None, expected, found)])
    parts_exist(costs, placement.layouts, settings.files)
    pairs_known(costs, placement, settings.files)
    at_most(costs, memory, int(placement.stages.max()), "stage", settings.files)
    return replace(compiled, program=program, costs=costs, memory=memory)


def _in_stages(
    settings: Settings, own: Schedule | Compiled, placement: Placement, opened: bool
) -> Settings:
    """Settings for the model in pieces -> for these stages, which take their shares.

    What the caller leaves open stays as the text or the plan has it. Raises `PipecError`.
    """
    if not settings.cut:
        return settings
    costs, memory = settings.costs or Costs(), settings.memory or Memory()
    parts = [key for key in costs.times if "." in key]
    if opened or settings.layers or parts:
        message, found = "opened chunks have no share of a piece", f"`cut` {settings.cut}"
        hint = "state the costs of the chunks, without `cut`"
        finding = Finding("usage", message, None, "chunks without parts", found, hint)
        refuse([(parts[0] if parts else "", finding)], settings.files)
    at_most(costs, memory, settings.cut, "piece", settings.files)
    stages = int(placement.stages.max())
    return replace(
        settings,
        costs=cut_costs(costs, settings.cut, stages, own.costs),
        memory=cut_memory(memory, settings.cut, stages, own.memory),
        cut=0,
    )


def _settled(own: Memory, given: Memory | None, source: Source | None) -> Memory:
    """Sizes and limit, the caller's first. Raises `PipecError` where they are not in one unit."""
    memory = own.override(given) if given else own
    if wrong := memory.wrong_limit():
        raise PipecError([wrong], source)
    return memory
