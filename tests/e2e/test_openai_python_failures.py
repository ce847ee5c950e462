"""The OpenAI SDK for Python when something goes wrong: its exception, and how many requests that cost.

Requests are counted at the gateway and behind it: the SDK's own rules allow two retries, and nobody adds to them.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import pytest
from openai_kit import (
    BREAKS,
    CHAT,
    LONG_WAITS,
    NO_WAITS,
    REFUSALS,
    TOLD,
    WRONG_FIELDS,
    WRONG_KEYS,
    CountingGateway,
    Outcome,
    broken,
    by_model,
    chunk,
    completion,
    refused,
    requests_per_model,
    unfinished,
)
from openai_python import HELLO, client_of, in_thread, text_of

from muxx.testing import (
    GatewayProcess,
    Script,
    ScriptedUpstream,
    events,
    head,
    rst,
    sse,
    unused_port,
)


async def refusal_of(client: openai.AsyncOpenAI, *, model: str = "gpt-4o", **fields: Any) -> openai.APIStatusError:
    """The exception a plain request ends with. `fields` go into its body, past the SDK's types."""
    with pytest.raises(openai.APIStatusError) as caught:
        await client.chat.completions.create(model=model, messages=HELLO, extra_body=fields)
    return caught.value


async def refusals_of(gateway: CountingGateway, models: Iterable[str], **options: Any) -> list[openai.APIStatusError]:
    """The exceptions of one request per model, all at once."""
    async with client_of(gateway, **options) as client:
        return await asyncio.gather(*(refusal_of(client, model=model) for model in models))


# ── refusals ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_each_refusal_is_its_exception_after_the_right_attempts(gateway: CountingGateway) -> None:
    gateway.upstream.script(by_model({f"gpt-{status}": refused(status) for status in REFUSALS}))
    errors = await refusals_of(gateway, [f"gpt-{status}" for status in REFUSALS])
    attempts = requests_per_model(gateway.upstream)
    outcomes = {
        status: Outcome(error.status_code, error.code, type(error).__name__, attempts[f"gpt-{status}"])
        for status, error in zip(REFUSALS, errors, strict=True)
    }
    assert outcomes == REFUSALS
    assert gateway.received.count(CHAT) == sum(attempts.values())
    assert all(error.request_id == error.response.headers["x-muxx-request-id"] for error in errors)
    assert (errors[0].param, errors[0].type) == ("messages", "scripted_error")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_that_passes_is_retried_into_an_answer(gateway: CountingGateway, stream: bool) -> None:
    answer = sse(events(chunk({"content": "back"}), chunk({}, "stop"))) if stream else completion("back")
    gateway.upstream.script(refused(503), refused(429), answer)
    async with client_of(gateway) as client:
        got: Any = await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=stream)
        assert (text_of([item async for item in got]) if stream else got.choices[0].message.content) == "back"
    assert (len(gateway.upstream.requests), gateway.received.count(CHAT)) == (3, 3)


async def test_a_long_wait_is_left_to_the_application(default_gateway: CountingGateway) -> None:
    cases = list(itertools.product((429, 503, 529), LONG_WAITS))
    models = [f"gpt-{number}" for number in range(len(cases))]
    default_gateway.upstream.script(by_model({model: refused(*case) for model, case in zip(models, cases, strict=True)}))
    started = time.monotonic()
    errors = await refusals_of(default_gateway, models)
    assert time.monotonic() - started < 5
    assert [(error.status_code, error.code) for error in errors] == [(status, "scripted_code") for status, _ in cases]
    assert {error.response.headers["x-should-retry"] for error in errors} == {"false"}
    assert [error.response.headers.get("retry-after") for error in errors] == ["300", None, "300"] * 3  # not of the year 2999
    assert requests_per_model(default_gateway.upstream) == dict.fromkeys(models, 1)


async def test_without_a_usable_wait_the_sdk_takes_its_own(default_gateway: CountingGateway) -> None:
    """Every one of these is retried once, after half a second: all at the same time."""
    scripts: dict[str, Script] = {f"gpt-wait-{number}": refused(503, wait) for number, wait in enumerate(NO_WAITS)}
    scripts["gpt-redirect"] = [head(302, {"Location": "http://127.0.0.1:9/", "Content-Length": "0"})]
    scripts["gpt-html"] = [head(500, {"Content-Type": "text/html", "Content-Length": "6"}) + b"<html>"]
    scripts["gpt-cut"] = [head(200, {"Content-Type": "application/json", "Content-Length": "99"}) + b'{"id": ', rst()]
    default_gateway.upstream.script(by_model(scripts))
    errors = await refusals_of(default_gateway, scripts, max_retries=1)
    assert {type(error) for error in errors} == {openai.InternalServerError}
    assert [error.code for error in errors][len(NO_WAITS) :] == ["upstream_error", "upstream_error", "upstream_disconnected"]
    assert requests_per_model(default_gateway.upstream) == dict.fromkeys(scripts, 2)


