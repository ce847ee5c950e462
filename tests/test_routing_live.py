"""Failures of providers, survived by a running gateway: breaker, keys, retries and their budget, limits, and the row of it all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from carrying_kit import ANSWER, ASKED, delta, error_code, hang, serving

from muxx.testing import RecordedRequest, RunningGateway, Script, ScriptedUpstream, error, eventually, fin, json, pause, rst, sse
from muxx.testing.settings import merged

Config = dict[str, Any]


def breaking(failures: int = 5, seconds: float = 60.0) -> Config:
    return {"server": {"breaker_failures": failures, "breaker_open_s": seconds}}


def second(upstream: ScriptedUpstream, **model: Any) -> Config:
    """`gpt-4o` at its own provider, then at another."""
    return {
        "providers": {"second": {"base_url": upstream.base_url, "api_key": "sk-second", "prices": "openai"}},
        "models": [{"name": "gpt-4o", "targets": ["openai/gpt-4o", "second/gpt-4o"]} | model],
    }


async def tried(gateway: RunningGateway, request_id: str | None) -> list[dict[str, Any]]:
    row = await gateway.get_row(request_id)
    found: list[dict[str, Any]] = row["attributes"].get("attempts", [])
    return [{name: value for name, value in line.items() if name != "ms"} for line in found]


# ── the breaker ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

OUTAGES: dict[str, Script] = {
    "500": error(500),
    "529": error(529),
    "no answer": [fin()],
    "garbage": [b"oops\r\n\r\n", fin()],
    "cut": [*sse(delta("a"))[:2], pause(0.01), rst()],
}


@pytest.mark.parametrize("name", OUTAGES)
async def test_U05_a_target_that_keeps_failing_is_left_alone(name: str) -> None:
    async with serving(config=breaking()) as gateway:
        gateway.upstream.script(OUTAGES[name])
        for _ in range(5):
            await gateway.chat(stream=name == "cut")
        asked = len(gateway.upstream.requests)
        response = await gateway.chat()
        assert (response.status, error_code(response)) == (503, "upstream_unavailable")
        assert 1 <= int(response.header("retry-after") or 0) <= 60
        assert response.header("x-should-retry") == "true"
        assert len(gateway.upstream.requests) == asked
        row = await gateway.get_row(response.request_id)
        assert (row["attempts"], row["ended_by"], row["cost_usd"]) == (0, "muxx", "0")
        assert await tried(gateway, response.request_id) == [{"target": "openai/gpt-4o", "skipped": "breaker_open"}]
        assert (await gateway.chat(model="gpt-4o-mini")).status != 503, "another model there is another target"


NO_OUTAGES: dict[str, Script] = {
    "400": error(400),
    "401": error(401),
    "404": error(404),
    "429": error(429),
    "an HTML 404": json(b"<html>", 404),
    "content filter": error(400, code="content_filter"),
}


@pytest.mark.parametrize("name", NO_OUTAGES)
async def test_U06_refusals_never_open_the_breaker(name: str) -> None:
    async with serving(config=breaking(2)) as gateway:
        gateway.upstream.script(NO_OUTAGES[name])
        for _ in range(6):
            await gateway.chat()
        assert len(gateway.upstream.requests) == 6


async def test_U06_clients_that_leave_never_open_the_breaker() -> None:
    async with serving(config=breaking(2)) as gateway:
        gateway.upstream.script([hang()])
        for number in range(1, 5):
            asking = asyncio.create_task(gateway.chat())
            request = await gateway.upstream.request(number)
            asking.cancel()
            await request.peer_left()
        gateway.upstream.script(json(ANSWER))
        assert (await gateway.chat()).status == 200


async def test_U05_one_probe_finds_out_whether_the_target_is_back() -> None:
    async with serving(config=breaking(1, 0.05)) as gateway:
        gateway.upstream.script(error(500))
        assert (await gateway.chat()).status == 500
        await asyncio.sleep(0.06)
        assert (await gateway.chat()).status == 500, "the probe"
        release = asyncio.Event()
        gateway.upstream.script([Until(release), *json(ANSWER)])
        await asyncio.sleep(0.06)
        probe = asyncio.create_task(gateway.chat("the probe"))
        await gateway.upstream.request(3)
        assert {(await gateway.chat(f"not the probe: {number}")).status for number in range(5)} == {503}
        release.set()
        assert (await probe).status == 200
        assert {(await gateway.chat()).status for _ in range(5)} == {200}


async def test_U05_a_probe_whose_client_leaves_makes_room_for_the_next() -> None:
    async with serving(config=breaking(1, 0.05)) as gateway:
        gateway.upstream.script(error(500), [hang()])
        await gateway.chat()
        await asyncio.sleep(0.06)
        probe = asyncio.create_task(gateway.chat())
        request = await gateway.upstream.request(2)
        probe.cancel()
        await request.peer_left()
        gateway.upstream.script(json(ANSWER))
        await eventually(lambda: not len(gateway.gateway.calls))
        assert (await gateway.chat()).status == 200


class Until:
    """A step that waits for an event."""

    def __init__(self, event: asyncio.Event) -> None:
        self.event = event

    async def play(self, connection: Any) -> None:
        await self.event.wait()


async def test_an_open_target_is_passed_over_for_the_next() -> None:
    async with ScriptedUpstream() as other, serving(config=merged(breaking(1), second(other))) as gateway:
        gateway.upstream.script(error(500))
        other.script(json(ANSWER))
        first = await gateway.chat()
        assert await tried(gateway, first.request_id) == [
            {"target": "openai/gpt-4o", "status": 500, "error": "server_error"},
            {"target": "second/gpt-4o", "status": 200, "error": None},
        ]
        again = await gateway.chat()
        assert (again.status, len(gateway.upstream.requests)) == (200, 1)
        assert await tried(gateway, again.request_id) == [
            {"target": "openai/gpt-4o", "skipped": "breaker_open"},
            {"target": "second/gpt-4o", "status": 200, "error": None},
        ]


async def test_one_attempt_at_the_first_target_leaves_no_list_in_the_row() -> None:
    async with serving() as gateway:
        gateway.upstream.script(json(ANSWER))
        assert "attempts" not in (await gateway.get_row((await gateway.chat()).request_id))["attributes"]


# ── retries and their budget ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_U05_under_a_full_outage_attempts_stay_within_a_fifth_more_than_requests() -> None:
    config = {"models": [{"name": "gpt-4o", "targets": ["openai/gpt-4o"], "retries": 3}]}
    async with serving(config=config) as gateway:
        gateway.upstream.script(error(503, retry_after="0"))
        for _ in range(100):
            assert (await gateway.chat()).status == 503
        assert 100 < len(gateway.upstream.requests) <= 120


async def test_a_backoff_never_outlasts_the_whole_request() -> None:
    model = {"name": "gpt-4o", "targets": [{"target": "openai/gpt-4o", "request_timeout_s": 5}], "retries": 3}
    async with serving(config={"models": [model]}) as gateway:
        gateway.upstream.script(error(429, retry_after="30"))
        started = time.monotonic()
        assert (await gateway.chat()).status == 429
        assert time.monotonic() - started < 4
        assert len(gateway.upstream.requests) == 1


async def test_a_client_that_leaves_ends_the_backoff() -> None:
    config = {"models": [{"name": "gpt-4o", "targets": ["openai/gpt-4o"], "retries": 3}]}
    async with serving(config=config) as gateway:
        gateway.upstream.script(error(429, retry_after="30"))
        asking = asyncio.create_task(gateway.chat())
        await gateway.upstream.request(1)
        await eventually(lambda: gateway.upstream.last.finished)
        asking.cancel()
        await eventually(lambda: not len(gateway.gateway.calls))
        assert len(gateway.upstream.requests) == 1


# ── keys ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def by_key(**answers: Script) -> Callable[[RecordedRequest], Script]:
    return lambda request: answers[(request.header("authorization") or "").removeprefix("Bearer ")]


KEYS: Config = {"providers": {"openai": {"api_key": "one", "api_keys": ["two", "three"]}}}


def keys_of(upstream: ScriptedUpstream) -> list[str]:
    return [(request.header("authorization") or "").removeprefix("Bearer ") for request in upstream.requests]


async def test_requests_are_spread_over_the_keys() -> None:
    async with serving(config=KEYS) as gateway:
        gateway.upstream.script(json(ANSWER))
        for _ in range(6):
            await gateway.chat()
        assert keys_of(gateway.upstream) == ["one", "two", "three"] * 2


@pytest.mark.parametrize("status", [401, 403, 429])
async def test_a_refused_key_makes_way_for_the_next_at_once_and_rests(status: int) -> None:
    async with serving(config=KEYS) as gateway:
        gateway.upstream.script(by_key(one=error(status), two=json(ANSWER), three=json(ANSWER)))
        response = await gateway.chat()
        assert response.status == 200
        assert [line["status"] for line in await tried(gateway, response.request_id)] == [status, 200]
        for _ in range(4):
            assert (await gateway.chat()).status == 200
        assert keys_of(gateway.upstream).count("one") == 1


@pytest.mark.parametrize(
    ("statuses", "told"),
    [((401, 403, 401), (502, "upstream_auth")), ((429, 429, 429), (429, "x")), ((401, 429, 401), (429, "x"))],
)
async def test_when_every_key_is_refused_each_was_asked_once(statuses: tuple[int, ...], told: tuple[int, str]) -> None:
    async with serving(config=KEYS) as gateway:
        answers = dict(zip(("one", "two", "three"), (error(status, code="x") for status in statuses), strict=True))
        gateway.upstream.script(by_key(**answers))
        response = await gateway.chat()
        assert (response.status, error_code(response)) == told
        assert sorted(keys_of(gateway.upstream)) == ["one", "three", "two"]


async def test_no_key_of_a_pool_is_shown_to_a_client() -> None:
    async with serving(config=KEYS) as gateway:
        gateway.upstream.script(error(400, "the keys one, two, three are fine"))
        assert (await gateway.chat()).error["message"] == "the keys ***, ***, *** are fine"


# ── most in flight ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_is_beyond_the_most_in_flight_goes_to_the_next_target_and_a_place_is_free_when_its_client_leaves() -> None:
    limit = {"providers": {"openai": {"max_in_flight": 1}}}
    async with ScriptedUpstream() as other, serving(config=merged(limit, second(other))) as gateway:
        gateway.upstream.script([hang()])
        other.script(json(ANSWER))
        waiting = asyncio.create_task(gateway.chat("the one in flight"))
        request = await gateway.upstream.request(1)
        response = await gateway.chat()
        assert response.status == 200
        assert (await tried(gateway, response.request_id))[0] == {"target": "openai/gpt-4o", "skipped": "at_limit"}
        alone = await gateway.chat(model="openai/gpt-4o")
        assert (alone.status, error_code(alone)) == (503, "overloaded")
        waiting.cancel()
        await request.peer_left()
        await eventually(lambda: not len(gateway.gateway.calls))
        gateway.upstream.script(json(ANSWER))
        for _ in range(3):
            assert (await gateway.chat(model="openai/gpt-4o")).status == 200


# ── what lets the next target be tried ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["content_filter", "context_length"])
@pytest.mark.parametrize("configured", [False, True])
async def test_a_refusal_of_what_was_said_is_an_answer_unless_configured(kind: str, configured: bool) -> None:
    code = {"content_filter": "content_filter", "context_length": "context_length_exceeded"}[kind]
    options = {"fall_back_on": [kind]} if configured else {}
    async with ScriptedUpstream() as other, serving(config=second(other, **options)) as gateway:
        gateway.upstream.script(error(400, code=code))
        other.script(json(ANSWER))
        response = await gateway.chat()
        assert (response.status, len(other.requests)) == ((200, 1) if configured else (400, 0))


async def test_a_target_without_a_key_is_passed_over() -> None:
    config: Config = {"models": [{"name": "m", "targets": ["groq/x", "openai/gpt-4o"]}, {"name": "n", "targets": ["groq/x"]}]}
    async with serving(config=config) as gateway:
        gateway.upstream.script(json(ANSWER))
        response = await gateway.chat(model="m")
        assert response.status == 200
        assert (await tried(gateway, response.request_id))[0] == {"target": "groq/x", "skipped": "no_key"}
        alone = await gateway.chat(model="n")
        assert (alone.status, error_code(alone)) == (502, "upstream_auth")
        assert "GROQ_API_KEY" in alone.error["message"]


async def test_least_latency_sends_most_to_the_faster_target() -> None:
    async with ScriptedUpstream() as other, serving(config=second(other, strategy="least_latency")) as gateway:
        gateway.upstream.script([pause(0.05), *json(ANSWER)])
        other.script(json(ANSWER))
        for _ in range(30):
            assert (await gateway.chat()).status == 200
        assert len(other.requests) > 20
        assert gateway.upstream.requests, "who is not known is measured"


async def test_a_stream_falls_back_before_its_first_byte_only() -> None:
    async with ScriptedUpstream() as other, serving(config=second(other)) as gateway:
        gateway.upstream.script(OUTAGES["cut"])
        response = await gateway.chat(**ASKED)
        assert (response.status, other.requests) == (200, [])
        assert not response.done


async def test_a_target_that_has_no_word_for_the_request_is_passed_over_and_its_refusal_is_told_where_there_is_no_other() -> None:
    config: Config = {
        "providers": {"talker": {"base_url": "http://127.0.0.1:9/v1", "endpoints": ["chat"]}},
        "models": [{"name": "m", "targets": ["talker/x", "openai/e"]}],
    }
    async with serving(config=config) as gateway, await gateway.connect() as client:
        headers = [("Authorization", f"Bearer {gateway.key}"), ("Content-Type", "application/json")]
        answers = []
        for model in ("m", "talker/x"):
            body = b'{"model": "%b", "input": "Hi"}' % model.encode()
            await client.request("POST", "/v1/embeddings", headers, body)
            answers.append(await client.read_response())
        assert [response.status for response in answers] == [200, 400]
        assert (await tried(gateway, answers[0].request_id))[0] == {"target": "talker/x", "skipped": "unsupported"}
        assert error_code(answers[1]) == "unsupported_parameter"
