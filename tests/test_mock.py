"""The mock transport, driven through the interface every transport has."""

from __future__ import annotations

import asyncio
import time
from math import ceil
from typing import Any

import orjson
import pytest

from muxx import Attempt, Provider, Target, UpstreamDisconnected
from muxx.testing import eventually
from muxx_std.mock import Mock
from muxx_std.mock.behaviour import NAMES, behaviour_of, parse
from muxx_std.mock.schema import example
from muxx_std.mock.transport import MockResponse, MockTransport

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}, "days": {"type": "integer", "minimum": 3}},
        },
    },
}


class Collector:
    """A sink that keeps what it is fed."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def feed(self, data: bytes) -> None:
        self.pieces.append(data)

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def data(self) -> list[bytes]:
        return [event.removeprefix(b"data: ") for event in self.body.split(b"\n\n") if event]

    @property
    def events(self) -> list[Any]:
        return [orjson.loads(data) for data in self.data if data != b"[DONE]"]

    @property
    def text(self) -> str:
        return "".join(c["delta"].get("content") or "" for event in self.events for c in event["choices"])


def attempt(model: str, content: str = "Hello there, world", **members: Any) -> Attempt:
    body = {"model": model, "messages": [{"role": "user", "content": content}], **members}
    return Attempt(Target(Provider("mock", "mock://"), model), 1, "mock:///chat/completions", {}, body)


async def send(model: str, transport: MockTransport | None = None, **members: Any) -> MockResponse:
    response = await (transport or MockTransport()).send(attempt(model, **members))
    assert isinstance(response, MockResponse)
    return response


async def plain(model: str, **members: Any) -> dict[str, Any]:
    sink = Collector()
    await (await send(model, **members)).pump(sink)
    answer: dict[str, Any] = orjson.loads(sink.body)
    return answer


async def stream(model: str, **members: Any) -> Collector:
    sink = Collector()
    await (await send(model, stream=True, **members)).pump(sink)
    return sink


def content(answer: dict[str, Any]) -> str:
    text: str = answer["choices"][0]["message"]["content"]
    return text


@pytest.mark.parametrize("model", ["mock", "echo", "mock/echo", "gpt-4o", "claude-3-5-sonnet", "o1", "a/b+c"])
async def test_any_model_that_asks_for_nothing_echoes_the_last_user_message(model: str) -> None:
    answer = await plain(model)
    assert content(answer) == "Hello there, world"
    assert answer["model"] == model
    assert answer["choices"][0]["finish_reason"] == "stop"


async def test_echo_reads_content_parts_and_skips_later_messages_of_other_roles() -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a "}, {"type": "image_url"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "no"},
    ]
    assert content(await plain("mock", messages=messages)) == "a b"


@pytest.mark.parametrize("messages", [[], ["text"], [{}], [{"role": "user", "content": None}], [{"content": [1, {}]}]])
async def test_messages_the_mock_cannot_read_are_answered_with_nothing(messages: list[Any]) -> None:
    assert content(await plain("mock", messages=messages)) == ""
    assert (await stream("mock", messages=messages)).data[-1] == b"[DONE]"


async def test_of_a_very_long_message_only_the_beginning_is_said_back_and_no_time_is_lost_over_it() -> None:
    """Whoever has a key can ask for it, at 128 copies."""
    content = "ab " * 2**20
    started = time.process_time()
    answer = await plain("mock", content=content, n=128)
    assert time.process_time() - started < 2.0
    assert {choice["message"]["content"] for choice in answer["choices"]} == {content[:65_536]}
    assert answer["usage"]["prompt_tokens"] == ceil(len(content) / 4.1)


async def test_a_stream_is_role_then_words_then_finish_then_done() -> None:
    sink = await stream("mock")
    deltas = [event["choices"][0]["delta"] for event in sink.events]
    assert deltas == [
        {"role": "assistant", "content": ""}, {"content": "Hello "}, {"content": "there, "}, {"content": "world"}, {}
    ]  # fmt: skip
    assert [event["choices"][0]["finish_reason"] for event in sink.events] == [None, None, None, None, "stop"]
    assert sink.data[-1] == b"[DONE]"
    assert len(sink.pieces) == len(sink.data), "each event is fed by itself"


async def test_a_stream_reports_usage_only_when_asked_and_agrees_with_the_plain_answer() -> None:
    silent = await stream("mock")
    assert all("usage" not in event for event in silent.events)
    asked = await stream("mock", stream_options={"include_usage": True})
    assert asked.events[-1]["choices"] == []
    assert all(event["usage"] is None for event in asked.events[:-1])
    assert asked.events[-1]["usage"] == (await plain("mock"))["usage"]


async def test_usage_is_bytes_by_four_point_one_rounded_up() -> None:
    usage = (await plain("mock", content="x" * 42))["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (11, 11, 22)


async def test_the_same_request_gets_the_same_bytes_and_another_gets_another_id() -> None:
    first, again, other = (await stream("mock"), await stream("mock"), await stream("mock", content="else"))
    assert first.body == again.body
    assert first.events[0]["id"] != other.events[0]["id"]


@pytest.mark.parametrize("prefix", ["mock/", ""])
async def test_scripted_text_is_percent_decoded_and_may_hold_dashes(prefix: str) -> None:
    assert content(await plain(f"{prefix}text-hello%20big-world%2B1")) == "hello big-world+1"


async def test_configured_text_replaces_the_echo() -> None:
    transport = MockTransport(text="as configured")
    sink = Collector()
    await (await send("gpt-4o", transport)).pump(sink)
    assert content(orjson.loads(sink.body)) == "as configured"


async def test_long_counts_events_and_max_tokens_cuts_it_short() -> None:
    sink = await stream("mock/long-1000")
    assert len(sink.events) == 1002
    short = await stream("mock/long-1000", max_tokens=3)
    assert short.text == "Lorem ipsum dolor "
    assert short.events[-1]["choices"][0]["finish_reason"] == "length"


async def test_n_repeats_the_answer_under_its_own_index() -> None:
    answer = await plain("mock", n=3)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    sink = await stream("mock", n=3)
    finished = [c["index"] for event in sink.events for c in event["choices"] if c["finish_reason"]]
    assert finished == [0, 1, 2]


async def test_reasoning_comes_before_the_text_and_is_counted_inside_the_output() -> None:
    sink = await stream("mock/reasoning", stream_options={"include_usage": True})
    kinds = [next(iter(event["choices"][0]["delta"]), "") for event in sink.events[:-1]]
    assert kinds.index("reasoning_content") < kinds.index("content")
    usage = sink.events[-1]["usage"]
    assert 0 < usage["completion_tokens_details"]["reasoning_tokens"] < usage["completion_tokens"]


async def test_tool_calls_the_first_tool_with_arguments_that_fit_its_schema() -> None:
    answer = await plain("mock/tool", tools=[TOOL])
    choice = answer["choices"][0]
    call = choice["message"]["tool_calls"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert call["function"]["name"] == "get_weather"
    assert orjson.loads(call["function"]["arguments"]) == {"city": "example", "unit": "C", "days": 3}


async def test_a_streamed_tool_call_is_the_plain_one_in_fragments() -> None:
    call = (await plain("mock/tool", tools=[TOOL]))["choices"][0]["message"]["tool_calls"][0]
    sink = await stream("mock/tool", tools=[TOOL])
    fragments = [f for event in sink.events for f in event["choices"][0]["delta"].get("tool_calls", ())]
    assert fragments[0]["id"].startswith("call_")
    assert fragments[0]["function"]["name"] == call["function"]["name"]
    assert "".join(f["function"]["arguments"] for f in fragments) == call["function"]["arguments"]
    assert len(fragments) > 2
    assert sink.events[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_tool_answers_with_text_after_a_result_and_when_no_tool_is_offered() -> None:
    messages = [{"role": "user", "content": "weather?"}, {"role": "tool", "content": "sunny", "tool_call_id": "call_1"}]
    assert content(await plain("mock/tool", messages=messages, tools=[TOOL])) == "The tool answered: sunny"
    assert content(await plain("mock/tool")) == "Hello there, world"


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"const": 7}, 7),
        ({"type": "string", "default": "d"}, "d"),
        ({"examples": ["e"]}, "e"),
        ({"anyOf": [{"type": "null"}, {"type": "string"}]}, None),
        ({"type": ["boolean", "null"]}, True),
        ({"type": "array", "items": {"type": "number"}}, [1]),
        ({"type": "array"}, []),
        ({"properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"type": "string"}}}, {"a": "example"}),
        ({"$ref": "#/nowhere"}, None),
        ({"enum": "not a list", "type": "string"}, "example"),
        ("not a schema", None),
    ],
)
def test_an_example_fits_its_schema(schema: Any, value: Any) -> None:
    assert example(schema, schema) == value


def test_a_recursive_schema_has_a_finite_example() -> None:
    schema = {"properties": {"child": {"$ref": "#"}}}
    assert "child" in example(schema, schema)
    loop = {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}
    assert example(loop, loop) is None


@pytest.mark.parametrize(
    ("status", "code", "retry_after"),
    [
        (400, "invalid_value", None),
        (401, "invalid_api_key", None),
        (429, "rate_limit_exceeded", "1"),
        (500, "server_error", None),
        (503, "overloaded", "1"),
    ],
)
async def test_errors_have_openais_body_and_a_wait_where_waiting_helps(status: int, code: str, retry_after: str | None) -> None:
    response = await send(f"mock/error-{status}", stream=True)
    sink = Collector()
    await response.pump(sink)
    error = orjson.loads(sink.body)["error"]
    assert response.status == status
    assert error["code"] == code
    assert set(error) == {"message", "type", "param", "code"}
    assert response.headers.get("retry-after") == retry_after
    assert response.headers["content-length"] == str(len(sink.body))


MISTAKES = """mock/nonsense mock/ mock/slow-x slow-x slow- sloow-200 drip-20+nonsense error-99 error-200 long-0 text"""


async def test_an_endpoint_there_is_not_is_refused_in_words() -> None:
    asked = Attempt(Target(Provider("mock", "mock://"), "mock"), 1, "mock:///audio/speech", {}, {"model": "mock", "input": "hi"})
    response, sink = await MockTransport().send(asked), Collector()
    await response.pump(sink)
    assert response.status == 404
    assert "/chat/completions, /completions, /embeddings, /responses" in sink.body.decode()


@pytest.mark.parametrize("model", MISTAKES.split())
async def test_a_mistaken_name_is_404_and_lists_the_valid_ones(model: str) -> None:
    response = await send(model)
    sink = Collector()
    await response.pump(sink)
    error = orjson.loads(sink.body)["error"]
    assert response.status == 404
    assert error["code"] == "model_not_found"
    assert all(f"mock/{name}" in error["message"] for name in NAMES)


def test_names_join_with_plus() -> None:
    found = parse("slow-200+drip-20+long-50+nousage+cut")
    assert found is not None
    assert (found.slow, found.drip, found.long, found.nousage, found.fault) == (200, 20, 50, True, "cut")


def test_every_name_of_the_list_is_understood_and_documented() -> None:
    for name in NAMES:
        sample = name.replace("WORDS", "x").replace("MS", "1").replace("STATUS", "400").replace("-N", "-1")
        assert behaviour_of(f"mock/{sample}") is not None
        assert f"`mock/{sample.partition('-')[0]}" in (Mock.__doc__ or "")


async def test_slow_and_latency_delay_the_head_and_mark_the_attempt_as_sent() -> None:
    sending = attempt("mock/slow-40")
    loop = asyncio.get_running_loop()
    start = loop.time()
    task = asyncio.ensure_future(MockTransport(latency_ms=40).send(sending))
    await asyncio.sleep(0)
    assert sending.sent
    await task
    assert loop.time() - start >= 0.075


async def test_drip_spreads_a_stream_over_time() -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    sink = await stream("mock/drip-10+long-3")
    assert loop.time() - start >= 0.045
    assert sink.data[-1] == b"[DONE]"


@pytest.mark.parametrize("streamed", [True, False])
async def test_cut_breaks_off_in_the_middle(streamed: bool) -> None:
    sink = Collector()
    with pytest.raises(UpstreamDisconnected):
        await (await send("mock/cut", stream=streamed)).pump(sink)
    assert sink.body
    assert b"[DONE]" not in sink.body
    assert b'finish_reason":"stop' not in sink.body
    if streamed:
        assert sink.text == "Hello "


@pytest.mark.parametrize("streamed", [True, False])
async def test_stall_sends_half_and_then_nothing_until_it_is_closed(streamed: bool) -> None:
    response, sink = await send("mock/stall", stream=streamed), Collector()
    pump = asyncio.ensure_future(response.pump(sink))
    await eventually(lambda: sink.pieces)
    await asyncio.sleep(0.02)
    seen = sink.body
    await asyncio.sleep(0.02)
    assert sink.body == seen
    assert not pump.done()
    response.close()
    with pytest.raises(UpstreamDisconnected):
        await pump


async def test_garbage_is_one_event_that_is_no_json_amid_good_ones() -> None:
    sink = await stream("mock/garbage")
    bad = [data for data in sink.data if data != b"[DONE]" and not _is_json(data)]
    assert len(bad) == 1
    assert _is_json(sink.data[-2])
    body = Collector()
    await (await send("mock/garbage")).pump(body)
    assert not _is_json(body.body)


def _is_json(data: bytes) -> bool:
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True


async def test_nousage_and_nodone_leave_out_just_that() -> None:
    asked = {"stream_options": {"include_usage": True}}
    assert "usage" not in await plain("mock/nousage")
    silent = await stream("mock/nousage", **asked)
    assert all(not event.get("usage") for event in silent.events)
    open_ended = await stream("mock/nodone", **asked)
    assert b"[DONE]" not in open_ended.body
    assert open_ended.events[-1]["usage"]


class PausingSink(Collector):
    """Pauses the response that feeds it after so many pieces."""

    def __init__(self, response: MockResponse, after: int) -> None:
        super().__init__()
        self.response = response
        self.after = after

    def feed(self, data: bytes) -> None:
        super().feed(data)
        if len(self.pieces) == self.after:
            self.response.pause()


async def test_nothing_is_produced_while_paused_and_nothing_is_lost_by_it() -> None:
    response = await send("mock/long-50", stream=True)
    sink = PausingSink(response, 5)
    pump = asyncio.ensure_future(response.pump(sink))
    await asyncio.sleep(0.03)
    assert len(sink.pieces) == 5
    response.resume()
    await pump
    assert sink.body == (await stream("mock/long-50")).body


async def test_a_closed_response_produces_nothing_more_even_when_paused() -> None:
    response = await send("mock/long-50", stream=True)
    sink = PausingSink(response, 5)
    pump = asyncio.ensure_future(response.pump(sink))
    await eventually(lambda: len(sink.pieces) == 5)
    response.close()
    response.close()
    response.pause()
    with pytest.raises(UpstreamDisconnected):
        await pump
    assert len(sink.pieces) == 5


async def test_a_long_stream_leaves_the_event_loop_to_others() -> None:
    response, sink = await send("mock/long-2000", stream=True), Collector()
    pump = asyncio.ensure_future(response.pump(sink))
    turns = 0
    while not pump.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 1000


def test_the_plugin_registers_its_row_and_its_transport() -> None:
    row, (name, transport) = Mock(Mock.Config(text="configured")).register_providers()
    assert isinstance(row, Provider)
    assert (row.name, row.transport, name) == ("mock", "mock", "mock")
    assert isinstance(transport, MockTransport)
