"""The standard plugins keep to the conformance suite, and so does nothing at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import test_alerts_conformance as of_alerts
import test_limits_conformance as of_limits
from workshop_kit import FEW_WAYS_PLUGIN, put_few_ways

from muxx import hookimpl
from muxx.testing import clean_environment
from muxx.testing.conformance import FEW_WAYS, INVARIANTS, Case, Conformance, Subject, broken, examine, matrix
from muxx.testing.conformance.cases import FORMS
from muxx_std.cache import Cache
from muxx_std.keys import Keys
from muxx_std.logs import Logs
from muxx_std.mock import Mock
from muxx_std.pricing import Pricing
from muxx_std.projects import Projects

CHAT = ("chat", "")
"""The cases of chat completions that are not translated."""


class TestKeys(Conformance):
    plugin = Keys
    ways = FEW_WAYS


class TestLogs(Conformance):
    plugin = Logs
    ways = FEW_WAYS


class TestPricing(Conformance):
    plugin = Pricing
    ways = FEW_WAYS


class TestProjects(Conformance):
    plugin = Projects
    ways = FEW_WAYS


class TestMock(Conformance):
    plugin = Mock
    ways = FEW_WAYS


class TestCache(Conformance):
    plugin = Cache
    ways = FEW_WAYS


class EveryHook:
    """Has a part in every exchange and changes nothing."""

    @hookimpl
    async def authenticate(self) -> None: ...

    @hookimpl
    async def pre_request(self) -> None: ...

    @hookimpl
    def pre_attempt(self) -> None: ...

    @hookimpl
    async def on_chunk(self) -> None: ...

    @hookimpl
    def price(self) -> None: ...

    @hookimpl
    def post_response(self) -> None: ...

    @hookimpl
    async def record(self) -> None: ...


class TestEveryHook(Conformance):
    plugin = EveryHook


@pytest.mark.soak
@pytest.mark.parametrize("test", [TestKeys, TestLogs, TestPricing, TestProjects, TestMock, TestCache, of_alerts.TestAlerts, of_limits.TestLimits])
async def test_a_standard_plugin_keeps_to_the_suite_on_all_ways(test: type[Conformance]) -> None:
    assert broken(await examine(test.described())) == {}


def test_every_invariant_is_a_test_of_its_name() -> None:
    tests = {name.removeprefix("test_") for name in dir(Conformance) if name.startswith("test_")}
    assert tests == {invariant.__name__ for invariant in INVARIANTS}


def test_the_matrix_holds_every_endpoint_form_and_ending_once() -> None:
    cases = matrix(("authenticate", "pre_request", "pre_attempt", "on_chunk", "price", "post_response", "record"))
    alone = [case for case in cases if not case.part]
    assert len({str(case) for case in alone}) == len(alone)
    assert [case.number for case in cases] == list(range(1, len(cases) + 1))
    whole = {(form.way, form.stream) for form in FORMS if form.whole}
    forms = {(case.way, case.stream, case.cached) for case in alone}
    assert len(forms) == 50
    for way, stream, cached in forms:
        here = [case for case in alone if (case.way, case.stream, case.cached) == (way, stream, cached)]
        if cached == "streamed":
            assert [(case.outcome, case.hooked) for case in here] == [("answered", False), ("answered", True)]
            continue
        hooks = {case.act.hook for case in here if case.act is not None and case.act.what == "crashes"}
        if (way, stream) not in whole:
            assert hooks == ({"on_chunk"} if cached else {"on_chunk", "pre_request"})
            assert "answered" in {case.outcome for case in here}
            continue
        assert hooks >= {"authenticate", "pre_request", "on_chunk", "post_response", "record"}
        assert hooks >= {"pre_attempt", "price"} or cached
        assert {"answered", "the client leaves in pre_request"} <= {case.outcome for case in here}


def test_every_format_is_called_natively_and_translated_and_broken_in_every_way() -> None:
    cases = matrix(("on_chunk",))
    ways = {case.way for case in cases}
    assert ways >= {("messages", ""), ("generate_content", ""), ("chat", "messages"), ("messages", "chat"), ("generate_content", "chat")}
    for way in ways:
        faults = {case.upstream for case in cases if case.way == way and case.stream}
        if way[0] != "embeddings":
            assert faults >= {"resets", "sends garbage", "ends early", "tells of an error", "fails once", "refuses with 429"}
            assert faults >= {"waits in the middle", "waits before the end", "cut byte by byte"}


def test_the_matrix_has_every_form_asked_by_several_at_once_and_each_of_them_disturbed() -> None:
    shared = [case for case in matrix(("on_chunk",)) if case.part]
    calls: dict[int | None, list[Case]] = {}
    for case in shared:
        calls.setdefault(case.seed, []).append(case)
    assert all([case.part for case in call] in (["begins", "joins", "joins"], ["begins", "joins"]) for call in calls.values())
    assert {(case.way, case.stream) for case in shared} == {(form.way, form.stream) for form in FORMS}
    for form in FORMS:
        outcomes = {case.outcome for case in shared if (case.way, case.stream) == (form.way, form.stream)}
        assert outcomes >= {"answered to all", "who began it leaves in the middle", "the provider resets in the middle"}
        if not form.whole:
            continue
        assert outcomes >= {"answered to all", "who began it leaves in the middle", "the provider fails", "another project asks the same"}
        assert {f"crashes in on_chunk by {who}, for who {part} it" for who in ("probe-first", "the plugin") for part in ("began", "joined")} <= outcomes


async def test_a_gateway_without_a_cache_is_examined_without_one() -> None:
    subject = Subject(EveryHook, "every", config={"project": {"cache": {"enabled": False}}})
    evidence = await examine(subject, [case for case in matrix(subject.hooks) if case.way == CHAT])
    assert broken(evidence) == {}
    assert not any(result.case.asks_the_cache for result in evidence.results)
    assert {record["cache"] for record in evidence.records} == {"bypass"}


@pytest.mark.parametrize("on_error", ["refuse", "ignore"])
async def test_a_plugin_whose_crashes_are_ignored_is_held_to_that(on_error: str) -> None:
    subject = Subject(EveryHook, "every", {"on_error": on_error})
    cases = [case for case in matrix(subject.hooks) if case.way == CHAT and "by the plugin" in case.outcome]
    evidence = await examine(subject, cases)
    assert broken(evidence) == {}
    crashed = [result for result in evidence.results if "crashes in pre_request" in result.case.outcome]
    assert {result.response.status for result in crashed if result.response} == {500 if on_error == "refuse" else 200}


def run_pytest(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    without = [f"-pno:{plugin}" for plugin in ("cacheprovider", "xdist", "schemathesis", "hypothesispytest")]
    command = [sys.executable, "-m", "pytest", "-q", *without, *arguments]
    return subprocess.run(command, cwd=directory, env=clean_environment(), capture_output=True, text=True, timeout=110, check=False)


def test_it_runs_for_an_installed_plugin_from_the_command_line(tmp_path: Path) -> None:
    put_few_ways(tmp_path)
    suite = ("-p", FEW_WAYS_PLUGIN, "-p", "muxx.testing.fixtures", "--pyargs", "muxx.testing.conformance", "--muxx-plugin")
    done = run_pytest(*suite, "pricing", directory=tmp_path)
    assert done.returncode == 0, done.stdout
    assert f"{len(INVARIANTS)} passed" in done.stdout
    unknown = run_pytest(*suite, "prcing", directory=tmp_path)
    assert "did you mean 'pricing'?" in unknown.stdout


def test_what_a_bad_plugin_breaks_fails_the_test_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "from dataclasses import replace\n"
        "import muxx\n"
        "from muxx.testing.conformance import Conformance\n\n\n"
        "class Shout:\n"
        "    @muxx.hookimpl\n"
        "    def on_chunk(self, chunk):\n"
        "        return [replace(chunk, text=chunk.text.upper())] if chunk.kind == 'text' else None\n\n\n"
        "class TestShout(Conformance):\n"
        "    plugin = Shout\n"
        "    ways = {('chat', '')}\n"
    )
    done = run_pytest("test_mine.py", directory=tmp_path)
    assert done.returncode == 1
    assert f"{len(INVARIANTS) - 2} passed" in done.stdout
    assert "shout: an answer the plugin does not change stays byte identical: broken" in done.stdout
    assert "FAILED test_mine.py::TestShout::test_the_answer_says_the_same_in_every_form" in done.stdout
