"""The plugins of the guide keep to the conformance suite, but for the one that is there to be found at fault."""

from __future__ import annotations

import asyncio
import re

import pytest
from docs_kit import ROOT, blocks
from thoroughness import some

from muxx.testing.conformance import Case, Subject, broken, examine
from muxx.testing.conformance.cases import matrix

GUIDE = ROOT / "plugins/README.md"
CHANGES_ANSWERS = {"Shout", "Exclaim", "Addressless"}
CHANGES_REQUESTS = {"Stamp"}
AT_FAULT = {"Forgetful"}
WAYS = {("chat", "")}
"""A native endpoint with all of its cases: the plugins that ship go through others too."""

EXAMPLES = {
    name: block
    for block in blocks("python", page=GUIDE)
    for name in re.findall(r"^class (\w+):\n(?:(?!class ).*\n)*? +@(?:muxx\.)?hookimpl", block.text, re.M)
}


def found(name: str) -> dict[str, list[str]]:
    plugin = getattr(EXAMPLES[name].run(), name)
    changes = {"changes_answers": name in CHANGES_ANSWERS, "changes_requests": name in CHANGES_REQUESTS}
    subject = Subject(plugin, name, **changes)
    return broken(asyncio.run(examine(subject, chosen(subject))))


def chosen(subject: Subject) -> list[Case]:
    """Some of the cases; those that share a call stay together."""
    calls: dict[object, list[Case]] = {}
    for case in matrix(subject.hooks):
        if case.way in WAYS:
            calls.setdefault(("shared", case.seed) if case.part else case.number, []).append(case)
    return [case for call in some(calls.values()) for case in call]


@pytest.mark.parametrize("name", some(sorted(EXAMPLES.keys() - AT_FAULT), least=9))
def test_an_example_keeps_to_the_suite(name: str) -> None:
    assert found(name) == {}


@pytest.mark.parametrize("name", sorted(AT_FAULT))
def test_the_one_at_fault_is_found_so(name: str) -> None:
    assert set(found(name)) == {"two_gateways_of_it_share_no_state"}
