"""`make bench` works: speed itself is never tested, it depends on the machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from bench import payloads, plot, report
from bench.measure import medians, ratio
from bench.part import Stage
from bench.parts import PARTS
from bench.payloads import LAST_LINE, STAMPED
from bench.run import main
from bench.tools import built
from click.testing import CliRunner

ROOT = Path(__file__).parents[1]
ACCOUNT = {"cpu_us", "noise", "settling_s"}
CALLS = {"requests", "requests_per_s", "events_per_s", "p50_ms", "p99_ms"} | ACCOUNT
STREAMS = {"requests", "events_per_s", "on_time", "p50_ms", "p99_ms", "most_ms", "errors", "first_error"} | ACCOUNT
OURS = {"direct", "muxx", "pass-through"}

needs_proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the bench reads /proc")
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


def quick_run(*parts: str, path: str = os.environ["PATH"]) -> dict[str, Any]:
    """What came of these parts, which is also fit for the page."""
    only = [word for part in parts for word in ("--only", part)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--quick", "--json", "-", *only],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["settings"] == {"rounds": 1, "seconds": 0.15}
    assert result["machine"]["packages"]["muxx"]
    assert set(result["parts"]) == set(parts)
    for name in parts:
        assert f"({name})" in done.stderr, "no progress was shown"
    page = report.page(result)
    assert all(f"- {claim}" in page for claim in report.claims(result["parts"]))
    assert len(result["claims"]) == len(report.claims(result["parts"]))
    return result


def assert_streams(result: dict[str, Any]) -> None:
    ((turn,),) = result["rounds"].values()
    assert set(turn) >= OURS | {"muxx, reading plugin", "muxx, translated"}
    assert all(set(figures) == STREAMS and figures["requests"] > 0 for figures in turn.values())
    assert not any(figures["errors"] for figures in turn.values())
    assert result["rows"] == result["requests"] > 0


def assert_tls(result: dict[str, Any], front: str) -> None:
    (turn,) = result["rounds"]
    assert set(turn) == {"muxx", "muxx, TLS", "pass-through", "pass-through, TLS"}
    assert all(set(figures) == CALLS and figures["requests"] > 0 for figures in turn.values())
    assert result["front"] == front


@needs_proc
@needs_compiler
def test_a_quick_run_measures_all_gateways_and_finds_a_row_for_every_request() -> None:
    result = quick_run("calls", "streams")
    assert result["machine"]["tools"] == "C"
    (loop,) = result["parts"]["calls"]["loops"].values()
    assert set(loop["rounds"]) == {"plain-c64", "stream-burst", "idle-stream"}
    for cell, (turn,) in loop["rounds"].items():
        assert set(turn) >= ({"muxx", "idle plugin"} if cell == "idle-stream" else OURS | {"muxx, no recording"})
        assert all(set(figures) == CALLS and figures["requests"] > 0 for figures in turn.values())
    assert loop["rows"] == loop["requests"] > 0
    assert_streams(result["parts"]["streams"])


@needs_proc
@needs_compiler
def test_a_quick_run_measures_memory_and_workers() -> None:
    parts = quick_run("idle", "memory", "workers")["parts"]
    for figures in parts["idle"]["figures"].values():
        assert figures["most_mib"] >= figures["rest_mib"] > 1
        assert figures["requests"] >= parts["idle"]["streams"]
        assert figures["errors"] == 0
    assert parts["idle"]["rows"] == parts["idle"]["requests"]
    (started,) = parts["memory"]["start_s"]
    assert started > 0
    assert {"muxx", "small cache", "pass-through"} <= set(parts["memory"]["figures"])
    assert all(one["after_mib"] > 1 and one["requests"] >= 300 for one in parts["memory"]["figures"].values())
    (turn,) = parts["workers"]["rounds"]
    assert set(turn) == {"muxx", "two workers"}


@needs_proc
@needs_compiler
def test_a_quick_run_measures_tls_translation_the_log_and_what_is_counted() -> None:
    parts = quick_run("tls", "translation", "log", "counting")["parts"]
    assert_tls(parts["tls"], "nginx" if shutil.which("nginx") else "Python")
    assert {pairs for kind in parts["translation"].values() for pairs in kind} >= {"chat", "responses", "messages"}
    assert all(len(query["rest_ms"]) == len(query["busy_ms"]) == 2 for query in parts["log"]["queries"].values())
    assert len(parts["counting"]) == 5
    assert all(took > 0 for took in parts["counting"].values())


@needs_proc
def test_without_a_compiler_the_upstream_and_the_load_are_those_in_python() -> None:
    result = quick_run("tls", path="")
    assert result["machine"]["tools"] == "Python"
    assert_tls(result["parts"]["tls"], "Python")


@pytest.fixture(scope="module", params=[pytest.param(True, marks=needs_compiler, id="C"), pytest.param(False, id="Python")])
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """With tools of both kinds."""
    directory = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        if not request.param:
            patch.setenv("PATH", "")
        return Stage(directory, built(directory), ("asyncio",), 1, 0.1, quick=True)


@pytest.mark.parametrize(
    ("pace_ms", "change", "errors"),
    [
        pytest.param(2, {}, 0, id="whole"),
        pytest.param(0, {}, 0, id="as fast as they go"),
        pytest.param(2, {"ending": "data: another end"}, 5, id="without its end"),
        pytest.param(2, {"stamps": STAMPED + 1}, 5, id="with an event too few"),
    ],
)
def test_streams_are_counted_and_those_that_are_not_whole_are_errors(
    stage: Stage, pace_ms: int, change: dict[str, Any], errors: int
) -> None:
    with stage.upstream() as (_, upstream):
        asked = payloads.request(upstream, stream=True, pace_ms=pace_ms)
        how: dict[str, Any] = {"streams": 5, "seconds": 0.5, "first": 3, "stamps": STAMPED, "ramp_s": 0.01, "ending": LAST_LINE[False], "stream_s": 0.2}
        result = stage.tools.run_streams(asked, port=upstream.port, **how | change)
    assert result["errors"] >= errors
    assert result["asked"] == result["answers"] + result["errors"]
    assert (result["answers"] >= 5) == (not errors)
    assert (result["first_error"] == "") == (not errors)
    assert 0 < result["on_time"] <= result["events"]
    assert 0 <= result["p50_us"] <= result["p99_us"] <= result["most_us"] < 5_000_000


def test_every_part_is_listed() -> None:
    done = CliRunner().invoke(main, ["--list"])
    assert [line.split()[0] for line in done.output.splitlines()] == [part.NAME for part in PARTS]


@pytest.mark.parametrize("option", [("--quick",), ("--only", "streams")])
def test_the_docs_are_not_written_from_less_than_all_parts(option: tuple[str, ...]) -> None:
    done = CliRunner().invoke(main, ["--write-docs", *option])
    assert done.exit_code == 2
    assert "the docs need all parts" in done.output


# ── what figures come to ──


def turn(**rates: float) -> dict[str, dict[str, Any]]:
    return {name: {"requests_per_s": rate, "first_error": "", "noise": 0.0} for name, rate in rates.items()}


def test_a_ratio_is_the_median_of_the_ratios_round_by_round() -> None:
    rounds = [turn(muxx=10, bare=10), turn(muxx=4, bare=2), turn(muxx=90, bare=30)]
    assert ratio(rounds, "muxx", "bare", "requests_per_s") == 2.0
    assert medians(rounds)["muxx"] == {"requests_per_s": 10, "noise": 0.0}


def test_who_failed_in_one_round_is_left_out_of_the_medians() -> None:
    assert set(medians([turn(muxx=1, other=1), turn(muxx=1)])) == {"muxx"}


def test_a_part_that_failed_holds_nothing_and_is_said_to_have_failed() -> None:
    results = {"streams": {"failed": "muxx did not start:\nTraceback"}}
    assert [str(claim) for claim in report.claims(results)] == ["That streams can be measured DOES NOT HOLD: muxx did not start:."]


def test_bars_are_drawn_to_scale_with_what_they_stand_for() -> None:
    bars = [plot.Bar("one <two>", 10, "10 µs", "muxx"), plot.Bar("other", 5, "5 µs", "nginx")]
    svg = ElementTree.fromstring(plot.drawn([plot.Panel("Cost & more", bars)]))
    ground, first, second = (rect for rect in svg if rect.tag.endswith("rect"))
    assert float(first.attrib["width"]) == 2 * float(second.attrib["width"]) < float(ground.attrib["width"])
    assert first.attrib["fill"] != second.attrib["fill"]
    assert [text.text for text in svg if text.tag.endswith("text")] == ["Cost & more", "one <two>", "10 µs", "other", "5 µs"]
