"""`muxx bench`, as an operator runs it: a process of its own, on a configuration and a database of theirs."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from process_kit import alive, children
from test_cli import write_distribution

from muxx.testing import clean_environment

ROOT = Path(__file__).parent.parent
WITHIN = 110.0

OWN = """
[server]
workers = 3

[database]
path = "data/muxx.db"
durability = "power"

[providers.openai]
api_key = "sk-canary-5b1e"
proxy = "http://127.0.0.1:9"

[project]
limits = { rpm = 2, tpm = 100, rpd = 3, user_rpm = 1, key_in_flight = 1 }
spend_caps = [{ window = "day", usd = "0.000001" }]
alerts = [{ usd = "0.000001" }, { limit = "rpm", share = 0.01 }]

[plugins.redact]
mask = "<{name}>"
"""
"""What refuses the third request, where it is not raised, and leads to addresses where nobody is."""


def run_bench(directory: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "muxx", "bench", "--seconds", "3", *arguments],
        cwd=directory, env=clean_environment() | environment, capture_output=True, text=True, timeout=WITHIN, check=False,
    )  # fmt: skip


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


# ── what it says ──


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An operator's folder: a configuration, a database with a key, and muxx-redact installed."""
    directory = tmp_path_factory.mktemp("own")
    (directory / "site").mkdir()
    write_distribution(directory / "site", "muxx-redact", "0.1.0", redact="muxx_redact:Redact")
    (directory / "data").mkdir()
    (directory / "muxx.toml").write_text(OWN)
    command = [sys.executable, "-m", "muxx", "keys", "create"]
    subprocess.run(command, cwd=directory, env=clean_environment() | with_redact(directory), capture_output=True, check=True)
    return directory


def with_redact(directory: Path) -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join((str(directory / "site"), str(ROOT / "plugins/muxx-redact/src")))}


@pytest.fixture(scope="module")
def measured(own: Path) -> tuple[dict[str, Any], str, dict[str, bytes]]:
    """What it printed as JSON, what it said meanwhile, and what there was before."""
    before = contents(own)
    done = run_bench(own, "--json", **with_redact(own))
    assert done.returncode == 0, done.stderr
    return orjson.loads(done.stdout), done.stderr, before


def test_every_request_has_a_row_and_figures_are_told_as_json(measured: tuple[dict[str, Any], str, dict[str, bytes]]) -> None:
    result, _, _ = measured
    assert result["rows"] == result["requests"] > 50
    for name in ("request", "event"):
        compared = result[name]
        assert 0 < compared["direct"]["p50_ms"] < compared["muxx"]["p50_ms"] <= compared["muxx"]["p99_ms"]
        assert 0 < compared["added"]["p50_ms"] < compared["muxx"]["p50_ms"]
    assert 0 < result["muxx_per_s"] < result["direct_per_s"]
    assert result["cpu_us"] > 0
    assert result["requests_per_s_per_core"] == pytest.approx(1e6 / result["cpu_us"], rel=0.01)
    assert 0 < result["hit"]["p50_ms"] <= result["hit"]["p99_ms"]
    assert result["hit_cpu_us"] is not None
    assert result["changed"] == 0


def test_a_cautious_configuration_is_measured_as_it_is_and_refuses_nothing(
    measured: tuple[dict[str, Any], str, dict[str, bytes]],
) -> None:
    result, _, _ = measured
    machine = result["machine"]
    assert machine["config"] == "muxx.toml"
    assert machine["durability"] == "power"
    assert {"redact", "limits", "spend_caps", "alerts", "cache"} <= set(machine["plugins"])
    assert result["event"]["added"]["p50_ms"] > 5, "redact holds a word back until the next one comes, 10 ms later"


def test_the_verdict_is_in_sentences_and_warnings_have_names(measured: tuple[dict[str, Any], str, dict[str, bytes]]) -> None:
    result, _, _ = measured
    assert re.fullmatch(r"muxx adds \S+ ms to a request, and \S+ ms to the slowest in a hundred\.", result["verdict"][0])
    assert result["verdict"][-1] == f"All {result['requests']:,} requests have their row in the log."
    assert all(set(warning) == {"name", "text"} for warning in result["warnings"])
    assert ("workers" in {warning["name"] for warning in result["warnings"]}) == (len(os.sched_getaffinity(0)) < 3)


def test_what_the_operator_has_is_left_as_it_was(own: Path, measured: tuple[dict[str, Any], str, dict[str, bytes]]) -> None:
    _, _, before = measured
    assert "data/muxx.db" in before
    assert contents(own) == before
    assert sorted(path.name for path in own.iterdir()) == ["data", "muxx.toml", "site"]
    assert not any(path.name.startswith("muxx-bench-") for path in (own / "data").iterdir())


def test_progress_goes_to_stderr_line_by_line(measured: tuple[dict[str, Any], str, dict[str, bytes]]) -> None:
    _, said, _ = measured
    first, *rounds = said.splitlines()
    assert first == "the gateway has started"
    assert [line.partition(":")[0] for line in rounds] == [f"round {n} of 3" for n in (1, 2, 3)]


