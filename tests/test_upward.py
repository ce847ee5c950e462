"""What goes up to a provider: the body that was checked, an allow-list of headers, the right key in the right place; and plain
answers coming down as they were."""

from __future__ import annotations

import json as stdlib_json
from typing import Any

import orjson
import pytest
from carrying_kit import ANSWER, both_transports, part_of, serving

from muxx import Attempt, Exchange, hookimpl
from muxx.testing import PROVIDER_KEY, RawClient, RunningGateway, ScriptedUpstream, chat_body, json, sse

CLIENT_SECRETS = {
    "Cookie": "session=canary-cookie",
    "Proxy-Authorization": "Basic canary-proxy",
    "X-Goog-Api-Key": "canary-google",
    "X-Api-Key": "canary-anthropic",
    "OpenAI-Organization": "org-canary",
    "X-Forwarded-For": "10.1.2.3",
    "Forwarded": "for=10.1.2.3",
    "X-Muxx-User-Id": "canary-user",
    "X-Muxx-Metadata": '{"team": "canary-team"}',
    "X-Muxx-Cache-Control": "no-store",
    "X-Request-Id": "canary-id",
    "Referer": "http://canary",
    "Origin": "http://canary",
    "Accept-Encoding": "gzip, br",
    "TE": "trailers",
    "Keep-Alive": "timeout=canary",
    "X-Anything": "canary",
}
LISTED = {
    "accept": "application/json",
    "user-agent": "OpenAI/Python 3.54.0",
    "openai-beta": "assistants=v2",
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "x",
    "idempotency-key": "abc-1",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
}


def always(gateway: RunningGateway) -> dict[str, str]:
    """What every request to the provider carries."""
    return {
        "host": f"127.0.0.1:{gateway.upstream.port}",
        "content-type": "application/json",
        "content-length": str(len(gateway.upstream.last.body)),
        "accept-encoding": "identity",
        "authorization": f"Bearer {PROVIDER_KEY}",
    }


def dump(upstream: ScriptedUpstream) -> dict[str, str]:
    """The headers of the last request, none of which may come twice."""
    fields = [(name.lower(), value) for name, value in upstream.last.headers]
    assert len(dict(fields)) == len(fields)
    return dict(fields)


# ── headers ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@both_transports
@pytest.mark.parametrize("stream", [True, False])
async def test_the_provider_sees_the_listed_headers_and_no_other(transport: str, stream: bool) -> None:
    async with serving(transport) as gateway:
        await gateway.chat(headers=CLIENT_SECRETS | LISTED, stream=stream)
        assert dump(gateway.upstream) == always(gateway) | LISTED
        assert "canary" not in str(gateway.upstream.last.headers).replace(PROVIDER_KEY, "")
        await gateway.chat(stream=stream)
        assert dump(gateway.upstream) == always(gateway)


@both_transports
@pytest.mark.parametrize("place", ["X-Muxx-Api-Key", "Authorization", "X-Api-Key", "X-Goog-Api-Key"])
async def test_the_clients_key_goes_nowhere_whatever_header_it_came_in(transport: str, place: str) -> None:
    async with serving(transport) as gateway, await gateway.connect() as client:
        value = f"Bearer {gateway.key}" if place == "Authorization" else gateway.key
        await client.post_chat(None, chat_body(), {place: value})
        assert (await client.read_response()).status == 200
        request = gateway.upstream.last
        assert dump(gateway.upstream) == always(gateway)
        assert gateway.key not in str(request.headers) + request.body.decode() + request.target


async def test_a_header_nominated_as_hop_by_hop_changes_nothing() -> None:
    async with serving() as gateway:
        nominated = {"Connection": "close, x-muxx-api-key, authorization, openai-beta", "OpenAI-Beta": "yes"}
        assert (await gateway.chat(headers=nominated)).status == 200
        assert dump(gateway.upstream) == always(gateway) | {"openai-beta": "yes"}


async def test_a_row_may_let_more_headers_up_but_no_credentials() -> None:
    config = {"providers": {"openai": {"request_headers": ["OpenAI-Organization", "X-Trace"]}}}
    async with serving(config=config) as gateway:
        await gateway.chat(headers=CLIENT_SECRETS | {"X-Trace": "1"})
        assert dump(gateway.upstream) == always(gateway) | {"openai-organization": "org-canary", "x-trace": "1"}


@both_transports
async def test_the_clients_own_provider_key_is_used_only_where_the_row_says_so(transport: str) -> None:
    async def ask(gateway: RunningGateway, headers: dict[str, str]) -> str:
        async with await RawClient.connect(gateway.base_url) as client:
            await client.post_chat(None, chat_body(), headers)
            assert (await client.read_response()).status == 200
        return dump(gateway.upstream)["authorization"]

    for forward in (False, True):
        async with serving(transport, {"providers": {"openai": {"forward_client_credentials": forward}}}) as gateway:
            ours, own = f"Bearer {PROVIDER_KEY}", "Bearer sk-clients-own"
            both = {"X-Muxx-Api-Key": gateway.key, "Authorization": own}
            assert await ask(gateway, both) == (own if forward else ours)
            assert await ask(gateway, {"X-Muxx-Api-Key": gateway.key, "x-api-key": "sk-clients-own"}) == (
                own if forward else ours
            )
            assert await ask(gateway, {"X-Muxx-Api-Key": gateway.key}) == ours
            assert await ask(gateway, {"Authorization": f"Bearer {gateway.key}", "x-api-key": "sk-clients-own"}) == ours


