"""Messages and Google's format through a running gateway, native and translated: what the provider said is what the client's own SDK
reads, to the byte where nothing is translated; and it is booked."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import orjson
import pytest
from cache_kit import ROOM
from carrying_kit import both_transports, cut, events_of, part_of, serving
from thoroughness import WHOLE, some
from wire.crossing_judges import JUDGES, Broken, Judged
from wire.crossing_kit import BY_PAIR, SHORT, recorded
from wire.passing import observed
from wires_kit import less_comment

from muxx.testing import RawResponse, RunningGateway, fin, sse
from muxx.testing.answers import json as plain
from muxx.testing.asking import model_for, request_body, request_target, sent
from muxx.wire.wire import Wire
from muxx.wire.wires import GENERATE_CONTENT, MESSAGES

each_pair = pytest.mark.parametrize("pair", BY_PAIR)

SAMPLE = 3 if WHOLE else 1
"""Recordings of each pair of formats that go through a gateway."""

MICRO = Decimal("1e-6")
CLAUDE = {"fresh": Decimal("0.8"), "read": Decimal("0.08"), "written": Decimal(1), "output": Decimal(4)}
"""Dollars per million tokens of claude-3-5-haiku."""


def speaking(up: Wire) -> Mapping[str, Any]:
    """Gateways whose OpenAI has only this endpoint, where it is one of OpenAI's."""
    return {"providers": {"openai": {"endpoints": [up.name]}}} if up.format == "openai" else {}


async def post(gateway: RunningGateway, target: str, body: Mapping[str, Any]) -> RawResponse:
    fields = {"Content-Type": "application/json", "X-Muxx-Api-Key": gateway.key}
    async with await gateway.connect() as client:
        await client.request("POST", target, fields, orjson.dumps(body))
        return await client.read_response()


async def ask(gateway: RunningGateway, endpoint: str, up: Wire, stream: bool, content: str = "Hello") -> RawResponse:
    """One request to a model of this format's provider; a stream of chat is asked for with its usage."""
    members = {"stream_options": {"include_usage": True}} if stream and endpoint == "chat" else {}
    return await gateway.ask(endpoint, content, model=model_for(up.name), stream=stream, **members)


async def google(gateway: RunningGateway, version: str, alt: str) -> RawResponse:
    """A stream of Google's, asked for under a version of its paths, with or without `?alt=sse`."""
    body = request_body("generate_content")
    target = request_target("generate_content", stream=True).replace("v1beta", version).replace("?alt=sse", alt)
    return await post(gateway, target, sent("generate_content", body))


def booked(judged: Judged, beside: tuple[int, int] = (0, 0)) -> dict[str, Any]:
    """What a row has to say of an answer, by what its vendor's SDK reads, and tokens that are billed beside it."""
    assert judged.told.tokens is not None
    given, made = (count + more for count, more in zip(judged.told.tokens, beside, strict=True))
    told = {"input_tokens": given, "output_tokens": made, "usage_source": "provider", "finish_reasons": [judged.told.finish]}
    return {"status": 200, "ended_by": None, "error_code": None, **told}


def compacted(stream: bytes) -> tuple[int, int]:
    """Tokens of compactions, which Anthropic tells and bills beside the totals."""
    usages = [json.loads(data).get("usage") or {} for _, data in events_of(stream) if data]
    entries = [entry for usage in usages for entry in usage.get("iterations") or () if entry["type"] == "compaction"]
    given = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    return sum(entry[name] for entry in entries for name in given), sum(entry["output_tokens"] for entry in entries)


def same(up: Wire, called: Wire, before: Judged, after: Judged) -> None:
    """As tests/wire/test_crossing_answers.py compares in full."""
    was, told = before.told, after.told
    assert (told.text + told.refusal, told.reasoning) == (was.text + was.refusal, was.reasoning)
    assert (told.calls, told.finish) == (was.calls, was.finish)
    assert told.tokens == (was.tokens or ((0, 0) if called is MESSAGES else None))


# Native.


