"""Each fault of a provider through a running gateway, with one target: what the user of an SDK sees, and what the row says.

Whatever has gone wrong, nothing that looks like a whole answer has been seen, and the provider was asked once.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from carrying_kit import part_of, serving
from provider_faults_kit import (
    FAULTS,
    OWN,
    SHORT,
    STORY,
    Case,
    Ending,
    Fault,
    Told,
    ask_all,
    breaks,
    config_for,
    foreign,
    garbled,
    native,
    word_at,
)
from sdks_kit import exception_of, sdks_of, word_of

from muxx import Chunk, Exchange, hookimpl
from muxx.testing import RunningGateway, ScriptedUpstream, event, fin, json
from muxx.testing.asking import endpoint_at
from muxx.testing.speaking import refused

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")  # Google's client

each_fault = pytest.mark.parametrize("fault", FAULTS, ids=str)
OPENAIS_CODES = {429: "rate_limit_exceeded", 503: "overloaded", 529: "overloaded"}
"""How the scripts' OpenAI calls a refusal; any other: `server_error`."""


def code_of(case: Case, ending: Ending) -> str:
    """The code in the row: muxx's own, or the provider's word."""
    status = 500 if ending.relayed else ending.status
    return ending.code or word_at(case.provider, status, OPENAIS_CODES.get(status, "server_error"))


def sees_a_stream(case: Case, ending: Ending) -> bool:
    """The answer's head had left for the client: there was something to send in its format."""
    if not (case.stream and ending.began):
        return False
    if OWN[case.client] == case.provider and (ending.relayed or case.client != "generate_content"):
        return True
    return bool(ending.text) or (ending.spoke(case.provider) and case.client != "generate_content")


def usage_source(case: Case, ending: Ending) -> str:
    """Nothing is booked before a stream's first byte; after it, what the provider had reported by then, else an estimate."""
    if not (case.stream and ending.began):
        return "none"
    reports_at_once = case.provider == "anthropic" and (bool(ending.text) or not ending.relayed)
    return "partial" if reports_at_once or (case.provider == "google" and ending.text) else "estimated"


def check_seen(told: Told, ending: Ending) -> None:
    case, seen = told.case, told.seen
    in_stream = sees_a_stream(case, ending)
    own = OWN[case.client] == case.provider
    relayed = ending.relayed and own
    status = 500 if relayed and case.client == "generate_content" else ending.status  # Google's events tell a status
    code = code_of(case, ending)
    assert seen.finish is None, "it looks like a whole answer"
    assert seen.text == (ending.text if in_stream else "")
    assert seen.arguments == (ending.arguments if in_stream and case.client != "generate_content" else "")
    assert seen.raised == exception_of(case.client, status, in_stream=in_stream, relayed=relayed)
    assert seen.word == (code if own and ending.code is None else word_of(case.client, status, code))
    assert seen.message
    assert "127.0.0.1" not in seen.message
    if not in_stream:
        assert seen.status == ending.status
        assert seen.headers["x-should-retry"] == "true"
        assert seen.headers.get("retry-after") == ending.retry_after


def check_row(told: Told, ending: Ending) -> None:
    case, row = told.case, told.row
    expected = {
        "status": 200 if sees_a_stream(case, ending) else ending.status,
        "ended_by": "upstream",
        "phase": ending.phase,
        "error_code": code_of(case, ending),
        "usage_source": usage_source(case, ending),
        "attempts": ending.attempts,
        "finish_reasons": [],
        "cache": "miss",
    }
    assert part_of(row, expected) == expected
    assert (Decimal(row["cost_usd"]) > 0) is (expected["usage_source"] != "none")
    assert row["duration_ms"] < 10 * SHORT * 1000
    assert len(told.requests) == (0 if ending.phase == "connect" else 1)


async def check_all(gateway: RunningGateway, fault: Fault, all_told: list[Told]) -> None:
    for told in all_told:
        check_seen(told, fault.ending(told.case))
        check_row(told, fault.ending(told.case))
    if fault.limits:
        for request in gateway.upstream.requests:
            await request.peer_left()  # who is late is not listened to any longer
    assert len(gateway.gateway.calls) == 0


