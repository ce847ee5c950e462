"""FAULTS P01 and P02 (in the recorder) and P03 to P05: what plugins do wrong, and what the others, the client and the server notice of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from carrying_kit import chunks_of, delta, error_code, events_of, serving
from hooks_kit import SECRET, Seen, delivered, plugin_config, watching
from process_kit import Upstream, gateway_process, messages, rows

from muxx import (
    Attempt,
    Chunk,
    Connection,
    Cost,
    Exchange,
    HttpRequest,
    Identity,
    PermissionDenied,
    Record,
    Reply,
    StartError,
    ToolCall,
    Usage,
    hookimpl,
    recorder,
)
from muxx.testing import DONE, RunningGateway, chat, chat_body, eventually, pause, sse

# ── P01: a hook raises in the recorder ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("crash", [RuntimeError, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
async def test_P01_a_record_hook_that_crashes_is_tried_again_and_loses_no_row(crash: type[BaseException]) -> None:
    left, stored = [2], []

    class Stores:
        @hookimpl(tryfirst=True)
        async def record(self, db: Connection, records: list[Record]) -> None:
            if left[0]:
                left[0] -= 1
                raise crash(SECRET)
            stored.extend(record["request_id"] for record in records)

    async with serving(plugins={"stores": Stores}) as gateway:
        response = await gateway.chat()
        await eventually(lambda: response.request_id in stored, within=10)
        row = await gateway.get_row(response.request_id)
    assert row["status"] == 200
    assert stored.count(response.request_id) == 1


async def test_P02_a_record_hook_that_waits_for_ever_is_named_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recorder, "HOOK_SECONDS", 0.2)
    left = [4]  # more often than a crash may come before its record is put aside

    class Hangs:
        @hookimpl(tryfirst=True)
        async def record(self) -> None:
            if left[0]:
                left[0] -= 1
                await asyncio.sleep(3600)

    async with serving(plugins={"hangs": Hangs}) as gateway:
        response = await gateway.chat()
        await eventually(lambda: left == [0] and response.request_id in rows(gateway.directory), within=10)
    assert "plugin hangs takes longer than 0.2 s in record" in caplog.text


BLOCKS_THE_RECORDER = """
import time

import muxx
import muxx.workers

muxx.workers.STOP_SECONDS = 0.5

class Blocks:
    @muxx.hookimpl
    def record(self):
        time.sleep(3600)