async def test_plugins_never_see_a_credential_and_may_edit_what_goes_up() -> None:
    seen: list[str] = []

    class Editor:
        @hookimpl
        def pre_request(self, exchange: Exchange) -> None:
            seen.append(str(dict(exchange.request.headers)))

        @hookimpl
        def pre_attempt(self, attempt: Attempt) -> None:
            attempt.headers["x-extra"] = "1"
            attempt.body["seed"] = 7
            attempt.url += "?api-version=2"

    async with serving(plugins={"editor": Editor}) as gateway:
        await gateway.chat(headers=CLIENT_SECRETS)
        assert dump(gateway.upstream) == always(gateway) | {"x-extra": "1"}
        assert gateway.upstream.last.json()["seed"] == 7
        assert gateway.upstream.last.target == "/v1/chat/completions?api-version=2"
        assert gateway.key not in seen[0]
        assert "canary-cookie" not in seen[0]


# ── bodies ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_every_field_goes_up_as_it_came() -> None:
    fields: dict[str, Any] = {
        "temperature": 0.7, "max_tokens": 5, "max_completion_tokens": 9, "seed": 2**63 - 1, "logprobs": True, "top_p": 1e-7,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}], "tool_choice": "auto",
        "response_format": {"type": "json_object"}, "reasoning_effort": "low", "user": "ü\u2028👋",
        "unknown": {"a": [None, -1, 0.1]}, "stop": None, "n": 1,
    }  # fmt: skip
    async with serving() as gateway:
        await gateway.chat(**fields)
        assert gateway.upstream.last.json() == chat_body() | fields
        assert (gateway.upstream.last.method, gateway.upstream.last.target) == ("POST", "/v1/chat/completions")


async def test_what_was_checked_is_what_is_sent() -> None:
    twice = (
        b'{"model":"nobodys","mo\\u0064el":"gpt-4o","max_tokens":"x","max_tokens":3,"messages":[{"role":"user","content":"a"}]}'
    )
    async with serving() as gateway, await gateway.connect() as client:
        await client.request("POST", "/v1/chat/completions", {"Authorization": f"Bearer {gateway.key}"}, twice)
        assert (await client.read_response()).status == 200
        body = gateway.upstream.last.body
        assert orjson.loads(body) == chat_body("a", max_tokens=3)
        assert body.count(b"model") == 1


async def test_a_targets_parameters_are_set_in_every_request_to_it() -> None:
    parameters = {"temperature": 0.1, "service_tier": "flex", "reasoning": {"effort": "low"}, "logit_bias": {}}
    model = {"name": "mine", "targets": [{"target": "openai/gpt-4o-mini", "parameters": parameters}]}
    async with serving(config={"models": [model]}) as gateway:
        response = await gateway.chat(model="mine", temperature=2, top_p=0.5)
        assert gateway.upstream.last.json() == chat_body(model="gpt-4o-mini", top_p=0.5) | parameters
        expected = {"model_requested": "mine", "provider": "openai", "status": 200}
        row = await gateway.get_row(response.request_id)
        assert part_of(row, expected) == expected
        await gateway.chat(model="mine", stream=True)
        assert gateway.upstream.last.json()["temperature"] == 0.1


async def test_the_model_goes_up_as_the_target_names_it() -> None:
    config = {"models": [{"name": "fast-*", "targets": ["openai/gpt-*-mini"]}]}
    async with serving(config=config) as gateway:
        for asked, sent in (
            ("fast-4o", "gpt-4o-mini"),
            ("openai/anything/at-all", "anything/at-all"),
            ("gpt-4o", "gpt-4o"),
            ("claude-3-5-sonnet", "claude-3-5-sonnet-latest"),
            ("o3-mini", "o3-mini"),
        ):
            assert (await gateway.chat(model=asked)).status == 200
            assert gateway.upstream.last.json()["model"] == sent


# ── plain answers ───────────────────────────────────────────────────────────────────────────────────────────────────────────

TEXT = rb'{"message":{"content":"\u00fc \/"},"finish_reason":"stop","index":0}'
ODDLY_WRITTEN = [
    stdlib_json.dumps(ANSWER, indent=3).encode(),
    b'  {"choices":[%b],"x":1.0,"y":1E+2,"x":12345678901234567890123}\r\n\n' % TEXT,
    b'{"choices": []}',
    b'{"choices": "none", "usage": 7, "id": {}}',
]
IN_CHUNKS = {"Content-Type": "application/json"}


@both_transports
async def test_a_plain_answer_passes_byte_for_byte(transport: str) -> None:
    async with serving(transport) as gateway:
        for body in ODDLY_WRITTEN:
            for script in (json(body), sse(body, chunked=False, headers=IN_CHUNKS), sse(chunks=_bytes(body), headers=IN_CHUNKS)):
                gateway.upstream.script(script)
                response = await gateway.chat()
                assert (response.status, response.body, response.complete) == (200, body, True)
                assert response.header("content-length") == str(len(body))
                row = await gateway.get_row(response.request_id)
                assert row["output"] == orjson.loads(body)


def _bytes(body: bytes) -> list[bytes]:
    return [body[at : at + 7] for at in range(0, len(body), 7)]


@both_transports
async def test_a_plain_answers_headers_say_its_cost_and_its_type(transport: str) -> None:
    async with serving(transport) as gateway:
        gateway.upstream.script(
            json(ANSWER, 201, {"Content-Type": "application/json; charset=utf-8", "OpenAI-Processing-Ms": "7"})
        )
        response = await gateway.chat()
        told = {"content-type": "application/json; charset=utf-8", "openai-processing-ms": "7", "x-muxx-cost": "0.000075"}
        assert response.status == 201
        assert {name: response.header(name) for name in told} == told
        assert response.header("x-muxx-cache") == "MISS"
        assert "upstream;dur=" in (response.header("server-timing") or "")