def test_no_configuration_is_needed_and_the_table_can_be_read(tmp_path: Path) -> None:
    done = run_bench(tmp_path)
    assert done.returncode == 0, done.stderr
    head, *lines = done.stdout.splitlines()
    assert head.startswith("One worker of muxx ")
    assert "built-in defaults" in head
    assert lines[1].split() == ["direct", "muxx", "added"]
    shown = "\n".join(lines)
    for row in ("a request, 1 connection, p50 ms", "a token of a stream, p99 ms", "requests/s, 64 connections", "rows in the log"):
        assert row in shown
    assert "One core serves " in shown
    assert list(tmp_path.iterdir()) == []


def test_on_a_terminal_there_is_a_bar_and_it_is_gone_at_the_end(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    environment = clean_environment() | {"TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(
        [sys.executable, "-m", "muxx", "bench", "--seconds", "3", "--json"],
        cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs,
    ) as process:  # fmt: skip
        os.close(theirs)
        drawn = b"".join(iter(lambda: read_terminal(ours), b""))
        assert process.stdout is not None
        result = orjson.loads(process.stdout.read())
    os.close(ours)
    assert process.returncode == 0
    assert result["rows"] == result["requests"]
    assert "━" in drawn.decode()
    assert "100%" in drawn.decode()
    assert drawn.rstrip().endswith(b"\x1b[2K"), "the line of the bar is wiped"


def read_terminal(fd: int) -> bytes:
    """What has been drawn; nothing once the other end is closed."""
    try:
        return os.read(fd, 65536)
    except OSError:
        return b""


# ── what stops it ──


def test_a_bad_configuration_gives_the_usual_error(tmp_path: Path) -> None:
    (tmp_path / "muxx.toml").write_text("[server]\nprot = 1\n")
    done = run_bench(tmp_path)
    assert done.returncode == 2
    assert done.stderr == "muxx.toml: server.prot: unknown key (did you mean 'port'?)\n"
    assert done.stdout == ""


@pytest.mark.parametrize("seconds", ["1", "nan"])
def test_too_short_a_time_and_none_at_all_are_mistakes_of_usage(tmp_path: Path, seconds: str) -> None:
    done = run_bench(tmp_path, "--seconds", seconds)
    assert done.returncode == 2
    assert "--seconds" in done.stderr


@pytest.mark.parametrize(
    ("hook", "words"),
    [
        (
            "    def pre_request(self, exchange):\n        raise muxx.PermissionDenied('Not on Sundays.')\n",
            "Error: a call of the gateway was answered 403: Not on Sundays.",
        ),
        (
            "    async def lifespan(self, gateway):\n        raise OSError('port 9100 is taken')\n        yield\n",
            "port 9100 is taken",
        ),
    ],
    ids=["a plugin that refuses", "a plugin that cannot start"],
)
def test_what_keeps_it_from_measuring_is_said_and_it_fails(hook: str, words: str, tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "own.py").write_text(f"import muxx\n\n\nclass Own:\n    @muxx.hookimpl\n{hook}")
    done = run_bench(tmp_path, "--plugins-dir", "plugins")
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["plugins"]


def test_without_a_plugin_that_makes_keys_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "muxx.toml").write_text('[plugins]\nonly = ["pricing", "jwt"]\n')
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins/jwt.py").write_text(
        "import muxx\n\n\nclass Jwt:\n    @muxx.hookimpl\n    def authenticate(self, request):\n        return None\n"
    )
    done = run_bench(tmp_path, "--plugins-dir", "plugins")
    assert done.returncode == 1
    assert "no plugin that is on makes a key to call with" in done.stderr


def test_without_a_log_it_measures_and_says_that_nothing_was_recorded(tmp_path: Path) -> None:
    (tmp_path / "muxx.toml").write_text("[plugins.logs]\nenabled = false\n\n[project]\ncache = { enabled = false }\n")
    done = run_bench(tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    result = orjson.loads(done.stdout)
    assert (result["rows"], result["hit"], result["hit_cpu_us"]) == (None, None, None)
    assert "No plugin keeps rows, so what was asked is in no log." in result["verdict"]
    assert "The cache answered nothing: it is off, or a plugin keeps it from answering." in result["verdict"]


def family(pid: int) -> list[int]:
    """All that it started, and what those started."""
    found = children(pid)
    return found + [descendant for child in found for descendant in family(child)]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 1), (signal.SIGKILL, -9)], ids=["term", "interrupt", "kill"]
)
def test_whatever_ends_it_leaves_no_process_behind(number: signal.Signals, code: int, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "muxx", "bench", "--seconds", "60"],
        cwd=tmp_path, env=clean_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert select.select([process.stderr], [], [], 60)[0]
        assert process.stderr.readline() == b"the gateway has started\n"
        started = family(process.pid)
        assert len(started) >= 2
        process.send_signal(number)
        assert process.wait(60) == code
    deadline = time.monotonic() + 30
    while any(alive(pid) for pid in started):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert number == signal.SIGKILL or list(tmp_path.iterdir()) == []


def test_other_commands_do_not_load_what_it_measures_with(tmp_path: Path) -> None:
    code = "import sys; from muxx.cli import cli; cli(['bench', '--help'], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, check=True
    )
    assert "muxx.benchcommand" in done.stdout
    assert "muxx.bench." not in done.stdout
    assert "aiohttp" not in done.stdout.split()
