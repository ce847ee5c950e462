"""From the journal to the database: every acknowledged row, once, in its last state, whoever dies in between."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
from journal_kit import DELIVERED, LOG, SENT, Ledger, as_chain, config_in, kill, row, spawn, stored, trace

import muxx.recorder as recorder_module
from muxx.db import Connection
from muxx.host import Host
from muxx.journal import BALLAST, Journal
from muxx.money import Cost, Usage
from muxx.recorder import Recorder
from muxx.row import Record
from muxx.segments import segments
from muxx.targets import Provider, Target


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    async with Host.open(config_in(tmp_path)) as host:
        yield host


class Bench:
    """A host, a journal on it, a ledger, and recorders that come and go."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.ledger = Ledger()
        self.chain: list[Any] = [self.ledger.record]
        self.journals: list[Journal] = []

    def journal(self, name: str = "w", **options: Any) -> Journal:
        self.journals.append(Journal(self.host.paths.journal, name, **options))
        return self.journals[-1]

    def recorder(self) -> Recorder:
        return Recorder(self.host, as_chain(*self.chain), LOG)

    async def drain(self) -> None:
        """What a recorder does that starts, stores all there is, and goes."""
        recorder = self.recorder()
        await recorder.drain()
        await recorder.close()

    @property
    def segments(self) -> int:
        return len(segments(self.host.paths.journal))

    async def count(self, table: str) -> int:
        [found] = await self.host.db.read_logs(f"SELECT count(*) FROM {table}")
        return int(found[0])


@pytest.fixture
async def bench(host: Host) -> AsyncIterator[Bench]:
    bench = Bench(host)
    yield bench
    for journal in bench.journals:
        journal.close()


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        assert time.monotonic() < end, "waited too long"
        await asyncio.sleep(0.01)