async def test_a_provider_nobody_can_reach_and_one_that_is_late_are_tried_three_times() -> None:
    config = {
        "server": {"first_byte_timeout_s": 0.3},
        "providers": {"gone": {"format": "openai", "base_url": f"http://127.0.0.1:{unused_port()}/v1", "api_key": "sk-gone"}},
    }
    async with CountingGateway(config) as gateway:
        gateway.upstream.script([b""])
        unreachable, late = await refusals_of(gateway, ["gone/m", "gpt-4o"])
        assert (unreachable.status_code, unreachable.code) == (502, "upstream_unreachable")
        assert (late.status_code, late.code) == (504, "upstream_timeout")
        assert {type(unreachable), type(late)} == {openai.InternalServerError}
        assert (len(gateway.upstream.requests), gateway.received.count(CHAT)) == (3, 6)


async def test_a_missing_or_wrong_key_is_refused_once(default_gateway: CountingGateway) -> None:
    async with client_of(default_gateway) as client:
        for key, code in WRONG_KEYS.items():
            error = await refusal_of(client.with_options(api_key=key))
            assert isinstance(error, openai.AuthenticationError)
            assert (error.code, error.type, error.param) == (code, "authentication_error", None)
            assert error.response.headers["www-authenticate"] == "Bearer"
            assert key not in error.response.text
    assert (default_gateway.received.count(CHAT), default_gateway.upstream.requests) == (len(WRONG_KEYS), [])


async def test_a_key_may_use_only_its_models_and_an_admin_key_none(default_gateway: CountingGateway) -> None:
    narrow, admin = await asyncio.gather(default_gateway.make_key("--models", "gpt-4o-*"), default_gateway.make_key("--admin"))
    async with client_of(default_gateway, api_key=narrow) as client:
        assert (await client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)).choices
        assert {model.id async for model in client.models.list()} == {"gpt-4o-mini"}
        errors = [await refusal_of(client), await refusal_of(client.with_options(api_key=admin))]
    assert {type(error) for error in errors} == {openai.PermissionDeniedError}
    assert errors[0].param == "model"
    assert (default_gateway.received.count(CHAT), len(default_gateway.upstream.requests)) == (3, 1)


async def test_an_unknown_model_and_a_wrong_base_url_are_not_found(default_gateway: CountingGateway) -> None:
    async with client_of(default_gateway) as client:
        model = await refusal_of(client, model="no-such-model")
        path = await refusal_of(client.with_options(base_url=default_gateway.base_url))
    assert {type(error) for error in (model, path)} == {openai.NotFoundError}
    assert (model.code, model.param, path.code) == ("model_not_found", "model", "not_found")
    assert "/v1" in path.message
    assert default_gateway.upstream.requests == []


async def test_a_wrong_field_is_named_before_anything_is_sent(default_gateway: CountingGateway) -> None:
    async with client_of(default_gateway) as client:
        for param, fields in WRONG_FIELDS.items():
            error = await refusal_of(client, **fields)
            assert isinstance(error, openai.BadRequestError)
            assert (error.param, error.type) == (param, "invalid_request_error")
    assert (default_gateway.received.count(CHAT), default_gateway.upstream.requests) == (len(WRONG_FIELDS), [])


async def test_a_body_over_the_limit_is_refused_once_however_large() -> None:
    async with CountingGateway({"server": {"max_body_bytes": 100_000}}) as gateway, client_of(gateway) as client:
        error = await refusal_of(client, padding="x" * 5_000_000)
        assert (error.status_code, error.code) == (413, "request_too_large")
        assert (gateway.received.count(CHAT), gateway.upstream.requests) == (1, [])


# ── broken streams ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_broken_stream_raises_after_what_was_told(gateway: CountingGateway) -> None:
    gateway.upstream.script(by_model({f"gpt-{how}": broken(how) for how in BREAKS}))
    async with client_of(gateway) as client:
        await asyncio.gather(*(raises_after_the_story(gateway, client, how) for how in BREAKS))
    assert requests_per_model(gateway.upstream) == {f"gpt-{how}": 1 for how in BREAKS}
    assert gateway.received.count(CHAT) == len(BREAKS)


async def raises_after_the_story(gateway: CountingGateway, client: openai.AsyncOpenAI, how: str) -> None:
    chunks = []
    stream = await client.chat.completions.create(model=f"gpt-{how}", messages=HELLO, stream=True)
    with pytest.raises(openai.APIError) as caught:
        async for item in stream:
            chunks.append(item)
    assert text_of(chunks) == TOLD
    assert caught.value.code == BREAKS[how]
    assert caught.value.message
    row = await gateway.get_row(stream.response.headers["x-request-id"])
    assert (row["status"], row["ended_by"], row["phase"], row["error_code"]) == (200, "upstream", "stream", BREAKS[how])
    assert row["usage_source"] in ("estimated", "partial")
    assert row["output_tokens"] > 0


