"""All targets down, a target that flaps, and how often anybody is asked: never again after a byte of a 2xx body has come."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from carrying_kit import both_transports, serving
from provider_faults_kit import (
    CALL,
    MODELS,
    OTHER,
    SECOND,
    STORY,
    Ending,
    Fault,
    ask_all,
    breaks,
    config_for,
    garbled,
    native,
    tells_failure,
    within,
)
from sdks_kit import exception_of, sdks_of, word_of

from muxx.testing import (
    Chooser,
    RawResponse,
    RecordedRequest,
    RunningGateway,
    Script,
    ScriptedUpstream,
    answer,
    error,
    eventually,
    fin,
    head,
    is_whole,
    json,
    pause,
    refuses,
    rst,
    wait,
)
from muxx.testing.settings import merged

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")  # Google's client

DOWN = Fault("down", refuses(500, "Down.", "server_error"), Ending(500), Ending(500))


def breaking(seconds: float) -> dict[str, Any]:
    return {"server": {"breaker_failures": 5, "breaker_open_s": seconds}}


# ── all targets down ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_when_all_targets_are_down_the_last_failure_is_told_in_the_clients_own_words() -> None:
    async with ScriptedUpstream() as second:
        second.refuses(503, "Full.", "overloaded")
        async with serving(config=config_for(DOWN, second)) as gateway, sdks_of(gateway) as sdks:
            gateway.upstream.script(DOWN.script)
            for told in await ask_all(gateway, sdks, native("both")):
                client, seen, row = told.case.client, told.seen, told.row
                assert (seen.status, seen.raised) == (503, exception_of(client, 503, in_stream=False))
                assert seen.word == word_of(client, 503, "overloaded_error")
                assert seen.finish is None
                assert seen.headers["x-should-retry"] == "true"
                assert (row["status"], row["ended_by"], row["attempts"], row["cost_usd"]) == (503, "upstream", 2, "0")
                spare = OTHER[told.case.provider]
                targets = [f"{told.case.provider}/{MODELS[told.case.provider]}", f"spare-{spare}/{MODELS[spare]}"]
                assert [line[:2] for line in told.attempts] == list(zip(targets, (500, 503), strict=True))
                assert len(told.requests) == 1
            assert len(second.requests) == len(native("both"))


async def test_when_all_breakers_are_open_the_client_is_told_to_wait_and_nobody_is_asked() -> None:
    async with ScriptedUpstream() as second:
        second.refuses(503, "Full.", "overloaded")
        async with serving(config=merged(config_for(DOWN, second), breaking(60))) as gateway, sdks_of(gateway) as sdks:
            gateway.upstream.script(DOWN.script)
            for _ in range(3):
                await ask_all(gateway, sdks, native("both"))
            asked = len(gateway.upstream.requests), len(second.requests)
            for told in await ask_all(gateway, sdks, native("both")):
                client, seen, row = told.case.client, told.seen, told.row
                assert (seen.status, seen.raised) == (503, exception_of(client, 503, in_stream=False))
                assert seen.word == word_of(client, 503, "upstream_unavailable")
                assert 1 <= int(seen.headers["retry-after"]) <= 60
                assert (row["status"], row["ended_by"], row["attempts"], row["cost_usd"]) == (503, "muxx", 0, "0")
                assert [line["skipped"] for line in row["attributes"]["attempts"]] == ["breaker_open"] * 2
            assert (len(gateway.upstream.requests), len(second.requests)) == asked


OUTAGES: dict[str, Chooser] = {
    "500": lambda request: error(500, retry_after="0"),
    "429 with Retry-After": lambda request: error(429, retry_after="0"),
    "503 overload": lambda request: error(503, retry_after="0"),
    "closed without an answer": lambda request: [fin()],
}


@both_transports
@pytest.mark.parametrize("name", OUTAGES)
async def test_under_a_full_outage_each_target_gets_at_most_a_fifth_more_than_the_clients_ask(transport: str, name: str) -> None:
    async with ScriptedUpstream() as second:
        second.script(OUTAGES[name])
        async with serving(transport, config_for(DOWN, second, retries=1)) as gateway:
            gateway.upstream.script(OUTAGES[name])
            statuses = await ask_many(gateway, 200, "both-openai")
            assert min(statuses) >= 429
            for upstream in (gateway.upstream, second):
                assert 200 < len(upstream.requests) <= 240


async def ask_many(gateway: RunningGateway, count: int, model: str) -> list[int]:
    """So many requests, twenty at a time; their statuses."""
    places = asyncio.Semaphore(20)

    async def one(number: int) -> int:
        async with places:
            return (await gateway.chat(f"number {number}", model=model)).status

    return await asyncio.gather(*map(one, range(count)))


async def test_under_a_full_outage_an_open_breaker_lets_exactly_one_probe_through() -> None:
    release = asyncio.Event()
    async with ScriptedUpstream() as second:
        second.says(SECOND)
        async with serving(config=merged(config_for(DOWN, second), breaking(0.2))) as gateway:
            gateway.upstream.script(DOWN.script)
            for _ in range(5):
                assert (await gateway.chat(model="both-openai")).status == 200
            gateway.upstream.script(gated(release))
            await asyncio.sleep(0.25)
            asking = [asyncio.ensure_future(gateway.chat(f"number {number}", model="both-openai")) for number in range(20)]
            await eventually(lambda: len(second.requests) == 5 + 19)
            assert len(gateway.upstream.requests) == 5 + 1
            release.set()
            for response in await asyncio.gather(*asking):
                assert response.status == 200
            assert (len(gateway.upstream.requests), len(second.requests)) == (6, 24)
            assert (await gateway.chat(model="both-openai")).status == 200
            assert len(gateway.upstream.requests) == 7, "the probe has closed the breaker"


@both_transports
async def test_a_probe_whose_stream_has_begun_to_speak_keeps_nobody_out(transport: str) -> None:
    release = asyncio.Event()
    async with ScriptedUpstream() as second:
        second.says(SECOND)
        async with serving(transport, merged(config_for(DOWN, second), breaking(0.2))) as gateway:
            gateway.upstream.script(DOWN.script)
            for _ in range(5):
                assert (await gateway.chat(model="both-openai")).status == 200
            gateway.upstream.script(lambda request: [*breaks(STORY, b"time", wait(release))(request), rst()])
            await asyncio.sleep(0.25)
            async with await gateway.connect() as client:
                await client.post_chat(gateway.key, {"model": "both-openai", "messages": HELLO, "stream": True})
                await client.readuntil(b"Once")
                gateway.upstream.says(STORY)
                for _ in range(3):
                    assert STORY.text in (await gateway.chat(model="both-openai")).text
                release.set()
                await client.readuntil(b"upstream_disconnected")
            assert STORY.text in (await gateway.chat(model="both-openai")).text, "one broken stream opens nothing"
            assert len(second.requests) == 5


HELLO = [{"role": "user", "content": "Hello"}]


def gated(release: asyncio.Event) -> Chooser:
    def choose(request: RecordedRequest) -> Script:
        yield wait(release)
        yield from answer(STORY)(request)

    return choose


# ── a flapping target ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_flapping_target_is_back_within_two_spans_of_its_breaker_and_no_client_notices() -> None:
    span = 0.2
    async with ScriptedUpstream() as second:
        second.says(SECOND)
        async with serving(config=merged(config_for(DOWN, second), breaking(span))) as gateway:
            for _ in range(3):
                gateway.upstream.script(DOWN.script)
                await until_answered_by(gateway, second, within=10 * span)
                asked = len(gateway.upstream.requests)
                gateway.upstream.says(STORY)
                recovered = time.monotonic()
                await until_answered_by(gateway, gateway.upstream, within=10 * 2 * span)
                assert time.monotonic() - recovered < 10 * 2 * span
                assert len(gateway.upstream.requests) == asked + 1, "one probe finds out"
                for _ in range(5):
                    assert STORY.text in (await gateway.chat(model="both-openai")).text


async def until_answered_by(gateway: RunningGateway, upstream: ScriptedUpstream, within: float) -> None:
    """Ask until this one answers without the other's being asked."""
    async with asyncio.timeout(within):
        while True:
            before = len(gateway.upstream.requests)
            response = await gateway.chat(model="both-openai")
            assert response.status == 200
            by_first = STORY.text in response.text
            if by_first is (upstream is gateway.upstream) and (by_first or len(gateway.upstream.requests) == before):
                return
            await asyncio.sleep(0.01)


