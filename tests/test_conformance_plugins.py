"""The conformance suite fails for a plugin that breaks an invariant, and says which: one bad plugin for each way to be bad."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from muxx import Chunk, Connection, Exchange, Gateway, HttpRequest, Migration, PermissionDenied, Record, Reply, StateKey, hookimpl
from muxx.testing.conformance import Case, Subject, broken, examine, matrix

SEEN = StateKey[int]("bad.seen")


def part(subject: Subject, *endings: str) -> list[Case]:
    """The cases of chat completions that end like this; without endings those that nobody disturbs."""
    wanted = endings or ("answered",)
    return [case for case in matrix(subject.hooks) if case.way == ("chat", "") and case.outcome.startswith(wanted)]


async def broken_by(plugin: type, *endings: str, patience: float = 30.0, **known: Any) -> dict[str, list[str]]:
    subject = Subject(plugin, "bad", **known)
    return broken(await examine(subject, part(subject, *endings), patience=patience))


class Good:
    @hookimpl
    def on_chunk(self, chunk: Chunk) -> Iterable[Chunk] | None:
        return [chunk]


async def test_a_good_plugin_breaks_nothing() -> None:
    assert await broken_by(Good, "") == {}


# ── chunks and answers ──


class SwallowsTheEnd:
    @hookimpl
    def on_chunk(self, chunk: Chunk) -> Iterable[Chunk] | None:
        return [] if chunk.kind == "end" else None


class GoesOnAfterTheEnd:
    @hookimpl
    def on_chunk(self, chunk: Chunk) -> Iterable[Chunk] | None:
        return [chunk, Chunk("text", "P.S.")] if chunk.kind == "end" else None


class EndsTwice:
    @hookimpl
    def on_chunk(self, chunk: Chunk) -> Iterable[Chunk] | None:
        return [chunk, chunk] if chunk.kind == "end" else None


class Shouts:
    @hookimpl
    def on_chunk(self, chunk: Chunk) -> Iterable[Chunk] | None:
        return [replace(chunk, text=chunk.text.upper())] if chunk.kind == "text" else None


class ShoutsInStreams:
    @hookimpl
    def on_chunk(self, exchange: Exchange, chunk: Chunk) -> Iterable[Chunk] | None:
        loud = chunk.kind == "text" and exchange.request.stream
        return [replace(chunk, text=chunk.text.upper())] if loud else None


class CapitalisesEachPiece:
    @hookimpl
    def on_chunk(self, chunk: Chunk) -> Iterable[Chunk] | None:
        return [replace(chunk, text=chunk.text.capitalize())] if chunk.kind == "text" else None


class SendsNonsense:
    @hookimpl
    def on_chunk(self, chunk: Chunk) -> Iterable[Chunk] | None:
        return [Chunk("other", raw=b"data: {nonsense\n\n"), chunk] if chunk.kind == "end" else None


class ShoutsOnlyAtMisses:
    @hookimpl
    def on_chunk(self, exchange: Exchange, chunk: Chunk) -> Iterable[Chunk] | None:
        loud = chunk.kind == "text" and exchange.served_by == "upstream"
        return [replace(chunk, text=chunk.text.upper())] if loud else None


THE_END = "the_end_is_the_last_chunk_and_comes_exactly_once"
THE_SAME = "the_answer_says_the_same_in_every_form"
BYTES = "an_answer_the_plugin_does_not_change_stays_byte_identical"


@pytest.mark.parametrize(
    ("plugin", "name", "changes"),
    [
        (SwallowsTheEnd, THE_END, False),
        (GoesOnAfterTheEnd, THE_END, False),
        (EndsTwice, THE_END, False),
        (Shouts, BYTES, False),
        (Shouts, THE_SAME, False),
        (ShoutsInStreams, THE_SAME, True),
        (CapitalisesEachPiece, THE_SAME, True),
        (ShoutsOnlyAtMisses, THE_SAME, True),
        (SendsNonsense, "an_answer_parses_in_its_format_and_ends_properly", True),
    ],
)
async def test_what_a_plugin_does_to_answers_is_seen(plugin: type, name: str, changes: bool) -> None:
    assert name in await broken_by(plugin, changes_answers=changes)


async def test_what_a_plugin_says_it_changes_is_not_held_against_it() -> None:
    assert await broken_by(Shouts, "", changes_answers=True) == {}


class AnswersItself:
    @hookimpl(tryfirst=True)
    def pre_request(self) -> Reply:
        return Reply(b'{"choices": []}')


class RefusesEverybody:
    @hookimpl
    def pre_request(self) -> None:
        raise PermissionDenied("Nobody.")


@pytest.mark.parametrize("plugin", [AnswersItself, RefusesEverybody])
async def test_a_plugin_that_lets_nothing_through_is_seen(plugin: type) -> None:
    assert "every_case_ends_as_it_should" in await broken_by(plugin)


class Seeds:
    @hookimpl
    def pre_attempt(self, attempt: Any) -> None:
        attempt.body["temperature"] = 0


async def test_a_request_that_is_changed_without_saying_so_is_seen() -> None:
    found = await broken_by(Seeds)
    assert set(found) == {"a_request_the_plugin_does_not_change_is_sent_as_it_came"}
    assert await broken_by(Seeds, changes_requests=True) == {}


# ── rows ──

TABLE = (Migration("logs", "CREATE TABLE bad_rows (request_id TEXT) STRICT"),)


class CountsTwice:
    migrations = TABLE

    @hookimpl
    async def record(self, db: Connection, records: list[Record]) -> None:
        await db.executemany("INSERT INTO bad_rows VALUES (?)", [(record["request_id"],) for record in records])


class NeverRecords:
    @hookimpl
    def record(self) -> None:
        raise ValueError("no")


class SpoilsRows:
    @hookimpl(trylast=True)
    async def record(self, db: Connection) -> None:
        await db.execute("UPDATE generations SET status = 299")


class DeletesRows:
    @hookimpl(trylast=True)
    async def record(self, db: Connection) -> None:
        await db.execute("DELETE FROM generations")


@pytest.mark.parametrize(
    ("plugin", "name"),
    [
        (CountsTwice, "a_row_that_comes_again_changes_nothing"),
        (NeverRecords, "record_gets_every_row_at_least_once"),
        (SpoilsRows, "every_exchange_has_exactly_one_row_with_all_its_fields"),
        (DeletesRows, "every_exchange_has_exactly_one_row_with_all_its_fields"),
    ],
)
async def test_what_a_plugin_does_to_rows_is_seen(plugin: type, name: str) -> None:
    assert name in await broken_by(plugin, patience=1.0)


# ── secrets ──


class KeepsTheKey:
    def __init__(self) -> None:
        self.key = ""

    @hookimpl(tryfirst=True)
    def authenticate(self, request: HttpRequest) -> None:
        self.key = request.headers.get("X-Muxx-Api-Key", "")


class TellsTheKey(KeepsTheKey):
    """What `authenticate` saw goes into the row."""

    @hookimpl
    def pre_request(self, exchange: Exchange) -> None:
        exchange.attributes["caller"] = self.key


class LogsTheKey:
    @hookimpl(tryfirst=True)
    def authenticate(self, request: HttpRequest) -> None:
        logging.getLogger("muxx.bad").warning("asked by %s", request.headers.get("X-Muxx-Api-Key"))


class SendsTheKey(KeepsTheKey):
    @hookimpl
    def pre_attempt(self, attempt: Any) -> None:
        attempt.headers["x-caller"] = self.key


@pytest.mark.parametrize("plugin", [TellsTheKey, LogsTheKey, SendsTheKey])
async def test_a_key_that_is_given_away_is_seen(plugin: type) -> None:
    assert "no_credential_is_visible_after_authenticate" in await broken_by(plugin)


# ── what it leaves behind, and whom it holds up ──


class LeavesTasks:
    @hookimpl
    async def pre_request(self, gateway: Gateway) -> None:
        gateway.spawn(asyncio.sleep(60), name="forgotten")


class LeavesThreads:
    def __init__(self) -> None:
        self.stopped = threading.Event()

    @hookimpl
    def pre_request(self) -> None:
        threading.Thread(target=self.stopped.wait, args=(4,), name="forgotten").start()


@pytest.mark.parametrize("plugin", [LeavesTasks, LeavesThreads])
async def test_what_a_plugin_leaves_behind_is_seen(plugin: type) -> None:
    found = await broken_by(plugin, patience=1.0)
    assert any("forgotten" in place for place in found["nothing_is_left_behind"])


class Sleeps:
    def __init__(self) -> None:
        self.naps = 2

    @hookimpl
    def pre_request(self) -> None:
        if self.naps:
            self.naps -= 1
            time.sleep(0.3)


async def test_a_plugin_that_blocks_is_seen() -> None:
    assert "the_plugin_holds_up_nobody" in await broken_by(Sleeps)


class Forgets:
    """Its later hook relies on an earlier one that need not have run."""

    @hookimpl
    def pre_request(self, exchange: Exchange) -> None:
        exchange.state[SEEN] = 1

    @hookimpl
    def post_response(self, exchange: Exchange) -> None:
        assert exchange.state[SEEN]


async def test_a_plugin_that_crashes_by_itself_is_seen() -> None:
    assert await broken_by(Forgets) == {}
    found = await broken_by(Forgets, "refuses in pre_request by probe-first")
    assert set(found) == {"the_plugin_does_not_crash_by_itself"}
    assert "KeyError" in found["the_plugin_does_not_crash_by_itself"][0]


# ── two of them ──


class CountsOnTheClass:
    counts: ClassVar[dict[str, int]] = {}

    @hookimpl
    def pre_request(self, exchange: Exchange) -> None:
        self.counts[exchange.id] = 1


class CountsInTheModule:
    @hookimpl
    def pre_request(self, exchange: Exchange) -> None:
        IN_THE_MODULE.append(exchange.id)


IN_THE_MODULE: list[str] = []


class RefusesTheSecond:
    """Keeps a number on the class, which is no container, and lets only the first gateway's requests through."""

    gateway: ClassVar[Any] = None

    @hookimpl
    def pre_request(self, gateway: Gateway) -> None:
        type(self).gateway = type(self).gateway or id(gateway)
        if type(self).gateway != id(gateway):
            raise PermissionDenied("There is another.")


@pytest.mark.parametrize("plugin", [CountsOnTheClass, CountsInTheModule, RefusesTheSecond])
async def test_state_that_two_gateways_share_is_seen(plugin: type) -> None:
    assert "two_gateways_of_it_share_no_state" in await broken_by(plugin)