@both_transports
async def test_every_recording_of_messages_passes_byte_for_byte_and_is_booked_as_its_sdk_reads_it(transport: str) -> None:
    async with serving(transport) as gateway:
        for seed, (name, stream) in enumerate(some(recorded(MESSAGES).items(), least=8)):
            gateway.upstream.script(sse(chunks=cut(stream, seed), chunked=seed % 3 > 0))
            response = await gateway.ask("messages", stream=True)
            assert less_comment(response, events_of(stream)[-1][0]) == stream, name
            row = await gateway.get_row(response.request_id)
            before = JUDGES["messages"](stream, strict=False)
            expected = booked(before, compacted(stream))
            assert part_of(row, expected) == expected, name
            fresh = row["input_tokens"] - row["cache_read_tokens"] - row["cache_write_tokens"]
            counts = (fresh, row["cache_read_tokens"], row["cache_write_tokens"], row["output_tokens"])
            cost = sum((count * price for count, price in zip(counts, CLAUDE.values(), strict=True)), Decimal()) * MICRO
            assert Decimal(row["cost_usd"]) == cost, name
            assert JUDGES["messages"](orjson.dumps(row["output"]), strict=False, stream=False) == before


@both_transports
async def test_every_recording_of_googles_passes_byte_for_byte_under_both_paths_and_as_an_array(transport: str) -> None:
    async with serving(transport) as gateway:
        for seed, (name, stream) in enumerate(some(recorded(GENERATE_CONTENT).items(), least=8)):
            expected = booked(JUDGES["generate_content"](stream, strict=False))
            for version in ("v1beta", "v1"):
                gateway.upstream.script(sse(chunks=cut(stream, seed), chunked=seed % 3 > 0))
                response = await google(gateway, version, "?alt=sse")
                assert (response.status, response.body, response.streamed) == (200, stream, True), name
                row = await gateway.get_row(response.request_id)
                assert part_of(row, expected) == expected, name
                assert Decimal(row["cost_usd"]) > 0
                array = await google(gateway, version, "")
                assert array.header("content-type") == "application/json"
                assert json.loads(array.body) == [json.loads(data) for _, data in events_of(stream) if data], name


@both_transports
@pytest.mark.parametrize("up", [MESSAGES, GENERATE_CONTENT], ids=lambda up: up.name)
async def test_every_recording_as_a_plain_answer_passes_byte_for_byte(up: Wire, transport: str) -> None:
    async with serving(transport) as gateway:
        for name, stream in recorded(up).items():
            body = json.dumps(up.assembled(observed(up, [stream])[0]), indent=1).encode()
            gateway.upstream.script(plain(body))
            response = await gateway.ask(up.name)
            assert (response.status, response.body) == (200, body), name
            expected = booked(JUDGES[up.name](body, strict=False, stream=False), compacted(stream))
            row = await gateway.get_row(response.request_id)
            assert part_of(row, expected) == expected, name
            assert Decimal(response.header("x-muxx-cost") or "-1") == Decimal(row["cost_usd"])


# Translated.


def drawn(pair: str) -> dict[str, bytes]:
    """Some recordings of a pair's first format, drawn by its name: those that report their usage, and are not large."""
    up, _ = BY_PAIR[pair]
    drawn = random.Random(pair).sample([name for name, data in recorded(up).items() if fits(up, data)], SAMPLE)
    return {name: recorded(up)[name] for name in drawn}


def fits(up: Wire, stream: bytes) -> bool:
    judged = JUDGES[up.name](stream, strict=False) if len(stream) < 100_000 else None
    return judged is not None and judged.told.tokens is not None and "choices" not in judged.lost


@both_transports
@each_pair
async def test_recordings_by_seed_say_the_same_through_a_gateway_and_cost_what_they_cost_untranslated(
    pair: str, transport: str
) -> None:
    up, called = BY_PAIR[pair]
    async with serving(transport, speaking(up)) as gateway:
        for seed, (name, stream) in enumerate(drawn(pair).items()):
            before = JUDGES[up.name](stream, strict=False)
            gateway.upstream.script(sse(chunks=cut(stream, seed)))
            native, response = await ask(gateway, up.name, up, stream=True), await ask(gateway, called.name, up, stream=True)
            same(up, called, before, JUDGES[called.name](response.body, strict=True))
            row = await gateway.get_row(response.request_id)
            expected = await gateway.get_row(native.request_id)
            assert {name: row[name] for name in BOOKED} == {name: expected[name] for name in BOOKED}, name
            assert (row["endpoint"], row["usage_source"], row["stream"]) == (called.name, "provider", True)
            assert set(row["attributes"].get("lost", ())) == before.lost, name
            same(up, called, before, JUDGES[called.name](orjson.dumps(row["output"]), strict=True, stream=False))


