"""Tables of records in the shared file: what every process finds, how little room they take, and what becomes of the idle."""

from __future__ import annotations

import errno
import os
import threading
from hashlib import blake2b
from pathlib import Path

import pytest
from journal_kit import kill, spawn

from muxx import Counters, Shared, StartError
from muxx.counters import SET_RECORDS


def key(name: object) -> bytes:
    return blake2b(str(name).encode(), digest_size=16).digest()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "muxx.db.shared"


def add(shared: Shared, table: Counters, name: object, *, now: int = 0, keep: int = 100) -> int | None:
    """Count one more; how many there are, or None when there is no room."""
    with shared.holding([table.place(key(name))]):
        at = table.find(key(name), now)
        if at is None:
            return None
        table.table[at] = now + keep
        table.table[at + 1] += 1
        return table.table[at + 1]


def test_every_object_finds_the_same_records_and_they_outlive_all_of_them(path: Path) -> None:
    first, second = Shared(path), Shared(path)
    assert add(first, first.counters("a", 64, 2), "x") == 1
    assert add(second, second.counters("a", 64, 2), "x") == 2
    assert first.counters("a", 64, 2) is first.counters("a", 64, 2)
    assert second.counters("a", 64, 2).peek(key("y")) is None
    first.close()
    second.close()
    third = Shared(path)
    assert add(third, third.counters("a", 64, 2), "x") == 3
    third.close()


def test_tables_of_other_names_and_layouts_are_other_tables_and_move_no_version(path: Path) -> None:
    shared = Shared(path)
    shared.bump("keys")
    for name, records, words in (("a", 64, 2), ("b", 64, 2), ("c", 64, 3), ("d", 640, 2)):
        table = shared.counters(name, records, words)
        for number in range(20):
            assert add(shared, table, number) in (1, None)
    other = Shared(path)
    assert add(other, other.counters("a", 32, 2), 1) == 1
    assert add(other, other.counters("a", 64, 2), 1) == 2
    assert shared.version("keys") == 1
    shared.close()
    other.close()


def test_an_idle_record_makes_room_zeroed_and_one_that_is_kept_does_not(path: Path) -> None:
    shared = Shared(path)
    table = shared.counters("a", SET_RECORDS, 2)  # one set, in which everybody meets
    for number in range(SET_RECORDS):
        assert add(shared, table, number, keep=100 + number) == 1
    assert add(shared, table, "more", now=99) is None
    assert add(shared, table, 0, now=99, keep=50) == 2, "who has a place keeps it"
    assert add(shared, table, "more", now=101) == 1
    assert table.peek(key(1)) is None, "the one that was due first"
    assert [table.peek(key(number)) is None for number in range(SET_RECORDS)].count(True) == 1
    shared.close()


def test_keys_are_told_apart_by_all_their_bytes_and_where_they_stand(path: Path) -> None:
    """Two neighbours that hold a third key between them are no such key."""
    shared = Shared(path)
    table = shared.counters("a", SET_RECORDS, 2)
    one, two = bytes(range(16)), bytes(range(16, 32))
    between = (one + two)[8:24]
    with shared.holding([table.place(one)]):
        for name in (one, two):
            at = table.find(name, 0)
            assert at is not None
            table.table[at] = 100
        assert table.peek(between) is None
    shared.close()


def test_a_boot_empties_the_tables(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Shared(path)
    table = shared.counters("a", 64, 2)
    add(shared, table, "x")
    table.filled = True
    shared.close()
    for boot, filled in ((None, True), (1234, False), (1234, False)):
        if boot is not None:
            monkeypatch.setattr("muxx.counters.boot", lambda boot=boot: boot)
        shared = Shared(path)
        table = shared.counters("a", 64, 2)
        assert table.filled is filled
        assert (table.peek(key("x")) is not None) is filled
        shared.close()


def test_a_full_disk_is_said_at_once_and_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    shared = Shared(path)
    with monkeypatch.context() as patch:
        patch.setattr("os.posix_fallocate", full)
        with pytest.raises(StartError, match="No space left") as caught:
            shared.counters("a", 64, 2)
    assert caught.value.exit_code == 3
    assert add(shared, shared.counters("a", 64, 2), "x") == 1
    shared.close()


def test_the_directory_holds_so_many_tables_and_says_when_it_is_full(path: Path) -> None:
    shared = Shared(path)
    for number in range(128):
        add(shared, shared.counters(f"table {number}", 16, 2), number)
    with pytest.raises(StartError, match="too many"):
        shared.counters("one more", 16, 2)
    for number in range(128):
        assert add(shared, shared.counters(f"table {number}", 16, 2), number) == 2
    shared.close()


def test_what_is_held_is_held_against_threads_objects_and_processes_and_falls_with_its_holder(path: Path) -> None:
    script = """
import sys
from muxx import Shared
shared = Shared(sys.argv[1])
table = shared.counters("a", 64, 2)
with shared.holding(sorted({table.place(b"x" * 16), table.place(b"y" * 16)})):
    print("held", flush=True)
    sys.stdin.read()
"""
    process = spawn(script, path)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    shared, other = Shared(path), Shared(path)
    order: list[str] = []

    def take(one: Shared) -> None:
        with one.holding([one.counters("a", 64, 2).place(b"y" * 16)]):
            order.append("taken")

    threads = [threading.Thread(target=take, args=(one,)) for one in (shared, shared, other)]
    for thread in threads:
        thread.start()
    threads[0].join(0.3)
    assert order == []
    kill(process)
    for thread in threads:
        thread.join(5)
    assert order == ["taken"] * 3
    shared.close()
    other.close()


def test_no_count_of_several_threads_and_processes_is_lost(path: Path) -> None:
    script = """
import sys
from muxx import Shared
shared = Shared(sys.argv[1])
table = shared.counters("a", 64, 2)
for number in range(3000):
    name = bytes([number % 3 + 1]) * 16
    with shared.holding([table.place(name)]):
        at = table.find(name, 0)
        table.table[at] = 100
        table.table[at + 1] += 1
print("done", flush=True)
sys.stdin.read()
"""
    processes = [spawn(script, path) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        kill(process)
    shared = Shared(path)
    table = shared.counters("a", 64, 2)
    counts = [table.table[(table.peek(bytes([number]) * 16) or 0) + 1] for number in (1, 2, 3)]
    assert counts == [3000, 3000, 3000]
    shared.close()
