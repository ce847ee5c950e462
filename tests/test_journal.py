"""The journal keeps what was acknowledged, whatever happens to its writer, and readers see it while it is written."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from journal_kit import DELIVERED, SENT, kill, row, spawn, trace

import muxx.journal as journal_module
from muxx.errors import LogUnavailable, StartError
from muxx.journal import BALLAST, Journal, keep_ballast
from muxx.segments import FINAL, Line, find_record, is_left, journalled, line_of, next_line, read_segment, segments


def lines_of(directory: Path) -> list[Line]:
    return [line for segment in segments(directory) for line in read_segment(segment.path, 0)[0]]


def ids(lines: list[Line]) -> list[str]:
    return [line.request_id for line in lines]


@pytest.fixture
def journal(tmp_path: Path) -> Any:
    journal = Journal(tmp_path, "w")
    yield journal
    journal.close()


class Disk:
    """Stands in for `os.writev`: what it will do with the next writes. An int is a short write, an errno's name a failure."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plan: list[int | str] = []
        monkeypatch.setattr(journal_module.os, "writev", self.write)

    def write(self, fd: int, pieces: Sequence[bytes]) -> int:
        fault = self.plan.pop(0) if self.plan else None
        if isinstance(fault, str):
            raise OSError(getattr(errno, fault), fault)
        return os.write(fd, b"".join(pieces)[:fault])


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


