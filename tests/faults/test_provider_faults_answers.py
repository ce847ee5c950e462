"""Content filters and prompts that are too long: what a provider says of the request is an answer, and nobody else is asked.

Except where `fall_back_on` names it. It is told as a 400, as the event that begins a stream, or as the answer's finish reason.
"""

from __future__ import annotations

import pytest
from carrying_kit import part_of, serving
from provider_faults_kit import (
    COSTS,
    OTHER,
    OWN,
    SECOND,
    Case,
    Fault,
    Refusal,
    Told,
    ask_all,
    blocked,
    config_for,
    foreign,
    native,
)
from sdks_kit import exception_of, sdks_of, word_of

from muxx.testing import Said, ScriptedUpstream, answer

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")  # Google's client

REFUSALS = [
    Refusal("content_filter", "content_filter", {
        "openai": "The response was filtered.",
        "anthropic": "Output blocked by content filtering policy",
    }),
    Refusal("context_length", "context_length_exceeded", {
        "openai": "Your messages resulted in 9 tokens.",
        "anthropic": "prompt is too long: 9 tokens > 8 maximum",
        "google": "The input token count (9) exceeds the maximum number of tokens allowed (8).",
    }),
]  # fmt: skip
"""As each provider refuses with a 400. Google has no such refusal for content: it answers with a block reason."""

TOO_LONG = {
    "chat": "Input tokens exceed the configured limit",
    "responses": "Input tokens exceed the configured limit",
    "messages": "prompt is too long",
    "generate_content": "exceeds the maximum number of tokens allowed",
}
"""By which words clients of each format know a prompt that does not fit, beside OpenAI's code for it."""

each_refusal = pytest.mark.parametrize("refusal", REFUSALS, ids=str)


def refused_cases(refusal: Refusal, cases: list[Case]) -> list[Case]:
    return [case for case in cases if case.provider in refusal.messages]


def check_refused(told: Told, refusal: Refusal, second: ScriptedUpstream | None = None) -> None:
    case, seen, row = told.case, told.seen, told.row
    assert (seen.finish, seen.text, seen.status) == (None, "", 400)
    assert seen.raised == exception_of(case.client, 400, in_stream=False)
    assert seen.word == word_of(case.client, 400, refusal.code)
    assert refusal.messages[case.provider] in seen.message
    assert seen.headers["x-should-retry"] == "false"
    expected = {
        "status": 400,
        "ended_by": "upstream",
        "error_code": refusal.code,
        "usage_source": "none",
        "cost_usd": "0",
        "attempts": 1,
        "provider": case.provider,
    }
    assert part_of(row, expected) == expected
    assert len(told.requests) == 1
    assert second is None or second.requests == []


@each_refusal
@pytest.mark.parametrize("kind", ["alone", "both", "held"])
async def test_a_refusal_of_what_was_said_or_how_much_is_an_answer(refusal: Refusal, kind: str) -> None:
    fault = refusal.as_status()
    async with ScriptedUpstream() as second, serving(config=config_for(fault, second)) as gateway, sdks_of(gateway) as sdks:
        gateway.upstream.script(fault.script)
        for told in await ask_all(gateway, sdks, refused_cases(refusal, [*native(kind), *foreign(kind)])):
            check_refused(told, refusal, second)


@each_refusal
async def test_told_by_the_event_that_begins_a_stream_it_is_the_same_answer(refusal: Refusal) -> None:
    fault = refusal.as_event()
    async with ScriptedUpstream() as second, serving(config=config_for(fault, second)) as gateway, sdks_of(gateway) as sdks:
        gateway.upstream.script(fault.script)
        cases = refused_cases(refusal, [case for case in [*native("held"), *foreign("held")] if case.stream])
        for told in await ask_all(gateway, sdks, cases):
            check_refused(told, refusal, second)


@each_refusal
@pytest.mark.parametrize("told_as", ["status", "event"])
async def test_where_fall_back_on_names_it_the_second_target_answers(refusal: Refusal, told_as: str) -> None:
    fault = refusal.as_status() if told_as == "status" else refusal.as_event()
    async with ScriptedUpstream() as second:
        second.says(SECOND)
        config = config_for(fault, second, fall_back_on=[refusal.kind])
        async with serving(config=config) as gateway, sdks_of(gateway) as sdks:
            gateway.upstream.script(fault.script)
            cases = [case for case in native("held") if case.stream or told_as == "status"]
            for told in await ask_all(gateway, sdks, refused_cases(refusal, cases)):
                assert (told.seen.raised, told.seen.text) == (None, SECOND.text)
                assert [line[2] for line in told.attempts] == [refusal.code, None]
                assert part_of(told.row, {"cost_usd": ""}) == {"cost_usd": COSTS[OTHER[told.case.provider]]}
                assert len(told.requests) == 1


@pytest.mark.parametrize("told_as", ["status", "event"])
async def test_a_prompt_that_is_too_long_is_told_in_the_words_by_which_clients_of_the_format_know_it(told_as: str) -> None:
    [refusal] = [refusal for refusal in REFUSALS if refusal.kind == "context_length"]
    fault = refusal.as_status() if told_as == "status" else refusal.as_event()
    async with ScriptedUpstream() as second, serving(config=config_for(fault, second)) as gateway, sdks_of(gateway) as sdks:
        gateway.upstream.script(fault.script)
        cases = [case for case in foreign("held") if case.stream or told_as == "status"]
        for told in await ask_all(gateway, sdks, cases):
            assert TOO_LONG[told.case.client] in told.seen.message
            assert told.seen.message.count(refusal.messages[told.case.provider]) == 1


FILTERED = {"chat": "content_filter", "responses": "incomplete", "messages": "refusal", "generate_content": "SAFETY"}
"""How each client's format says that an answer was cut short by a content filter."""


async def test_a_content_filter_as_the_finish_reason_is_seen_and_nobody_else_is_asked() -> None:
    fault = Fault.harmless("content filter", answer(Said("Once", finish_reason="content_filter")))
    async with ScriptedUpstream() as second:
        config = config_for(fault, second, fall_back_on=["content_filter"])
        async with serving(config=config) as gateway, sdks_of(gateway) as sdks:
            gateway.upstream.script(fault.script)
            cases = [case for kind in ("both", "held") for case in [*native(kind), *foreign(kind)]]
            for told in await ask_all(gateway, sdks, cases):
                assert (told.seen.raised, told.seen.text, told.seen.finish) == (None, "Once", FILTERED[told.case.client])
                expected = {
                    "status": 200,
                    "ended_by": None,
                    "finish_reasons": ["content_filter"],
                    "usage_source": "provider",
                    "cost_usd": COSTS[told.case.provider],
                    "attempts": 1,
                }
                assert part_of(told.row, expected) == expected
            assert second.requests == []


async def test_a_prompt_that_google_blocks_is_seen_as_filtered_by_every_client() -> None:
    fault = Fault.harmless("blocked prompt", blocked)
    cases = [case for case in [*native(), *foreign()] if case.provider == "google"]
    async with serving(config=config_for(fault)) as gateway, sdks_of(gateway) as sdks:
        gateway.upstream.script(fault.script)
        for told in await ask_all(gateway, sdks, cases):
            own = OWN[told.case.client] == "google"
            assert told.seen.finish == ("PROHIBITED_CONTENT" if own else FILTERED[told.case.client])
            assert (told.seen.raised, told.seen.text, told.row["finish_reasons"]) == (None, "", ["content_filter"])
