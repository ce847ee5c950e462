"""Versions that every process of a host sees at once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from journal_kit import kill, spawn

from muxx.errors import StartError
from muxx.shared import Shared


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "muxx.db.shared"


def test_a_bump_is_seen_by_every_object_at_once(path: Path) -> None:
    first, second = Shared(path), Shared(path)
    seen = second.version("keys")
    assert first.bump("keys") == seen + 1
    assert second.version("keys") == seen + 1
    first.close()
    second.close()


def test_tables_have_versions_of_their_own(path: Path) -> None:
    shared = Shared(path)
    shared.bump("keys")
    assert shared.version("projects") == 0
    shared.close()


def test_whatever_a_plugin_names_has_a_version_and_moves_no_tables(path: Path) -> None:
    shared, other = Shared(path), Shared(path)
    for number in range(2000):
        before = other.version(f"cache/project-{number}")
        assert shared.bump(f"cache/project-{number}") == other.version(f"cache/project-{number}") == before + 1
    assert shared.version("keys") == shared.version("projects") == 0
    shared.close()
    other.close()


def test_versions_outlive_the_process(path: Path) -> None:
    for expected in (1, 2):
        shared = Shared(path)
        assert shared.bump("keys") == expected
        shared.close()
        shared.close()


def test_a_file_left_empty_by_a_crash_is_made_whole(path: Path) -> None:
    path.write_bytes(b"")
    shared = Shared(path)
    assert shared.bump("keys") == 1
    shared.close()


def test_another_layout_is_refused_and_left_alone(path: Path) -> None:
    path.write_bytes(b"muxxshm\x09" + b"\0" * 4088)
    with pytest.raises(StartError) as caught:
        Shared(path)
    assert caught.value.exit_code == 3
    assert path.read_bytes()[7] == 9


def test_the_file_is_for_its_owner_only(path: Path) -> None:
    Shared(path).close()
    assert path.stat().st_mode & 0o077 == 0


BUMPER = """
import sys
from muxx.shared import Shared
shared = Shared(sys.argv[1])
for _ in range(int(sys.argv[2])):
    shared.bump("keys")
print("done", flush=True)
sys.stdin.read()
"""


def test_no_bump_of_several_threads_and_processes_is_lost(path: Path) -> None:
    shared = Shared(path)
    other = Shared(path)
    processes = [spawn(BUMPER, path, 2000) for _ in range(2)]
    threads = [threading.Thread(target=lambda s=s: [s.bump("keys") for _ in range(2000)]) for s in (shared, shared, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        kill(process)
    assert shared.version("keys") == 10_000
    shared.close()
    other.close()


HOLDER = """
import sys
from muxx.shared import Shared
shared = Shared(sys.argv[1])
with shared._locked(64):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_holder_that_is_killed_holds_nobody_up(path: Path) -> None:
    process = spawn(HOLDER, path)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    kill(process)
    shared = Shared(path)
    assert shared.bump("keys") == 1
    shared.close()
