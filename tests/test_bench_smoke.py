"""`make bench` works: speed itself is never tested, it depends on the machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FIGURES = {"requests", "requests_per_s", "events_per_s", "p50_ms", "p99_ms", "cpu_us", "noise", "settling_s"}

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the bench reads /proc")


def quick_run(path: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--quick", "--json", "-"],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def assert_whole(result: dict[str, Any]) -> None:
    assert result["settings"] == {"rounds": 1, "seconds": 0.15}
    assert result["machine"]["packages"]["muxx"]
    assert len(result["counting"]) == 5
    assert all(took > 0 for took in result["counting"].values())
    assert set(result["floor"]["measured"]) == set(result["loops"])
    assert all(len(query["rest_ms"]) == len(query["busy_ms"]) == 2 for query in result["log_store"]["queries"].values())
    (loop,) = result["loops"].values()
    (only,) = loop["rounds"]
    assert only["rows"] == only["requests"] > 0
    assert set(only["cells"]) == set(loop["summary"]) == set(loop["ceiling"]) == {"plain-c64", "stream-burst"}
    for cell in only["cells"].values():
        assert set(cell) == {"muxx", "pass-through"}
        assert all(set(figures) == FIGURES and figures["requests"] > 0 for figures in cell.values())


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_a_quick_run_measures_both_gateways_and_finds_a_row_for_every_request() -> None:
    result = quick_run(os.environ["PATH"])
    assert_whole(result)
    assert result["machine"]["tools"] == "C"


def test_without_a_compiler_the_upstream_and_the_load_are_those_in_python() -> None:
    result = quick_run("")
    assert_whole(result)
    assert result["machine"]["tools"] == "Python"