class Watching:
    """A plugin that sees each chunk and changes none: the answer takes another way through the gateway."""

    @hookimpl
    def on_chunk(self, exchange: Exchange, chunk: Chunk) -> None:
        return None


HOOKED: dict[str, Any] = {"transport": "lean", "plugins": {"watching": Watching}}
WAYS = [pytest.param({"transport": "lean"}, id="lean"), pytest.param({"transport": "aiohttp"}, id="aiohttp")]
each_way = pytest.mark.parametrize("way", [*WAYS, pytest.param(HOOKED, id="hooked")])


@each_way
@each_fault
async def test_the_sdk_of_the_providers_own_format_raises_what_its_user_expects(way: dict[str, Any], fault: Fault) -> None:
    async with serving(config=config_for(fault), **way) as gateway, sdks_of(gateway) as sdks:
        gateway.upstream.script(fault.script)
        await check_all(gateway, fault, await ask_all(gateway, sdks, native()))


@pytest.mark.parametrize("way", [WAYS[0], pytest.param(HOOKED, id="hooked")])
@each_fault
async def test_the_sdk_of_another_format_is_told_in_its_own_words(way: dict[str, Any], fault: Fault) -> None:
    async with serving(config=config_for(fault), **way) as gateway, sdks_of(gateway) as sdks:
        gateway.upstream.script(fault.script)
        await check_all(gateway, fault, await ask_all(gateway, sdks, foreign()))


async def test_an_error_inside_a_200_that_was_to_be_a_stream_is_a_plain_error() -> None:
    fault = Fault.harmless(
        "no stream", lambda request: json(refused(endpoint_at(request.target), 500, "No luck.", type="server_error"))
    )
    async with ScriptedUpstream() as second, serving(config=config_for(fault, second)) as gateway, sdks_of(gateway) as sdks:
        gateway.upstream.script(fault.script)
        for told in await ask_all(gateway, sdks, [case for case in [*native("both"), *foreign("held")] if case.stream]):
            assert told.seen.raised == exception_of(told.case.client, 502, in_stream=False)
            assert (told.seen.status, told.seen.word) == (502, word_of(told.case.client, 502, "upstream_error"))
            expected = {"status": 502, "ended_by": "upstream", "error_code": "upstream_error", "attempts": 1, "cost_usd": "0"}
            assert part_of(told.row, expected) == expected
        assert second.requests == []


async def test_a_message_cut_between_its_stop_reason_and_its_end_is_not_whole() -> None:
    fault = Fault.harmless("cut before message_stop", breaks(STORY, b"message_stop", fin()))
    async with serving(config=config_for(fault)) as gateway, sdks_of(gateway) as sdks:
        gateway.upstream.script(fault.script)
        cases = [case for case in [*native(), *foreign()] if case.provider == "anthropic" and case.stream]
        for told in await ask_all(gateway, sdks, cases):
            assert (told.seen.text, told.seen.finish) == (STORY.text, None)
            assert told.seen.raised == exception_of(told.case.client, 502, in_stream=True)
            expected = {"status": 200, "error_code": "upstream_disconnected", "usage_source": "partial", "output_tokens": 5}
            assert part_of(told.row, expected) == expected


ODD = [
    {"choices": 7, "candidates": "x", "type": ["content_block_delta"], "delta": 5, "usage": [1], "usageMetadata": "x"},
    {"choices": [7, {"index": {}, "delta": "x"}], "candidates": [7, {"index": {}, "content": {"parts": ["x"]}}], "type": 7},
    {"type": "content_block_delta", "index": "x", "delta": {"type": "input_json_delta", "partial_json": 7}},
    {"type": "response.output_text.delta", "delta": {}, "output_index": [], "content_index": None},
]


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
async def test_a_malformed_event_that_is_json_is_passed_over_in_a_translated_answer(odd: dict[str, Any]) -> None:
    fault = Fault.harmless("odd event", garbled(event(odd)))
    async with serving(config=config_for(fault)) as gateway, sdks_of(gateway) as sdks:
        gateway.upstream.script(fault.script)
        for told in await ask_all(gateway, sdks, [case for case in foreign() if case.stream]):
            assert (told.seen.raised, told.seen.text) == (None, STORY.text)
            assert told.seen.finish is not None
