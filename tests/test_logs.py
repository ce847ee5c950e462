"""The standard plugin `logs`: every row once, exact money, each project its own rows, nothing harmful on a terminal."""

from __future__ import annotations

import ast
import asyncio
import csv
import io
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from journal_kit import as_chain
from logs_kit import ADMIN, RIVAL, SHOP, START, Bench, muxx, opened, record

import muxx_std
from muxx import Host, InvalidRequest, NotFound, Record, json_line, load_config
from muxx.journal import Journal
from muxx.recorder import Recorder
from muxx_std.logs import plugin as logs_plugin
from muxx_std.logs import present
from muxx_std.logs.exporting import PAGE_ROWS, matching
from muxx_std.logs.filters import Filter, Page
from muxx_std.logs.schema import COLUMNS, MIGRATIONS, NUMBER_COLUMNS
from muxx_std.logs.store import LogReader

NAUGHTY = "\x1b[2J\r\n\x00\x7f\x9b\u2028\u202e"
NAUGHTY_JSON = json.dumps(NAUGHTY).encode()
RAW_CONTROL = set(map(chr, [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x202E])) - {"\n"}


def note(journal: Journal, row: Record, **changes: Any) -> None:
    """As a worker does: the row, and its content apart; changed afterwards, if it changes."""
    bare = {name: value for name, value in row.items() if name not in present.CONTENT}
    if changes:
        journal.amend({**bare, **changes}, row["input"], row["output"])
    else:
        journal.final(bare, row["input"], row["output"])


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with opened(tmp_path) as bench:
        yield bench


