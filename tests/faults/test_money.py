"""FAULTS M02 to M04, M06, M07: what is booked is what the provider reported, or an honest estimate that says so."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from json import dumps
from pathlib import Path
from typing import Any

import pytest
from carrying_kit import (
    ANSWER,
    ASKED,
    INPUT,
    OUTPUT,
    STREAM,
    WORDS,
    broken_with,
    chunks_of,
    delta,
    finish,
    hang,
    part_of,
    prefixes,
    row_of_user,
    sample,
    serving,
    tokens,
    usage,
    usage_event,
    usd,
    written,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from thoroughness import examples

from muxx.accounting import usage_of
from muxx.errors import UpstreamDisconnected
from muxx.exchange import Exchange
from muxx.request import HttpRequest, Request
from muxx.targets import Attempt, Provider, Target
from muxx.testing import (
    DONE,
    RawResponse,
    RunningGateway,
    Script,
    chat,
    chat_body,
    error,
    event,
    fin,
    head,
    json,
    pause,
    rst,
    sse,
)
from muxx.testing.settings import merged
from muxx.unpriced import MOST_TOLD
from muxx.wire.openai import ChatStream
from muxx.wire.sse import EventSplitter
from muxx.wire.wires import CHAT
from muxx_std.pricing.source import VENDORS
from muxx_std.pricing.table import FORMAT

NO_CACHE = {"project": {"cache": {"enabled": False}}}
PROMPT = "Hello"
users = (f"payer-{number}" for number in count())


async def booked(gateway: RunningGateway, response: RawResponse, **expected: Any) -> dict[str, Any]:
    row = await gateway.get_row(response.request_id)
    assert part_of(row, expected) == expected
    return row


def at_gpt4o(given: int, made: int, source: str) -> dict[str, Any]:
    cost = usd(given * INPUT + made * OUTPUT)
    return {"input_tokens": given, "output_tokens": made, "usage_source": source, "cost_usd": cost}


MESSAGE = {
    "id": "m", "type": "message", "role": "assistant", "model": "claude-3-5-haiku-latest", "stop_reason": "end_turn",
    "stop_sequence": None, "content": [{"type": "text", "text": "".join(WORDS)}],
}  # fmt: skip


def message_events(begun: dict[str, Any], ended: dict[str, Any]) -> bytes:
    """A Messages stream: the usage it begins with, and the members of its `message_delta`."""
    events = [
        {"type": "message_start", "message": MESSAGE | {"content": [], "stop_reason": None, "usage": begun}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}} for word in WORDS),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, **ended},
        {"type": "message_stop"},
    ]
    return b"".join(b"event: %b\n" % str(each["type"]).encode() + event(each) for each in events)


ESTIMATE = at_gpt4o(tokens(PROMPT), tokens("".join(WORDS)), "estimated")


# ── M02: the dialects of usage ──────────────────────────────────────────────────────────────────────────────────────────────

TALK = b"".join(map(delta, WORDS))
STREAMED = {
    "at the end": (TALK + finish() + usage_event(), at_gpt4o(10, 5, "provider")),
    "with the finish reason": (TALK + finish(usage=usage()), at_gpt4o(10, 5, "provider")),
    "with a text": (TALK + delta("", usage=usage()) + finish(), at_gpt4o(10, 5, "provider")),
    "twice the same": (TALK + finish(usage=usage()) + usage_event(), at_gpt4o(10, 5, "provider")),
    "cumulative, on every chunk": (
        b"".join(delta(word, usage=usage(10, number)) for number, word in enumerate(WORDS, 1)) + finish(usage=usage(10, 7)),
        at_gpt4o(10, 7, "provider"),
    ),
    "first": (usage_event() + TALK + finish(), at_gpt4o(10, 5, "provider")),
    "in the middle": (delta("a") + usage_event(10, 1) + TALK + usage_event(10, 9) + finish(), at_gpt4o(10, 9, "provider")),
    "null on every other chunk": (TALK + delta("", usage=None) + finish(usage=None) + usage_event(), at_gpt4o(10, 5, "provider")),
    "never": (TALK + finish(), ESTIMATE),
    "an empty one": (TALK + finish() + event({"choices": [], "usage": {}}), ESTIMATE),
    "of nothing": (TALK + finish() + usage_event(0, 0), ESTIMATE),
    "of no output": (TALK + finish() + usage_event(10, 0), at_gpt4o(10, tokens("".join(WORDS)), "partial")),
    "of no output, and there is none": (finish() + usage_event(10, 0), at_gpt4o(10, 0, "provider")),
}


@pytest.mark.parametrize("done", [DONE, b""])
@pytest.mark.parametrize("name", STREAMED)
async def test_M02_streamed_usage_is_booked_once_wherever_it_stands(name: str, done: bytes) -> None:
    stream, expected = STREAMED[name]
    async with serving() as gateway:
        for options in (ASKED, {"stream": True}):
            gateway.upstream.script(sse(stream + done))
            await booked(gateway, await gateway.chat(PROMPT, **options), status=200, **expected)


DETAILS = {
    "cached": (usage(1000, 10, prompt_tokens_details={"cached_tokens": 800}), (200 * 2_500_000 + 800 * 1_250_000, 10, 800, 0)),
    "DeepSeek's cache": (usage(1000, 10, prompt_cache_hit_tokens=800), (200 * 2_500_000 + 800 * 1_250_000, 10, 800, 0)),
    "reasoning inside": (usage(100, 50, completion_tokens_details={"reasoning_tokens": 40}), (100 * 2_500_000, 50, 0, 40)),
    "reasoning beside": (
        usage(100, 50, total_tokens=190, completion_tokens_details={"reasoning_tokens": 40}),
        (100 * 2_500_000, 90, 0, 40),
    ),
    "Perplexity's searches": (
        usage(
            100, 50, total_tokens=150, citation_tokens=900, num_search_queries=3, reasoning_tokens=400, search_context_size="low"
        ),
        (1000 * 2_500_000, 450, 0, 400),
    ),
    "reasoning told apart and among the details": (
        usage(100, 50, reasoning_tokens=40, completion_tokens_details={"reasoning_tokens": 40}),
        (100 * 2_500_000, 50, 0, 40),
    ),
    "details of null": (usage(100, 50, prompt_tokens_details=None, completion_tokens_details=None), (100 * 2_500_000, 50, 0, 0)),
}


@pytest.mark.parametrize("name", DETAILS)
async def test_M02_details_are_parts_of_their_totals(name: str) -> None:
    reported, (pico, made, cached, reasoning) = DETAILS[name]
    expected = {"output_tokens": made, "cache_read_tokens": cached, "reasoning_tokens": reasoning}
    expected |= {"cost_usd": usd(pico + made * OUTPUT), "usage_source": "provider", "attributes": {}}
    async with serving() as gateway:
        gateway.upstream.script(
            sse(TALK + finish() + event({"choices": [], "usage": reported}) + DONE), json(ANSWER | {"usage": reported})
        )
        await booked(gateway, await gateway.chat(stream=True), **expected)
        plain = await gateway.chat()
        await booked(gateway, plain, **expected)
        assert plain.header("x-muxx-cost") == expected["cost_usd"]


async def answered_by_anthropic(
    gateway: RunningGateway, endpoint: str, stream: bool, usage: dict[str, Any], model: str
) -> RawResponse:
    streamed = sse(message_events(usage, {"usage": {"output_tokens": 5}}))
    gateway.upstream.script(streamed if stream else json(MESSAGE | {"usage": usage}))
    return await gateway.ask(endpoint, model=model, stream=stream)


HOURLY = {
    "input_tokens": 10, "output_tokens": 5, "cache_creation_input_tokens": 300,
    "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 100},
}  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("endpoint", ["messages", "chat"])
async def test_M02_what_anthropic_caches_for_an_hour_costs_twice_the_input(endpoint: str, stream: bool) -> None:
    async with serving() as gateway:
        response = await answered_by_anthropic(gateway, endpoint, stream, HOURLY, "claude-3-5-haiku")
        pico = 10 * 800_000 + 200 * 1_000_000 + 100 * 1_600_000 + 5 * 4_000_000
        details = {"usage_details": {"cache_write_1h_tokens": 100}}
        await booked(gateway, response, input_tokens=310, cache_write_tokens=300, cost_usd=usd(pico), attributes=details)


FAST = {"input_tokens": 10, "output_tokens": 5, "speed": "fast", "service_tier": "standard"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("endpoint", ["messages", "chat"])
async def test_M02_an_answer_in_anthropics_fast_mode_costs_what_that_does(endpoint: str, stream: bool) -> None:
    async with serving() as gateway:
        response = await answered_by_anthropic(gateway, endpoint, stream, FAST, "claude-opus-4-8")
        told = {"usage_details": {"service_tier": "fast"}, "priced_as": "claude-opus-4-8"}
        await booked(gateway, response, cost_usd=usd(10 * 10_000_000 + 5 * 50_000_000), attributes=told)


async def test_M02_the_comment_the_header_and_the_row_say_the_same() -> None:
    async with serving() as gateway:
        gateway.upstream.script(sse(STREAM))
        response = await gateway.chat(stream=True)
        comment = response.text.partition(": muxx ")[2].partition("\n\n")[0]
        row = await booked(gateway, response, **at_gpt4o(10, 5, "provider"))
        assert f'"cost":"{row["cost_usd"]}"' in comment
        assert '"prompt_tokens":10,"completion_tokens":5,"total_tokens":15' in comment


async def test_M02_a_plain_answer_without_usage_is_estimated() -> None:
    answer = {"choices": [{"index": 0, "message": {"content": "".join(WORDS)}, "finish_reason": "stop"}]}
    async with serving() as gateway:
        gateway.upstream.script(json(answer))
        await booked(gateway, await gateway.chat(PROMPT), **ESTIMATE)


# ── M03: the client leaves ──────────────────────────────────────────────────────────────────────────────────────────────────


async def leave_after(gateway: RunningGateway, came: bytes) -> dict[str, Any]:
    """Take exactly these bytes of an answer, go, and see what was booked."""
    user = next(users)
    gateway.upstream.script(sse(came, end=hang()))
    async with await gateway.connect() as client:
        await client.post_chat(gateway.key, chat_body(PROMPT, **ASKED), {"X-Muxx-User-Id": user})
        got = 0
        async for piece in client.body(await client.read_head()):
            got += len(piece)
            if got == len(came):
                break
    return await row_of_user(gateway, user)


def check_left(row: dict[str, Any], came: bytes) -> None:
    """Never less than the provider reported, nor than was delivered; never nothing for a text; marked as what it is."""
    chunks = chunks_of(came)
    reported = [number for number, chunk in enumerate(chunks) if chunk.get("usage")]
    last = chunks[reported[-1]]["usage"]["completion_tokens"] if reported else 0
    later = not reported or written(b"".join(event(chunk) for chunk in chunks[reported[-1] + 1 :]))
    assert (row["status"], row["ended_by"]) == (499, "client")
    assert row["usage_source"] == ("partial" if reported else "estimated")
    assert row["output_tokens"] == (max(tokens(written(came)), last) if later else last)
    assert float(row["cost_usd"]) > 0


async def test_M03_whatever_was_delivered_before_the_client_left_is_booked() -> None:
    cumulative = b"".join(delta(word, usage=usage(10, number)) for number, word in enumerate(WORDS, 1))
    early = delta("", usage=usage(10, 0)) + b"".join(map(delta, WORDS))
    async with serving() as gateway:
        for stream in (STREAM, cumulative, early, *sample(2, seed=3, most=9000)):
            for came in prefixes(stream.removesuffix(DONE))[1:]:
                check_left(await leave_after(gateway, came), came)


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_M03_whatever_was_delivered_of_twenty_recordings_is_booked() -> None:
    async with serving() as gateway:
        for stream in sample(20, seed=30, most=32 * 1024):
            for came in prefixes(stream.removesuffix(DONE))[1:]:
                check_left(await leave_after(gateway, came), came)


# ── M04: the provider fails ─────────────────────────────────────────────────────────────────────────────────────────────────

NOTHING = {"input_tokens": 0, "output_tokens": 0, "usage_source": "none", "cost_usd": "0"}
BEFORE_A_BYTE: dict[str, Callable[[], Script]] = {
    "refusal": lambda: error(500),
    "closed": lambda: [fin()],
    "reset": lambda: [rst()],
    "head only": lambda: sse(end=rst()),
    "an empty stream": lambda: sse(b""),
    "plain head only": lambda: [head(200, {"Content-Type": "application/json", "Content-Length": "9"}), fin()],
}


@pytest.mark.parametrize("name", BEFORE_A_BYTE)
async def test_M04_a_provider_that_fails_before_any_byte_costs_nothing(name: str) -> None:
    async with serving() as gateway:
        gateway.upstream.script(BEFORE_A_BYTE[name]())
        response = await gateway.chat(stream=True)
        assert response.status >= 500
        await booked(gateway, response, ended_by="upstream", **NOTHING)


async def test_M04_a_provider_that_fails_midway_without_usage_is_booked_as_an_estimate() -> None:
    async with serving() as gateway:
        for came in prefixes(TALK)[1:]:
            gateway.upstream.script(sse(came, end=rst()))
            response = await gateway.chat(PROMPT, stream=True)
            assert broken_with(response.body, "upstream_disconnected") == came
            await booked(gateway, response, **at_gpt4o(tokens(PROMPT), tokens(written(came)), "estimated"))


async def test_M04_a_provider_that_fails_midway_with_usage_is_booked_as_reported() -> None:
    async with serving() as gateway:
        gateway.upstream.script(sse(TALK + usage_event(100, 3), end=rst()))
        await booked(gateway, await gateway.chat(stream=True), ended_by="upstream", **at_gpt4o(100, 3, "partial"))


async def test_M04_only_the_attempt_that_answered_is_paid() -> None:
    async with serving(config={"models": [{"name": "gpt-4o", "targets": ["openai/gpt-4o"], "retries": 1}]}) as gateway:
        gateway.upstream.script(error(500, retry_after="0"), sse(STREAM))
        await booked(gateway, await gateway.chat(stream=True), attempts=2, **at_gpt4o(10, 5, "provider"))


# ── M06: what has no price ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_M06_an_unknown_price_is_null_and_never_zero() -> None:
    async with serving() as gateway:
        gateway.upstream.script(sse(STREAM), json(ANSWER))
        streamed = await gateway.chat(model="openai/nobodys-model", stream=True)
        await booked(gateway, streamed, cost_usd=None, price_version=None, input_tokens=10, usage_source="provider")
        assert '"cost":null' in streamed.text
        plain = await gateway.chat(model="openai/nobodys-model")
        await booked(gateway, plain, cost_usd=None)
        assert plain.header("x-muxx-cost") is None


async def test_M06_a_model_without_a_price_is_named_in_the_log_once(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as gateway:
        gateway.upstream.choose = chat()
        for model in ("openai/nobodys-model", "openai/nobodys-model", "mock/free-of-charge", "gpt-4o"):
            assert (await gateway.chat(model=model)).status == 200
        for number in range(2 * MOST_TOLD):
            assert (await gateway.chat(model=f"openai/invented-{number}")).status == 200
    told = [line for line in caplog.messages if "price" in line]
    assert told[0].startswith("no price is known for model nobodys-model of provider openai")
    assert len(told) == len(set(told)) == MOST_TOLD + 1


def changing_at(moment: float) -> bytes:
    """A price table in which a token of gpt-4o costs 1 until then, and 5 from then on."""
    after = datetime.fromtimestamp(moment, UTC).replace(tzinfo=None).isoformat()
    rates = [{"rates": {"input": 1, "output": 1}}, {"from": after, "rates": {"input": 5, "output": 5}}]
    model = {"id": "gpt-4o", "match": ["starts", "gpt-4o"], "prices": rates}
    vendors = {vendor: {"models": [model] if vendor == "openai" else []} for vendor in VENDORS}
    return dumps({"format": FORMAT, "version": "x", "vendors": vendors}).encode()


@pytest.mark.parametrize("stream", [False, True])
async def test_M06_the_prices_of_a_request_are_those_at_its_admission(stream: bool, tmp_path: Path) -> None:
    """Held and booked: it is not beyond what was held, though prices rise meanwhile."""
    caps = {"project": {"spend_caps": [{"window": "day", "usd": "100", "action": "block"}]}}
    (tmp_path / "prices.json").write_bytes(changing_at(changes := time.time() + 1.5))
    config = merged(NO_CACHE, merged(caps, {"plugins": {"pricing": {"table": "prices.json"}}}))
    async with serving(config=config, directory=tmp_path) as gateway:
        answer = sse(STREAM) if stream else json(ANSWER)
        gateway.upstream.script([pause(changes - time.time()), *answer], answer)
        costs = []
        for _ in range(2):
            row = await gateway.get_row((await gateway.chat(stream=stream, max_tokens=5)).request_id)
            costs.append((row["cost_usd"], row["attributes"]))
        assert time.time() > changes
        assert costs == [(usd(15), {}), (usd(75), {})]


# ── M07: usage that cannot be true ──────────────────────────────────────────────────────────────────────────────────────────

INVALID = [-5, 10**18, 1.5, "12", True, [], {}, 2**63, 1e300]


@pytest.mark.parametrize("wrong", INVALID, ids=repr)
async def test_M07_totals_that_cannot_be_true_are_flagged_and_estimated(wrong: Any) -> None:
    async with serving() as gateway:
        for reported in (usage(wrong, 5), usage(10, wrong), usage(wrong, wrong)):
            stream = TALK + finish() + event({"choices": [], "usage": reported}) + DONE
            gateway.upstream.script(sse(stream), json(ANSWER | {"usage": reported}))
            await booked(
                gateway, await gateway.chat(PROMPT, stream=True), attributes={"usage_invalid": True}, status=200, **ESTIMATE
            )
            await booked(gateway, await gateway.chat(PROMPT), attributes={"usage_invalid": True}, usage_source="estimated")


@pytest.mark.parametrize("wrong", [wrong for wrong in INVALID if wrong], ids=repr)
async def test_M07_details_that_cannot_be_true_leave_the_totals_alone(wrong: Any) -> None:
    async with serving() as gateway:
        reported = usage(10, 5, prompt_tokens_details={"cached_tokens": wrong, "audio_tokens": wrong})
        gateway.upstream.script(sse(TALK + finish() + event({"choices": [], "usage": reported}) + DONE))
        await booked(gateway, await gateway.chat(stream=True), attributes={"usage_invalid": True}, **at_gpt4o(10, 5, "provider"))


@pytest.mark.parametrize("members", [{"total_tokens": -5}, {"prompt_tokens_details": "x"}, {"completion_tokens_details": 5}])
async def test_M07_a_total_or_details_that_cannot_be_true_are_flagged(members: dict[str, Any]) -> None:
    async with serving() as gateway:
        gateway.upstream.script(json(ANSWER | {"usage": usage(10, 5, **members)}))
        await booked(gateway, await gateway.chat(), attributes={"usage_invalid": True}, **at_gpt4o(10, 5, "provider"))


@pytest.mark.parametrize(("told", "expected"), [((10, 0), (10, "partial")), ((0, 0), (tokens(PROMPT), "estimated"))])
@pytest.mark.parametrize("stream", [False, True])
async def test_M07_a_text_told_to_be_no_output_is_flagged_and_estimated(
    stream: bool, told: tuple[int, int], expected: tuple[int, str]
) -> None:
    async with serving() as gateway:
        gateway.upstream.script(
            sse(TALK + finish() + usage_event(*told) + DONE) if stream else json(ANSWER | {"usage": usage(*told)})
        )
        row = await booked(gateway, await gateway.chat(stream=stream), attributes={"usage_invalid": True}, status=200)
        assert (row["input_tokens"], row["usage_source"]) == expected
        assert row["output_tokens"] > 0


BEGUN = {"input_tokens": 10, "output_tokens": 1}


@pytest.mark.parametrize("ended", [{}, {"usage": None}, {"usage": {"output_tokens": -7}}, {"usage": {"output_tokens": 10**18}}])
@pytest.mark.parametrize("endpoint", ["messages", "chat"])
async def test_M07_what_a_message_begins_with_is_no_count_of_its_output(endpoint: str, ended: dict[str, Any]) -> None:
    async with serving() as gateway:
        gateway.upstream.script(sse(message_events(BEGUN, ended)))
        response = await gateway.ask(endpoint, model="claude-3-5-haiku", stream=True)
        expected = {"input_tokens": 10, "output_tokens": tokens("".join(WORDS)), "usage_source": "partial"}
        await booked(gateway, response, status=200, attributes={"usage_invalid": True}, **expected)


@pytest.mark.parametrize("wrong", [None, 5, "usage", [1], True])
async def test_M07_usage_that_is_no_object_is_no_usage(wrong: Any) -> None:
    async with serving() as gateway:
        gateway.upstream.script(sse(TALK + finish(usage=wrong) + DONE))
        await booked(gateway, await gateway.chat(PROMPT, stream=True), status=200, **ESTIMATE)


COUNTS = st.one_of(
    st.none(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=3),
    st.booleans(),
    st.lists(st.none(), max_size=1),
)
USAGES = st.one_of(
    COUNTS,
    st.fixed_dictionaries(
        {},
        optional={
            "prompt_tokens": COUNTS,
            "completion_tokens": COUNTS,
            "total_tokens": COUNTS,
            "prompt_cache_hit_tokens": COUNTS,
            "prompt_tokens_details": st.one_of(
                COUNTS, st.dictionaries(st.sampled_from(["cached_tokens", "audio_tokens"]), COUNTS)
            ),
            "completion_tokens_details": st.one_of(COUNTS, st.dictionaries(st.just("reasoning_tokens"), COUNTS)),
        },
    ),
)


@settings(max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(USAGES, st.booleans())
def test_M07_no_usage_object_whatever_raises_or_makes_a_negative_or_absurd_booking(reported: Any, complete: bool) -> None:
    stream = ChatStream(client_asked_usage=False)
    told = event(dumps({"choices": [], "usage": reported}))
    for one in EventSplitter(2**20).feed(TALK + told + finish()):
        stream.observe(one)
    exchange = Exchange("req_1", "chat", Request(HttpRequest("POST", "/", "", CIMultiDictProxy(CIMultiDict()), None)))
    exchange.request.body = chat_body(PROMPT)
    attempt = Attempt(Target(Provider("p", "http://x"), "m"), 1, "", {}, {})
    attempt.sent = True
    exchange.attempts = [attempt]
    exchange.error = None if complete else UpstreamDisconnected()
    exchange.timing.first_token = 1.0
    made = usage_of(exchange, CHAT, stream, complete)
    parts = (made.cache_read_tokens, made.cache_write_tokens, made.input_audio_tokens)
    assert all(0 <= part <= made.input_tokens <= 10**9 for part in parts)
    assert 0 <= made.reasoning_tokens <= made.output_tokens <= 2 * 10**9
    assert made.source in ("provider" if complete and made.output_tokens else "partial", "partial", "estimated")
    assert made.source in ("provider", "partial") or made.output_tokens == tokens("".join(WORDS))


def test_the_estimate_is_a_token_for_each_four_and_a_bit_bytes() -> None:
    dice = random.Random(4)
    for _ in range(200):
        text = "ä👋a "[: dice.randint(0, 4)] * dice.randint(0, 50)
        assert tokens(text) * 41 >= len(text.encode()) * 10 > (tokens(text) - 1) * 41 or not text
