"""What a plugin author can rely on, through a running gateway: one invariant a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from carrying_kit import serving
from hooks_kit import (
    SECRET,
    Seen,
    both_forms,
    watching,
)

from muxx import (
    Attempt,
    Chunk,
    Cost,
    Exchange,
    HttpRequest,
    Identity,
    InvalidRequest,
    ModelNotFound,
    Reply,
    StateKey,
    Target,
    Usage,
    hookimpl,
)
from muxx.testing import (
    PROVIDER_KEY,
    chat,
    chat_body,
    error,
    eventually,
)


async def test_each_of_many_exchanges_at_once_gets_its_own_post_response() -> None:
    seen = Seen()
    async with serving(plugins={"watching": watching(seen)}) as gateway:
        responses = await asyncio.gather(*(gateway.chat(stream=bool(n % 2)) for n in range(40)))
        await eventually(lambda: len(seen.after) == 40)
    assert seen.after == {str(response.request_id): 1 for response in responses}


async def test_post_response_delays_no_client() -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    class Slow:
        @hookimpl
        async def post_response(self) -> None:
            begun.set()
            await release.wait()

    async with serving(plugins={"slow": Slow}) as gateway, await gateway.connect() as client:
        for _ in range(2):
            await client.post_chat(gateway.key, chat_body())
            assert (await client.read_response()).status == 200
        await begun.wait()
        release.set()


async def test_post_response_sees_the_whole_answer_and_what_it_cost() -> None:
    seen = Seen()
    async with serving(plugins={"watching": watching(seen, chunks=False)}) as gateway:
        for stream in (False, True):
            response = await gateway.chat(stream=stream)
            await eventually(lambda wanted=response.request_id: seen.after[wanted])
            exchange = seen.last
            assert (exchange.response.status, exchange.response.text) == (200, "Hello there.")
            assert (exchange.response.id, exchange.response.model, exchange.response.finish_reasons) == (
                "chatcmpl-1",
                "gpt-4o",
                ["stop"],
            )
            assert (exchange.usage.input_tokens, exchange.usage.output_tokens, exchange.usage.source) == (10, 5, "provider")
            assert exchange.cost is not None
            assert exchange.cost.total_pico == 75_000_000
            assert exchange.served_by == "upstream"
            if stream:
                assert exchange.timing.started <= (exchange.timing.first_token or 0) <= (exchange.timing.ended or 0)
            [attempt] = exchange.attempts
            assert (attempt.status, attempt.sent, attempt.error) == (200, True, None)


TWO_TARGETS = {"models": [{"name": "pair", "targets": ["openai/first", "openai/second"], "retries": 1}]}


async def test_pre_attempt_runs_once_for_each_upstream_call() -> None:
    seen = Seen()
    fails = error(503, retry_after="0")
    async with serving(config=TWO_TARGETS, plugins={"watching": watching(seen)}) as gateway:
        gateway.upstream.script(fails, fails, fails, chat("At last."))
        response = await gateway.chat(model="pair")
    assert response.status == 200
    calls = [(1, "openai/first"), (2, "openai/first"), (3, "openai/second"), (4, "openai/second")]
    assert seen.attempts[response.request_id or ""] == calls
    assert [request.json()["model"] for request in gateway.upstream.requests] == ["first", "first", "second", "second"]


async def test_pre_attempt_may_edit_url_headers_and_body_and_that_is_what_is_sent() -> None:
    class Edits:
        @hookimpl
        def pre_attempt(self, attempt: Attempt) -> None:
            attempt.url += "?route=blue"
            attempt.headers["x-tenant"] = "seven"
            attempt.body["seed"] = 42
            del attempt.body["user"]

    async with serving(plugins={"edits": Edits}) as gateway:
        assert (await gateway.chat(user="me")).status == 200
        request = gateway.upstream.last
    assert request.target == "/v1/chat/completions?route=blue"
    assert request.header("x-tenant") == "seven"
    assert request.json() == chat_body(seed=42)


async def test_what_one_attempt_was_given_is_not_seen_by_the_next() -> None:
    class Edits:
        @hookimpl
        def pre_attempt(self, attempt: Attempt) -> None:
            assert "seed" not in attempt.body
            attempt.body["seed"] = attempt.number
            attempt.headers[f"x-number-{attempt.number}"] = "here"

    async with serving(config=TWO_TARGETS, plugins={"edits": Edits}) as gateway:
        gateway.upstream.script(error(503, retry_after="0"), chat())
        assert (await gateway.chat(model="pair")).status == 200
        first, second = gateway.upstream.requests
    assert (first.json()["seed"], second.json()["seed"]) == (1, 2)
    assert second.header("x-number-1") is None


@pytest.mark.parametrize("value", [object(), {1, 2}, 2**70, b"bytes"])
async def test_an_edit_that_is_no_json_is_a_plugins_error(value: Any) -> None:
    class Spoils:
        @hookimpl
        def pre_attempt(self, attempt: Attempt) -> None:
            attempt.body["seed"] = value

    async with serving(plugins={"spoils": Spoils}) as gateway:
        response = await gateway.chat()
        assert (response.status, response.error["code"]) == (500, "plugin_error")
        assert gateway.upstream.requests == []


async def test_a_header_with_a_line_break_reaches_nobody() -> None:
    class Smuggles:
        @hookimpl
        def pre_attempt(self, attempt: Attempt) -> None:
            attempt.headers["x-note"] = "a\r\nx-evil: b"

    for transport in ("lean", "aiohttp"):
        async with serving(transport, plugins={"smuggles": Smuggles}) as gateway:
            assert (await gateway.chat()).status == 502
            assert gateway.upstream.requests == []


async def test_text_assigned_to_a_part_reaches_the_upstream() -> None:
    class Masks:
        @hookimpl
        def pre_request(self, exchange: Exchange) -> None:
            for part in exchange.request.parts():
                part.text = part.text.replace("4111", "****")

    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "card 4111"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "mine is 4111"}, {"type": "image_url", "image_url": {"url": "4111"}}],
        },
        {
            "role": "assistant",
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"n":"4111"}'}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "4111 is valid"},
    ]
    async with serving(plugins={"masks": Masks}) as gateway:
        assert (await gateway.chat(messages=messages)).status == 200
        sent = gateway.upstream.last.json()["messages"]
    assert [sent[0]["content"], sent[1]["content"][0]["text"], sent[3]["content"]] == [
        "card ****",
        "mine is ****",
        "**** is valid",
    ]
    assert sent[2]["tool_calls"][0]["function"]["arguments"] == '{"n":"****"}'
    assert sent[1]["content"][1] == messages[1]["content"][1]


async def test_the_row_keeps_the_request_as_it_was_sent_up() -> None:
    class Masks:
        @hookimpl
        def pre_request(self, exchange: Exchange) -> None:
            for part in exchange.request.parts():
                part.text = "masked"

    async with serving(plugins={"masks": Masks}) as gateway:
        row = await gateway.get_row((await gateway.chat("4111")).request_id)
    assert row["input"]["messages"] == [{"role": "user", "content": "masked"}]


@pytest.mark.parametrize(
    ("edit", "param"),
    [({"messages": []}, "messages"), ({"max_tokens": 0}, "max_tokens"), ({"stream": "yes"}, "stream"), ({"model": 7}, "model")],
)
async def test_what_a_plugin_changed_is_validated_again(edit: dict[str, Any], param: str) -> None:
    class Breaks:
        @hookimpl
        def pre_request(self, exchange: Exchange) -> None:
            exchange.request.body.update(edit)

    async with serving(plugins={"breaks": Breaks}) as gateway:
        response = await gateway.chat()
        assert (response.status, response.error["code"], response.error["param"]) == (400, "invalid_type", param)
        assert gateway.upstream.requests == []


async def test_a_plugin_may_turn_a_stream_into_a_plain_answer() -> None:
    class Plain:
        @hookimpl
        def pre_request(self, exchange: Exchange) -> None:
            exchange.request.body["stream"] = False

    async with serving(plugins={"plain": Plain}) as gateway:
        response = await gateway.chat(stream=True)
        assert response.json()["choices"][0]["message"]["content"] == "Hello there."


async def test_reroute_sends_the_request_to_another_model() -> None:
    class Reroutes:
        @hookimpl
        def pre_request(self, exchange: Exchange) -> None:
            with pytest.raises(ModelNotFound):
                exchange.reroute("no-such-model")
            assert [str(target) for target in exchange.targets] == ["openai/gpt-4o"]
            exchange.reroute("pair")
            assert [str(target) for target in exchange.targets] == ["openai/first", "openai/second"]

    async with serving(config=TWO_TARGETS, plugins={"reroutes": Reroutes}) as gateway:
        response = await gateway.chat()
        assert gateway.upstream.last.json()["model"] == "first"
        row = await gateway.get_row(response.request_id)
    assert (row["model_requested"], row["provider"]) == ("gpt-4o", "openai")


async def test_targets_may_be_replaced() -> None:
    class Replaces:
        @hookimpl
        def pre_request(self, exchange: Exchange) -> None:
            [target] = exchange.targets
            exchange.targets = (replace(target, model="another", parameters={"seed": 5}),)

    async with serving(plugins={"replaces": Replaces}) as gateway:
        assert (await gateway.chat()).status == 200
        assert gateway.upstream.last.json() == chat_body(model="another", seed=5)


async def test_a_changed_target_is_priced_as_what_it_is() -> None:
    """FAULTS P04: what is booked is the price of what was called, not of what was asked for."""

    class Cheaper:
        @hookimpl
        def pre_request(self, exchange: Exchange) -> None:
            exchange.reroute("gpt-4o-mini")

    async with serving(plugins={"cheaper": Cheaper}) as gateway:
        response = await gateway.chat()
    assert response.header("x-muxx-cost") == "0.0000045"


async def test_with_no_target_left_the_request_ends_with_an_error() -> None:
    class Empties:
        @hookimpl
        def pre_request(self, exchange: Exchange) -> None:
            exchange.targets = ()

    async with serving(plugins={"empties": Empties}) as gateway:
        response = await gateway.chat()
    assert response.status >= 400


async def test_the_first_identity_wins_and_project_and_models_are_its() -> None:
    class Badge:
        @hookimpl
        def authenticate(self, request: HttpRequest) -> Identity | None:
            return Identity("visitors", models=("gpt-4o*",)) if request.headers.get("x-badge") == "0042" else None

    async with serving(plugins={"badge": Badge}) as gateway:
        badge = {"X-Badge": "0042", "Authorization": ""}
        response = await gateway.chat(headers=badge)
        assert response.status == 200
        assert (await gateway.chat(model="o3", headers=badge)).error["code"] == "model_not_allowed"
        assert (await gateway.get(f"/v1/logs/{response.request_id}")).status == 404
        assert (await gateway.chat()).status == 200


async def test_bytes_leave_as_they_are() -> None:
    odd = b'{ "choices":[ {"message":{"content":"as it was"} } ], "odd" : 1.10 }'

    class Replies:
        @hookimpl
        def pre_request(self) -> Reply:
            return Reply(odd, headers={"X-House": "yes"})

    async with serving(plugins={"replies": Replies}) as gateway:
        response = await gateway.chat()
    assert response.body == odd
    assert response.header("x-house") == "yes"
    assert response.header("x-muxx-cost") == "0"


@both_forms
async def test_a_reply_may_have_another_status_and_type(stream: bool) -> None:
    class Replies:
        @hookimpl
        def pre_request(self) -> Reply:
            return Reply(b"short and stout", 418, "text/plain")

    seen = Seen()
    async with serving(plugins={"replies": Replies, "watching": watching(seen)}) as gateway:
        response = await gateway.chat(stream=stream)
        assert (response.status, response.body, response.header("content-type")) == (418, b"short and stout", "text/plain")
        assert (await gateway.get_row(response.request_id))["status"] == 418
    assert seen.kinds(response.request_id) == []


async def test_an_async_reply_is_closed_when_the_client_leaves() -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[Chunk]:
        try:
            while True:
                yield Chunk("text", "on and on ")
                await asyncio.sleep(0.005)
        finally:
            closed.set()

    class Replies:
        @hookimpl
        def pre_request(self) -> Reply:
            return Reply(endless())

    async with serving(plugins={"replies": Replies}) as gateway:
        async with await gateway.connect() as client:
            await client.post_chat(gateway.key, chat_body(stream=True))
            await client.read_head()
            await client.read_some()
        await asyncio.wait_for(closed.wait(), 5)


@both_forms
async def test_reply_headers_reach_the_client_and_raise_once_the_head_has_left(stream: bool) -> None:
    late: list[type[BaseException] | None] = []

    def attempt(change: Callable[[], object]) -> None:
        try:
            change()
            late.append(None)
        except RuntimeError as error:
            late.append(type(error))

    class Sets:
        @hookimpl
        def pre_request(self, exchange: Exchange) -> None:
            exchange.reply_headers["X-Early"] = "from pre_request"

        @hookimpl
        def pre_attempt(self, exchange: Exchange) -> None:
            exchange.reply_headers.update({"X-Later": "from pre_attempt"})

        @hookimpl
        def post_response(self, exchange: Exchange) -> None:
            headers = exchange.reply_headers
            attempt(lambda: headers.__setitem__("X-Late", "x"))
            attempt(lambda: headers.update({"X-Late": "x"}))
            attempt(lambda: headers.setdefault("X-Late", "x"))
            attempt(lambda: headers.pop("X-Early"))
            attempt(lambda: headers.clear())

    async with serving(plugins={"sets": Sets}) as gateway:
        response = await gateway.chat(stream=stream)
        await eventually(lambda: len(late) == 5)
    assert response.header("x-early") == "from pre_request"
    assert response.header("x-later") == "from pre_attempt"
    assert response.header("x-late") is None
    assert late == [RuntimeError] * 5


async def test_reply_headers_cannot_be_set_once_a_streams_head_has_left() -> None:
    seen: list[str] = []

    class Sets:
        @hookimpl
        def on_chunk(self, exchange: Exchange, chunk: Chunk) -> None:
            if chunk.kind == "end":
                with pytest.raises(RuntimeError, match="head has already been sent"):
                    exchange.reply_headers["X-Late"] = "x"
                seen.append(chunk.kind)

    async with serving(plugins={"sets": Sets}) as gateway:
        assert (await gateway.chat(stream=True)).done
    assert seen == ["end"]


async def test_reply_headers_are_on_errors_too_and_cannot_split_the_response() -> None:
    class Sets:
        @hookimpl
        def pre_request(self, exchange: Exchange) -> None:
            exchange.reply_headers["X-Note"] = "a\r\nX-Evil: b\r\n\r\nHTTP/1.1 200 OK"
            raise InvalidRequest("No.")

    async with serving(plugins={"sets": Sets}) as gateway, await gateway.connect() as client:
        await client.post_chat(gateway.key, chat_body())
        response = await client.read_response()
        assert response.status == 400
        assert response.header("x-note") is not None
        assert response.header("x-evil") is None
        await client.post_chat(gateway.key, chat_body())
        assert (await client.read_response()).status == 400


@both_forms
async def test_attributes_land_in_the_row(stream: bool) -> None:
    class Judges:
        @hookimpl
        def pre_request(self, exchange: Exchange) -> None:
            exchange.attributes["guard"] = {"verdict": "fine", "score": 0.25}

        @hookimpl
        def on_chunk(self, exchange: Exchange, chunk: Chunk) -> None:
            exchange.attributes["chunks"] = exchange.attributes.get("chunks", 0) + 1

    async with serving(plugins={"judges": Judges}) as gateway:
        row = await gateway.get_row((await gateway.chat(stream=stream)).request_id)
    assert row["attributes"]["guard"] == {"verdict": "fine", "score": 0.25}
    assert row["attributes"]["chunks"] > 1


async def test_an_attribute_that_is_no_json_loses_no_row() -> None:
    class Judges:
        @hookimpl
        def pre_request(self, exchange: Exchange) -> None:
            exchange.attributes["guard"] = object()

    async with serving(plugins={"judges": Judges}) as gateway:
        response = await gateway.chat()
        assert response.status in (200, 500)
        assert (await gateway.get_row(response.request_id))["status"] == response.status


COUNT = StateKey[int]("counts.chunks")


async def test_state_is_the_exchanges_own_and_keyed_by_the_key_itself() -> None:
    counted: list[int | None] = []
    namesake = StateKey[int]("counts.chunks")

    class Counts:
        @hookimpl
        def pre_request(self, exchange: Exchange) -> None:
            assert COUNT not in exchange.state
            assert exchange.state.get(COUNT) is None
            exchange.state[COUNT] = 0

        @hookimpl
        def on_chunk(self, exchange: Exchange) -> None:
            exchange.state[COUNT] += 1

        @hookimpl
        def post_response(self, exchange: Exchange) -> None:
            assert namesake not in exchange.state
            counted.append(exchange.state.get(COUNT))

    async with serving(plugins={"counts": Counts}) as gateway:
        await asyncio.gather(gateway.chat(), gateway.chat("other"))
        await eventually(lambda: len(counted) == 2)
    assert counted == [3, 3]


async def test_the_first_price_wins_and_is_what_the_row_and_the_client_are_told() -> None:
    class Flat:
        @hookimpl(tryfirst=True)
        def price(self, target: Target, usage: Usage) -> Cost | None:
            return Cost(10**12, 2 * 10**12, "flat-1") if target.model == "gpt-4o" else None

    async with serving(plugins={"flat": Flat}) as gateway:
        response = await gateway.chat()
        row = await gateway.get_row(response.request_id)
        assert (await gateway.chat(model="gpt-4o-mini")).header("x-muxx-cost") == "0.0000045"
    assert response.header("x-muxx-cost") == "3"
    assert (row["input_cost_usd"], row["output_cost_usd"], row["cost_usd"], row["price_version"]) == ("1", "2", "3", "flat-1")


@both_forms
async def test_a_price_that_crashes_makes_the_cost_unknown_and_never_zero(stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    crashes: list[type[BaseException]] = [RuntimeError, SystemExit, KeyboardInterrupt, asyncio.CancelledError]

    class Crashes:
        @hookimpl
        def price(self, target: Target) -> Cost | None:
            raise crashes[int(target.model)](SECRET)

    async with serving(config={"plugins": {"pricing": {"enabled": False}}}, plugins={"crashes": Crashes}) as gateway:
        for number in range(len(crashes)):
            response = await gateway.chat(model=f"openai/{number}", stream=stream)
            assert response.status == 200
            assert response.header("x-muxx-cost") is None
            row = await gateway.get_row(response.request_id)
            assert (row["cost_usd"], row["input_tokens"]) == (None, 10)
    for crash in crashes:
        assert f"plugin crashes failed in price: {crash.__name__}" in caplog.text
    assert SECRET not in caplog.text


CREDENTIALS = {
    "X-Muxx-Api-Key": None,
    "Authorization": "Bearer sk-client-own-1",
    "X-Api-Key": "sk-client-own-2",
    "X-Goog-Api-Key": "sk-client-own-3",
    "Cookie": "session=sk-client-own-4",
    "Proxy-Authorization": "Basic sk-client-own-5",
}


async def test_no_plugin_sees_a_credential_of_the_client_after_authenticate() -> None:
    """FAULTS P04. What is not in the headers is looked for in everything else an exchange shows, too."""
    found: list[str] = []
    seen = Seen()

    def look(exchange: Exchange, canaries: list[str]) -> None:
        assert {name.lower() for name in CREDENTIALS}.isdisjoint(exchange.request.headers)
        shown = repr(
            [{name: getattr(exchange, name) for name in dir(exchange) if name[:2] != "__"}, exchange.request.headers, exchange.request.body]
        )
        found.extend(canary for canary in canaries if canary in shown)

    class Looks:
        canaries: ClassVar[list[str]] = []

        @hookimpl
        def authenticate(self, request: HttpRequest) -> None:
            self.canaries[:] = [value.split()[-1] for name, value in request.headers.items() if name in CREDENTIALS]

        @hookimpl
        def pre_request(self, exchange: Exchange) -> None:
            look(exchange, self.canaries)

        @hookimpl
        def pre_attempt(self, exchange: Exchange, attempt: Attempt) -> None:
            look(exchange, self.canaries)
            found.extend(canary for canary in self.canaries if canary in repr(attempt))

        @hookimpl
        def on_chunk(self, exchange: Exchange) -> None:
            look(exchange, self.canaries)

        @hookimpl
        def post_response(self, exchange: Exchange) -> None:
            look(exchange, self.canaries)
            assert len(self.canaries) == len(CREDENTIALS)

    async with serving(plugins={"looks": Looks, "watching": watching(seen)}) as gateway:
        headers = {name: value or gateway.key for name, value in CREDENTIALS.items()}
        assert (await gateway.chat(headers=headers)).status == 200
        await eventually(lambda: seen.after)
        upstream = gateway.upstream.last
    assert found == []
    assert upstream.header("authorization") == f"Bearer {PROVIDER_KEY}"
    assert not [value for _, value in upstream.headers if "client-own" in value]


async def test_a_record_that_crashes_is_laid_at_its_plugins_door(caplog: pytest.LogCaptureFixture) -> None:
    class Forgets:
        @hookimpl
        def record(self, records: list[Any]) -> None:
            raise RuntimeError(SECRET)

    async with serving(plugins={"forgets": Forgets}) as gateway:
        await gateway.chat()
        await eventually(lambda: "plugin forgets failed in record: RuntimeError" in caplog.text)
