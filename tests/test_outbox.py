"""The outbox: what was put behind a line of the journal leaves behind it, or not at all."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from cache_kit import CHAT_STREAM, caching
from carrying_kit import hang
from journal_kit import DELIVERED, SENT, row, trace

import muxx.journal as journal_module
from muxx.errors import LogUnavailable, MuxxError
from muxx.journal import Journal
from muxx.segments import read_segment, segments
from muxx.testing import RunningGateway, chat, chat_body, eventually, sse


class Leaving:
    """What left, and which lines were in the journal's files at that moment; and what was told instead."""

    def __init__(self, directory: Path) -> None:
        self.left: list[tuple[bytes, list[str]]] = []
        self.failed: list[MuxxError] = []
        self._directory = directory

    def send(self, data: bytes) -> None:
        self.left.append((data, ids(self._directory)))


def ids(directory: Path) -> list[str]:
    return [line.request_id for segment in segments(directory) for line in read_segment(segment.path, 0)[0]]


def refusing(fd: int, pieces: Sequence[bytes]) -> int:
    raise OSError(errno.ENOSPC, "full")


@pytest.fixture
async def journal(tmp_path: Path) -> Any:
    journal = Journal(tmp_path, "w")
    journal.gather()
    yield journal
    journal.close()


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each write of the journal had."""
    sizes: list[int] = []
    real = os.writev
    monkeypatch.setattr(journal_module.os, "writev", lambda fd, pieces: sizes.append(sum(map(len, pieces))) or real(fd, pieces))
    return sizes


async def test_nothing_leaves_before_the_lines_it_was_put_behind_and_all_of_a_turn_are_one_write(
    journal: Journal, tmp_path: Path, writes: list[int]
) -> None:
    leaving = Leaving(tmp_path)
    journal.trace(trace("a"))
    journal.outbox.put(leaving.send, b"request a", leaving.failed.append)
    journal.final(row("b"), SENT, DELIVERED)
    journal.outbox.put(leaving.send, b"answer b", leaving.failed.append)
    assert (leaving.left, ids(tmp_path), writes) == ([], [], [])
    await eventually(lambda: len(leaving.left) == 2)
    assert leaving.left == [(b"request a", ["a", "b"]), (b"answer b", ["a", "b"])]
    assert len(writes) == 1
    assert leaving.failed == []


async def test_what_is_put_leaves_at_once_behind_its_line_while_no_other_call_is_under_way(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaving = Leaving(tmp_path)
    journal.outbox.running = ["one"]
    journal.trace(trace("a"))
    journal.outbox.put(leaving.send, b"request a", leaving.failed.append)
    assert leaving.left == [(b"request a", ["a"])]
    await asyncio.sleep(0)
    with monkeypatch.context() as full:
        full.setattr(journal_module.os, "writev", refusing)
        journal.final(row("a"))
        journal.outbox.put(leaving.send, b"answer a", leaving.failed.append)
    assert (len(leaving.left), [type(error) for error in leaving.failed]) == (1, [LogUnavailable])
    journal.outbox.running = ["one", "another"]
    journal.rotate_if_due()
    await asyncio.sleep(0)
    journal.trace(trace("b"))
    journal.outbox.put(leaving.send, b"request b", leaving.failed.append)
    assert len(leaving.left) == 1
    await eventually(lambda: leaving.left[1:] == [(b"request b", ["a", "b"])])


async def test_of_calls_that_end_one_after_the_other_in_a_turn_only_the_first_leaves_at_once(
    journal: Journal, tmp_path: Path, writes: list[int]
) -> None:
    """As those that the cache answers: none of them is under way any more when the next one begins."""
    leaving = Leaving(tmp_path)
    journal.outbox.running = ["one"]
    for _ in range(2):
        for name in "abcd":
            journal.final(row(name))
            journal.outbox.put(leaving.send, name.encode(), leaving.failed.append)
        assert len(leaving.left) == 1
        await eventually(lambda: len(leaving.left) == 4)
        assert [data for data, _ in leaving.left] == [b"a", b"b", b"c", b"d"]
        assert len(writes) == 2
        leaving.left.clear()
        writes.clear()


async def test_a_line_nobody_put_anything_behind_is_written_in_the_same_turn(journal: Journal, tmp_path: Path) -> None:
    journal.final(row("a"))
    journal.amend(row("a", status=499))
    await eventually(lambda: ids(tmp_path) == ["a", "a"])


@pytest.mark.parametrize("now", [False, True])
async def test_what_cannot_be_written_holds_back_what_was_put_behind_it(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: bool
) -> None:
    leaving = Leaving(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(journal_module.os, "writev", refusing)
        journal.final(row("a"))
        journal.outbox.put(leaving.send, b"answer", leaving.failed.append)
        if now:
            with pytest.raises(LogUnavailable):
                journal.outbox.write_now()
        await eventually(lambda: bool(leaving.failed))
    assert leaving.left == []
    assert [type(error) for error in leaving.failed] == [LogUnavailable]
    assert not journal.healthy
    journal.rotate_if_due()
    journal.final(row("b"))
    journal.outbox.put(leaving.send, b"answer", leaving.failed.append)
    await eventually(lambda: leaving.left == [(b"answer", ["b"])])


@pytest.mark.parametrize("kept", [1, 900, 1000, 2000, 2999])
async def test_a_short_write_of_a_turn_loses_no_line(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    """Each line is about a thousand bytes: the first write ends in the first line, at its end, or in a later one."""
    plan = [kept]

    def write(fd: int, pieces: Sequence[bytes]) -> int:
        data = b"".join(pieces)
        return os.write(fd, data[: plan.pop()] if plan else data)

    monkeypatch.setattr(journal_module.os, "writev", write)
    leaving = Leaving(tmp_path)
    for name in "abc":
        journal.final(row(name))
    journal.outbox.put(leaving.send, b"answer", leaving.failed.append)
    await eventually(lambda: bool(leaving.left))
    assert sorted(ids(tmp_path)) == ["a", "b", "c"]
    assert leaving.failed == []


async def test_where_each_answer_waits_for_the_disk_nothing_is_gathered(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "w", durability="power")
    journal.gather()
    leaving = Leaving(tmp_path)
    journal.final(row("a"))
    journal.outbox.put(leaving.send, b"answer", leaving.failed.append)
    assert leaving.left == [(b"answer", ["a"])]
    journal.close()


async def test_what_was_gathered_is_written_when_the_journal_closes(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "w")
    journal.gather()
    journal.final(row("a"))
    journal.close()
    assert ids(tmp_path) == ["a"]


@pytest.mark.parametrize("size", [10, 300_000])
async def test_answers_of_any_size_and_the_last_of_a_connection_arrive_whole(muxx_gateway: RunningGateway, size: int) -> None:
    """A large answer cannot go out at a stroke, and a connection that closes behind its answer closes behind all of it."""
    body = {"model": "mock", "messages": [{"role": "user", "content": "x" * size}]}
    for headers in ({}, {"Connection": "close"}):
        async with await muxx_gateway.connect() as client:
            await client.post_chat(muxx_gateway.key, body, headers)
            answer = await client.read_response()
            assert (answer.status, answer.complete) == (200, True)
            assert (await client.closed()) if headers else True


FIRST = [({"messages": []}, 400), ({}, 200), ({"stream": True}, 200)]


@pytest.mark.parametrize(("members", "status"), FIRST, ids=["refused", "plain", "stream"])
async def test_of_requests_in_a_row_no_answer_from_the_cache_overtakes_one_that_waits_for_its_row(
    members: dict[str, Any], status: int
) -> None:
    async with caching() as gateway:
        gateway.upstream.script(sse(CHAT_STREAM), [hang()])
        await gateway.chat(stream=True)
        under_way = asyncio.create_task(gateway.chat("something else"))  # an answer leaves at once while nothing else is
        await eventually(lambda: len(gateway.upstream.requests) == 2)
        async with await gateway.connect() as client:
            lines = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Muxx-Api-Key: {gateway.key}\r\n"
            asked = [orjson.dumps(chat_body() | body) for body in (members, {"stream": True})]
            await client.send(b"".join(f"{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in asked))
            first, second = await client.read_response(), await client.read_response()
        under_way.cancel()
    assert (first.status, first.complete, first.streamed) == (status, True, "stream" in members)
    assert (second.status, second.complete, second.header("x-muxx-cache")) == (200, True, "HIT")
    assert second.body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_of_any_size_whose_row_cannot_be_written_is_told_so_and_not_given(
    muxx_gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    real = os.writev
    for size in (100, 200_000):

        def no_room(fd: int, pieces: Sequence[bytes], most: int = size) -> int:
            return refusing(fd, pieces) if any(b"word" * (most // 5) in piece for piece in pieces) else real(fd, pieces)

        muxx_gateway.upstream.script(chat("word" * (size // 4)))
        with monkeypatch.context() as full:
            full.setattr(journal_module.os, "writev", no_room)
            answer = await muxx_gateway.chat(f"Fill {size} of the disk.", stream=stream)
        if stream:
            assert answer.told("chat")["code"] == "log_unavailable"
        else:
            assert (answer.status, answer.json()["error"]["code"]) == (503, "log_unavailable")