async def test_the_helper_and_the_synchronous_client_raise_too(gateway: CountingGateway) -> None:
    gateway.upstream.script(broken("truncated"))
    async with client_of(gateway) as client:
        with pytest.raises(openai.APIError, match="provider"):
            async with client.chat.completions.stream(model="gpt-4o", messages=HELLO) as stream:
                await stream.get_final_completion()

    def work(client: openai.OpenAI) -> tuple[str, str | None]:
        chunks = []
        try:
            for item in client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True):
                chunks.append(item)
        except openai.APIError as error:
            return text_of(chunks), error.code
        return "no error", None

    assert await in_thread(gateway, work) == (TOLD, "upstream_truncated")
    assert len(gateway.upstream.requests) == 2


async def test_a_stream_reset_before_its_first_byte_is_retried(gateway: CountingGateway) -> None:
    gateway.upstream.script([rst()], sse(events(chunk({"content": "back"}), chunk({}, "stop"))))
    async with client_of(gateway) as client:
        stream = await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
        assert text_of([item async for item in stream]) == "back"
    assert (len(gateway.upstream.requests), gateway.received.count(CHAT)) == (2, 2)


async def test_a_pooled_connection_that_the_provider_drops_costs_the_client_nothing(gateway: CountingGateway) -> None:
    gateway.upstream.script(completion("one"), [rst()], completion("two"))
    async with client_of(gateway, max_retries=0) as client:
        answers = [await client.chat.completions.create(model="gpt-4o", messages=HELLO) for _ in range(2)]
    assert [answer.choices[0].message.content for answer in answers] == ["one", "two"]
    assert (len(gateway.upstream.requests), gateway.received.count(CHAT)) == (3, 2)


# ── clients that leave, gateways that go ────────────────────────────────────────────────────────────────────────────────────


async def left_in_time(gateway: CountingGateway, since: float, count: int = 1) -> None:
    """The upstream connections of the last `count` requests were closed within a second of `since`, and their rows say 499."""
    for request in gateway.upstream.requests[-count:]:
        assert await request.peer_left() - since < 1.0
    rows: list[Any] = []

    async def enough() -> bool:
        rows[:] = (await gateway.get("/v1/logs?status=499")).json()["data"]
        return len(rows) >= count

    async with asyncio.timeout(5):
        while not await enough():
            await asyncio.sleep(0.02)
    assert {row["ended_by"] for row in rows} == {"client"}


@pytest.mark.parametrize("synchronous", [False, True])
async def test_leaving_a_stream_closes_the_upstream(gateway: CountingGateway, synchronous: bool) -> None:
    gateway.upstream.script(unfinished())

    def work(client: openai.OpenAI) -> str:
        with client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True) as stream:
            next(stream)
        return stream.response.headers["x-request-id"]

    if synchronous:
        request_id = await in_thread(gateway, work)
    else:
        async with (
            client_of(gateway) as client,
            await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True) as stream,
        ):
            await anext(stream)
        request_id = stream.response.headers["x-request-id"]
    await left_in_time(gateway, time.monotonic())
    row = await gateway.get_row(request_id)
    assert (row["status"], row["phase"], row["usage_source"]) == (499, "stream", "estimated")
    assert row["input_tokens"] > 0
    assert Decimal(row["cost_usd"]) > 0


async def test_a_client_that_times_out_or_is_cancelled_closes_the_upstream(gateway: CountingGateway) -> None:
    gateway.upstream.script([b""])
    async with client_of(gateway) as client:
        with pytest.raises(openai.APITimeoutError):
            await client.with_options(timeout=0.4, max_retries=1).chat.completions.create(model="gpt-4o", messages=HELLO)
        await left_in_time(gateway, time.monotonic(), 2)
        call = asyncio.create_task(client.chat.completions.create(model="gpt-4o", messages=HELLO))
        await gateway.upstream.request(3)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await left_in_time(gateway, time.monotonic())
    assert gateway.received.count(CHAT) == 3


async def test_one_client_outlives_a_restart_of_the_gateway(tmp_path: Path, scripted_upstream: ScriptedUpstream) -> None:
    async with (
        GatewayProcess(tmp_path, scripted_upstream.base_url) as gateway,
        openai.AsyncOpenAI(base_url=f"{gateway.base_url}/v1", api_key=gateway.key) as client,
    ):
        first = await client.chat.completions.create(model="gpt-4o", messages=HELLO)
        scripted_upstream.script(unfinished())
        stream = await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
        await anext(stream)
        await gateway.kill()
        with pytest.raises(openai.APIConnectionError):
            [item async for item in stream]
        await gateway.start()
        scripted_upstream.script(completion("second"))
        second = await client.chat.completions.create(model="gpt-4o", messages=HELLO)
        assert len(scripted_upstream.requests) == 3
        assert [(await gateway.get_row(answer._request_id))["status"] for answer in (first, second)] == [200, 200]
        lost = await gateway.get_row(stream.response.headers["x-request-id"])
        assert (lost["ended_by"], lost["error_code"]) == ("muxx", "process_died")