# ── never again after a byte ────────────────────────────────────────────────────────────────────────────────────────────────

STREAM_HEAD = head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})


def _always(*script: Any) -> Chooser:
    return lambda request: script


PHASES: dict[str, tuple[Chooser, bool]] = {
    "after the first byte of a stream": (_always(STREAM_HEAD + b"8\r\nd", pause(0.02), rst()), True),
    "after a comment": (_always(STREAM_HEAD + b"4\r\n: \n\n\r\n", pause(0.02), fin()), True),
    "before the first token": (breaks(STORY, b"Once", fin()), True),
    "after some text, by FIN": (breaks(STORY, b"time", fin()), True),
    "after some text, by RST": (breaks(STORY, b"time", pause(0.02), rst()), True),
    "inside a tool call": (within(CALL, b"Berlin", fin()), True),
    "before the last event": (breaks(STORY, b"stop", fin()), True),
    "by garbage": (garbled(b"data: {oops\n\n"), True),
    "by an error event": (tells_failure(500, "server_error", b"time"), True),
    "by an error event at once": (tells_failure(503, "overloaded"), True),
    "inside a plain answer, by FIN": (breaks(STORY, b"", fin()), False),
    "inside a plain answer, by RST": (breaks(STORY, b"", pause(0.02), rst()), False),
    "by a plain answer that is no JSON": (garbled(b""), False),
    "by a plain answer with an error inside": (tells_failure(503, "overloaded"), False),
    "by a web page": (_always(*json(b"<html>", 200, {"Content-Type": "text/html"})), False),
}
AFTER_A_TOKEN = frozenset(
    {"after some text, by FIN", "after some text, by RST", "inside a tool call", "before the last event", "by garbage"}
    | {"by an error event"}
)
POLICIES: dict[str, dict[str, Any]] = {
    "no retries": {},
    "three retries": {"retries": 3},
    "three retries, and every status falls back": {"retries": 3, "fall_back_on": [429, 500, 502, 503, 504]},
}