class TestOneRow:
    async def test_a_row_has_the_fields_of_the_contract_in_its_order_and_its_units(self, bench: Bench) -> None:
        await bench.record(record())
        row = await bench.get("req_000001")
        assert tuple(row) == present.FIELDS
        assert row["started_at"] == "2026-11-18T11:06:41.000Z"
        assert (row["input_cost_usd"], row["output_cost_usd"], row["cost_usd"]) == ("0.0000275", "0.00007", "0.0000975")
        assert row["saved_usd"] is None
        assert row["stream"] is True
        assert row["metadata"] == {"feature": "search", "n": 2, "on": True}
        assert row["finish_reasons"] == ["stop"]
        assert row["input"]["messages"][0]["content"] == "where is my order?"
        assert row["output"] == "It is on its way."

    async def test_unknown_stays_unknown(self, bench: Bench) -> None:
        await bench.record(record(cost_pico=None, metadata=None, cache=None, input=None, output=None, saved_pico=0))
        row = await bench.get("req_000001")
        assert [row[name] for name in ("cost_usd", "metadata", "cache", "input", "output")] == [None] * 5
        assert row["saved_usd"] == "0"

    async def test_a09_another_projects_row_is_exactly_one_that_does_not_exist(self, bench: Bench) -> None:
        await bench.record(record(), record(2, project=None))
        refusals = []
        for identity, request_id in (
            (RIVAL, "req_000001"),
            (SHOP, "req_000002"),
            (SHOP, "req_none"),
            (SHOP, "\udc80"),
            (SHOP, "x" * 8000),
        ):
            with pytest.raises(NotFound) as caught:
                await bench.get(request_id, identity)
            refusals.append((caught.value.status, caught.value.code, caught.value.message, caught.value.param))
        assert len(set(refusals)) == 1
        assert (await bench.get("req_000001", ADMIN))["project"] == "shop"
        assert (await bench.get("req_000002", ADMIN))["project"] is None

    async def test_a_row_still_in_the_journal_is_found(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[Any] = []
        monkeypatch.setattr(logs_plugin, "find_record", lambda directory, request_id: asked.append(directory) or record())
        row = await bench.get("req_000001")
        assert tuple(row) == present.FIELDS
        assert asked == [bench.host.paths.journal]
        with pytest.raises(NotFound):
            await bench.get("req_000001", RIVAL)

    async def test_a_row_that_moves_from_journal_to_database_while_we_look_is_found(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loop = asyncio.get_running_loop()

        def stored_meanwhile(directory: Any, request_id: str) -> None:
            asyncio.run_coroutine_threadsafe(bench.record(record()), loop).result()

        monkeypatch.setattr(logs_plugin, "find_record", stored_meanwhile)
        assert (await bench.get("req_000001"))["request_id"] == "req_000001"


class TestFromTheJournal:
    async def test_a_row_is_read_by_id_at_once_and_listed_when_the_recorder_has_run(self, bench: Bench) -> None:
        journal = Journal(bench.host.paths.journal, "test")
        chain = as_chain(lambda gateway, db, records: bench.logs.record(db, records))
        recorder = Recorder(bench.host, chain, logging.getLogger("test"), bench.gateway)
        try:
            journal.trace({"request_id": "req_000001", "started_at": START})
            with pytest.raises(NotFound):
                await bench.get("req_000001")
            note(journal, record())
            note(journal, record(), status=499, ended_by="client")
            early = await bench.get("req_000001")
            assert early["status"] == 499
            assert (early["input"]["messages"][0]["role"], early["output"]) == ("user", "It is on its way.")
            assert await bench.ids() == []
            await recorder.drain()
            assert await bench.ids() == [1]
            assert await bench.get("req_000001") == early
        finally:
            await recorder.close()
            journal.close()


class TestRecording:
    async def test_l10_a_batch_stored_twice_leaves_one_row_each(self, bench: Bench) -> None:
        batch = [record(number) for number in range(1, 6)]
        await bench.record(*batch)
        await bench.record(*batch)
        assert await bench.ids() == [5, 4, 3, 2, 1]

    async def test_a_later_state_of_a_row_replaces_the_earlier_one_in_its_place(self, bench: Bench) -> None:
        await bench.record(record(1), record(2))
        await bench.record(record(1, status=499, ended_by="client", phase="finish", output=b'"It"'))
        row = await bench.get("req_000001")
        assert (row["status"], row["ended_by"], row["output"]) == (499, "client", "It")
        assert [number for number, _ in await LogReader(bench.host.db).arrivals(Filter(), 0)] == [1, 2]

    async def test_no_value_of_a_provider_or_a_client_stops_the_batch(self, bench: Bench) -> None:
        odd = record(
            1, input_tokens=2**64 - 1, model=NAUGHTY, user_id="'; DROP TABLE generations;--", attributes={"a": [NAUGHTY]}
        )
        await bench.record(odd, record(2))
        row = await bench.get("req_000001")
        assert row["input_tokens"] == 2**63 - 1
        assert row["model"] == NAUGHTY
        assert row["attributes"] == {"a": [NAUGHTY]}
        assert await bench.ids() == [2, 1]

    @pytest.mark.parametrize("count", [1, 24, 25, 26, 51, 101, 500])
    async def test_a_batch_of_any_size_leaves_each_row_once_with_its_content(self, bench: Bench, count: int) -> None:
        await bench.record(*(record(number, output=b"%d" % number) for number in range(count)))
        rows = [row async for row in matching(LogReader(bench.host.db), Filter(), True)]
        assert [(row["request_id"], row["output"]) for row in rows] == [(f"req_{n:06d}", n) for n in range(count)]

    @pytest.mark.parametrize("column", [name for name in COLUMNS if name not in ("request_id", "project", "environment")])
    async def test_what_rows_share_and_what_they_do_not_is_stored_alike(self, bench: Bench, column: str) -> None:
        """Values that Python takes for equal are not the same text, and a batch may share what the last one did not."""
        shared: dict[str, Any] = {"metadata": {"n": 7}, "finish_reasons": ["x"], "attributes": {"n": 7}}
        others: dict[str, Any] = {"metadata": {"n": 7.0}, "finish_reasons": ["y"], "attributes": {"n": True}}
        one = shared.get(column, 7 if column in NUMBER_COLUMNS else "seven")
        other = others.get(column, 8 if column in NUMBER_COLUMNS else "eight")
        batches = [[one] * 3, [None] * 3, [one, None, other], [other] * 30, [one]]
        values = [value for batch in batches for value in batch]
        if column == "started_at":
            values = [value or 9 for value in values]
        place = 0
        for batch in batches:
            await bench.record(*(record(place + n, **{column: values[place + n]}) for n in range(len(batch))))
            place += len(batch)
        stored = [row async for row in matching(LogReader(bench.host.db), Filter(), False)]
        assert [json.dumps(row[column]) for row in stored] == [
            json.dumps(COLUMNS[column](value) if column in NUMBER_COLUMNS else value) for value in values
        ]

    async def test_numbers_where_text_belongs_are_each_stored_as_themselves(self, bench: Bench) -> None:
        await bench.record(*(record(n, model=model) for n, model in enumerate((1, 1.0, True, 1))))
        rows = await bench.host.db.read_logs("SELECT model FROM generations ORDER BY position")
        assert [row["model"] for row in rows] == ["1", "1.0", "1", "1"]

    async def test_one_odd_row_spoils_neither_the_batch_nor_its_content(self, bench: Bench) -> None:
        await bench.record(*(record(number, input_tokens=2**70 if number == 30 else 1) for number in range(60)))
        rows = [row async for row in matching(LogReader(bench.host.db), Filter(), True)]
        assert [row["input_tokens"] for row in rows] == [2**63 - 1 if number == 30 else 1 for number in range(60)]
        assert {row["output"] for row in rows} == {"It is on its way."}

    @pytest.mark.parametrize(
        ("content", "shown"), [(b"{broken", "{broken"), (b"caf\xff \\u", "caf\ufffd \\u"), (b"", ""), (b"[1.0]", [1.0])]
    )
    async def test_content_that_is_no_json_is_shown_as_the_text_it_is(self, bench: Bench, content: bytes, shown: Any) -> None:
        await bench.record(record(1, input=content))
        assert (await bench.get("req_000001"))["input"] == shown

    async def test_content_is_kept_as_it_came(self, bench: Bench) -> None:
        content = '{ "a": 1e2, "a": "é" }'
        await bench.record(record(1, output=content.encode()))
        [row] = await bench.host.db.read_logs("SELECT output FROM contents")
        assert row["output"] == content


class TestLists:
    async def test_a_list_is_newest_first_without_content(self, bench: Bench) -> None:
        await bench.record(record(2), record(3), record(1))
        answer = await bench.list()
        assert list(answer) == ["object", "data", "has_more", "next"]
        assert (answer["object"], answer["has_more"], answer["next"]) == ("list", False, None)
        assert [row["request_id"] for row in answer["data"]] == ["req_000003", "req_000002", "req_000001"]
        assert tuple(answer["data"][0]) == present.FIELDS[:-2]

    async def test_pages_meet_without_gap_or_overlap_even_in_one_millisecond(self, bench: Bench) -> None:
        await bench.record(*(record(number, started_at=START + number // 4) for number in range(50)))
        seen: list[int] = []
        answer = await bench.list(limit=7)
        while True:
            seen += [int(row["request_id"][4:]) for row in answer["data"]]
            if not answer["has_more"]:
                break
            await bench.record(record(1000 + len(seen)))  # what arrives meanwhile is newer and disturbs nothing
            assert answer["next"] == answer["data"][-1]["request_id"]
            answer = await bench.list(limit=7, after=answer["next"])
        assert seen == list(range(49, -1, -1))

    async def test_twenty_rows_unless_asked_for_more(self, bench: Bench) -> None:
        await bench.record(*(record(number) for number in range(30)))
        assert len(await bench.ids()) == 20
        assert len(await bench.ids(limit=1000)) == 30

    async def test_a_project_sees_its_own_rows_and_an_admin_all(self, bench: Bench) -> None:
        await bench.record(record(1), record(2, project="rival"), record(3, project=None, environment=None))
        assert await bench.ids(SHOP) == [1]
        assert await bench.ids(RIVAL) == [2]
        assert await bench.ids(ADMIN) == [2, 1]
        assert await bench.ids(ADMIN, environment="all") == [3, 2, 1]
        assert await bench.ids(ADMIN, project="rival") == [2]

    async def test_a_cursor_of_another_project_is_exactly_one_that_does_not_exist(self, bench: Bench) -> None:
        await bench.record(record(1), record(2, project="rival"))
        messages = set()
        for cursor in ("req_000002", "req_none"):
            with pytest.raises(InvalidRequest) as caught:
                await bench.list(after=cursor)
            messages.add((caught.value.message, caught.value.param))
        assert len(messages) == 1

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ({"model": "gpt-4o-mini"}, [2]),
            ({"model": "gpt-4o"}, [4, 3, 1]),
            ({"provider": "other"}, [3]),
            ({"user_id": "u2"}, [2]),
            ({"status": 499}, [3]),
            ({"cache": "hit"}, [4]),
            ({"environment": "test"}, [5]),
            ({"environment": "all"}, [5, 4, 3, 2, 1]),
            ({"from_": START + 3}, [4, 3]),
            ({"to": START + 3}, [2, 1]),
            ({"from_": "2026-11-18T11:06:42Z", "to": "2026-11-18T13:06:44+02:00"}, [3, 2]),
            ({"from_": "2026-11-18T11:06:44"}, [4]),
            ({"metadata.feature": "chat"}, [2]),
            ({"metadata.n": "2"}, [4, 3, 1]),
            ({"metadata.on": "true"}, [4, 3, 1]),
            ({"metadata.none": "null"}, [2]),
            ({'metadata.a"b$.c': "x"}, [2]),
            ({"q": "WHERE is my"}, [4, 3, 1]),
            ({"q": 'say "100%_\\"'}, [2]),
            ({"q": "100%%"}, []),
            ({"q": "on its way", "user_id": "u1", "status": 499}, [3]),
            ({"q": "é\n"}, [2]),
            ({"q": "naïve/"}, [4]),
            ({"model": "' OR 1=1 --"}, []),
        ],
    )  # fmt: skip
    async def test_filters_find_what_they_say(self, bench: Bench, query: dict[str, Any], expected: list[int]) -> None:
        await bench.record(
            record(1),
            record(
                2,
                model="gpt-4o-mini",
                model_requested="gpt-4o-mini",
                user_id="u2",
                metadata={"feature": "chat", 'a"b$.c': "x", "none": None},
                input=orjson.dumps({"messages": ['please say "100%_\\"', "é\n"]}),
            ),
            record(3, provider="other", status=499),
            record(4, cache="hit", output=b'"na\\u00EFve\\/"'),
            record(5, environment="test"),
        )
        assert await bench.ids(**query) == expected

    @pytest.mark.parametrize(
        ("query", "param"),
        [
            ({"modle": "x"}, "modle"),
            ({"project": "rival"}, "project"),
            ({"limit": 0}, "limit"),
            ({"limit": 1001}, "limit"),
            ({"limit": "٣"}, "limit"),
            ({"status": "ok"}, "status"),
            ({"status": 10**30}, "status"),
            ({"cache": "yes"}, "cache"),
            ({"environment": "prod"}, "environment"),
            ({"from_": "yesterday"}, "from"),
            ({"to": "1e999"}, "to"),
            ({"to": "2026-13-01"}, "to"),
            ({"q": "x" * 1001}, "q"),
        ],
    )
    async def test_a_parameter_that_is_wrong_or_unknown_is_named(self, bench: Bench, query: dict[str, Any], param: str) -> None:
        with pytest.raises(InvalidRequest) as caught:
            await bench.list(**query)
        assert (caught.value.status, caught.value.param) == (400, param)
        assert param in caught.value.message

    @pytest.mark.parametrize("query", ["model=\udc80", "metadata.\udc80=x", "&".join(f"a{n}=1" for n in range(200)), "%00%1b=1"])
    async def test_a06_a_broken_query_string_is_refused_without_an_echo(self, bench: Bench, query: str) -> None:
        with pytest.raises(InvalidRequest) as caught:
            await bench.call("/v1/logs", SHOP, query)
        assert caught.value.message.isascii()
        assert "\x1b" not in caught.value.message

    @pytest.mark.parametrize(
        ("filter", "index"),
        [
            (Filter(project="shop"), "generations_by_project (project=?"),
            (Filter(project="shop", since=START, until=START + 9, user_id="u1"), "generations_by_project (project=?"),
            (Filter(), "generations_by_time"),
            (Filter(environment=None, since=START), "generations_by_time (started_at"),
        ],
    )
    async def test_pages_are_read_from_an_index_in_its_order(self, bench: Bench, filter: Filter, index: str) -> None:
        await bench.record(record(1))
        plans = await self._plans(bench, LogReader(bench.host.db).page(filter, Page(20, "req_000001")))
        by_id, *pages = plans
        assert "sqlite_autoindex_generations_1 (request_id=?)" in by_id
        for page in pages:
            assert index in page
            assert "TEMP B-TREE" not in page

    async def test_arrivals_are_read_from_where_the_last_ones_ended(self, bench: Bench) -> None:
        [plan] = await self._plans(bench, LogReader(bench.host.db).arrivals(Filter(project="shop"), 5))
        assert "INTEGER PRIMARY KEY (rowid>?)" in plan

    async def _plans(self, bench: Bench, reading: Awaitable[Any]) -> list[str]:
        """How SQLite goes about what is read meanwhile."""
        read, asked = bench.host.db.read_logs, []  # `scan_logs` reads the same, on other connections

        async def listen(sql: str, params: Any = (), **limits: Any) -> Any:
            asked.append((sql, params))
            return await read(sql, params)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bench.host.db, "read_logs", listen)
            patch.setattr(bench.host.db, "scan_logs", listen)
            await reading
        plans = [await read("EXPLAIN QUERY PLAN " + sql, params) for sql, params in asked]
        return ["; ".join(row["detail"] for row in plan) for plan in plans]

    async def test_a_database_of_an_earlier_version_keeps_its_rows(self, tmp_path: Path) -> None:
        path = tmp_path / "muxx.toml"
        path.write_text('[database]\npath = "muxx.db"\n')
        async with Host.open(load_config(path)) as host:
            await host.db.migrate("logs", MIGRATIONS[:4])
            earlier = Bench(host, path)
            await earlier.record(record(1), record(3))
            await host.db.migrate("logs", MIGRATIONS)
            await earlier.record(record(2))
            assert await earlier.ids() == [3, 2, 1]
            assert (await earlier.get("req_000001"))["output"] == "It is on its way."


class TestCommands:
    async def test_tail_shows_the_newest_last_in_one_line_each(self, bench: Bench) -> None:
        await bench.record(record(1), record(2, model=NAUGHTY, user_id=NAUGHTY), record(3, environment="test"))
        lines = (await bench.run("tail", "-n", "5")).stdout.splitlines()
        assert [line.split()[-1] for line in lines] == ["req_000001", "req_000002"]
        assert "$0.0000975" in lines[0]

    async def test_following_shows_what_arrives_though_it_began_earlier(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from muxx_std.logs import commands

        await bench.record(record(5))
        reader, filter = LogReader(bench.host.db), Filter()
        lines: list[str] = []
        monkeypatch.setattr(commands.click, "echo", lines.append)
        follower = asyncio.create_task(commands._follow(reader, filter, 0, {"req_000005"}))
        await bench.record(record(1))
        while not lines:
            await asyncio.sleep(0.01)
        follower.cancel()
        assert len(lines) == 1
        assert lines[0].endswith("req_000001")

    async def test_search_finds_content_and_only_that(self, bench: Bench) -> None:
        await bench.record(record(1), record(2, output=b'"100%"'))
        assert (await bench.run("search", "100%")).stdout.split()[-1] == "req_000002"
        found = await bench.run("search", "--json", "order?")
        assert [json.loads(line)["request_id"] for line in found.stdout.splitlines()] == ["req_000002", "req_000001"]

    async def test_show_prints_the_row_with_its_content(self, bench: Bench) -> None:
        await bench.record(record(1))
        row = json.loads((await bench.run("show", "req_000001", "--json")).stdout)
        assert row == await bench.get("req_000001")
        text = (await bench.run("show", "req_000001")).stdout
        assert "It is on its way." in text
        missing = await bench.run("show", "req_none", "--json")
        assert (missing.exit_code, missing.stdout) == (1, "")

    async def test_arguments_that_are_no_text_are_refused_in_one_line(self, bench: Bench) -> None:
        for arguments in (["search", "\udc80"], ["search", ""], ["search", "x" * 1001], ["tail", "--project", "\udc80"]):
            assert (await bench.run(*arguments)).exit_code == 2, arguments
        assert (await bench.run("show", "\udc80")).exit_code == 1

    async def test_stats_are_exact(self, bench: Bench) -> None:
        huge = 9_000_000_000_000_000_007
        await bench.record(
            *(record(number, model="a", duration_ms=float(number), cost_pico=huge) for number in range(1, 101)),
            record(200, model="b", cost_pico=None, status=500),
            record(201, model="b", cost_pico=1, error_code="upstream_truncated"),
            record(202, model="b", cost_pico=None),
            record(203, model=None, model_requested="nobody", cost_pico=None),
            record(204, environment="test"),
        )
        rows = {row["model"]: row for row in json.loads((await bench.run("stats", "--json")).stdout)}
        assert list(rows) == ["a", "b", "nobody"]
        assert rows["a"]["cost_usd"] == "900000000.0000000007"
        assert (rows["a"]["requests"], rows["a"]["input_tokens"], rows["a"]["output_tokens"]) == (100, 1100, 700)
        assert (rows["a"]["p50_ms"], rows["a"]["p95_ms"]) == (50.0, 95.0)
        assert rows["b"]["error_share"] == pytest.approx(2 / 3)
        assert (rows["b"]["cost_usd"], rows["b"]["unpriced_requests"]) == ("0.000000000001", 2)
        assert rows["nobody"]["cost_usd"] is None
        table = (await bench.run("stats")).stdout
        assert "66.7%" in table

    async def test_export_writes_every_row_once_oldest_first(self, bench: Bench) -> None:
        total = 2 * PAGE_ROWS + 1
        await bench.record(*(record(number) for number in range(total)), record(9999, project="rival"))
        exported = await bench.run("export", "--format", "jsonl", "--project", "shop")
        rows = [json.loads(line) for line in exported.stdout.splitlines()]
        assert [row["request_id"] for row in rows] == [f"req_{number:06d}" for number in range(total)]
        assert tuple(rows[0]) == present.FIELDS
        table = list(csv.DictReader(io.StringIO((await bench.run("export", "--format", "csv", "--project", "shop")).stdout)))
        assert len(table) == total
        assert table[0]["cost_usd"] == "0.0000975"
        assert json.loads(table[0]["input"]) == rows[0]["input"]

    @pytest.mark.parametrize(
        ("options", "found"),
        [
            ("--from 1970-01-01T00:00:20Z", [2, 3, 4]), ("--to 20", [1]), ("--from 20 --to 1970-01-01T01:00:30+01:00", [2]),
            ("--model b", [2]), ("--provider other", [3]), ("--user-id ada", [4]), ("--status 500", [2]), ("--cache hit", [3]),
            ("--metadata team=search --metadata n=1", [1]), ("--metadata team=search", [1, 4]), ("--environment all --status 499", [5]),
            ("--project rival", []),
        ],
    )  # fmt: skip
    async def test_commands_filter_as_the_list_does(self, bench: Bench, options: str, found: list[int]) -> None:
        await bench.record(
            record(1, started_at=10.0, metadata={"team": "search", "n": 1}),
            record(2, started_at=20.0, model="b", status=500),
            record(3, started_at=30.0, provider="other", cache="hit"),
            record(4, started_at=40.0, user_id="ada", metadata={"team": "search"}),
            record(5, started_at=50.0, environment="test", status=499),
        )
        exported = (await bench.run("export", "--format", "jsonl", *options.split())).stdout
        assert [json.loads(line)["request_id"] for line in exported.splitlines()] == [f"req_{number:06d}" for number in found]
        shown = (await bench.run("tail", *options.split())).stdout
        assert re.findall(r"req_\d+", shown) == [f"req_{number:06d}" for number in found]

    @pytest.mark.parametrize("option", ["--from=yesterday", "--status=7", "--metadata=team", "--metadata==x", "--cache=warm"])
    async def test_a_filter_that_is_none_is_a_usage_error(self, bench: Bench, option: str) -> None:
        refused = await bench.run("stats", option)
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert option.partition("=")[0] in refused.stderr

    async def test_l09_no_stored_value_reaches_the_terminal_raw(self, bench: Bench) -> None:
        fields = ("user_id", "model", "model_requested", "provider", "endpoint", "client_ip", "error_code", "key_last4")
        row = record(1, **dict.fromkeys(fields, NAUGHTY), metadata={NAUGHTY: NAUGHTY}, output=NAUGHTY_JSON, input=NAUGHTY_JSON)
        await bench.record(row, record(2, user_id='=HYPERLINK("x")'))
        for arguments in (
            ["tail"],
            ["search", "\x1b[2J"],
            ["search", "--json", "\x1b[2J"],
            ["show", "req_000001"],
            ["show", "req_000001", "--json"],
            ["stats"],
            ["stats", "--json"],
            ["export", "--format", "jsonl"],
            ["export", "--format", "csv"],
        ):
            result = await bench.run(*arguments)
            assert result.exit_code == 0, result.output
            assert "2J" in result.stdout, arguments
            assert not RAW_CONTROL & set(result.stdout), arguments
        assert "'=HYPERLINK" in (await bench.run("export", "--format", "csv")).stdout

    async def test_path_is_where_the_rows_are(self, bench: Bench) -> None:
        assert (await bench.run("path")).stdout.strip() == str(bench.host.paths.logs)

    def test_every_command_works_on_a_database_no_server_has_seen(self, tmp_path: Path) -> None:
        config = tmp_path / "muxx.toml"
        config.write_text('[database]\npath = "muxx.db"\n')
        for arguments in (["tail"], ["search", "x"], ["stats"], ["export", "--format", "csv"], ["path"]):
            assert muxx(config, *arguments).exit_code == 0, arguments


@given(st.text())
def test_escaped_json_means_what_it_meant(text: str) -> None:
    line = json_line({"value": text})
    assert json.loads(line) == {"value": text}
    assert not RAW_CONTROL & set(line)


def _sql_calls(tree: ast.AST) -> list[ast.Call]:
    names = {"execute", "executemany", "executescript", "execute_fetchall", "read", "read_logs", "scan_logs"}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    return [call for call in calls if cast(ast.Attribute, call.func).attr in names]


def _composes_text(node: ast.AST) -> bool:
    """An f-string, `%` or `.format(…)` anywhere in it."""
    for part in ast.walk(node):
        if isinstance(part, ast.JoinedStr) or (isinstance(part, ast.BinOp) and isinstance(part.op, ast.Mod)):
            return True
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) and part.func.attr == "format":
            return True
    return False


def test_a06_sql_is_made_of_constants_and_bound_values() -> None:
    """No f-string, `%` or `.format` in a call that runs SQL, nor in anything assigned to a name such a call is given."""
    check: Callable[[ast.AST], bool] = _composes_text
    seen = 0
    for path in Path(next(iter(muxx_std.__path__))).rglob("*.py"):
        tree = ast.parse(path.read_text())
        calls = [call for call in _sql_calls(tree) if call.args]
        seen += len(calls)
        used = {name.id for call in calls for name in ast.walk(call.args[0]) if isinstance(name, ast.Name)}
        for call in calls:
            assert not check(call), f"{path.name}:{call.lineno}"
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id in used for t in node.targets):
                assert not check(node.value), f"{path.name}:{node.lineno}"
    assert seen > 10
