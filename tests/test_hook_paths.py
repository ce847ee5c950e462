"""Whatever becomes of an exchange, its hooks run as often as they should, and a plugin's reply is an answer like any other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest
import pytest_asyncio
from carrying_kit import delta, serving
from hooks_kit import (
    BROKEN,
    REPLIES,
    SECRET,
    Acting,
    Seen,
    both_forms,
    delivered,
    plugin_config,
    watching,
)

from muxx.testing import (
    RawResponse,
    RunningGateway,
    chat,
    chat_body,
    error,
    eventually,
    pause,
    rst,
    sse,
    unused_port,
)
from muxx.testing.settings import merged


class Zoo:
    """One gateway for the tests that say with headers what its plugins are to do."""

    def __init__(self, gateway: RunningGateway, seen: Seen) -> None:
        self.gateway = gateway
        self.seen = seen

    async def ask(
        self, act: str = "", *, hooked: bool = False, headers: Mapping[str, str] | None = None, **members: Any
    ) -> RawResponse:
        path = {"X-Path": "hooked"} if hooked else {}
        return await self.gateway.chat(headers={"X-Act": act} | path | dict(headers or {}), **members)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def the_zoo() -> AsyncIterator[Zoo]:
    seen = Seen()
    nobody = {"nobody": {"base_url": f"http://127.0.0.1:{unused_port()}"}}
    config = merged(plugin_config(), {"providers": nobody, "server": {"max_body_bytes": 1000}})
    async with serving(config=config, plugins={"acting": Acting, "watching": watching(seen)}) as gateway:
        yield Zoo(gateway, seen)
    assert set(seen.after.values()) == {1}


@pytest.fixture
def zoo(the_zoo: Zoo) -> Zoo:
    the_zoo.gateway.upstream.script(chat())
    return the_zoo


in_the_zoo = pytest.mark.asyncio(loop_scope="module")
both_paths = pytest.mark.parametrize("hooked", [False, True])


Way = Callable[[RunningGateway], Awaitable[RawResponse | None]]


def asks(act: str = "", *, upstream: Any = None, headers: dict[str, str] | None = None, **members: Any) -> Way:
    """A chat request with an `x-act` header, whole to its end."""

    async def ask(gateway: RunningGateway) -> RawResponse:
        if upstream is not None:
            gateway.upstream.script(upstream)
        return await gateway.chat(headers={"X-Act": act} | (headers or {}), **members)

    return ask


def sends(body: bytes, headers: dict[str, str] | None = None) -> Way:
    """A chat request of these bytes."""

    async def send(gateway: RunningGateway) -> RawResponse:
        async with await gateway.connect() as client:
            await client.request("POST", "/v1/chat/completions", {"X-Muxx-Api-Key": gateway.key} | (headers or {}), body)
            return await client.read_response()

    return send


def leaves(while_: Callable[[RunningGateway], Awaitable[Any]], *, upstream: Any = None, act: str = "", **members: Any) -> Way:
    """A client that goes away once `while_` has come about."""

    async def leave(gateway: RunningGateway) -> None:
        if upstream is not None:
            gateway.upstream.script(upstream)
        async with await gateway.connect() as client:
            await client.post_chat(gateway.key, chat_body(**members), {"X-Act": act})
            await while_(gateway)

    return leave


async def leaves_in_the_body(gateway: RunningGateway) -> None:
    async with await gateway.connect() as client:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Muxx-Api-Key: {gateway.key}\r\nContent-Length: 100\r\n\r\n{{"
        await client.send(head.encode())
        await a_call_runs(gateway)


async def a_call_runs(gateway: RunningGateway) -> None:
    await eventually(lambda: len(gateway.gateway.calls) > 0)


async def upstream_is_asked(gateway: RunningGateway) -> None:
    count = len(gateway.upstream.requests)
    await gateway.upstream.request(count + 1)


async def a_piece_is_sent(gateway: RunningGateway) -> None:
    count = len(gateway.upstream.requests)
    request = await gateway.upstream.request(count + 1)
    await eventually(lambda: request.produced > 0)
    await asyncio.sleep(0.02)


REFUSALS = {
    f"refused by {hook}": (asks(f"{hook} refuses"), "not_today") for hook in ("authenticate", "pre_request", "pre_attempt")
}
CRASHES = {
    f"{hook} crashed, {form}": (asks(f"{hook} crashes", **members), code)
    for form, members in (("plain", {}), ("streamed", {"stream": True}))
    for hook, code in (
        ("authenticate", "plugin_error"),
        ("pre_request", "plugin_error"),
        ("pre_attempt", "plugin_error"),
        ("on_chunk", "plugin_error"),
        ("post_response", None),
    )
}
HANGS = {f"{hook} hung": (asks(f"{hook} hangs"), "plugin_error") for hook in ("authenticate", "pre_request", "pre_attempt")}
PLUGIN_ANSWERS = {
    f"a plugin replied with {kind}, {form}": (asks(f"replies with {kind}", **members), None)
    for form, members in (("plain", {}), ("streamed", {"stream": True}))
    for kind in REPLIES
}
WAYS: dict[str, tuple[Way, str | None]] = {
    "answered plain": (asks(), None),
    "answered in a stream": (asks(stream=True), None),
    "no key": (asks(headers={"Authorization": ""}), "missing_api_key"),
    "a wrong key": (asks(headers={"X-Muxx-Api-Key": "muxx_sk_live_wrong"}), "invalid_api_key"),
    **REFUSALS,
    "model unknown": (asks(model="no-such-model"), "model_not_found"),
    "model missing": (sends(b'{"messages":[{"role":"user","content":"x"}]}'), "missing_field"),
    "not JSON": (sends(b"{"), "invalid_json"),
    "bad metadata": (asks(headers={"X-Muxx-Metadata": "["}), "invalid_metadata"),
    "body too large": (sends(b"x" * 2000), "request_too_large"),
    "the upstream refused": (asks(upstream=error(400, code="bad_thing")), "bad_thing"),
    "the upstream failed": (asks(upstream=error(500, code="oops")), "oops"),
    "the upstream hung up": (asks(upstream=[rst()]), "upstream_disconnected"),
    "the upstream sent garbage": (asks(upstream=[b"garbage\r\n\r\n"]), "upstream_protocol_error"),
    "the stream was cut": (asks(stream=True, upstream=sse(delta("a"), end=rst())), "upstream_disconnected"),
    "the stream ended early": (asks(stream=True, upstream=sse(delta("a"))), "upstream_truncated"),
    "no provider listens": (asks(model="nobody/x"), "upstream_unreachable"),
    "the client left in the body": (leaves_in_the_body, "client_disconnected"),
    "the client left before the answer": (leaves(upstream_is_asked, upstream=[pause(60)]), "client_disconnected"),
    "the client left in pre_request": (leaves(a_call_runs, act="pre_request hangs"), "client_disconnected"),
    "the client left in the stream": (
        leaves(a_piece_is_sent, upstream=[*sse(delta("a"))[:-1], pause(60)], stream=True),
        "client_disconnected",
    ),
    **CRASHES,
    **HANGS,
    "price crashed": (asks(model="gpt-4o-priceless"), None),
    **PLUGIN_ANSWERS,
}


@in_the_zoo
@pytest.mark.parametrize("way", WAYS)
async def test_post_response_runs_exactly_once(way: str, zoo: Zoo) -> None:
    """That it never runs twice is asserted once more when all are through."""
    go, code = WAYS[way]
    before = set(zoo.seen.after)
    response = await go(zoo.gateway)
    await eventually(lambda: set(zoo.seen.after) - before)
    assert set(zoo.seen.after) - before == {zoo.seen.last.id}
    assert zoo.seen.after[zoo.seen.last.id] == 1
    assert (zoo.seen.last.error.code if zoo.seen.last.error is not None else None) == code
    if response is not None:
        assert response.request_id == zoo.seen.last.id
        assert SECRET not in response.text


@in_the_zoo
@both_forms
@pytest.mark.parametrize("kind", REPLIES)
async def test_pre_attempt_never_runs_for_a_reply(kind: str, stream: bool, zoo: Zoo) -> None:
    asked = len(zoo.gateway.upstream.requests)
    response = await zoo.ask(f"replies with {kind}", stream=stream)
    assert response.status == 200
    assert len(zoo.gateway.upstream.requests) == asked
    assert str(response.request_id) not in zoo.seen.attempts


@in_the_zoo
@both_forms
@pytest.mark.parametrize("hook", ["authenticate", "pre_request", "pre_attempt"])
async def test_a_refusal_keeps_its_status_type_code_message_and_param(hook: str, stream: bool, zoo: Zoo) -> None:
    asked = len(zoo.gateway.upstream.requests)
    response = await zoo.ask(f"{hook} refuses", stream=stream)
    assert response.status == 403
    assert response.error == {"message": "Not today.", "type": "permission_error", "code": "not_today", "param": hook}
    assert response.header("x-should-retry") == "false"
    assert len(zoo.gateway.upstream.requests) == asked


@in_the_zoo
@both_forms
@pytest.mark.parametrize("kind", REPLIES)
async def test_on_chunk_sees_a_plugins_reply_too(kind: str, stream: bool, zoo: Zoo) -> None:
    response = await zoo.ask(f"replies with {kind}", hooked=True, stream=stream)
    assert zoo.seen.text(response.request_id) == "From a plugin."
    kinds = zoo.seen.kinds(response.request_id)
    assert kinds[-1] == "end"
    assert kinds.count("end") == 1


@in_the_zoo
@both_forms
@both_paths
@pytest.mark.parametrize("kind", REPLIES)
async def test_a_reply_of_any_kind_answers_in_the_form_asked_for(kind: str, stream: bool, hooked: bool, zoo: Zoo) -> None:
    response = await zoo.ask(f"replies with {kind}", hooked=hooked, stream=stream)
    assert response.status == 200
    assert response.complete
    assert delivered(response) == "From a plugin."
    assert response.done or not stream
    assert response.body.count(b"[DONE]") == int(stream)
    last = (response.events[-1] if stream else response.json())["choices"][0]
    assert last["finish_reason"] == "stop"
    row = await zoo.gateway.get_row(response.request_id)
    assert (row["status"], row["attempts"], row["cost_usd"], row["error_code"]) == (200, 0, "0", None)
    assert row["output"]["choices"][0]["message"]["content"] == "From a plugin."


@in_the_zoo
@both_forms
@both_paths
@pytest.mark.parametrize("kind", BROKEN)
async def test_a_reply_that_breaks_is_the_plugins_error_and_never_looks_like_success(
    kind: str, stream: bool, hooked: bool, zoo: Zoo, caplog: pytest.LogCaptureFixture
) -> None:
    response = await zoo.ask(f"replies with {kind}", hooked=hooked, stream=stream)
    error = response.events[-1]["error"] if response.status == 200 else response.error
    assert error["code"] == "plugin_error"
    assert "[DONE]" not in response.text
    assert "failed in its reply to request" in caplog.text
    assert SECRET not in response.text + caplog.text
    row = await zoo.gateway.get_row(response.request_id)
    assert (row["error_code"], row["ended_by"]) == ("plugin_error", "muxx")