BOOKED = ("status", "error_code", "model", "finish_reasons", "input_tokens", "output_tokens", "cache_read_tokens", "cost_usd")


@each_pair
async def test_a_recording_by_seed_is_a_hit_in_both_forms_translated_and_native_whichever_was_stored(pair: str) -> None:
    up, called = BY_PAIR[pair]
    [stream, *_] = drawn(pair).values()
    body = orjson.dumps(up.assembled(observed(up, [stream])[0]))
    before = JUDGES[up.name](stream, strict=False)
    async with serving(config={**ROOM, **speaking(up)}) as gateway:
        for asked in (called, up):
            for number, script in enumerate((plain(body), sse(stream))):
                gateway.upstream.script(script)
                hits = []
                for stream_asked in (number == 1, False, True):
                    response = await ask(gateway, asked.name, up, stream_asked, f"{asked.name} {number}")
                    same(up, asked, before, JUDGES[asked.name](response.body, strict=asked is not up, stream=stream_asked))
                    hits.append((response.header("x-muxx-cache"), response.header("x-muxx-cost")))
                assert hits[1:] == [("HIT", "0"), ("HIT", "0")]
                assert hits[0][0] == "MISS"
        assert len(gateway.upstream.requests) == 4


HINTS: dict[str, tuple[dict[str, Any], str]] = {
    "chat": ({"metadata": {"a": "b"}}, "metadata"),
    "responses": ({"metadata": {"a": "b"}}, "metadata"),
    "messages": ({"speed": "fast"}, "speed"),
    "generate_content": ({"labels": {"a": "b"}}, "labels"),
}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@each_pair
async def test_what_is_dropped_is_told_in_the_header_and_in_the_row(pair: str, stream: bool) -> None:
    up, called = BY_PAIR[pair]
    members, place = HINTS[called.name]
    async with serving(config=speaking(up)) as gateway:
        gateway.upstream.says("fine")
        response = await gateway.ask(called.name, model=model_for(up.name), stream=stream, **members)
        assert (response.status, response.header("x-muxx-dropped")) == (200, place)
        assert (await gateway.get_row(response.request_id))["attributes"]["dropped"] == [place]
        assert place not in gateway.upstream.last.json()


# Streams as arrays, and streams that break.


@pytest.mark.parametrize("pair", [pair for pair in BY_PAIR if pair.endswith("to generate_content")])
async def test_a_translated_stream_without_alt_sse_is_an_array_of_what_its_events_say(pair: str) -> None:
    up, called = BY_PAIR[pair]
    target = request_target(called.name, model_for(up.name), stream=True)
    body = sent(called.name, request_body(called.name))
    async with serving(config=speaking(up)) as gateway:
        gateway.upstream.script(sse(SHORT[up.name]))
        events, array = await post(gateway, target, body), await post(gateway, target.removesuffix("?alt=sse"), body)
        assert array.header("content-type") == "application/json"
        assert json.loads(array.body) == [json.loads(data) for _, data in events_of(events.body) if data]
        gateway.upstream.script(sse(SHORT[up.name][:-300], end=fin()))
        *_, last = json.loads((await post(gateway, target.removesuffix("?alt=sse"), body)).body)
        assert (last["error"]["code"], last["error"]["status"]) == (502, "UNAVAILABLE")


@both_transports
@each_pair
async def test_a_stream_that_breaks_off_is_an_error_for_the_clients_sdk_and_in_the_row(pair: str, transport: str) -> None:
    up, called = BY_PAIR[pair]
    async with serving(transport, speaking(up)) as gateway:
        gateway.upstream.script(sse(SHORT[up.name][: len(SHORT[up.name]) // 2], end=fin()))
        response = await gateway.ask(called.name, model=model_for(up.name), stream=True)
        assert (response.status, response.complete) == (200, True)
        for strict in (True, False):
            with pytest.raises(Broken):
                JUDGES[called.name](response.body, strict=strict)
        row = await gateway.get_row(response.request_id)
        expected = {"status": 200, "error_code": "upstream_disconnected", "ended_by": "upstream", "phase": "stream"}
        assert part_of(row, expected) == expected
        assert Decimal(row["cost_usd"]) > 0