class TestLines:
    def test_what_is_written_is_read_back_in_order_with_its_kind(self, journal: Journal, tmp_path: Path) -> None:
        journal.trace(trace("a"))
        journal.final(row("a"), SENT, DELIVERED)
        journal.amend(row("a", status=499), SENT, DELIVERED)
        lines = lines_of(tmp_path)
        assert [line.kind for line in lines] == ["trace", "final", "amend"]
        assert orjson.loads(lines[0].raw) == trace("a")
        assert orjson.loads(lines[1].raw) == row("a")
        assert orjson.loads(lines[2].raw) == row("a", status=499)
        assert [(line.sent, line.delivered) for line in lines] == [(None, None), (SENT, DELIVERED), (SENT, DELIVERED)]

    def test_each_line_is_one_write(self, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
        writes: list[int] = []
        write = os.writev
        monkeypatch.setattr(journal_module.os, "writev", lambda fd, pieces: writes.append(1) or write(fd, pieces))
        journal.trace(trace("a"))
        journal.final(row("a"), SENT, DELIVERED)
        assert len(writes) == 2

    @pytest.mark.parametrize("large", [False, True])
    @pytest.mark.parametrize("sent", [None, b"{}", b"{broken \xff\n"])
    @pytest.mark.parametrize("delivered", [None, b'"\xe2\x82\xac"', b"{broken"])
    def test_what_was_sent_and_delivered_goes_in_as_it_is(
        self,
        journal: Journal,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        sent: bytes | None,
        delivered: bytes | None,
        large: bool,
    ) -> None:
        if large:
            monkeypatch.setattr(journal_module, "COPIED", -1)
        journal.final(row("a"), sent, delivered)
        journal.final(row("b"))
        first, second = lines_of(tmp_path)
        assert (first.sent, first.delivered) == (sent, delivered)
        assert orjson.loads(first.raw) == row("a")
        assert second.request_id == "b"

    def test_a_row_that_is_not_json_is_kept_with_the_odd_values_as_text(self, journal: Journal, tmp_path: Path) -> None:
        odd = {"object": object(), "big": 2**70, "lone": "\ud800", 5: {"set"}, "fragment": orjson.Fragment(b"[1]")}
        journal.final(row("a", attributes=odd), SENT, DELIVERED)
        [line] = lines_of(tmp_path)
        attributes = orjson.loads(line.raw)["attributes"]
        assert attributes["big"] == str(2**70)
        assert attributes["lone"] == "?"
        assert attributes["5"] == ["set"]
        assert attributes["fragment"] == [1]
        assert (line.kind, line.sent, line.delivered) == ("final", SENT, DELIVERED)

    def test_a_trace_and_an_amendment_with_odd_values_are_kept_too(self, journal: Journal, tmp_path: Path) -> None:
        journal.trace(trace("a", metadata={"lone": "\ud800"}))
        journal.amend(row("a", attributes={"lone": "\ud800"}, status=499), SENT)
        first, second = lines_of(tmp_path)
        assert (first.kind, orjson.loads(first.raw)["metadata"]) == ("trace", {"lone": "?"})
        assert (second.kind, orjson.loads(second.raw)["status"], second.sent) == ("amend", 499, SENT)

    def test_the_id_is_found_wherever_it_stands_in_the_record(self, journal: Journal, tmp_path: Path) -> None:
        journal.final({"status": 200, "request_id": "a"})
        journal.final({"status": 200})
        first, second = lines_of(tmp_path)
        assert first.request_id == "a"
        assert second.request_id == f"{segments(tmp_path)[0].name}@{second.end}"

    def test_a_line_longer_than_a_read_is_read_whole(self, journal: Journal, tmp_path: Path) -> None:
        journal.final(row("a"), SENT, b'"' + b"y" * 3_000_000 + b'"')
        journal.final(row("b"))
        [segment] = segments(tmp_path)
        first, offset = read_segment(segment.path, 0)
        second, _ = read_segment(segment.path, offset)
        assert ids(first + second) == ["a", "b"]

    def test_reading_goes_on_where_it_stopped(self, journal: Journal, tmp_path: Path) -> None:
        for number in range(10):
            journal.final(row(str(number)))
        [segment] = segments(tmp_path)
        first, offset = read_segment(segment.path, 0, 4)
        second, offset = read_segment(segment.path, offset)
        assert ids(first) == ["0", "1", "2", "3"]
        assert ids(second) == ["4", "5", "6", "7", "8", "9"]
        assert read_segment(segment.path, offset) == ([], offset)

    def test_files_are_for_their_owner_only(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path / "j", "w")
        journal.close()
        [segment] = segments(tmp_path / "j")
        assert segment.path.stat().st_mode & 0o077 == 0
        assert (tmp_path / "j").stat().st_mode & 0o077 == 0

    def test_a_directory_that_cannot_be_made_stops_the_start(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StartError) as caught:
            Journal(tmp_path / "file", "w")
        assert caught.value.exit_code == 3

    def test_a_line_costs_microseconds(self, journal: Journal) -> None:
        record = row("req_0123456789")
        start = time.perf_counter()
        for _ in range(2000):
            journal.final(record, SENT, DELIVERED)
        assert (time.perf_counter() - start) / 2000 < 100e-6


class TestTornTails:
    def test_a_line_cut_at_any_byte_is_not_read_and_what_precedes_it_is(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path, "w")
        journal.final({"request_id": "a"})
        journal.final({"request_id": "b"})
        journal.close()
        [segment] = segments(tmp_path)
        whole = segment.path.read_bytes()
        first_end = len(whole) // 2
        for cut in range(first_end, len(whole)):
            segment.path.write_bytes(whole[:cut])
            assert (ids(read_segment(segment.path, 0)[0]), read_segment(segment.path, 0)[1]) == (["a"], first_end)
            assert next_line(segment.path, first_end) is None

    def test_a_line_still_on_its_way_is_read_once_it_is_whole(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path, "w")
        journal.final(row("a"))
        journal.close()
        [segment] = segments(tmp_path)
        whole = segment.path.read_bytes()
        segment.path.write_bytes(whole[:100])
        lines, offset = read_segment(segment.path, 0)
        assert (lines, offset) == ([], 0)
        segment.path.write_bytes(whole)
        assert ids(read_segment(segment.path, offset)[0]) == ["a"]

    @pytest.mark.parametrize("damage", [b"\xff\xff\xff\xff", b"\0" * 60, b"garbage"])
    def test_behind_damage_reading_finds_the_next_whole_line(self, tmp_path: Path, damage: bytes) -> None:
        journal = Journal(tmp_path, "w")
        ends = []
        for name in "abc":
            journal.final(row(name))
            ends.append(lines_of(tmp_path)[-1].end)
        journal.close()
        [segment] = segments(tmp_path)
        data = bytearray(segment.path.read_bytes())
        data[ends[0] : ends[0] + len(damage)] = damage
        segment.path.write_bytes(data)
        assert ids(read_segment(segment.path, 0)[0]) == ["a"]
        assert next_line(segment.path, ends[0]) == ends[1]

    def test_no_changed_byte_of_a_line_is_believed(self, tmp_path: Path) -> None:
        """Of its header either; and the line behind is found."""
        line, following = (line_of(FINAL, b'{"request_id":"%b"}' % name, b'{"a":1}', b"[]") for name in (b"a", b"b"))
        path = tmp_path / "x-00000001.seg"
        path.write_bytes(line + following)
        assert ids(lines_of(tmp_path)) == ["a", "b"]
        for at in range(len(line)):
            for flip in (0x01, 0x80, 0xFF):
                changed = bytearray(line + following)
                changed[at] ^= flip
                path.write_bytes(changed)
                assert (lines_of(tmp_path), next_line(path, 0)) == ([], len(line))

    def test_a_line_within_content_is_not_taken_for_one(self, tmp_path: Path) -> None:
        """Where damage is read over: a client may send what looks like a line, as far as JSON can say it."""
        forged = orjson.dumps({"text": line_of(FINAL, b'{"request_id":"forged"}').decode("latin-1")})
        damaged = bytearray(line_of(FINAL, b'{"request_id":"a"}', forged))
        damaged[-1] ^= 0xFF
        path = tmp_path / "x-00000001.seg"
        path.write_bytes(damaged + line_of(FINAL, b'{"request_id":"b"}'))
        assert next_line(path, 0) == len(damaged)


class TestSegments:
    def test_a_full_segment_is_followed_by_the_next(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path, "w", segment_bytes=2000)
        for number in range(6):
            journal.final(row(str(number)))
        journal.close()
        assert [segment.seq for segment in segments(tmp_path)] == [1, 2, 3]
        assert ids(lines_of(tmp_path)) == ["0", "1", "2", "3", "4", "5"]

    def test_an_old_segment_is_ended_but_never_an_empty_one(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path, "w", segment_seconds=0)
        journal.rotate_if_due()
        assert len(segments(tmp_path)) == 1
        journal.final(row("a"))
        journal.rotate_if_due()
        assert len(segments(tmp_path)) == 2
        journal.close()

    def test_a_segment_is_left_only_when_its_writer_went_on_or_closed(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path, "w", segment_seconds=0)
        [first] = segments(tmp_path)
        assert not is_left(first)
        journal.final(row("a"))
        journal.rotate_if_due()
        assert is_left(first)
        last = segments(tmp_path)[-1]
        assert not is_left(last)
        journal.close()
        assert is_left(last)

    def test_two_writers_of_one_name_never_share_a_segment(self, tmp_path: Path) -> None:
        first, second = Journal(tmp_path, "w"), Journal(tmp_path, "w")
        assert len({segment.name for segment in segments(tmp_path)}) == 2
        first.close()
        second.close()

    def test_where_no_new_segment_can_be_made_the_old_one_goes_on(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        journal = Journal(tmp_path, "w", segment_bytes=1)
        with monkeypatch.context() as patch:
            patch.setattr(journal_module.os, "open", _refuse)
            journal.final(row("a"))
            journal.final(row("b"))
        assert len(segments(tmp_path)) == 1
        assert ids(lines_of(tmp_path)) == ["a", "b"]
        journal.final(row("c"))
        assert len(segments(tmp_path)) == 2
        journal.close()


def _refuse(*_: object, **__: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


class TestFullDisk:
    @pytest.fixture(autouse=True, params=["rows", "large rows"])
    def _size(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        if request.param == "large rows":
            monkeypatch.setattr(journal_module, "COPIED", -1)

    def test_the_ballast_makes_room_for_the_line(self, tmp_path: Path, journal: Journal, disk: Disk) -> None:
        keep_ballast(tmp_path)
        assert (tmp_path / BALLAST).stat().st_size > 0
        disk.plan = ["ENOSPC"]
        journal.final(row("a"))
        assert ids(lines_of(tmp_path)) == ["a"]
        assert not (tmp_path / BALLAST).exists()
        assert journal.healthy

    def test_the_ballast_is_for_its_owner_only_and_follows_no_link(self, tmp_path: Path) -> None:
        precious = tmp_path / "precious"
        precious.write_bytes(b"precious")
        (tmp_path / BALLAST).with_suffix(".tmp").symlink_to(precious)
        before = os.umask(0)
        try:
            keep_ballast(tmp_path)
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / BALLAST).lstat().st_mode) == 0o600
        assert precious.read_bytes() == b"precious"

    def test_after_a_short_write_the_line_stands_whole_in_the_next_segment(
        self, tmp_path: Path, journal: Journal, disk: Disk
    ) -> None:
        journal.final(row("a"))
        disk.plan = [100]
        journal.final(row("b"))
        journal.final(row("c"))
        assert [segment.seq for segment in segments(tmp_path)] == [1, 2]
        assert ids(lines_of(tmp_path)) == ["a", "b", "c"]

    def test_a_line_that_cannot_be_written_twice_is_refused_and_never_read(
        self, tmp_path: Path, journal: Journal, disk: Disk
    ) -> None:
        disk.plan = [100, 100]
        with pytest.raises(LogUnavailable):
            journal.final(row("lost"))
        assert not journal.healthy
        journal.final(row("b"))
        assert journal.healthy
        assert ids(lines_of(tmp_path)) == ["b"]

    def test_an_io_error_is_answered_with_a_new_segment(self, tmp_path: Path, journal: Journal, disk: Disk) -> None:
        disk.plan = ["EIO"]
        journal.final(row("a"))
        assert [segment.seq for segment in segments(tmp_path)] == [1, 2]
        assert ids(lines_of(tmp_path)) == ["a"]

    def test_refusals_on_a_full_disk_leave_no_pile_of_segments(self, tmp_path: Path, journal: Journal, disk: Disk) -> None:
        disk.plan = ["ENOSPC"] * 20
        for _ in range(10):
            with pytest.raises(LogUnavailable):
                journal.trace(trace("a"))
        assert len(segments(tmp_path)) == 1

    def test_health_returns_without_a_request_when_space_does(self, tmp_path: Path, journal: Journal, disk: Disk) -> None:
        disk.plan = ["ENOSPC"] * 4
        with pytest.raises(LogUnavailable):
            journal.final(row("a"))
        journal.rotate_if_due()
        assert not journal.healthy
        journal.rotate_if_due()
        assert journal.healthy
        assert lines_of(tmp_path) == []


class TestGathered:
    """What the lines of one turn of the event loop have in common: one write, and what may leave behind it."""

    @pytest.fixture
    async def gathering(self, journal: Journal) -> Journal:
        journal.gather()
        return journal

    async def test_the_lines_of_a_turn_are_one_write_and_keep_their_order(
        self, tmp_path: Path, gathering: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writes: list[int] = []
        write = os.writev
        monkeypatch.setattr(journal_module.os, "writev", lambda fd, pieces: writes.append(1) or write(fd, pieces))
        gathering.trace(trace("a"))
        gathering.final(row("a", attributes={"lone": "\ud800"}), SENT)  # the long way round must not overtake the trace
        gathering.amend(row("a", status=499), SENT, DELIVERED)
        assert lines_of(tmp_path) == []
        await asyncio.sleep(0)
        assert [line.kind for line in lines_of(tmp_path)] == ["trace", "final", "amend"]
        assert len(writes) == 1

    async def test_the_texts_of_a_large_row_are_written_from_where_they_are(
        self, tmp_path: Path, gathering: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written: list[bytes] = []
        write = os.writev
        monkeypatch.setattr(journal_module.os, "writev", lambda fd, pieces: written.extend(pieces) or write(fd, pieces))
        sent, delivered = (b'"%b"' % (letter * 5000) for letter in (b"x", b"y"))
        gathering.trace(trace("a"))
        gathering.final(row("a", attributes={"lone": "\ud800"}), sent, delivered)
        gathering.final(row("b"), SENT)
        await asyncio.sleep(0)
        assert ids(lines_of(tmp_path)) == ["a", "a", "b"]
        assert [line.delivered for line in lines_of(tmp_path)] == [None, delivered, None]
        assert {id(sent), id(delivered)} <= set(map(id, written))

    async def test_a_turn_may_have_more_lines_than_one_write_takes_pieces(self, tmp_path: Path, gathering: Journal) -> None:
        names = [str(number) for number in range(journal_module.MOST_PIECES + 1)]
        for name in names:
            gathering.final(row(name))
        await asyncio.sleep(0)
        assert ids(lines_of(tmp_path)) == names

    @pytest.mark.parametrize("written", [0, 1, 500, 1000, 1500, 2500])
    async def test_after_a_short_write_every_line_is_there_once(
        self, tmp_path: Path, gathering: Journal, disk: Disk, written: int
    ) -> None:
        disk.plan = [written]
        for name in "abc":
            gathering.final(row(name))
        await asyncio.sleep(0)
        gathering.final(row("d"))
        gathering.close()
        assert ids(lines_of(tmp_path)) == ["a", "b", "c", "d"]

    async def test_what_waits_for_a_line_leaves_behind_it_or_not_at_all(
        self, tmp_path: Path, gathering: Journal, disk: Disk
    ) -> None:
        left: list[tuple[str, int]] = []
        failed: list[BaseException] = []
        gathering.final(row("a"))
        gathering.outbox.put(lambda data: left.append((data.decode(), len(lines_of(tmp_path)))), b"answer a", failed.append)
        await asyncio.sleep(0)
        assert (left, failed) == ([("answer a", 1)], [])
        disk.plan = ["ENOSPC", "ENOSPC"]
        gathering.final(row("b"))
        gathering.outbox.put(lambda data: left.append((data.decode(), 0)), b"answer b", failed.append)
        await asyncio.sleep(0)
        assert len(left) == 1
        assert [type(error) for error in failed] == [LogUnavailable]


class TestPower:
    """durability = "power"."""

    async def test_waiters_share_one_fsync(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        synced: list[int] = []
        monkeypatch.setattr(journal_module.os, "fsync", synced.append)
        journal = Journal(tmp_path, "w", durability="power")

        async def request(number: int) -> None:
            journal.final(row(str(number)))
            await journal.sync()

        await asyncio.gather(*(request(number) for number in range(50)))
        journal.close()
        assert 0 < len(synced) <= 4  # at most two groups, each of a segment and its directory
        assert len(lines_of(tmp_path)) == 50

    @pytest.mark.timeout(20)
    async def test_a_line_written_just_as_a_group_ends_is_synced_with_the_next(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path, "w", durability="power")

        async def request(name: str) -> None:
            journal.final(row(name))
            await journal.sync()

        first = asyncio.ensure_future(request("first"))
        await asyncio.sleep(0)
        time.sleep(0.2)  # the thread is done; the loop hears of it at its next turn, and of what follows at the one after that
        second = asyncio.ensure_future(request("second"))
        await asyncio.gather(first, second)
        journal.close()
        assert len(lines_of(tmp_path)) == 2

    async def test_crash_durability_never_waits(self, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(journal_module.os, "fsync", _refuse)
        journal.final(row("a"))
        await journal.sync()

    async def test_segments_left_before_the_sync_are_synced_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        inodes: set[int] = set()
        monkeypatch.setattr(journal_module.os, "fsync", lambda fd: inodes.add(os.fstat(fd).st_ino))
        journal = Journal(tmp_path, "w", durability="power", segment_bytes=1)
        for number in range(3):
            journal.final(row(str(number)))
        await journal.sync()
        journal.close()
        assert inodes >= {segment.path.stat().st_ino for segment in segments(tmp_path)}

    async def test_what_a_failed_fsync_may_have_lost_is_written_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        failures = [OSError(errno.EIO, "Input/output error")]

        def fsync(fd: int) -> None:
            if failures:
                raise failures.pop()

        monkeypatch.setattr(journal_module.os, "fsync", fsync)
        journal = Journal(tmp_path, "w", durability="power")
        journal.trace(trace("a"))
        journal.final(row("a"))
        journal.trace(trace("b"))
        await journal.sync()
        journal.close()
        again = read_segment(segments(tmp_path)[1].path, 0)[0]
        assert [(line.kind, line.request_id) for line in again] == [("final", "a"), ("trace", "b")]
        assert journal.healthy

    async def test_two_failed_fsyncs_acknowledge_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        journal = Journal(tmp_path, "w", durability="power")
        journal.final(row("a"))
        with monkeypatch.context() as patch:
            patch.setattr(journal_module.os, "fsync", _refuse)
            with pytest.raises(LogUnavailable):
                await journal.sync()
        assert not journal.healthy
        await journal.sync()
        assert journal.healthy
        journal.close()

    async def test_a_waiter_that_leaves_takes_no_other_with_it(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path, "w", durability="power")
        journal.final(row("a"))
        leaver, stayer = asyncio.ensure_future(journal.sync()), asyncio.ensure_future(journal.sync())
        await asyncio.sleep(0)
        leaver.cancel()
        await stayer
        assert leaver.cancelled() or leaver.done()
        journal.close()


class TestFindRecord:
    def test_a_row_is_found_with_its_amendments_across_segments(self, tmp_path: Path, journal: Journal) -> None:
        journal.final(row("a"), SENT, None)
        journal.final(row("b"))
        journal._open_segment()
        journal.amend(row("a", status=499), SENT, DELIVERED)
        found = find_record(tmp_path, "a")
        assert found == {**row("a", status=499), "input": SENT, "output": DELIVERED}

    def test_a_request_in_flight_has_no_row(self, tmp_path: Path, journal: Journal) -> None:
        journal.trace(trace("a"))
        assert find_record(tmp_path, "a") is None

    def test_an_id_inside_another_row_is_not_that_row(self, tmp_path: Path, journal: Journal) -> None:
        journal.final(row("a"), b'{"request_id":"b"}')
        assert find_record(tmp_path, "b") is None

    def test_without_a_journal_there_is_nothing(self, tmp_path: Path) -> None:
        assert find_record(tmp_path / "missing", "a") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can give files away")
def test_a_segment_that_root_writes_belongs_to_the_owner_of_the_journal(tmp_path: Path) -> None:
    """A recorder that runs as somebody else would else wait at it for ever."""
    os.chown(tmp_path, 4321, 1234)
    journal = Journal(tmp_path, "w")
    journal.final(row("a"))
    journal.close()
    (segment,) = segments(tmp_path)
    found = segment.path.stat()
    assert (found.st_uid, found.st_gid) == (4321, 1234)


def test_what_the_journal_holds_is_the_last_word_of_every_request_without_its_texts(tmp_path: Path, journal: Journal) -> None:
    assert journalled(tmp_path / "missing") == {}
    journal.trace(trace("a"))
    journal.trace(trace("b"))
    journal.final(row("a"), SENT, DELIVERED)
    journal._open_segment()
    journal.amend(row("a", status=499), SENT, DELIVERED)
    journal.final(row("c"), b'{"request_id":"d"}')
    found = journalled(tmp_path)
    assert found == {"a": row("a", status=499), "b": trace("b"), "c": row("c")}
    assert "status" not in found["b"]


WRITER = """
import sys
from journal_kit import row
from muxx.journal import Journal
journal = Journal(sys.argv[1], "w", segment_bytes=20_000)
number = 0
while True:
    journal.final(row(f"r{number}"))
    print(f"r{number}", flush=True)
    number += 1
"""


@pytest.mark.parametrize("_attempt", range(3))
def test_a_killed_writer_loses_nothing_it_acknowledged(tmp_path: Path, _attempt: int) -> None:
    process = spawn(WRITER, tmp_path)
    assert process.stdout is not None
    acknowledged = [process.stdout.readline() for _ in range(200)]
    said = "".join(acknowledged) + kill(process)
    told = said.split("\n")[:-1]
    assert len(told) >= 200
    assert set(told) <= set(ids(lines_of(tmp_path)))
    assert all(is_left(segment) for segment in segments(tmp_path))
