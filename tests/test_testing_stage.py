"""A plugin on a stage: what happens there is what happens in a gateway, without a server."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

import muxx
from muxx import ConfigError, hookimpl
from muxx.testing import (
    ENDPOINTS,
    PROVIDER_KEY,
    Outcome,
    Played,
    RunningGateway,
    Said,
    Stage,
    Tool,
    attempt,
    broken,
    chunks,
    drive,
    endpoint_at,
    exchange,
    http_request,
    identity,
    model_for,
    provider,
    reasoning,
    refusal,
    target,
    tool_call,
)
from muxx.testing.asking import PLAIN_ONLY, asks_for_stream
from muxx.testing.speaking import streamed
from muxx.wire.wires import BY_NAME
from muxx_std.keys import Keys
from muxx_std.pricing import Pricing


class Shout:
    """Has a part in everything."""

    class Config(muxx.PluginConfig):
        mark: str = ""
        """What is put behind each piece."""

    migrations = (muxx.Migration("logs", "CREATE TABLE shout_rows (request_id TEXT PRIMARY KEY) STRICT"),)

    def __init__(self, config: Config) -> None:
        self.mark = config.mark

    @hookimpl
    def authenticate(self) -> None: ...

    @hookimpl
    async def pre_request(self, exchange: muxx.Exchange) -> None:
        exchange.reply_headers["X-Shout"] = "yes"
        exchange.attributes["shout"] = len(exchange.request.model)

    @hookimpl
    def pre_attempt(self, attempt: muxx.Attempt) -> None:
        attempt.body["seed"] = 3

    @hookimpl
    def on_chunk(self, chunk: muxx.Chunk) -> Iterable[muxx.Chunk] | None:
        return [replace(chunk, text=chunk.text.upper() + self.mark)] if chunk.kind == "text" else None

    @hookimpl
    def price(self, usage: muxx.Usage) -> muxx.Cost:
        return muxx.Cost(usage.input_tokens, usage.output_tokens, "shout-1")

    @hookimpl
    def post_response(self) -> None: ...

    @hookimpl
    async def record(self, db: muxx.Connection, records: list[muxx.Record]) -> None:
        await db.executemany("INSERT OR IGNORE INTO shout_rows VALUES (?)", [(r["request_id"],) for r in records])


def test_one_call_takes_a_plugin_through_a_whole_exchange() -> None:
    outcome = drive(Shout, chunks("hel", "lo"), settings={"mark": "!"}, stream=True)
    assert outcome.text == "HEL!LO!"
    assert outcome.status == 200
    assert outcome.headers["x-shout"] == "yes"
    assert outcome.sent[0]["seed"] == 3
    assert outcome.attributes == {"shout": 6}
    assert outcome.row is not None
    assert (outcome.row["status"], outcome.row["attributes"], outcome.row["price_version"]) == (200, {"shout": 6}, "shout-1")
    assert outcome.error is None
    assert [chunk.text for chunk in outcome.chunks if chunk.kind == "text"] == ["HEL!", "LO!"]
    before, after = ["authenticate", "pre_request", "pre_attempt"], ["price", "record", "post_response"]
    assert outcome.hooks[:3] == before
    assert set(outcome.hooks[3:-3]) == {"on_chunk"}
    assert sorted(outcome.hooks[-3:]) == sorted(after)
    assert outcome.ran["on_chunk"] == len(outcome.pieces)


async def test_it_works_inside_a_running_event_loop_too() -> None:
    assert drive(Shout, "hello").text == "HELLO"


def test_an_instance_may_be_driven_as_it_is() -> None:
    plugin = Shout(Shout.Config(mark="?"))
    assert drive(plugin, "hello").text == "HELLO?"
    with pytest.raises(TypeError, match="give the class"):
        drive(plugin, settings={"mark": "!"})


def test_settings_are_read_as_strictly_as_at_a_start() -> None:
    with pytest.raises(ConfigError, match=r"plugins\.shout\.mrak: unknown key \(did you mean 'mark'\?\)"):
        drive(Shout, settings={"mrak": "!"})


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_every_endpoint_answers_in_both_forms(endpoint: str, stream: bool) -> None:
    talk = Said("hi there", "hm", (Tool("f", '{"a": 1}'),), finish_reason="tool_calls")
    said = {"text_completion": Said("hi there"), "embeddings": Said(vectors=((1.0,),), finish_reason=None)}.get(endpoint, talk)
    if endpoint.startswith("count_"):
        said = Said(finish_reason=None)
    outcome = drive(Shout, said, endpoint=endpoint, stream=stream)
    assert replace(outcome.said, input_tokens=None, output_tokens=None) == replace(
        said, text=said.text.upper(), input_tokens=None, output_tokens=None
    )
    assert outcome.row is not None
    assert (outcome.row["endpoint"], outcome.row["model_requested"]) == (endpoint, model_for(endpoint))
    assert endpoint_at(outcome.attempts[0].url) == endpoint, "nothing is translated"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("endpoint", "model", "asked"),
    [
        ("chat", "claude-3-5-haiku", "messages"),
        ("chat", "gemini-1.5-flash", "generate_content"),
        ("responses", "claude-3-5-haiku", "messages"),
        ("messages", "gpt-4o", "chat"),
        ("messages", "gemini-1.5-flash", "generate_content"),
        ("generate_content", "gpt-4o", "chat"),
        ("generate_content", "claude-3-5-haiku", "messages"),
    ],
)
def test_a_model_of_another_format_is_asked_in_its_own_and_says_the_same(endpoint: str, model: str, asked: str, stream: bool) -> None:
    talk = Said("hi there", "hm", (Tool("f", '{"a": 1}'), Tool("g", "{}", "call_2")), finish_reason="tool_calls")
    outcome = drive(Shout, talk, endpoint=endpoint, model=model, stream=stream)
    assert [endpoint_at(attempt.url) for attempt in outcome.attempts] == [asked]
    said, usage = outcome.said, {"stream_options": {"include_usage": True}} if endpoint == "chat" and stream else {}
    assert (said.text, said.reasoning, said.tools, said.finish_reason) == ("HI THERE", "hm", talk.tools, "tool_calls")
    told = drive(Shout, talk, endpoint=endpoint, model=model, stream=stream, **usage).said
    assert (told.input_tokens, told.output_tokens) == (10, 5)


@pytest.mark.parametrize("endpoint", ["chat", "responses", "messages", "generate_content", "count_tokens", "count_content"])
def test_a_provider_refuses_in_its_own_words_and_a_stream_tells_its_cost(endpoint: str) -> None:
    refused = drive(Shout, refusal(429, "Wait.", headers={"retry-after": "7"}), endpoint=endpoint)
    assert (refused.status, refused.told["message"], refused.headers["retry-after"]) == (429, "Wait.", "7")
    if not endpoint.startswith("count_"):
        streamed = drive(Shout, "hi there", endpoint=endpoint, stream=True)
        assert (streamed.comment or {}).get("request_id") == (None if endpoint == "generate_content" else streamed.exchange.id)


def test_a_row_is_priced_by_a_plugin_beside_it() -> None:
    alone, priced = drive(Idle).row, drive(Idle, beside={"pricing": Pricing}).row
    assert alone is not None
    assert priced is not None
    assert (alone["cost_pico"], priced["cost_pico"]) == (None, 75_000_000)


def test_a_provider_may_refuse_fail_and_break_off() -> None:
    refused = drive(Shout, refusal(429, code="slow_down"))
    assert (refused.status, refused.told["code"]) == (429, "slow_down")
    with pytest.raises(ValueError, match="refused"):
        assert refused.text
    failed = drive(Shout, muxx.UpstreamTimeout())
    assert (failed.status, failed.told["code"]) == (504, "upstream_timeout")
    for stream in (False, True):
        outcome = drive(Shout, broken("hello there you", after=3), stream=stream)
        assert outcome.told["code"] == "upstream_disconnected"
        assert outcome.row is not None
        assert (outcome.row["error_code"], outcome.row["ended_by"]) == ("upstream_disconnected", "upstream")
    odd = drive(Shout, Played([b"<html>"], headers={"content-type": "text/html"}))
    assert (odd.status, odd.error is None) == (502, False)


class Idle:
    @hookimpl
    def post_response(self) -> None: ...


class Looks:
    @hookimpl
    def on_chunk(self) -> None: ...


@pytest.mark.parametrize("plugin", [Idle, Looks])
@pytest.mark.parametrize("endpoint", ["chat", "text_completion", "responses", "messages", "generate_content"])
def test_a_stream_that_comes_byte_by_byte_leaves_as_it_came(endpoint: str, plugin: type) -> None:
    stream = b"".join(streamed(endpoint, Said("hi there"), "any-model", usage=False))
    pieces = [stream[at : at + 1] for at in range(len(stream))]
    outcome = drive(plugin, Played(pieces, headers={"content-type": "text/event-stream"}), endpoint=endpoint, stream=True)
    assert re.sub(rb": muxx .*\n\n", b"", outcome.body) == stream


PAIR = {"models": [{"name": "pair", "targets": ["openai/one", "openai/two"]}]}


def test_answers_are_given_in_turn() -> None:
    outcome = drive(Shout, refusal(503), then=["second"], model="pair", config=PAIR)
    assert outcome.text == "SECOND"
    assert [body["model"] for body in outcome.sent] == ["one", "two"]
    assert outcome.ran["pre_attempt"] == 2


@pytest.mark.parametrize(("leave_after", "phase"), [(0, "head"), (2, "stream")])
def test_a_client_may_leave(leave_after: int, phase: str) -> None:
    outcome = drive(Shout, "hello there you", stream=True, leave_after=leave_after)
    assert outcome.row is not None
    assert (outcome.row["status"], outcome.row["ended_by"], outcome.row["phase"]) == (499, "client", phase)
    assert len(outcome.pieces) == leave_after
    assert outcome.ran["post_response"] == 1


def test_a_bad_request_and_a_crash_end_as_they_would() -> None:
    class Crashes:
        @hookimpl
        def pre_request(self) -> None:
            raise RuntimeError("a secret")

    bad = drive(Shout, body=b"{")
    assert (bad.status, bad.told["code"], bad.ran["post_response"], bad.ran["pre_request"]) == (400, "invalid_json", 1, 0)
    outcome = drive(Crashes)
    assert (outcome.status, outcome.told["code"]) == (500, "plugin_error")
    [crash] = outcome.crashes
    assert (crash.hook, str(crash.error)) == ("pre_request", "a secret")


def test_a_plugin_that_asks_for_a_key_has_one() -> None:
    assert drive(Keys).status == 200
    assert drive(Keys, headers={"Authorization": "Bearer muxx_sk_live_wrong"}).status == 401


async def test_a_stage_keeps_its_gateway_over_many_exchanges() -> None:
    async with Stage(Shout, name="loud") as stage:
        outcomes = [await stage.drive(f"number {n}", identity=identity("shop")) for n in range(3)]
        again = await stage.gateway.db.read_logs("SELECT request_id FROM shout_rows")
        assert {row["request_id"] for row in again} == {outcome.exchange.id for outcome in outcomes}
        await stage.deliver_again(outcomes[0])
        assert len(stage.records) == 4
        assert len(stage.watch.of("loud", "record")) == 4
    assert [outcome.text for outcome in outcomes] == ["NUMBER 0", "NUMBER 1", "NUMBER 2"]
    assert {outcome.row["project"] for outcome in outcomes if outcome.row} == {"shop"}


async def test_a_stage_leaves_nothing_behind() -> None:
    threads, tasks = threading.active_count(), len(asyncio.all_tasks())
    async with Stage(Shout) as stage:
        await stage.drive()
    assert (threading.active_count(), len(asyncio.all_tasks())) == (threads, tasks)


async def test_what_happens_on_a_stage_is_what_happens_in_a_gateway() -> None:
    """The same request and the same answer: the same bytes, the same row but for its times and ids."""
    async with RunningGateway(plugins={"shout": Shout}) as gateway:
        for stream in (False, True):
            members = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
            response = await gateway.chat(**members)
            served = await gateway.get_row(response.request_id)
            staged = drive(Shout, "Hello there.", beside={"pricing": Pricing}, **members)
            assert staged.said == response.said()
            assert staged.row is not None
            same = ("model", "provider", "status", "phase", "attempts", "input_tokens", "output_tokens", "usage_source", "attributes")
            assert {name: staged.row[name] for name in same} == {name: served[name] for name in same}


async def test_the_fixture_makes_stages(muxx_stage: Callable[..., Awaitable[Stage]]) -> None:
    stage = await muxx_stage(Shout, {"mark": "!"})
    outcome: Outcome = await stage.drive("hello")
    assert outcome.text == "HELLO!"


class TestTheGatewayOfTheFixtures:
    @pytest.fixture
    def muxx_plugins(self) -> dict[str, type]:
        return {"loud": Shout}

    @pytest.fixture
    def muxx_config(self) -> dict[str, Any]:
        return {"plugins": {"loud": {"mark": "!"}}}

    async def test_has_the_plugins_and_the_settings_a_test_gives_it(self, muxx_gateway: RunningGateway) -> None:
        assert (await muxx_gateway.chat()).said().text == "HELLO THERE.!"


# ── values ──


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_ready_made_exchange_is_one_a_hook_could_be_given(endpoint: str) -> None:
    made = exchange(endpoint, "Hi", stream=endpoint not in PLAIN_ONLY, seed=7, headers={"X-Badge": "1", "Cookie": "c"})
    assert [part.text for part in made.request.parts()] == ["Hi"]
    model, wire = model_for(endpoint), BY_NAME[endpoint]
    assert (made.operation, made.request.model, made.request.body["seed"]) == (endpoint, model, 7)
    assert (made.format, made.targets[0].provider.format) == (wire.format, wire.format)
    assert dict(made.request.headers) == {"x-badge": "1"}
    assert made.identity is not None
    assert made.project is not None
    vendor = {"openai": "openai", "anthropic": "anthropic", "gemini": "google"}[wire.format]
    assert (made.identity.project, made.project.name, str(made.targets[0])) == ("default", "default", f"{vendor}/{model}")
    tried = attempt(made, number=2)
    assert (tried.number, tried.body["model"], tried.url.startswith("http://provider.test/v1/")) == (2, model, True)
    assert endpoint_at(tried.url) == endpoint
    assert asks_for_stream(tried.url, tried.body) is (endpoint not in PLAIN_ONLY)
    key = {"openai": "authorization", "anthropic": "x-api-key", "gemini": "x-goog-api-key"}[wire.format]
    assert tried.headers[key].endswith(PROVIDER_KEY)


def test_everything_of_a_value_can_be_overridden() -> None:
    made = exchange(identity=None, targets=[target("other", provider=provider("own", base_url="http://own.test/v1"))])
    assert (made.identity, str(made.targets[0])) == (None, "own/other")
    assert attempt(made).url == "http://own.test/v1/chat/completions"
    assert identity("shop", models=("gpt-*",)).models == ("gpt-*",)
    assert http_request("/v1/logs?limit=3", method="GET", headers=[("A", "b")]).query == {"limit": "3"}


def test_chunks_of_every_kind_make_an_answer() -> None:
    made = chunks(*reasoning("Hm."), "Yes.", *tool_call("f", '{"a":', " 1}"), finish_reason="tool_calls")
    assert [chunk.kind for chunk in made] == ["reasoning", "text", "tool_call", "tool_call", "tool_call", "end"]
    said = drive(Shout, made).said
    assert (said.text, said.reasoning, said.tools) == ("YES.", "Hm.", (Tool("f", '{"a": 1}'),))