class TestStoring:
    async def test_a_segment_that_is_being_named_while_it_begins_holds_nobody_up(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        named = bench.host.paths.journal / "w-00000001.tmp"  # seen in the folder, and gone when it is looked at
        monkeypatch.setattr(Path, "glob", lambda folder, pattern: iter([named]))
        bench.journal().final(row("a"))
        recorder = bench.recorder()
        await recorder.drain()
        await recorder.close()
        assert list(await stored(bench.host)) == ["a"]
        assert "records wait" not in caplog.text

    async def test_rows_of_several_writers_are_stored_while_they_write(self, bench: Bench) -> None:
        first, second = bench.journal("a"), bench.journal("b")
        for number in range(5):
            first.final(row(f"a{number}"))
            second.final(row(f"b{number}"))
        await bench.drain()
        assert len(await stored(bench.host)) == 10
        first.final(row("a5"))
        await bench.drain()
        assert bench.ledger.seen.count("a5") == 1
        assert len(bench.ledger.seen) == 11

    async def test_finished_segments_are_removed_and_their_positions_with_them(self, bench: Bench) -> None:
        journal = bench.journal(segment_bytes=1)
        for number in range(5):
            journal.final(row(str(number)))
        await bench.drain()
        assert bench.segments == 1
        journal.final(row("5"))
        await bench.drain()
        journal.close()
        await bench.drain()
        assert bench.segments == 0
        assert len(await stored(bench.host)) == 6
        assert await bench.count("journal_positions") <= 2

    async def test_large_backlogs_reach_the_hooks_in_batches(self, bench: Bench) -> None:
        journal = bench.journal()
        for number in range(1800):
            journal.final(row(str(number)))
        await bench.drain()
        assert len(await stored(bench.host)) == 1800
        assert max(bench.ledger.batches) <= 500
        assert len(bench.ledger.seen) == 1800

    async def test_hooks_may_be_plain_functions_and_get_the_gateway(self, bench: Bench) -> None:
        seen: list[Any] = []
        bench.chain.append(lambda gateway, db, records: seen.append((gateway, len(records))))
        bench.journal().final(row("a"))
        recorder = Recorder(bench.host, as_chain(*bench.chain), LOG, "the gateway")
        await recorder.drain()
        await recorder.close()
        assert seen == [("the gateway", 1)]

    async def test_hooks_get_what_was_sent_and_delivered_as_it_was(self, bench: Bench) -> None:
        seen: list[Record] = []
        bench.chain = [lambda gateway, db, records: seen.extend(records)]
        journal = bench.journal()
        journal.final(row("a"), SENT, b"{broken \xff")
        journal.final(row("b"), None, DELIVERED)
        journal.final(row("c"))
        journal.amend(row("c"), SENT, DELIVERED)
        await bench.drain()
        texts = {record["request_id"]: (record["input"], record["output"]) for record in seen}
        assert texts == {"a": (SENT, b"{broken \xff"), "b": (None, DELIVERED), "c": (SENT, DELIVERED)}

    async def test_run_stores_what_comes_and_what_is_left_when_stopped(self, bench: Bench) -> None:
        journal, recorder = bench.journal(), bench.recorder()
        running = asyncio.ensure_future(recorder.run())
        journal.final(row("a"))
        await until(lambda: bench.ledger.seen == ["a"])
        journal.final(row("b"))
        journal.close()
        recorder.stop()
        await running
        assert set(await stored(bench.host)) == {"a", "b"}
        assert bench.segments == 0
        recorder.stop()

    async def test_idling_touches_the_database_not_at_all(self, bench: Bench) -> None:
        recorder = bench.recorder()
        bench.journal().final(row("a"))
        await recorder.drain()
        changes = await bench.host.db.read_logs("PRAGMA data_version")
        for _ in range(20):
            await recorder.drain()
        assert [tuple(r) for r in await bench.host.db.read_logs("PRAGMA data_version")] == [tuple(r) for r in changes]
        await recorder.close()

    async def test_what_comes_while_a_segment_is_read_waits_for_the_next_look(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Under load something always comes meanwhile, and to look again at once would make many small transactions."""
        import muxx.tail as tail

        journal, read = bench.journal(), tail.read_segment
        journal.final(row("a"))

        def slow(*arguments: Any) -> Any:
            found = read(*arguments)
            journal.final(row("b"))
            return found

        looking = tail.Tail(bench.host.paths.journal, {}, set(), set(), LOG)
        with monkeypatch.context() as patch:
            patch.setattr(tail, "read_segment", slow)
            batch = looking.next_batch()
        assert (list(batch.rows), batch.more) == (["a"], False)
        assert list(looking.next_batch().rows) == ["b"]

    async def test_a_row_that_comes_just_before_its_writer_goes_is_not_passed_over(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Between a look that found nothing new and the question whether the segment was left."""
        import muxx.tail as tail

        journal = bench.journal()
        journal.final(row("a"))
        looking = tail.Tail(bench.host.paths.journal, {}, set(), set(), LOG)
        looking.next_batch()

        def last_words(segment: Any) -> bool:
            journal.final(row("b"))
            journal.close()
            return True

        with monkeypatch.context() as patch:
            patch.setattr(tail, "is_left", last_words)
            batch = looking.next_batch()
        assert (list(batch.rows), batch.stored) == (["b"], [])
        batch = looking.next_batch()
        assert (list(batch.rows), len(batch.stored), len(batch.dead)) == ([], 1, 1)

    async def test_the_ballast_is_kept(self, bench: Bench) -> None:
        await bench.drain()
        assert bench.host.paths.ballast.name == BALLAST
        assert bench.host.paths.ballast.stat().st_size > 0

    async def test_a_link_in_place_of_its_lock_is_not_followed(self, bench: Bench, tmp_path: Path) -> None:
        elsewhere, lock = tmp_path / "elsewhere", bench.host.paths.journal / "recorder.lock"
        bench.journal().final(row("a"))
        lock.symlink_to(elsewhere)
        waiting = asyncio.ensure_future(bench.drain())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        assert not elsewhere.exists()
        lock.unlink()
        await waiting

    async def test_only_one_recorder_works_at_a_time(self, bench: Bench) -> None:
        first, second = bench.recorder(), bench.recorder()
        await first.drain()
        bench.journal().final(row("a"))
        waiting = asyncio.ensure_future(second.drain())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        assert not second.healthy
        await first.close()
        await waiting
        await second.close()
        assert bench.ledger.seen == ["a"]


class TestOrder:
    async def test_an_amendment_in_the_same_batch_is_what_is_stored(self, bench: Bench) -> None:
        journal = bench.journal()
        journal.final(row("a"))
        journal.amend(row("a", status=499))
        await bench.drain()
        assert await stored(bench.host) == {"a": 499}
        assert bench.ledger.seen == ["a"]

    @pytest.mark.parametrize("restart", [True, False])
    @pytest.mark.parametrize("segment_bytes", [1, 1_000_000])
    async def test_an_amendment_in_a_later_segment_batch_or_recorder_wins(
        self, bench: Bench, restart: bool, segment_bytes: int
    ) -> None:
        journal, recorder = bench.journal(segment_bytes=segment_bytes), bench.recorder()
        journal.trace(trace("a"))
        await recorder.drain()
        journal.final(row("a"))
        await recorder.drain()
        assert await stored(bench.host) == {"a": 200}
        if restart:
            await recorder.close()
            recorder = bench.recorder()
        journal.amend(row("a", status=499, ended_by="client"))
        await recorder.drain()
        assert await stored(bench.host) == {"a": 499}
        journal.close()
        await recorder.drain()
        assert await stored(bench.host) == {"a": 499}
        assert await bench.count("open_requests") == 0
        await recorder.close()

    async def test_a_damaged_line_costs_itself_only(self, bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
        journal = bench.journal()
        for name in "abc":
            journal.final({"request_id": name, "status": 200, "ended_by": None, "error_code": None})
        journal.close()
        [segment] = segments(bench.host.paths.journal)
        data = bytearray(segment.path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        segment.path.write_bytes(data)
        await bench.drain()
        assert set(await stored(bench.host)) == {"a", "c"}
        assert "damaged" in caplog.text
        assert bench.segments == 0

    async def test_a_torn_tail_is_ignored_once_its_writer_is_gone(self, bench: Bench) -> None:
        journal = bench.journal()
        journal.final(row("a"))
        journal.final(row("torn"))
        [segment] = segments(bench.host.paths.journal)
        data = segment.path.read_bytes()
        segment.path.write_bytes(data[:-5])
        await bench.drain()
        assert bench.segments == 1
        journal.close()
        await bench.drain()
        assert set(await stored(bench.host)) == {"a"}
        assert bench.segments == 0


COST = ("input_cost_pico", "output_cost_pico", "cost_pico", "price_version")


class Prices:
    """A gateway with one provider, and one price for everything."""

    def __init__(self, cost: Cost | None) -> None:
        self.providers = {"openai": Provider("openai", "http://127.0.0.1/v1")}
        self.asked: list[tuple[Target, Usage, float]] = []
        self._cost = cost

    def price(self, target: Target, usage: Usage, at: float) -> Cost | None:
        self.asked.append((target, usage, at))
        return self._cost


class TestOpenRequests:
    async def test_a_trace_reaches_the_database_only_when_its_segment_goes(self, bench: Bench) -> None:
        journal = bench.journal(segment_seconds=0)
        journal.trace(trace("a"))
        recorder = bench.recorder()
        await recorder.drain()
        assert await bench.count("open_requests") == 0
        journal.rotate_if_due()
        await recorder.drain()
        assert await bench.count("open_requests") == 1
        assert await stored(bench.host) == {}
        journal.final(row("a"))
        await recorder.drain()
        assert await bench.count("open_requests") == 0
        assert await stored(bench.host) == {"a": 200}
        await recorder.close()

    @pytest.mark.parametrize("rotated", [True, False])
    @pytest.mark.parametrize("restart", [True, False])
    async def test_a_request_of_a_dead_writer_is_closed_exactly_once(self, bench: Bench, rotated: bool, restart: bool) -> None:
        journal, recorder = bench.journal(segment_seconds=0), bench.recorder()
        journal.trace(trace("open"))
        journal.trace(trace("done"))
        journal.final(row("done"))
        if rotated:
            journal.rotate_if_due()
        await recorder.drain()
        assert await stored(bench.host) == {"done": 200}
        if restart:
            await recorder.close()
            recorder = bench.recorder()
        journal.close()
        await recorder.drain()
        await recorder.close()
        await bench.drain()
        assert await stored(bench.host) == {"done": 200, "open": 500}
        assert bench.ledger.seen.count("open") == 1
        [closed] = await bench.host.db.read_logs("SELECT * FROM ledger WHERE id = 'open'")
        assert (closed["ended_by"], closed["error"]) == ("muxx", "process_died")
        assert await bench.count("open_requests") == 0
        assert bench.segments == 0

    async def test_what_the_trace_knew_is_kept(self, bench: Bench) -> None:
        record = await self._died(bench, None)
        assert (record["phase"], record["usage_source"], record["input_tokens"]) == ("head", "estimated", 11)
        assert (record["input"], record["output"]) == (None, None)
        assert set(record) == set(Record.__annotations__)

    async def test_what_a_dead_process_had_sent_is_priced_at_its_target(self, bench: Bench) -> None:
        gateway = Prices(Cost(5, 7, "2026-11"))
        record = await self._died(bench, gateway)
        assert [record[name] for name in COST] == [5, 7, 12, "2026-11"]
        [(target, usage, at)] = gateway.asked
        assert (target.provider, target.model) == (gateway.providers["openai"], "gpt-4o")
        assert (usage, at) == (Usage(input_tokens=11, source="estimated"), record["started_at"])

    @pytest.mark.parametrize("known", ["no gateway", "no price", "no such provider", "no provider", "no model"])
    async def test_what_has_no_price_costs_an_unknown_amount(self, bench: Bench, known: str) -> None:
        gateway = Prices(None if known == "no price" else Cost(5, 7, "2026-11"))
        lacking = {"no such provider": {"provider": "gone"}, "no provider": {"provider": None}, "no model": {"model": None}}
        record = await self._died(bench, None if known == "no gateway" else gateway, **lacking.get(known, {}))
        assert [record[name] for name in COST] == [None] * 4
        assert record["error_code"] == "process_died"

    async def _died(self, bench: Bench, gateway: Any, **changes: Any) -> dict[str, Any]:
        seen: list[Any] = []
        journal = bench.journal()
        journal.trace(trace("a", **changes))
        journal.close()
        recorder = Recorder(bench.host, as_chain(lambda gateway, db, records: seen.extend(records)), LOG, gateway)
        await recorder.drain()
        await recorder.close()
        [record] = seen
        return dict(record)

    async def test_the_last_trace_of_a_request_counts(self, bench: Bench) -> None:
        seen: list[Record] = []
        bench.chain = [lambda gateway, db, records: seen.extend(records)]
        journal = bench.journal(segment_bytes=1)
        journal.trace(trace("a", attempts=1))
        await bench.drain()
        journal.trace(trace("a", attempts=2))
        journal.close()
        await bench.drain()
        assert [record["attempts"] for record in seen] == [2]

    async def test_a_living_writers_requests_stay_open(self, bench: Bench) -> None:
        dead, living = bench.journal("dead"), bench.journal("living", segment_bytes=1)
        dead.trace(trace("d"))
        living.trace(trace("l"))
        living.trace(trace("m"))
        dead.close()
        await bench.drain()
        await bench.drain()
        assert await stored(bench.host) == {"d": 500}

    async def test_many_are_closed_in_batches(self, bench: Bench) -> None:
        journal = bench.journal()
        for number in range(1300):
            journal.trace(trace(str(number)))
        journal.close()
        await bench.drain()
        assert len(await stored(bench.host)) == 1300
        assert len(bench.ledger.seen) == 1300
        assert max(bench.ledger.batches) <= 500


async def test_a_database_of_an_earlier_version_goes_on(bench: Bench) -> None:
    """One in which rows were put aside before their content stood apart."""
    host = bench.host
    await host.db.migrate(recorder_module.NAME, recorder_module.MIGRATIONS[:1])

    async def put_aside(db: Connection) -> None:
        await db.execute("INSERT INTO rejected_records VALUES ('old', x'7b7d', 'an error', 1.5)")

    await host.db.write_logs(put_aside)
    bench.chain.append(lambda gateway, db, records: 1 / 0)
    bench.journal().final(row("new"), SENT)
    await bench.drain()
    kept = await host.db.read_logs("SELECT request_id, record, sent FROM rejected_records ORDER BY request_id DESC")
    assert [(r["request_id"], r["sent"]) for r in kept] == [("old", None), ("new", SENT)]


class TestTrouble:
    @pytest.fixture(autouse=True)
    def _quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(recorder_module, "BUSY_MS", 10)
        monkeypatch.setattr(recorder_module, "MAX_BACKOFF_S", 0.05)

    async def test_a_locked_database_is_only_a_longer_journal(self, bench: Bench) -> None:
        journal, recorder = bench.journal(segment_bytes=10_000), bench.recorder()
        running = asyncio.ensure_future(recorder.run())
        journal.final(row("before"))
        await until(lambda: stored(bench.host))
        with closing(sqlite3.connect(bench.host.paths.logs, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for number in range(100):
                journal.final(row(str(number)))
            await until(lambda: not recorder.healthy)
            assert len(bench.ledger.seen) == 1
            other.execute("ROLLBACK")
        await until(lambda: len(bench.ledger.seen) == 101)
        await until(lambda: recorder.healthy)
        assert len(set(bench.ledger.seen)) == 101
        recorder.stop()
        await running

    async def test_a_torn_line_is_told_once_however_often_it_is_read(self, bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
        recorder, journal = bench.recorder(), bench.journal()
        await recorder.drain()
        journal.final(row("a"))
        journal.final(row("torn"))
        [segment] = segments(bench.host.paths.journal)
        segment.path.write_bytes(segment.path.read_bytes()[:-5])
        journal.close()
        tries: list[int] = []

        def full(gateway: Any, db: Any, records: list[Any]) -> None:
            tries.append(len(records))
            if len(tries) < 4:
                raise sqlite3.OperationalError("database or disk is full")

        recorder._chain = as_chain(full)
        with caplog.at_level("INFO"):
            await recorder.drain()
        await recorder.close()
        assert tries == [1] * 4
        assert caplog.text.count("ignored a torn line") == 1

    async def test_stopping_does_not_wait_for_a_locked_database(self, bench: Bench) -> None:
        recorder = bench.recorder()
        await recorder.drain()
        await recorder.close()
        bench.journal().final(row("a"))
        with closing(sqlite3.connect(bench.host.paths.logs, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            running = asyncio.ensure_future(recorder.run())
            await until(lambda: not recorder.healthy)
            recorder.stop()
            await asyncio.wait_for(running, 5)
        await bench.drain()
        assert await stored(bench.host) == {"a": 200}

    async def test_a_hook_that_fails_now_and_then_loses_and_doubles_nothing(self, bench: Bench) -> None:
        calls = iter(range(10**6))

        def moody(gateway: Any, db: Connection, records: list[Record]) -> None:
            if next(calls) % 2 == 0:
                raise sqlite3.OperationalError("database or disk is full")

        bench.chain.append(moody)
        journal = bench.journal(segment_bytes=5000)
        for number in range(50):
            journal.trace(trace(str(number)))
            journal.final(row(str(number)))
        journal.close()
        await bench.drain()
        assert await stored(bench.host) == {str(number): 200 for number in range(50)}
        assert await bench.count("rejected_records") == 0
        assert bench.segments == 0

    async def test_a_poisoned_record_is_put_aside_and_the_rest_flows(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        def picky(gateway: Any, db: Connection, records: list[Record]) -> None:
            records[0].pop("duration_ms")  # a hook that changes its records must not change what is kept
            if any(record["request_id"] == "13" for record in records):
                raise ValueError("the prompt: SECRET \ud800")

        bench.chain.append(picky)
        journal = bench.journal()
        for number in range(40):
            journal.final(row(str(number)), SENT, DELIVERED)
        journal.close()
        recorder = bench.recorder()
        await recorder.drain()
        assert recorder.healthy
        await recorder.close()
        assert set(await stored(bench.host)) == {str(number) for number in range(40)}
        [kept] = await bench.host.db.read_logs("SELECT * FROM rejected_records")
        assert orjson.loads(kept["record"]) == row("13")
        assert (kept["sent"], kept["delivered"]) == (SENT, DELIVERED)
        assert "ValueError" in kept["error"]
        assert "SECRET" not in kept["error"]
        assert bench.segments == 0
        assert "SECRET" not in caplog.text

    async def test_a_hook_that_everybody_waits_for_is_named(
        self, bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def slow(gateway: Any, db: Connection, records: list[Record]) -> None:
            await asyncio.sleep(0.1)

        monkeypatch.setattr("muxx.chains.LATE_SECONDS", 0.01)
        bench.chain.append(slow)
        bench.journal().final(row("1"))
        await bench.drain()
        assert caplog.messages == ["plugin plugin-1 has been in record for 0.01 s, and muxx waits for it"]

    @pytest.mark.parametrize("place", [0, 1])
    @pytest.mark.parametrize(("sql", "ends_in"), [
        ("INSERT INTO nobodys VALUES (1)", "OperationalError at "),
        ("INSERT INTO rejected_records (request_id, record, error, rejected_at) VALUES ('x', x'', '', 0)", "ConnectionError at "),
        ("COMMIT", "it ended the transaction"),
        ("ROLLBACK", "it ended the transaction"),
    ])  # fmt: skip
    async def test_a_hook_that_fails_on_every_row_keeps_none_from_the_others(
        self, bench: Bench, place: int, sql: str, ends_in: str
    ) -> None:
        async def away(gateway: Any, db: Connection, records: list[Record]) -> None:
            await db.execute(sql)
            if db.in_transaction:
                raise ConnectionError("the service is away")

        bench.chain.insert(place, away)
        journal = bench.journal()
        for number in range(5):
            journal.final(row(str(number)))
        journal.close()
        async with asyncio.timeout(10):
            await bench.drain()
        assert await stored(bench.host) == {str(number): 200 for number in range(5)}
        kept = await bench.host.db.read_logs("SELECT request_id, error FROM rejected_records ORDER BY 1")
        assert [r["request_id"] for r in kept] == [str(number) for number in range(5)]
        assert ends_in in kept[0]["error"]

    async def test_a_row_that_is_no_json_is_put_aside(self, bench: Bench) -> None:
        journal = bench.journal()
        journal.final(row("a"))
        journal.final(row("b", attributes=orjson.Fragment(b"{broken")))
        journal.trace(trace("c", metadata=orjson.Fragment(b"{broken")))
        journal.close()
        await bench.drain()
        assert await stored(bench.host) == {"a": 200}
        kept = await bench.host.db.read_logs("SELECT request_id, record FROM rejected_records ORDER BY 1")
        assert [r["request_id"] for r in kept] == ["b", "c"]
        assert b"{broken" in kept[0]["record"]

    async def test_a_hook_that_cannot_store_anything_loses_nothing(self, bench: Bench) -> None:
        def broken(gateway: Any, db: Connection, records: list[Record]) -> None:
            raise SystemExit(1)

        bench.chain = [broken]
        journal = bench.journal()
        for number in range(20):
            journal.final(row(str(number)))
        journal.trace(trace("open"))
        journal.close()
        await bench.drain()
        assert await bench.count("rejected_records") == 21

    async def test_unreadable_segments_are_tried_again(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        """A failure in the middle of a batch forgets the batch: nothing is skipped."""
        import muxx.tail as tail

        journal = bench.journal(segment_bytes=1)
        for number in range(6):
            journal.final(row(str(number)))
        read, failures = tail.read_segment, iter([False, True, False, False, True])

        def faulty(*arguments: Any) -> Any:
            if next(failures, False):
                raise OSError(errno.EIO, "Input/output error")
            return read(*arguments)

        monkeypatch.setattr(tail, "read_segment", faulty)
        await bench.drain()
        assert len(await stored(bench.host)) == 6

    @pytest.mark.parametrize("moment", range(8))
    async def test_a_cancelled_drain_loses_nothing(self, bench: Bench, moment: int) -> None:
        journal, recorder = bench.journal(segment_bytes=2000), bench.recorder()
        for number in range(20):
            journal.trace(trace(str(number)))
            journal.final(row(str(number)))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.001 * moment):
                await recorder.drain()
        journal.final(row("last"))
        await recorder.drain()
        await recorder.close()
        assert set(await stored(bench.host)) == {str(number) for number in range(20)} | {"last"}

    async def test_a_write_ahead_log_at_its_limit_pauses_the_recorder(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recorder, journal = bench.recorder(), bench.journal()
        journal.final(row("a"))
        await recorder.drain()
        with closing(sqlite3.connect(bench.host.paths.logs, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM ledger").fetchall()
            journal.final(row("b"))
            await recorder.drain()
            monkeypatch.setattr(recorder_module, "WAL_LIMIT", 1)
            journal.final(row("c"))
            waiting = asyncio.ensure_future(recorder.drain())
            await until(lambda: not recorder.healthy)
            reader.execute("ROLLBACK")
        await waiting
        assert set(await stored(bench.host)) == {"a", "b", "c"}
        await recorder.close()

    async def test_a_segment_that_cannot_be_removed_is_not_stored_twice(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(self: Path, missing_ok: bool = False) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

        journal = bench.journal(segment_bytes=1)
        journal.trace(trace("a"))
        journal.final(row("a"))
        journal.close()
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", refuse)
            await bench.drain()
            await bench.drain()
        assert bench.segments == 3
        await bench.drain()
        assert bench.segments == 0
        assert bench.ledger.seen == ["a"]
        assert await stored(bench.host) == {"a": 200}


RECORDER = """
import asyncio, os, signal, sys
from pathlib import Path
import muxx.recorder as module
from journal_kit import LOG, Ledger, as_chain, config_in
from muxx.host import Host
from muxx.recorder import Recorder

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

class Dying(Recorder):
    '''Dies at the n-th time it reaches the named step.'''
    left = int(sys.argv[3])

def dies_at(step):
    original = getattr(Recorder, step)
    def method(self, *arguments):
        Dying.left -= 1
        if Dying.left <= 0:
            die()
        return original(self, *arguments)
    setattr(Dying, step, method)

async def main():
    async with Host.open(config_in(Path(sys.argv[1]))) as host:
        chain = [Ledger().record]
        if sys.argv[2] == "hook":
            async def late(gateway, db, records):
                Dying.left -= 1
                if Dying.left <= 0:
                    die()
            chain.append(late)
        else:
            dies_at(sys.argv[2])
        recorder = Dying(host, as_chain(*chain), LOG)
        await recorder.drain()
        await recorder.close()
asyncio.run(main())
"""


@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("step", ["_remove", "hook", "_close_requests", "_commit"])
async def test_a_recorder_killed_anywhere_loses_and_doubles_nothing(bench: Bench, step: str, nth: int, tmp_path: Path) -> None:
    """`_remove` is the moment between the commit and the unlink."""
    for name in ("a", "b"):
        journal = bench.journal(name, segment_bytes=4000)
        for number in range(30):
            journal.trace(trace(f"{name}{number}"))
            journal.final(row(f"{name}{number}"))
            if number % 10 == 0:
                journal.amend(row(f"{name}{number}", status=499))
        journal.trace(trace(f"{name}-open"))
        journal.close()
    process = spawn(RECORDER, tmp_path, step, nth)
    process.communicate()
    assert process.returncode == -signal.SIGKILL or nth > 2
    await bench.drain()
    expected = {f"{name}{number}": 499 if number % 10 == 0 else 200 for name in "ab" for number in range(30)}
    assert await stored(bench.host) == {**expected, "a-open": 500, "b-open": 500}
    assert bench.segments == 0
    assert await bench.count("open_requests") == 0


SERVER = """
import asyncio, sys, threading
from pathlib import Path
from journal_kit import LOG, Ledger, as_chain, config_in, row, trace
from muxx.host import Host
from muxx.journal import Journal
from muxx.recorder import Recorder

async def main():
    async with Host.open(config_in(Path(sys.argv[1]))) as host:
        recorder = Recorder(host, as_chain(Ledger().record), LOG)
        thread = threading.Thread(target=lambda: asyncio.run(recorder.run()))
        thread.start()
        journal = Journal(host.paths.journal, "worker0", segment_bytes=30_000)
        number = 0
        while True:
            journal.trace(trace(f"{sys.argv[2]}-{number}"))
            journal.final(row(f"{sys.argv[2]}-{number}"))
            print(f"{sys.argv[2]}-{number}", flush=True)
            number += 1
asyncio.run(main())
"""


@pytest.mark.parametrize("lines", [1, 300, 2000])
async def test_a_killed_server_loses_no_acknowledged_row(bench: Bench, tmp_path: Path, lines: int) -> None:
    """Twice in a row, each time in the middle of writing and storing."""
    told: list[str] = []
    for life in range(2):
        process = spawn(SERVER, tmp_path, life)
        assert process.stdout is not None
        said = "".join([process.stdout.readline() for _ in range(lines)])
        told += (said + kill(process)).split("\n")[:-1]
    await bench.drain()
    rows = await stored(bench.host)
    assert set(told) <= set(rows)
    assert {rows[request_id] for request_id in told} == {200}
    assert sum(status == 500 for status in rows.values()) <= 2
    assert bench.segments == 0


def test_the_log_says_once_that_rows_wait(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    class Fake:
        paths = None
        config = config_in(tmp_path)

    recorder = Recorder(Fake(), (), LOG)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            recorder._failed(sqlite3.OperationalError("database is locked"))
    assert caplog.text.count("database is locked") == 1
