"""The plan: the artefact that is verified, saved, compared between ranks and executed.

A plan file is JSON (docs/plan.md has the schema). Each section has a digest, and the plan's digest
is over those, so a changed file is an error that says which part was changed.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipec.files import replace_text
from pipec.findings import Finding, PipecError
from pipec.program.costs import Costs
from pipec.program.encode import (
    decode_certificate,
    decode_costs,
    decode_memory,
    decode_program,
    decode_schedule,
    encode_costs,
    encode_memory,
    encode_program,
    encode_schedule,
)
from pipec.program.memory import Memory
from pipec.program.program import Program
from pipec.program.shape import Misshapen

FORMAT = "pipec-plan"
VERSION = 2


@dataclass(frozen=True, eq=False)
class Plan:
    """A verified program with everything that it was verified with."""

    name: str
    parameters: Mapping[str, int | bool]
    program: Program
    costs: Costs
    memory: Memory
    certificate: Mapping[str, Any]

    @cached_property
    def _sections(self) -> dict[str, Any]:
        source = self.program.origins.source
        return {
            "schedule": encode_schedule(self.name, self.parameters, source),
            "program": encode_program(self.program),
            "costs": encode_costs(self.costs),
            "memory": encode_memory(self.memory),
            "certificate": dict(self.certificate),
        }

    @cached_property
    def digests(self) -> dict[str, str]:
        """The digest of each section."""
        return {name: _digest(section) for name, section in self._sections.items()}

    @property
    def digest(self) -> str:
        """The digest of the whole plan: equal if and only if two plans are the same."""
        return _digest(self.digests)

    @property
    def ranks(self) -> int:
        """How many processes execute the plan."""
        return self.program.ranks

    def stages(self, rank: int) -> tuple[int, ...]:
        """The stages that a rank holds."""
        return self.program.placement.held(rank)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan file; an existing one is replaced whole or not at all."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "digest": self.digest,
            "digests": self.digests,
            **self._sections,
        }
        replace_text(Path(path), json.dumps(content, separators=(",", ":")) + "\n")


def load_plan(path: str | os.PathLike[str]) -> Plan:
    """Read a plan file. Raises `PipecError` that names what is wrong with it."""
    return parse_plan(Path(path).read_text(encoding="utf-8", errors="replace"), str(path))


def parse_plan(content: str, name: str) -> Plan:
    """Read the text of a plan file; `name` is what messages call it."""
    try:
        return _decoded(_checked(content))
    except Misshapen as error:
        message, expected, found, hint = error.message, error.expected, error.found, error.hint
    except RecursionError:
        message, expected, found, hint = "this is nested too deeply", "a plan file", None, None
    raise PipecError([Finding("plan", f"{name}: {message}", None, expected, found, hint)])


def is_plan(content: str) -> bool:
    """Whether a text is meant as a plan rather than as a schedule or a listing."""
    return content.lstrip().startswith("{")


def _digest(section: Any) -> str:
    canonical = json.dumps(section, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _checked(content: str) -> dict[str, Any]:
    """The sections of a plan file that is whole and unchanged."""
    try:
        plan = json.loads(content)
    except (ValueError, RecursionError) as error:
        cut = not content.rstrip().endswith("}")
        what = "the file ends too early" if cut else f"this is not JSON ({error})"
        raise Misshapen(what, "a whole plan file", None, "compile it again") from None
    if not isinstance(plan, dict) or plan.get("format") != FORMAT:
        found = plan.get("format") if isinstance(plan, dict) else type(plan).__name__
        raise Misshapen("this is not a plan file", f'"format": "{FORMAT}"', repr(found)[:60])
    if plan.get("version") != VERSION or isinstance(plan["version"], bool):
        found = repr(plan.get("version"))[:60]
        hint = "compile it again with this version of pipec"
        raise Misshapen("this plan is of another version", str(VERSION), found, hint)
    names = ("schedule", "program", "costs", "memory", "certificate")
    missing = [key for key in (*names, "digests", "digest") if key not in plan]
    if missing:
        raise Misshapen(f"the section `{missing[0]}` is missing", ", ".join(names))
    for key in names:
        stated = plan["digests"].get(key) if isinstance(plan["digests"], dict) else None
        if _digest(plan[key]) != stated:
            hint = "plans are not edited; compile the schedule again"
            raise Misshapen(
                f"the section `{key}` was changed after the plan was written",
                f"digest {str(stated)[:16]}",
                _digest(plan[key])[:16],
                hint,
            )
    if _digest(plan["digests"]) != plan["digest"]:
        found = _digest(plan["digests"])[:16]
        raise Misshapen("the digests were changed", f"digest {str(plan['digest'])[:16]}", found)
    return {key: plan[key] for key in names}


def _decoded(sections: dict[str, Any]) -> Plan:
    name, parameters, source = decode_schedule(sections["schedule"])
    return Plan(
        name,
        parameters,
        decode_program(sections["program"], source),
        decode_costs(sections["costs"]),
        decode_memory(sections["memory"]),
        decode_certificate(sections["certificate"]),
    )
