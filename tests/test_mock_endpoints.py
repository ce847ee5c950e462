"""The mock's completions, embeddings and Responses, driven through the interface every transport has."""

from __future__ import annotations

import asyncio
import base64
import math
import struct
from typing import Any

import orjson
import pytest
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from test_mock import Collector
from wire.passing import observed
from wire.responses_judge import accepted, consistent, texts_of

from muxx import Attempt, Provider, Target, UpstreamDisconnected
from muxx.testing import eventually
from muxx.wire.wires import COMPLETIONS, RESPONSES, WIRES, Wire
from muxx_std.mock.formats import FORMATS
from muxx_std.mock.transport import MockResponse, MockTransport

TOOL = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 3}}},
}
SAID = "Hello there, world"
TEXT_IN = {"/completions": "prompt", "/embeddings": "input", "/responses": "input"}
STREAMING = [COMPLETIONS, RESPONSES]

each_stream = pytest.mark.parametrize("wire", STREAMING, ids=lambda wire: wire.name)
both_forms = pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "plain"])


def path_of(wire: Wire) -> str:
    """What follows a provider's base URL."""
    return wire.upstream_url("", "mock", False)


async def send(path: str, model: str, **members: Any) -> MockResponse:
    body = {"model": model, TEXT_IN[path]: SAID, **members}
    url = f"mock://{path}?api-version=1"
    response = await MockTransport().send(Attempt(Target(Provider("mock", "mock://"), model), 1, url, {}, body))
    assert isinstance(response, MockResponse)
    return response


async def answer(path: str, model: str = "mock", **members: Any) -> Any:
    sink = Collector()
    response = await send(path, model, **members)
    await response.pump(sink)
    assert response.headers["content-type"] == "application/json"
    return orjson.loads(sink.body)


async def stream(path: str, model: str = "mock", **members: Any) -> Collector:
    sink = Collector()
    response = await send(path, model, stream=True, **members)
    await response.pump(sink)
    assert response.headers["content-type"].startswith("text/event-stream")
    return sink


def response_events(sink: Collector) -> list[dict[str, Any]]:
    return [orjson.loads(data.partition(b"data: ")[2]) for data in sink.body.split(b"\n\n") if data]


def test_the_mock_has_every_endpoint_of_openais_the_gateway_has() -> None:
    assert set(FORMATS) == {wire.path.removeprefix("/v1") for wire in WIRES.values() if wire.format == "openai"}


