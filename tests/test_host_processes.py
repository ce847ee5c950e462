"""What the host has to run processes on, and which of them still run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from muxx.processes import lives, this_process, usable_cores

CORES = len(os.sched_getaffinity(0))


def groups(tmp_path: Path, quotas: dict[str, str], own: str) -> tuple[Path, Path]:
    """Control groups with these quotas by their paths, and the file that says in which we are."""
    root = tmp_path / "cgroup"
    for path, quota in quotas.items():
        (root / path).mkdir(parents=True, exist_ok=True)
        (root / path / "cpu.max").write_text(quota + "\n")
    (tmp_path / "own").write_text(own)
    return root, tmp_path / "own"


@pytest.mark.parametrize(
    ("quotas", "own", "cores"),
    [
        ({}, "", CORES),
        ({"": "max 100000"}, "0::/\n", CORES),
        ({"": "100000 100000"}, "0::/\n", 1),
        ({"": "150000 100000"}, "0::/\n", 1),
        ({"": "30000 100000"}, "0::/\n", 1),
        ({"": f"{CORES + 5}00000 100000"}, "0::/\n", CORES),
        ({"pod": "100000 100000", "pod/box": "max 100000"}, "1:cpu:/elsewhere\n0::/pod/box\n", 1),
        ({"": "what is this"}, "0::/\n", CORES),
        ({"": "100000 100000"}, "4:cpu:/of/the/first/version\n", CORES),
    ],
)
def test_cores_are_those_of_the_affinity_and_of_every_quota_above(
    quotas: dict[str, str], own: str, cores: int, tmp_path: Path
) -> None:
    assert usable_cores(*groups(tmp_path, quotas, own)) == cores


@pytest.mark.skipif(CORES < 2, reason="a process that may run on one core only needs a host with two")
def test_an_affinity_counts(tmp_path: Path) -> None:
    script = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from muxx.processes import usable_cores; print(usable_cores())"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "1\n"


def test_a_process_lives_until_it_ends() -> None:
    assert lives(this_process())
    script = "from muxx.processes import this_process; print(this_process(), flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        word = int(other.stdout.readline())
        assert lives(word)
        assert word != this_process()
        other.communicate("\n")
    assert not lives(word)