@both_transports
@pytest.mark.parametrize("policy", POLICIES)
async def test_a_request_is_never_sent_again_after_a_byte_of_a_2xx_body(transport: str, policy: str) -> None:
    async with ScriptedUpstream() as second, serving(transport, config_for(DOWN, second, **POLICIES[policy])) as gateway:
        for phase, (script, stream) in PHASES.items():
            for endpoint in ("chat", "messages"):
                response, row = await broken_answer(gateway, endpoint, "both-openai", script, stream)
                assert (len(gateway.upstream.requests), row["attempts"]) == (1, 1), phase
                assert second.requests == [], phase
                assert row["ended_by"] == "upstream", phase
                assert response.status != 200 or (stream and not is_whole(endpoint, response.body)), phase


async def broken_answer(
    gateway: RunningGateway, endpoint: str, model: str, script: Chooser, stream: bool
) -> tuple[RawResponse, dict[str, Any]]:
    """An answer over a connection that has served another one before: the likeliest to be taken for one that may be repeated."""
    gateway.upstream.says(STORY)
    assert (await gateway.ask(endpoint, model=model)).status == 200
    gateway.upstream.script(script)
    gateway.upstream.requests.clear()
    response = await gateway.ask(endpoint, model=model, stream=stream)
    return response, await gateway.get_row(response.request_id)


@both_transports
async def test_what_is_held_back_is_never_sent_again_after_its_first_token(transport: str) -> None:
    async with ScriptedUpstream() as second, serving(transport, config_for(DOWN, second, retries=1)) as gateway:
        for phase, (script, stream) in PHASES.items():
            second.requests.clear()
            _, row = await broken_answer(gateway, "chat", "held-openai", script, stream)
            asked = len(gateway.upstream.requests) + len(second.requests)
            assert asked == row["attempts"], phase
            if phase in AFTER_A_TOKEN or not stream:
                assert asked == 1, phase
            else:
                assert row["status"] == 200, phase
                assert len(second.requests) == 1, phase


@both_transports
async def test_where_every_idle_connection_has_been_closed_one_replay_is_enough(transport: str) -> None:
    async with serving(transport, config_for(DOWN)) as gateway:
        together = asyncio.Event()
        gateway.upstream.script(gated(together))
        asking = [asyncio.ensure_future(gateway.chat(f"number {number}", model="alone-openai")) for number in range(5)]
        await gateway.upstream.request(5)
        together.set()
        await asyncio.gather(*asking)
        gateway.upstream.script(lambda request: [fin()] if len(request.connection.requests) > 1 else answer(STORY)(request))
        response = await gateway.chat(model="alone-openai")
        assert response.status == 200
        assert (await gateway.get_row(response.request_id))["attempts"] == 2
        assert len(gateway.upstream.requests) == 5 + 2


# ── the SDKs' own retries ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_an_sdks_own_retry_gets_the_answer_after_a_refusal_that_passes(status: int) -> None:
    async with serving(config=config_for(DOWN)) as gateway, sdks_of(gateway, retries=1) as sdks:
        gateway.upstream.script(once_for_each(refuses(status, "Wait.", "busy", retry_after_ms="1", retry_after="0")))
        asked = {f"w{number}w": case for number, case in enumerate(native())}
        answers = [sdks.ask(case.client, case.model, words, stream=case.stream) for words, case in asked.items()]
        for seen in await asyncio.gather(*answers):
            assert (seen.raised, seen.text) == (None, STORY.text)
        for words in asked:
            assert sum(words.encode() in request.body for request in gateway.upstream.requests) == 2


async def test_no_sdk_retries_a_stream_that_broke_after_its_first_byte() -> None:
    async with serving(config=config_for(DOWN)) as gateway, sdks_of(gateway, retries=1) as sdks:
        gateway.upstream.script(breaks(STORY, b"time", fin()))
        for told in await ask_all(gateway, sdks, [case for case in native() if case.stream]):
            assert (told.seen.raised is None, told.seen.text, len(told.requests)) == (False, "Once upon a ", 1)


def once_for_each(refusal: Chooser) -> Chooser:
    """Refuse each prompt once, then answer it."""
    seen: set[bytes] = set()

    def choose(request: RecordedRequest) -> Script:
        new = request.body not in seen
        seen.add(request.body)
        return (refusal if new else answer(STORY))(request)

    return choose