# ── completions ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_completion_says_its_prompt_back_streamed_or_not() -> None:
    whole = await answer("/completions")
    Completion.model_validate(whole, strict=True)
    assert whole["choices"] == [{"text": SAID, "index": 0, "logprobs": None, "finish_reason": "stop"}]
    assert whole["usage"] == {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
    sink = await stream("/completions")
    assert [event["choices"][0]["text"] for event in sink.events] == ["Hello ", "there, ", "world", ""]
    assert [event["choices"][0]["finish_reason"] for event in sink.events] == [None, None, None, "stop"]
    assert sink.data[-1] == b"[DONE]"


async def test_each_prompt_has_n_choices_one_after_the_other() -> None:
    whole = await answer("/completions", prompt=["one", "two"], n=2)
    assert [(choice["index"], choice["text"]) for choice in whole["choices"]] == [(0, "one"), (1, "one"), (2, "two"), (3, "two")]
    sink = await stream("/completions", prompt=["one", "two"], n=2)
    finished = [choice["index"] for event in sink.events for choice in event["choices"] if choice["finish_reason"]]
    assert finished == [0, 1, 2, 3]


async def test_so_many_answers_at_a_time_are_given_and_no_more() -> None:
    assert len((await answer("/completions", prompt=["a"] * 16, n=128))["choices"]) == 2048
    refused = await answer("/completions", prompt=["a"] * 17, n=128)
    assert refused["error"]["message"] == "At most 2048 answers are given at a time."


async def test_tokens_in_a_prompt_are_counted_and_cannot_be_said_back() -> None:
    whole = await answer("/completions", prompt=[1, 2, 3])
    assert (whole["usage"]["prompt_tokens"], [choice["text"] for choice in whole["choices"]]) == (3, [""])
    several = await answer("/completions", prompt=[[1, 2, 3], [4]])
    assert (several["usage"]["prompt_tokens"], [choice["text"] for choice in several["choices"]]) == (4, ["", ""])


async def test_a_suffix_is_read_and_counted() -> None:
    assert (await answer("/completions", suffix="x" * 41))["usage"]["prompt_tokens"] == 5 + 10


@pytest.mark.parametrize("prompt", [None, "", []])
async def test_a_prompt_that_says_nothing_has_an_answer_that_says_nothing(prompt: Any) -> None:
    assert [choice["text"] for choice in (await answer("/completions", prompt=prompt))["choices"]] == [""]
    assert (await stream("/completions", prompt=prompt)).data[-1] == b"[DONE]"


async def test_echo_repeats_the_prompt_which_is_no_output() -> None:
    whole = await answer("/completions", "mock/text-hi", echo=True)
    assert (whole["choices"][0]["text"], whole["usage"]["completion_tokens"]) == (SAID + "hi", 1)
    sink = await stream("/completions", "mock/text-hi", echo=True)
    assert [event["choices"][0]["text"] for event in sink.events] == [SAID, "hi", ""]
    only = await answer("/completions", echo=True, max_tokens=0)
    assert (only["choices"][0]["text"], only["choices"][0]["finish_reason"]) == (SAID, "length")


async def test_the_words_of_a_completion_end_at_max_tokens() -> None:
    [choice] = (await answer("/completions", "mock/long-10", max_tokens=3))["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("Lorem ipsum dolor ", "length")


async def test_a_completion_streams_usage_only_when_asked() -> None:
    assert all("usage" not in event for event in (await stream("/completions")).events)
    asked = await stream("/completions", stream_options={"include_usage": True})
    assert all(event["usage"] is None for event in asked.events[:-1])
    assert (asked.events[-1]["choices"], asked.events[-1]["usage"]) == ([], (await answer("/completions"))["usage"])


@pytest.mark.parametrize("model", ["mock/tool", "mock/reasoning"])
async def test_what_completions_have_no_place_for_is_left_out(model: str) -> None:
    plain = await answer("/completions")
    tried = await answer("/completions", model, tools=[TOOL])
    assert (tried["choices"], tried["usage"]) == (plain["choices"], plain["usage"])


# ── embeddings ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def vectors(model: str = "mock", **members: Any) -> list[list[float]]:
    return [item["embedding"] for item in (await answer("/embeddings", model, **members))["data"]]


async def test_the_same_text_has_the_same_vector_of_unit_length_and_another_text_another() -> None:
    first, second, again = await vectors(input=["one", "two", "one"])
    [alone] = await vectors("gpt-4o", input="one")
    assert first == again == alone
    assert first != second
    assert math.hypot(*first) == pytest.approx(1, abs=1e-6)
    assert abs(sum(a * b for a, b in zip(first, second, strict=True))) < 0.2, "they point in different directions"


async def test_embeddings_are_what_the_sdk_calls_an_embeddings_response() -> None:
    whole = await answer("/embeddings", input=["one", "two"])
    CreateEmbeddingResponse.model_validate(whole, strict=True)
    assert [item["index"] for item in whole["data"]] == [0, 1]
    assert whole["usage"] == {"prompt_tokens": 2, "total_tokens": 2}


async def test_as_many_numbers_come_as_were_asked_for() -> None:
    assert [len(found) for found in await vectors()] == [1536]
    assert [len(found) for found in await vectors("text-embedding-3-large")] == [3072]
    [short], [long] = await vectors(dimensions=3), await vectors(dimensions=256)
    assert (len(short), len(long)) == (3, 256)
    assert math.hypot(*short) == pytest.approx(1, abs=1e-6)
    beginning = math.hypot(*long[:3])
    assert short == pytest.approx([number / beginning for number in long[:3]], abs=1e-6)


async def test_base64_holds_the_very_numbers() -> None:
    [[*numbers]], [coded] = await vectors(dimensions=8), await vectors(dimensions=8, encoding_format="base64")
    assert isinstance(coded, str)
    assert list(struct.unpack("<8f", base64.b64decode(coded))) == numbers


async def test_lists_of_tokens_have_vectors_too_and_are_counted() -> None:
    whole = await answer("/embeddings", input=[[1, 2, 3], [4], [1, 2, 3]])
    first, second, again = [item["embedding"] for item in whole["data"]]
    assert first == again != second
    assert whole["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert await vectors(input=[1, 2, 3]) == [first]


@pytest.mark.parametrize(
    ("members", "named"),
    [
        ({"input": []}, "input"),
        ({"input": ["x"] * 2049}, "input"),
        ({"input": [["x"]]}, "input"),
        ({"input": None}, "input"),
        ({"dimensions": 3073}, "dimensions"),
        ({"dimensions": -1}, "dimensions"),
        ({"dimensions": "8"}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
    ],
)
async def test_what_no_provider_would_embed_is_a_bad_request(members: dict[str, Any], named: str) -> None:
    response, sink = await send("/embeddings", "mock", **members), Collector()
    await response.pump(sink)
    assert response.status == 400
    assert f"'{named}'" in orjson.loads(sink.body)["error"]["message"]


async def test_embeddings_do_not_stream_and_report_no_usage_when_told_so() -> None:
    assert "usage" not in await answer("/embeddings", "mock/nousage", stream=True)


# ── Responses ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

MODELS = ["mock", "mock/text-", "mock/reasoning", "mock/tool", "mock/tool+reasoning", "mock/nousage", "mock/long-40+reasoning"]
INPUTS: list[Any] = [
    SAID,
    [{"role": "user", "content": SAID}],
    [
        {"role": "user", "content": [{"text": "Hello "}, {"type": "input_image"}, {"type": "input_text", "text": "there, world"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "no"}]},
    ],
]  # fmt: skip


@pytest.mark.parametrize("given", INPUTS, ids=["string", "message", "parts"])
async def test_a_response_says_the_users_last_message_back(given: Any) -> None:
    whole = Response.model_validate(await answer("/responses", input=given))
    assert (whole.status, whole.output_text) == ("completed", SAID)


@pytest.mark.parametrize("given", [None, [], ["text"], [{}], [{"role": "user", "content": None}]])
async def test_an_input_the_mock_cannot_read_is_answered_with_nothing(given: Any) -> None:
    assert Response.model_validate(await answer("/responses", input=given)).output_text == ""
    assert response_events(await stream("/responses", input=given))[-1]["type"] == "response.completed"


async def test_a_streamed_response_has_the_events_of_openais_in_their_order() -> None:
    sink = await stream("/responses")
    events = response_events(sink)
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created", "in_progress", "output_item.added", "content_part.added", *["output_text.delta"] * 3, "output_text.done",
        "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert [event["sequence_number"] for event in events] == list(range(11))
    assert [event["response"]["status"] for event in events if "response" in event] == ["in_progress", "in_progress", "completed"]
    assert len(sink.pieces) == len(events), "each event is fed by itself"
    assert all(piece.startswith(b"event: response.") for piece in sink.pieces)


@pytest.mark.parametrize("model", MODELS)
async def test_the_sdks_types_take_every_event_and_every_response(model: str) -> None:
    one_event: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
    sink = await stream("/responses", model, tools=[TOOL])
    for event in response_events(sink):
        assert one_event.validate_python(event).type == event["type"]
    assert consistent(sink.body)
    pieces, whole = texts_of(sink.body)
    assert pieces == whole
    plain = await answer("/responses", model, tools=[TOOL])
    assert accepted(sink.body) == Response.model_validate(plain).output_text


@pytest.mark.parametrize("model", MODELS)
async def test_a_plain_response_is_what_its_stream_ends_with(model: str) -> None:
    last = response_events(await stream("/responses", model, tools=[TOOL]))[-1]["response"]
    plain = await answer("/responses", model, tools=[TOOL])

    def less_ids(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: less_ids(child) for name, child in value.items() if name not in ("id", "call_id")}
        return [less_ids(child) for child in value] if isinstance(value, list) else value

    assert less_ids(last) == less_ids(plain)


async def test_a_response_repeats_what_it_was_asked_with() -> None:
    asked = {"instructions": "be brief", "temperature": 0.5, "tools": [TOOL], "metadata": {"a": "b"}, "max_output_tokens": 9}
    whole = await answer("/responses", **asked)
    assert {name: whole[name] for name in asked} == asked
    assert whole["tool_choice"] == "auto"


async def test_reasoning_is_an_item_of_its_own_before_the_message() -> None:
    whole = await answer("/responses", "mock/reasoning")
    assert [item["type"] for item in whole["output"]] == ["reasoning", "message"]
    usage = whole["usage"]
    assert 0 < usage["output_tokens_details"]["reasoning_tokens"] < usage["output_tokens"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


async def test_a_tool_is_called_and_its_result_is_answered_with_text() -> None:
    events = response_events(await stream("/responses", "mock/tool", tools=[{"type": "web_search"}, TOOL]))
    added, done = (next(e["item"] for e in events if e["type"] == f"response.output_item.{end}") for end in ("added", "done"))
    assert (added["type"], added["name"], added["arguments"], added["status"]) == (
        "function_call",
        "get_weather",
        "",
        "in_progress",
    )
    assert orjson.loads(done["arguments"]) == {"city": "example", "days": 3}
    deltas = [event["delta"] for event in events if event["type"] == "response.function_call_arguments.delta"]
    assert len(deltas) > 1
    assert "".join(deltas) == done["arguments"]
    returned = [
        {"role": "user", "content": "weather?"},
        {key: done[key] for key in ("type", "call_id", "name", "arguments")},
        {"type": "function_call_output", "call_id": done["call_id"], "output": "sunny"},
    ]
    after = await answer("/responses", "mock/tool", tools=[TOOL], input=returned)
    assert Response.model_validate(after).output_text == "The tool answered: sunny"
    assert Response.model_validate(await answer("/responses", "mock/tool")).output_text == SAID


async def test_max_output_tokens_makes_a_response_incomplete() -> None:
    events = response_events(await stream("/responses", "mock/long-10", max_output_tokens=3))
    last = events[-1]["response"]
    assert (events[-1]["type"], last["status"]) == ("response.incomplete", "incomplete")
    assert last["incomplete_details"] == {"reason": "max_output_tokens"}
    assert Response.model_validate(last).output_text == "Lorem ipsum dolor "


async def test_the_input_of_a_response_counts_all_that_the_model_reads() -> None:
    async def counted(**members: Any) -> int:
        count: int = (await answer("/responses", **members))["usage"]["input_tokens"]
        return count

    assert await counted(input="x" * 41) == 10
    assert await counted(input="x" * 41, instructions="y" * 41) == 20
    assert await counted(input=[{"type": "function_call_output", "output": "z" * 41}]) == 10
    assert await counted(input="x" * 41, tools=[TOOL]) > 20


# ── what holds for all of them ──────────────────────────────────────────────────────────────────────────────────────────────


@each_stream
@pytest.mark.parametrize("seed", [1, 7])
async def test_muxx_reads_a_stream_of_the_mock_as_complete_and_knows_its_text_and_usage(wire: Wire, seed: int) -> None:
    body = (await stream(path_of(wire), "mock/long-20", stream_options={"include_usage": True})).body
    facts, out = observed(wire, [body[at : at + seed] for at in range(0, len(body), seed)], body={})
    assert (facts.done, out) == (True, body)
    plain = wire.read_plain(orjson.dumps(await answer(path_of(wire), "mock/long-20")))
    assert (facts.text, facts.usage, facts.finish_reasons) == (plain.text, plain.usage, plain.finish_reasons)
    assert facts.usage is not None
    assert facts.usage.output_tokens == math.ceil(len(facts.text) / 4.1)


@pytest.mark.parametrize("path", TEXT_IN)
async def test_the_same_request_gets_the_same_bytes_at_every_endpoint(path: str) -> None:
    assert await answer(path) == await answer(path)


@pytest.mark.parametrize("path", TEXT_IN)
async def test_errors_and_mistaken_names_are_the_same_at_every_endpoint(path: str) -> None:
    for model, status in (("mock/error-429", 429), ("mock/slow-x", 404)):
        response, sink = await send(path, model, stream=True), Collector()
        await response.pump(sink)
        assert response.status == status
        assert set(orjson.loads(sink.body)["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("path", TEXT_IN)
async def test_slow_delays_the_head_at_every_endpoint(path: str) -> None:
    start = asyncio.get_running_loop().time()
    await send(path, "mock/slow-40")
    assert asyncio.get_running_loop().time() - start >= 0.035


@each_stream
async def test_drip_spreads_every_stream_over_time(wire: Wire) -> None:
    start = asyncio.get_running_loop().time()
    sink = await stream(path_of(wire), "mock/drip-10")
    assert asyncio.get_running_loop().time() - start >= 0.009 * (len(sink.pieces) - 1)


@both_forms
@pytest.mark.parametrize("model", ["mock/cut", "mock/cut+tool", "mock/cut+reasoning"])
@pytest.mark.parametrize("path", TEXT_IN)
async def test_cut_breaks_off_in_the_middle_of_every_answer(path: str, model: str, streamed: bool) -> None:
    sink = Collector()
    with pytest.raises(UpstreamDisconnected):
        await (await send(path, model, stream=streamed, tools=[TOOL])).pump(sink)
    assert sink.body
    assert not any(end in sink.body for end in (b"[DONE]", b"response.completed", b'finish_reason":"stop"', b"item.done"))


@each_stream
async def test_as_much_is_said_before_a_stream_breaks_at_every_endpoint(wire: Wire) -> None:
    sink = Collector()
    with pytest.raises(UpstreamDisconnected):
        await (await send(path_of(wire), "mock/cut", stream=True)).pump(sink)
    facts, _ = observed(wire, [sink.body])
    assert facts.text == "Hello "


@each_stream
async def test_stall_sends_half_of_every_stream_and_then_nothing_until_it_is_closed(wire: Wire) -> None:
    response, sink = await send(path_of(wire), "mock/stall", stream=True), Collector()
    pump = asyncio.ensure_future(response.pump(sink))
    await eventually(lambda: b"Hello " in sink.body)
    await asyncio.sleep(0.02)
    assert b"world" not in sink.body
    assert not pump.done()
    response.close()
    with pytest.raises(UpstreamDisconnected):
        await pump


@each_stream
async def test_garbage_is_one_event_amid_good_ones_in_every_stream(wire: Wire) -> None:
    good = await stream(path_of(wire), "mock/echo")
    bad = await stream(path_of(wire), "mock/garbage")
    assert len(bad.pieces) == len(good.pieces) + 1
    [odd] = [number for number, piece in enumerate(bad.pieces) if not _is_event(piece)]
    assert 0 < odd < len(bad.pieces) - 2


def _is_event(piece: bytes) -> bool:
    try:
        return piece == b"data: [DONE]\n\n" or bool(orjson.loads(piece.partition(b"data: ")[2]))
    except orjson.JSONDecodeError:
        return False


@each_stream
async def test_nodone_leaves_out_the_last_event_and_nothing_else(wire: Wire) -> None:
    ended = await stream(path_of(wire), "mock/echo")
    open_ended = await stream(path_of(wire), "mock/nodone")
    kinds = [piece.partition(b"{")[0] for piece in ended.pieces]
    assert [piece.partition(b"{")[0] for piece in open_ended.pieces] == kinds[:-1]


@each_stream
async def test_nousage_reports_none_streamed_or_not(wire: Wire) -> None:
    body = (await stream(path_of(wire), "mock/nousage", stream_options={"include_usage": True})).body
    assert observed(wire, [body])[0].usage is None
    assert wire.read_plain(orjson.dumps(await answer(path_of(wire), "mock/nousage"))).usage is None