"""


async def test_P02_a_record_hook_that_blocks_cannot_keep_the_service_from_ending(tmp_path: Path) -> None:
    """The rows are in the journal, and are stored by the next start without that plugin."""
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "blocks.py").write_text(BLOCKS_THE_RECORDER)
    config = {"server": {"shutdown_grace_s": 0.1}}
    async with Upstream() as upstream, gateway_process(tmp_path, upstream, config, MUXX_PLUGINS_DIR=str(plugins)) as gateway:
        answers = [await gateway.chat() for _ in range(3)]
        gateway.terminate()
        assert await gateway.wait(10.0) == 0
        assert "recorder does not end, and is killed" in messages(gateway)
        (plugins / "blocks.py").unlink()
        await gateway.start()
        await eventually(lambda: {answer.request_id for answer in answers} <= set(rows(tmp_path)))


# ── P03: what on_chunk may not return ───────────────────────────────────────────────────────────────────────────────────────


def instead(make: Callable[[Chunk], Any]) -> type:
    """A plugin that returns something else for the second piece of text."""

    class Instead:
        @hookimpl
        def on_chunk(self, chunk: Chunk) -> Any:
            return make(chunk) if chunk.text.startswith("there") else None

    return Instead


def many(chunk: Chunk) -> Iterator[Chunk]:
    while True:
        yield Chunk("text", "x" * 2**16)


BAD: dict[str, Callable[[Chunk], Any]] = {
    "100 MiB in one": lambda chunk: [Chunk("text", "x" * 100 * 2**20)],
    "100 MiB of arguments": lambda chunk: [Chunk("tool_call", tool_call=ToolCall(0, "1", "f", "x" * 100 * 2**20))],
    "no end of chunks": many,
    "a string": lambda chunk: "data: {}\n\n",
    "bytes": lambda chunk: b"data: {}\n\n",
    "a chunk by itself": lambda chunk: chunk,
    "strings": lambda chunk: ["text"],
    "None in a list": lambda chunk: [None],
    "true": lambda chunk: True,
    "half an event": lambda chunk: [Chunk("other", raw=b'data: {"choices": [')],
    "an event without an end": lambda chunk: [Chunk("other", raw=b'data: {"choices":[]}')],
    "an event and a half": lambda chunk: [Chunk("other", raw=b'data: {"choices":[]}\n\ndata: {"choi')],
    "text that is no string": lambda chunk: [Chunk("text", b"bytes")],  # type: ignore[arg-type]
    "a lone surrogate": lambda chunk: [Chunk("text", "\ud800")],
}


@pytest.mark.parametrize("bad", BAD)
async def test_P03_what_cannot_be_an_answer_ends_it_with_plugin_error(bad: str) -> None:
    async with serving(plugins={"instead": instead(BAD[bad])}) as gateway:
        response = await gateway.chat(stream=True)
        assert response.complete
        assert len(response.body) < 2**20
        parsed = chunks_of(response.body)
        assert parsed[-1]["error"]["code"] == "plugin_error"
        assert all(item["choices"] for item in parsed[:-1])
        assert not response.done
        plain = await gateway.chat()
        assert plain.status == 200 or error_code(plain) == "plugin_error"
        assert (await gateway.get_row(response.request_id))["error_code"] == "plugin_error"


@pytest.mark.parametrize("text", ["data: [DONE]\n\n", "\n\ndata: {}\n\n", "\r\r", "\u2028\x00", '"}]}'])
async def test_P03_text_is_text_whatever_it_looks_like(text: str) -> None:
    async with serving(plugins={"instead": instead(lambda chunk: [replace(chunk, text=text)])}) as gateway:
        response = await gateway.chat(stream=True)
        assert delivered(response) == f"Hello {text}"
        assert response.done
        assert response.body.count(DONE) == 1


async def test_P03_done_as_the_bytes_of_another_chunk_is_not_sent() -> None:
    async with serving(plugins={"instead": instead(lambda chunk: [Chunk("other", raw=DONE)])}) as gateway:
        gateway.upstream.script(chat("Hello there friend."))
        response = await gateway.chat(stream=True)
        assert delivered(response) == "Hello friend."
        assert response.done
        assert response.body.count(DONE) == 1


@pytest.mark.parametrize("end", [Chunk("end"), Chunk("end", finish_reason="length")])
async def test_P03_nothing_is_sent_after_an_early_end(end: Chunk) -> None:
    async with serving(plugins={"instead": instead(lambda chunk: [end, chunk])}) as gateway:
        response = await gateway.chat(stream=True)
        assert delivered(response) == "Hello "
        assert response.done
        assert response.body.count(DONE) == 1
        assert response.events[-1]["choices"][0]["finish_reason"] == (end.finish_reason or "stop")


# ── P04: order, isolation, escalation ───────────────────────────────────────────────────────────────────────────────────────


async def test_P04_the_failure_of_one_observer_does_not_silence_the_next() -> None:
    """pluggy alone stops at the first exception."""
    seen = Seen()

    class Fails:
        @hookimpl(tryfirst=True)
        def post_response(self) -> None:
            raise PermissionDenied("An observer refuses nothing.")

    async with serving(plugins={"fails": Fails, "watching": watching(seen)}) as gateway:
        assert (await gateway.chat()).status == 200
        await eventually(lambda: seen.after)


async def test_P04_the_failure_of_one_price_or_tap_does_not_silence_the_next(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[bytes] = []

    class Fails:
        @hookimpl(tryfirst=True)
        def price(self) -> Cost | None:
            raise RuntimeError(SECRET)

        @hookimpl(tryfirst=True)
        def pre_request(self, exchange: Exchange) -> None:
            def breaks(data: bytes) -> None:
                raise RuntimeError(SECRET)

            exchange.tap(breaks)

    class Works:
        @hookimpl(tryfirst=True)
        def price(self) -> Cost | None:
            return Cost(1, 2, "house")

        @hookimpl
        def pre_request(self, exchange: Exchange) -> None:
            exchange.tap(heard.append)

    async with serving(plugins={"fails": Fails, "works": Works}) as gateway:
        response = await gateway.chat(stream=True)
        assert response.done
        assert (await gateway.get_row(response.request_id))["price_version"] == "house"
    assert "plugin fails failed in price: RuntimeError" in caplog.text
    assert b"".join(heard) == b"".join(raw for raw, _ in events_of(response.body) if not raw.startswith(b":"))
    assert SECRET not in caplog.text


async def test_P04_the_failure_of_one_chunk_hook_that_may_be_ignored_does_not_silence_the_next() -> None:
    seen = Seen()

    class Fails:
        @hookimpl(tryfirst=True)
        def on_chunk(self) -> None:
            raise RuntimeError(SECRET)

    plugins = {"fails": Fails, "watching": watching(seen)}
    async with serving(config=plugin_config(fails={"on_error": "ignore"}), plugins=plugins) as gateway:
        response = await gateway.chat(stream=True)
        assert delivered(response) == seen.text(response.request_id) == "Hello there."


@pytest.mark.parametrize(
    "spoil", [list.clear, list.pop, lambda records: records[0].clear(), lambda records: records[0]["attributes"].clear()]
)
async def test_P04_what_a_record_hook_makes_of_its_records_changes_no_row(spoil: Callable[[list[Record]], Any]) -> None:
    class Spoils:
        @hookimpl(tryfirst=True)
        async def record(self, records: list[Record]) -> None:
            spoil(records)

    class Marks:
        @hookimpl
        def pre_request(self, exchange: Exchange) -> None:
            exchange.attributes["marked"] = True

    async with serving(plugins={"spoils": Spoils, "marks": Marks}) as gateway:
        response = await gateway.chat(headers={"X-Muxx-User-Id": "ann"})
        row = (await eventually_listed(gateway))[0]
    assert (row["request_id"], row["user_id"], row["attributes"]) == (response.request_id, "ann", {"marked": True})


async def eventually_listed(gateway: RunningGateway) -> list[dict[str, Any]]:
    """The rows, once there are any in the database: a single one is found in the journal before."""
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(10):
        while not found:
            await asyncio.sleep(0.02)
            found = (await gateway.get("/v1/logs")).json()["data"]
    return found


async def test_P04_a_rerouted_request_is_held_to_the_keys_models() -> None:
    class Escalates:
        @hookimpl
        def authenticate(self, request: HttpRequest) -> Identity | None:
            return Identity("default", models=("gpt-4o-mini",))

        @hookimpl
        def pre_request(self, exchange: Exchange) -> None:
            exchange.reroute("gpt-4o")

    async with serving(plugins={"escalates": Escalates}) as gateway:
        response = await gateway.chat(model="gpt-4o-mini")
        assert (response.status, error_code(response)) == (403, "model_not_allowed")
        assert gateway.upstream.requests == []


async def test_P04_a_changed_request_is_validated_and_priced_again() -> None:
    class Changes:
        @hookimpl
        def pre_request(self, exchange: Exchange) -> None:
            if exchange.request.user_id == "breaks":
                exchange.request.body["max_tokens"] = "many"
            exchange.reroute("gpt-4o-mini")

    async with serving(plugins={"changes": Changes}) as gateway:
        broken = await gateway.chat(headers={"X-Muxx-User-Id": "breaks"})
        assert (error_code(broken), broken.error["param"]) == ("invalid_type", "max_tokens")
        assert gateway.upstream.requests == []
        row = await gateway.get_row((await gateway.chat()).request_id)
    assert (row["model_requested"], row["cost_usd"]) == ("gpt-4o", "0.0000045")


def leaving(hook: str, place: str, value: Any) -> type:
    """A plugin that puts something else in the place of what it may edit."""

    def pre_request(self: object, exchange: Exchange) -> None:
        setattr(exchange.request if place == "body" else exchange, place, value)

    def pre_attempt(self: object, attempt: Attempt) -> None:
        setattr(attempt, place, value)

    return type("Leaves", (), {hook: hookimpl(pre_request if hook == "pre_request" else pre_attempt)})


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize(
    ("hook", "place", "value", "said"),
    [
        ("pre_request", "targets", "gpt-4o", "`exchange.targets` is no tuple of muxx.Target"),
        ("pre_request", "targets", ["openai/gpt-4o"], "`exchange.targets` is no tuple of muxx.Target"),
        ("pre_request", "targets", None, "`exchange.targets` is no tuple of muxx.Target"),
        ("pre_request", "targets", (), "`exchange.targets` is no tuple of muxx.Target"),
        ("pre_request", "body", None, "`exchange.request.body` is no dict that JSON can say"),
        ("pre_attempt", "url", None, "`attempt.url` is no str"),
        ("pre_attempt", "headers", None, "`attempt.headers` is no dict"),
        ("pre_attempt", "body", [], "`attempt.body` is no dict"),
        ("pre_attempt", "target", "gpt-4o", "`attempt.target` is no Target"),
    ],
)
async def test_P01_what_a_plugin_leaves_that_nobody_can_use_is_a_plugins_error_and_the_log_names_who_it_may_be(
    hook: str, place: str, value: Any, said: str, cached: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where another plugin trips over it first, as the cache does."""
    off = {} if cached else {"cache": {"enabled": False}}
    async with serving(config=plugin_config(**off), plugins={"leaves": leaving(hook, place, value)}) as gateway:
        response = await gateway.chat()
        assert (response.status, error_code(response)) == (500, "plugin_error")
        assert gateway.upstream.requests == []
    [line] = [record.getMessage() for record in caplog.records if "left what nobody can use" in record.getMessage()]
    assert f"one of the plugins with {hook} (" in line
    assert "leaves" in line
    assert said in line


