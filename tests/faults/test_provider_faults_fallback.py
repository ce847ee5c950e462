"""Each fault of a provider where there is a second target, of another provider and format: who answers, and what that costs.

The second answers exactly when no byte of a 2xx body had come of the first; held back, when its model had said nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from carrying_kit import both_transports, part_of, row_of_user, serving
from provider_faults_kit import (
    BEFORE_THE_FIRST_TOKEN,
    COMMENT,
    COSTS,
    FAULTS,
    MODELS,
    OTHER,
    SECOND,
    Case,
    Fault,
    Told,
    ask_all,
    config_for,
    foreign,
    native,
)
from sdks_kit import Sdks, sdks_of

from muxx.testing import (
    Chooser,
    RecordedRequest,
    RunningGateway,
    Script,
    ScriptedUpstream,
    answer,
    event,
    eventually,
    fin,
    sse,
    wait,
)
from muxx.testing.asking import endpoint_at
from muxx.testing.settings import merged

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")  # Google's client

each_fault = pytest.mark.parametrize("fault", FAULTS, ids=str)
CACHE = {"plugins": {"cache": {"max_bytes": 1_000_000}}}


def falls_back(case: Case, fault: Fault) -> bool:
    ending = fault.ending(case)
    held = case.model.startswith("held") and case.stream
    return not ending.spoke(case.provider) if held else not ending.began


def asked_of(second: ScriptedUpstream, told: Told) -> list[RecordedRequest]:
    """What the second was sent of the same words."""
    return [request for request in second.requests if told.words.encode() in request.body]


def check_second_answered(told: Told, fault: Fault, second: ScriptedUpstream) -> None:
    case, row, ending = told.case, told.row, fault.ending(told.case)
    spare = OTHER[case.provider]
    assert told.seen.raised is None
    assert (told.seen.text, told.seen.finish is not None) == (SECOND.text, True)
    expected = {
        "status": 200,
        "ended_by": None,
        "phase": None,
        "error_code": None,
        "usage_source": "provider",
        "provider": f"spare-{spare}",
        "attempts": ending.attempts + 1,
        "cost_usd": COSTS[spare],
        "input_tokens": 10,
        "output_tokens": 5,
    }
    assert part_of(row, expected) == expected
    *failed, last = row["attributes"]["attempts"]
    assert [one["target"] for one in failed] == [f"{case.provider}/{MODELS[case.provider]}"] * ending.attempts
    assert last | {"ms": 0} == {"target": f"spare-{spare}/{MODELS[spare]}", "status": 200, "error": None, "ms": 0}
    assert all(one["error"] for one in failed)
    assert all(one["ms"] >= 0 for one in row["attributes"]["attempts"])
    assert len(told.requests) == (0 if not fault.reachable else 1)
    assert len(asked_of(second, told)) == 1


def check_second_was_not_asked(told: Told, second: ScriptedUpstream) -> None:
    assert told.seen.raised is not None
    assert told.seen.finish is None
    assert (told.row["attempts"], told.row["provider"], told.row["ended_by"]) == (1, told.case.provider, "upstream")
    assert "attempts" not in told.row["attributes"]
    assert (len(told.requests), asked_of(second, told)) == (1, [])


@each_fault
async def test_the_second_target_answers_exactly_when_no_byte_of_a_2xx_body_had_come(fault: Fault) -> None:
    async with ScriptedUpstream() as second:
        second.says(SECOND)
        async with serving(config=config_for(fault, second)) as gateway, sdks_of(gateway) as sdks:
            gateway.upstream.script(fault.script)
            for told in await ask_all(gateway, sdks, native("both")):
                if falls_back(told.case, fault):
                    check_second_answered(told, fault, second)
                else:
                    check_second_was_not_asked(told, second)


@both_transports
@each_fault
async def test_held_back_the_second_answers_until_the_model_has_said_something(transport: str, fault: Fault) -> None:
    async with ScriptedUpstream() as second:
        second.says(SECOND)
        async with serving(transport, config_for(fault, second)) as gateway, sdks_of(gateway) as sdks:
            gateway.upstream.script(fault.script)
            for told in await ask_all(gateway, sdks, [case for case in native("held") if case.stream]):
                if falls_back(told.case, fault):
                    check_second_answered(told, fault, second)
                else:
                    check_second_was_not_asked(told, second)


ALL_OF_IT = {
    "chat": {"id": "c-1", "choices": [{"index": 0, "delta": {"content": "All."}, "finish_reason": "stop"}]},
    "generate_content": {"candidates": [{"content": {"parts": [{"text": "All."}]}, "finishReason": "STOP", "index": 0}]},
}


@pytest.mark.parametrize("kind", ["both", "held"])
async def test_a_stream_whose_only_event_has_no_end_is_whole_and_nobody_else_is_asked(kind: str) -> None:
    fault = Fault.harmless("without a line end", lambda request: sse(event(ALL_OF_IT[endpoint_at(request.target)]).strip()))
    async with ScriptedUpstream() as second, serving(config=config_for(fault, second)) as gateway, sdks_of(gateway) as sdks:
        gateway.upstream.script(fault.script)
        cases = [case for case in foreign(kind) if case.provider != "anthropic" and case.stream]
        for told in await ask_all(gateway, sdks, cases):
            assert (told.seen.raised, told.seen.text) == (None, "All.")
            assert told.seen.finish is not None
            assert told.row["attempts"] == 1
        assert second.requests == []


async def test_no_more_than_an_event_may_be_long_is_held_back() -> None:
    fault = Fault.harmless("chatter", lambda request: sse(COMMENT * 20_000, end=fin()))
    async with ScriptedUpstream() as second:
        config = merged(config_for(fault, second), {"server": {"max_event_bytes": 100_000}})
        async with serving(config=config) as gateway:
            gateway.upstream.script(fault.script)
            response = await gateway.chat(model="held-openai", stream=True)
            assert response.status == 200
            assert response.told("chat")["code"] == "upstream_disconnected"
            assert second.requests == []


# ── a request that two clients share ────────────────────────────────────────────────────────────────────────────────────────


def gated(script: Chooser, gate: asyncio.Event) -> Chooser:
    """The script, once every client has come."""

    def choose(request: RecordedRequest) -> Script:
        yield wait(gate)
        yield from script(request)

    return choose


async def ask_shared(gateway: RunningGateway, sdks: Sdks, cases: list[Case], gate: asyncio.Event) -> list[Told]:
    """Each case for two clients at once; no provider says anything before all are there."""
    asking = asyncio.ensure_future(ask_all(gateway, sdks, cases, times=2))
    await eventually(lambda: len(gateway.gateway.calls) == 2 * len(cases))
    gate.set()
    return await asking


SHARED = [*BEFORE_THE_FIRST_TOKEN, next(fault for fault in FAULTS if fault.name == "stream cut by RST")]


@pytest.mark.parametrize("fault", SHARED, ids=str)
async def test_two_clients_of_one_call_get_the_same_answer_or_the_same_error(fault: Fault) -> None:
    gate = asyncio.Event()
    async with ScriptedUpstream() as second:
        second.script(gated(answer(SECOND), gate))
        async with serving(config=merged(config_for(fault, second), CACHE)) as gateway, sdks_of(gateway) as sdks:
            gateway.upstream.script(gated(fault.script, gate))
            plain = [case for case in native("both") if not case.stream]
            streams = [case for case in native("held") if case.stream]
            told = await ask_shared(gateway, sdks, [*plain, *streams], gate)
            for one, other in zip(told[::2], told[1::2], strict=True):
                starter, joined = (one, other) if one.row["cache"] == "miss" else (other, one)
                check_shared(starter, joined, fault, second)
            flights = gateway.gateway.flights
            assert (len(flights), flights.held) == (0, 0), "nothing is kept of a call that is over"


def check_shared(starter: Told, joined: Told, fault: Fault, second: ScriptedUpstream) -> None:
    assert (starter.row["cache"], joined.row["cache"], joined.row["cost_usd"]) == ("miss", "joined", "0")
    assert (joined.seen.text, joined.seen.finish, joined.seen.raised) == (
        starter.seen.text,
        starter.seen.finish,
        starter.seen.raised,
    )
    if falls_back(starter.case, fault):
        check_second_answered(starter, fault, second)
        assert joined.row["saved_usd"] == starter.row["cost_usd"]
    else:
        check_second_was_not_asked(starter, second)
    assert (joined.row["status"], joined.row["error_code"]) == (starter.row["status"], starter.row["error_code"])


@pytest.mark.parametrize("fault", [fault for fault in SHARED if fault.name in ("503 overload", "slow first token")], ids=str)
@pytest.mark.parametrize("kind", ["both", "held"])
async def test_whose_client_leaves_a_shared_call_has_in_its_row_who_answered_the_others_at_last(kind: str, fault: Fault) -> None:
    gate = asyncio.Event()
    asked: dict[str, Any] = {"model": f"{kind}-openai", "stream": kind == "held"}
    async with ScriptedUpstream() as second:
        second.says(SECOND)
        async with serving(config=merged(config_for(fault, second), CACHE)) as gateway:
            gateway.upstream.script(gated(fault.script, gate))
            starter = asyncio.ensure_future(gateway.chat(**asked, headers={"X-Muxx-User-Id": "starter"}))
            await gateway.upstream.request()
            joined = asyncio.ensure_future(gateway.chat(**asked, headers={"X-Muxx-User-Id": "joined"}))
            await eventually(lambda: len(gateway.gateway.calls) == 2)
            starter.cancel()
            assert (await row_of_user(gateway, "starter"))["status"] == 499
            gate.set()
            assert "second" in (await joined).text
            expected = {
                "status": 499,
                "ended_by": "client",
                "provider": "spare-anthropic",
                "model": MODELS["anthropic"],
                "attempts": 2,
                "usage_source": "provider",
                "cost_usd": COSTS["anthropic"],
            }
            async with asyncio.timeout(5):
                while part_of(row := await row_of_user(gateway, "starter"), expected) != expected:
                    await asyncio.sleep(0.01)
            assert [one["target"] for one in row["attributes"]["attempts"]] == [
                "openai/gpt-4o",
                "spare-anthropic/claude-3-5-haiku",
            ]
            assert (len(gateway.upstream.requests), len(second.requests)) == (1, 1)
