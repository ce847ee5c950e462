"""`GET /v1/logs/export` and `muxx logs export`: every row, one way to write it, however many and large they are."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest
from analytics_kit import MIDNIGHT, Row, keep, row
from click.testing import CliRunner
from http_kit import add_key

from muxx.cli import cli
from muxx.testing import RawResponse, RunningGateway, eventually, get
from muxx_std.logs.exporting import PAGE_ROWS
from muxx_std.logs.present import CONTENT, FIELDS
from muxx_std.logs.store import LogReader

ROWS = 2 * PAGE_ROWS + 1
PROMPT = orjson.dumps({"messages": [{"role": "user", "content": '"quoted",\r\n and 一些'}]})


def kept(number: int, **members: Any) -> Row:
    return row(number, project="default", started_at=MIDNIGHT + number, input=PROMPT, output=b'"=1+1"') | members


CONFIG = {"server": {"write_stall_timeout_s": 5}, "plugins": {"spend_caps": {"enabled": False}}}
"""Rows that no gateway has served are in no account of spend."""


@pytest.fixture
async def gateway() -> AsyncIterator[RunningGateway]:
    async with RunningGateway(CONFIG, mock=True) as running:
        yield running


async def filled(gateway: RunningGateway) -> None:
    users = {3: "=HYPERLINK(1)", 4: "+1", 5: "-1", 6: "@x", 7: 'a,"b"', 8: "＝1"}
    rows = [kept(number, user_id=users.get(number)) for number in range(ROWS)]
    await keep(gateway.gateway.db, *rows, kept(9_998, project="bank"), kept(9_999, environment="test"))


async def export(gateway: RunningGateway, key: str | None = None, **query: Any) -> RawResponse:
    names = {name.rstrip("_"): value for name, value in query.items()}
    return await get(gateway.base_url, f"/v1/logs/export?{urlencode(names)}", key or gateway.key)


def json_rows(response: RawResponse) -> list[dict[str, Any]]:
    assert (response.status, response.complete) == (200, True), response.text
    return [orjson.loads(line) for line in response.body.splitlines()]


async def test_every_row_of_the_project_comes_once_in_order_as_json_lines(gateway: RunningGateway) -> None:
    await filled(gateway)
    response = await export(gateway, format="jsonl")
    assert response.header("content-type") == "application/x-ndjson"
    assert response.header("content-disposition") == 'attachment; filename="muxx-logs.jsonl"'
    rows = json_rows(response)
    assert [found["request_id"] for found in rows] == [f"req_{number:06d}" for number in range(ROWS)]
    assert tuple(rows[0]) == tuple(name for name in FIELDS if name not in CONTENT)
    assert json_rows(await export(gateway, format="jsonl", content="true"))[0]["input"] == orjson.loads(PROMPT)
    assert len(json_rows(await export(gateway, await add_key(gateway, "admin", None), format="jsonl"))) == ROWS + 1


async def test_rows_are_filtered_as_the_list_of_them_is(gateway: RunningGateway) -> None:
    await filled(gateway)
    assert [found["request_id"] for found in json_rows(await export(gateway, format="jsonl", user_id="@x"))] == ["req_000006"]
    assert len(json_rows(await export(gateway, format="jsonl", from_=MIDNIGHT + 10, to=MIDNIGHT + 13))) == 3
    assert [found["request_id"] for found in json_rows(await export(gateway, format="jsonl", environment="test"))] == ["req_009999"]
    assert json_rows(await export(gateway, format="jsonl", model="nobody")) == []
    for path in ("/v1/logs?status=500&status=502", "/v1/logs/export?format=jsonl&status=500&status=502"):
        twice = await get(gateway.base_url, path, gateway.key)
        assert (twice.status, twice.error["param"]) == (400, "status")


async def test_csv_reads_back_as_it_was_and_runs_nothing_in_a_spreadsheet(gateway: RunningGateway) -> None:
    await filled(gateway)
    response = await export(gateway, format="csv", content="true")
    assert response.header("content-type") == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(response.body.decode(), newline="")))
    assert len(rows) == ROWS
    assert [found["user_id"] for found in rows[2:9]] == ["", "'=HYPERLINK(1)", "'+1", "'-1", "'@x", 'a,"b"', "'＝1"]
    assert {found["output"] for found in rows} == {"'=1+1"}
    assert orjson.loads(rows[0]["input"]) == orjson.loads(PROMPT)
    assert rows[0]["cost_usd"] == "0.000075"
    for line in csv.reader(io.StringIO(response.body.decode(), newline="")):
        assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in line)
    [head] = list(csv.reader(io.StringIO((await export(gateway, format="csv", model="nobody")).body.decode())))
    assert head == [name for name in FIELDS if name not in CONTENT]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
async def test_the_command_writes_the_same(gateway: RunningGateway, kind: str) -> None:
    await filled(gateway)
    told = (await export(gateway, format=kind, content="true")).body.decode()
    file = str(gateway.directory / "muxx.toml")
    arguments = ["logs", "export", "--config", file, "--project", "default", "--format", kind]
    result = await asyncio.to_thread(CliRunner().invoke, cli, arguments)
    assert (result.exit_code, result.stdout) == (0, told), result.stderr
    bare = await asyncio.to_thread(CliRunner().invoke, cli, [*arguments, "--no-content"])
    assert bare.stdout == (await export(gateway, format=kind)).body.decode()


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({}, "format"), ({"format": "xml"}, "format"), ({"format": "csv", "content": "yes"}, "content"),
        ({"format": "csv", "limit": 5}, "limit"), ({"format": "csv", "after": "x"}, "after"), ({"format": "csv", "x": 1}, "x"),
        ({"format": "csv", "project": "bank"}, "project"),
    ],
)  # fmt: skip
async def test_what_cannot_be_asked_is_named_before_anything_is_sent(gateway: RunningGateway, query: Any, param: str) -> None:
    response = await export(gateway, **query)
    assert (response.status, response.json()["error"]["param"]) == (400, param)


async def test_however_large_rows_are_no_more_are_read_than_the_client_takes(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, count = b'"' + b"x" * 2_000_000 + b'"', 24
    for number in range(count):
        await keep(gateway.gateway.db, kept(number, output=large))
    read = 0
    one = LogReader.one

    async def counted(self: LogReader, request_id: str) -> Any:
        nonlocal read
        read += 1
        return await one(self, request_id)

    monkeypatch.setattr(LogReader, "one", counted)
    async with await gateway.connect() as client:
        await client.send(
            b"GET /v1/logs/export?format=jsonl&content=true HTTP/1.1\r\nHost: x\r\n"
            + f"X-Muxx-Api-Key: {gateway.key}\r\n\r\n".encode()
        )
        head = await client.read_head()
        await asyncio.sleep(0.3)
        assert read <= 5, "what the sockets hold, and one more"
        taken = 0
        async for piece in client.body(head):
            taken += len(piece)
            assert read <= taken // len(large) + 5
        assert (read, taken > count * len(large)) == (count, True)


async def test_a_client_that_leaves_ends_the_reading(gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    await filled(gateway)
    waiting, ended = asyncio.Event(), asyncio.Event()

    async def never(self: LogReader, request_id: str) -> None:
        waiting.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    monkeypatch.setattr(LogReader, "one", never)
    async with await gateway.connect() as client:
        await client.send(
            b"GET /v1/logs/export?format=csv&content=true HTTP/1.1\r\nHost: x\r\n" + f"X-Muxx-Api-Key: {gateway.key}\r\n\r\n".encode()
        )
        await eventually(waiting.is_set)
    await eventually(ended.is_set)