async def test_P04_an_attempt_that_was_changed_is_validated_priced_and_held_to_the_keys_models_again() -> None:
    class Changes:
        @hookimpl
        def authenticate(self, request: HttpRequest) -> Identity | None:
            return Identity("default", models=("openai/gpt-4o-mini",)) if "x-narrow" in request.headers else None

        @hookimpl
        def pre_attempt(self, exchange: Exchange, attempt: Attempt) -> None:
            if exchange.request.user_id == "breaks":
                attempt.body["max_tokens"] = "many"
            attempt.body["model"] = "gpt-4o"

    async with serving(plugins={"changes": Changes}) as gateway:
        broken = await gateway.chat(model="gpt-4o-mini", headers={"X-Muxx-User-Id": "breaks"})
        assert (error_code(broken), broken.error["param"]) == ("invalid_type", "max_tokens")
        narrow = await gateway.chat(model="gpt-4o-mini", headers={"X-Narrow": "yes"})
        assert (narrow.status, error_code(narrow)) == (403, "model_not_allowed")
        assert gateway.upstream.requests == []
        row = await gateway.get_row((await gateway.chat(model="gpt-4o-mini")).request_id)
        assert gateway.upstream.last.json()["model"] == "gpt-4o"
    assert (row["model_requested"], row["cost_usd"]) == ("gpt-4o-mini", "0.000075")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("usage", None),
        ("usage", Usage(-5, 3)),
        ("usage", Usage(3, 2**63)),
        ("cost", Cost(-1, 1, "x")),
        ("cost", Cost(2**62, 2**62, "x")),
        ("cost", "free"),
        ("saved_pico", 10**30),
    ],
)
async def test_P04_what_no_row_can_hold_of_a_plugins_answer_harms_no_other_row(
    name: str, said: Any, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Answers:
        @hookimpl
        def pre_request(self, exchange: Exchange) -> Reply | None:
            if exchange.request.user_id is None:
                return None
            setattr(exchange, name, said)
            return Reply([Chunk("text", text="Hi.")])

    async with serving(plugins={"answers": Answers}) as gateway:
        await gateway.chat()
        response = await gateway.chat(headers={"X-Muxx-User-Id": "ann"}, stream=stream)
        row = await gateway.get_row(response.request_id)
        assert (row["input_tokens"], row["output_tokens"], row["saved_usd"]) == (0, 0, None)
        assert row["cost_usd"] == (None if name == "cost" else "0")
        async with asyncio.timeout(10):
            while len(await eventually_listed(gateway)) < 2:
                await asyncio.sleep(0.02)
        assert (await gateway.get("/v1/analytics/spend")).json()["data"][0]["cost_usd"] == "0.000075"
    assert f"left an `exchange.{name}` that no row can hold" in caplog.text


async def test_P04_what_is_edited_in_an_attempt_is_edited_in_no_other_request() -> None:
    """Not even where it came from the file."""

    class Edits:
        @hookimpl
        def pre_attempt(self, exchange: Exchange, attempt: Attempt) -> None:
            if exchange.request.user_id == "eve":
                attempt.body["reasoning"]["effort"] = "high"
                attempt.body["stop"].append("never")

    parameters = {"reasoning": {"effort": "low"}, "stop": ["here"]}
    models = [{"name": "gpt-4o", "targets": [{"target": "openai/gpt-4o", "parameters": parameters}]}]
    async with serving(config={"models": models}, plugins={"edits": Edits}) as gateway:
        for user, effort in (("ann", "low"), ("eve", "high"), ("ann", "low"), ("eve", "high")):
            assert (await gateway.chat(headers={"X-Muxx-User-Id": user})).status == 200
            sent = gateway.upstream.last.json()
            assert (sent["reasoning"], sent["stop"]) == ({"effort": effort}, ["here", "never"][: 1 + (user == "eve")])


@pytest.mark.parametrize("hook", ["register_providers", "register_routes"])
async def test_P01_a_crash_while_registering_stops_the_start_and_names_the_plugin(hook: str) -> None:
    def crash(self: object) -> list[Any]:
        raise RuntimeError("not today")

    with pytest.raises(StartError, match=rf"plugin 'crashes': its {hook} failed \(RuntimeError at test_plugins_faults.py:\d+ in crash: not today\)"):
        async with serving(plugins={"crashes": type("Crashes", (), {hook: hookimpl(crash)})}):
            pass


async def test_P03_chunks_no_plain_answer_can_hold_are_the_plugins_crash(caplog: pytest.LogCaptureFixture) -> None:
    class Garbles:
        @hookimpl
        def on_chunk(self, chunk: Chunk) -> list[Chunk]:
            return [Chunk("text", "x", raw=b"data: [1]\n\n")]

    async with serving(plugins={"garbles": Garbles}) as gateway, await gateway.connect() as client:
        body = b'{"model": "gpt-4o", "input": "Hi"}'
        await client.request("POST", "/v1/responses", {"Authorization": f"Bearer {gateway.key}"}, body)
        response = await client.read_response()
    assert (response.status, error_code(response)) == (500, "plugin_error")


async def test_P04_the_order_of_the_file_is_the_order_of_the_hooks() -> None:
    ran: list[str] = []

    def telling(name: str) -> type:
        class Tells:
            @hookimpl
            async def pre_request(self) -> None:
                await asyncio.sleep(0)
                ran.append(name)

        return Tells

    plugins = {name: telling(name) for name in "abc"}
    async with serving(config={"plugins": {"order": ["c", "a"]}}, plugins=plugins) as gateway:
        assert (await gateway.chat()).status == 200
    assert ran == ["c", "a", "b"]


# ── P05: async where it cannot be; cancelled in a hook ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("hook", ["price", "register_routes", "register_providers", "register_commands"])
async def test_P05_an_async_start_up_hook_stops_the_start(hook: str) -> None:
    async def never_awaited(self: Any) -> None: ...

    with pytest.raises(StartError, match=f"plugin 'eager': {hook} must be a plain `def`"):
        async with serving(plugins={"eager": type("Eager", (), {hook: hookimpl(never_awaited)})}):
            pass


@pytest.mark.parametrize("hook", ["pre_request", "pre_attempt", "on_chunk"])
async def test_P05_a_client_that_leaves_during_a_hook_still_has_a_row(hook: str) -> None:
    entered, cancelled = asyncio.Event(), asyncio.Event()
    seen = Seen()

    async def waits(self: Any) -> None:
        entered.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    config = {"server": {"chain_timeout_s": 20}}
    plugins = {"waits": type("Waits", (), {hook: hookimpl(waits)}), "watching": watching(seen)}
    async with serving(config=config, plugins=plugins) as gateway:
        async with await gateway.connect() as client:
            await client.post_chat(gateway.key, chat_body(stream=True))
            await asyncio.wait_for(entered.wait(), 5)
        await asyncio.wait_for(cancelled.wait(), 5)
        await eventually(lambda: seen.after)
        row = await gateway.get_row(seen.last.id)
    assert (row["status"], row["ended_by"], row["error_code"]) == (499, "client", "client_disconnected")
    assert row["attempts"] == (1 if hook == "on_chunk" else 0)


async def test_P05_a_client_that_leaves_during_authenticate_has_a_row_too() -> None:
    """Nobody knows yet whose it is, so it is asked for where it is stored."""
    entered = asyncio.Event()
    seen = Seen()

    class Waits:
        @hookimpl(tryfirst=True)
        async def authenticate(self) -> None:
            entered.set()
            await asyncio.sleep(30)

    plugins = {"waits": Waits, "watching": watching(seen)}
    async with serving(config={"server": {"chain_timeout_s": 20}}, plugins=plugins) as gateway:
        async with await gateway.connect() as client:
            await client.post_chat(gateway.key, chat_body())
            await asyncio.wait_for(entered.wait(), 5)
        await eventually(lambda: seen.after and seen.last.id in rows(gateway.directory))
        assert rows(gateway.directory)[seen.last.id][:3] == (499, "client", "client_disconnected")


@pytest.mark.parametrize("hook", ["price", "post_response"])
async def test_P05_a_hook_that_runs_when_the_client_has_left_still_sees_the_row_written(hook: str) -> None:
    """A client that leaves in mid-stream: what is left to run runs to its end."""
    seen = Seen()
    ended: list[str] = []

    def priced(self: Any) -> None:
        ended.append("price")

    async def told(self: Any) -> None:
        await asyncio.sleep(0.05)
        ended.append("post_response")

    ending = type("Ending", (), {"price": hookimpl(tryfirst=True)(priced), "post_response": hookimpl(told)})
    async with serving(plugins={"ending": ending, "watching": watching(seen)}) as gateway:
        gateway.upstream.script(sse(chunks=[delta("Hello ")], end=pause(30)))
        async with await gateway.connect() as client:
            await client.post_chat(gateway.key, chat_body(stream=True))
            await client.readuntil(b"Hello ")
        await eventually(lambda: hook in ended and seen.after)
        row = await gateway.get_row(seen.last.id)
    assert (row["status"], row["ended_by"]) == (499, "client")


async def test_P05_a_hook_that_swallows_its_cancellation_keeps_nothing_open() -> None:
    seen = Seen()
    entered = asyncio.Event()

    class Swallows:
        @hookimpl
        async def pre_request(self) -> None:
            entered.set()
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                return

    async with serving(
        config={"server": {"chain_timeout_s": 20}}, plugins={"swallows": Swallows, "watching": watching(seen)}
    ) as gateway:
        gateway.upstream.script([pause(30)])
        async with await gateway.connect() as client:
            await client.post_chat(gateway.key, chat_body())
            await asyncio.wait_for(entered.wait(), 5)
        await eventually(lambda: seen.after)
        row = await gateway.get_row(seen.last.id)
    assert row["status"] == 499
