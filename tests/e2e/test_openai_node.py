"""The OpenAI SDK for Node as its users know it, with nothing but `baseURL` and `apiKey` changed. See `node/driver.mjs`."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai_node
import pytest
from openai_kit import (
    BREAKS,
    CHAT,
    FRAGMENTS,
    LONG_WAITS,
    REFUSALS,
    STORY,
    TOLD,
    TOOL,
    WRONG_FIELDS,
    WRONG_KEYS,
    CountingGateway,
    Outcome,
    broken,
    by_model,
    chunk,
    completion,
    refused,
    requests_per_model,
    tool_call,
    unfinished,
)
from openai_node import NodeSdk

from muxx.testing import (
    GatewayProcess,
    RecordedRequest,
    Script,
    ScriptedUpstream,
    chat_body,
    event,
    events,
    rst,
    sse,
    unused_port,
)


@pytest.fixture(scope="module")
def node() -> Iterator[NodeSdk]:
    sdk = openai_node.start()
    yield sdk
    sdk.close()


def text_of(chunks: list[dict[str, Any]]) -> str:
    return "".join(choice["delta"].get("content") or "" for item in chunks for choice in item["choices"])


def content_of(value: Any) -> Any:
    return value["data"]["choices"][0]["message"]["content"]


# ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_completion_comes_back_whole_with_its_id_and_cost(node: NodeSdk, gateway: CountingGateway) -> None:
    called = await node.call("create", gateway, body=chat_body("grüß dich 🦊"))
    assert content_of(called.value) == "Hello there."
    headers = called.value["headers"]
    row = await gateway.get_row(headers["x-muxx-request-id"])
    assert headers["x-request-id"] == called.value["request_id"] == called.value["_request_id"] == row["request_id"]
    assert Decimal(headers["x-muxx-cost"]) == Decimal("0.000075") == Decimal(row["cost_usd"])
    assert gateway.upstream.last.json() == chat_body("grüß dich 🦊")
    assert gateway.received.count(CHAT) == 1


@pytest.mark.parametrize("asked", [True, False])
async def test_usage_is_seen_exactly_when_asked_for(node: NodeSdk, gateway: CountingGateway, asked: bool) -> None:
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if asked else {}
    called = await node.call("stream", gateway, body=chat_body(**options))
    chunks = called.seen["chunks"]
    assert text_of(chunks) == "Hello there."
    assert [item["usage"]["total_tokens"] for item in chunks if item.get("usage")] == ([15] if asked else [])
    assert gateway.upstream.last.json()["stream_options"] == {"include_usage": True}
    row = await gateway.get_row(called.seen["request_id"])
    assert (row["input_tokens"], row["output_tokens"], row["usage_source"]) == (10, 5, "provider")


async def test_the_stream_helper_assembles_text_and_finish(node: NodeSdk, gateway: CountingGateway) -> None:
    called = await node.call("helper", gateway, body=chat_body())
    choice = called.value["choices"][0]
    assert called.seen["text"] == choice["message"]["content"] == "Hello there."
    assert choice["finish_reason"] == "stop"


async def test_a_stream_that_only_lacks_its_done_is_an_answer(node: NodeSdk, default_gateway: CountingGateway) -> None:
    default_gateway.upstream.script(sse(chunks=[*STORY, event(chunk({}, "stop"))]))
    called = await node.call("stream", default_gateway, body=chat_body())
    assert called.error is None
    assert text_of(called.seen["chunks"]) == TOLD


async def test_the_mock_answers_without_a_provider(node: NodeSdk, default_gateway: CountingGateway) -> None:
    plain = await node.call("create", default_gateway, body=chat_body("echo", "mock"))
    streamed = await node.call("stream", default_gateway, body=chat_body("echo", "mock"))
    assert (content_of(plain.value), text_of(streamed.seen["chunks"])) == ("echo", "echo")
    assert default_gateway.upstream.requests == []


async def test_fifty_calls_at_once_each_get_their_own_answer(node: NodeSdk, gateway: CountingGateway) -> None:
    gateway.upstream.script(_echo)
    bodies = [chat_body(f"number {number}", stream=number % 2 == 0) for number in range(50)]
    called = await node.call("parallel", gateway, bodies=bodies)
    assert called.value == [f"number {number}" for number in range(50)]
    assert (len(gateway.upstream.requests), gateway.received.count(CHAT)) == (50, 50)


def _echo(request: RecordedRequest) -> Script:
    asked = request.json()
    words = asked["messages"][0]["content"]
    return sse(events(chunk({"content": words}), chunk({}, "stop"))) if asked["stream"] else completion(words)


async def test_a_tools_call_and_its_result_make_the_round(node: NodeSdk, default_gateway: CountingGateway) -> None:
    body = chat_body(model="mock/tool", tools=[TOOL])
    first = (await node.call("create", default_gateway, body=body)).value["data"]["choices"][0]
    assert first["finish_reason"] == "tool_calls"
    call = first["message"]["tool_calls"][0]
    assert call["function"]["name"] == "weather"
    result = {"role": "tool", "tool_call_id": call["id"], "content": "12 °C"}
    body["messages"] += [first["message"], result]
    second = await node.call("create", default_gateway, body=body)
    assert content_of(second.value) == "The tool answered: 12 °C"
    await node.call("create", default_gateway, body=body | {"model": "gpt-4o"})
    assert default_gateway.upstream.last.json()["messages"] == body["messages"]


async def test_streamed_fragments_of_a_call_arrive_as_they_were(node: NodeSdk, gateway: CountingGateway) -> None:
    gateway.upstream.script(tool_call())
    streamed = await node.call("stream", gateway, body=chat_body(tools=[TOOL]))
    deltas = [item["choices"][0]["delta"] for item in streamed.seen["chunks"]]
    assert [call["function"]["arguments"] for delta in deltas for call in delta.get("tool_calls", ())] == ["", *FRAGMENTS]
    helped = await node.call("helper", gateway, body=chat_body(tools=[TOOL]))
    call = helped.value["choices"][0]["message"]["tool_calls"][0]
    assert (call["id"], call["function"]["arguments"]) == ("call_1", '{"city": "Köln"}')


async def test_models_are_listed_and_retrieved(node: NodeSdk, default_gateway: CountingGateway) -> None:
    listed = (await node.call("models", default_gateway)).value
    assert {"gpt-4o", "claude-3-5-sonnet", "gemini-1.5-flash"} <= {model["id"] for model in listed}
    for name in ("gpt-4o", "openai/gpt-4o"):
        assert (await node.call("model", default_gateway, id=name)).value["id"] == name
    missing = (await node.call("model", default_gateway, id="no-such-model")).error
    assert missing is not None
    assert (missing["exception"], missing["code"]) == ("NotFoundError", "model_not_found")


# ── refusals ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def refusals_of(node: NodeSdk, gateway: CountingGateway, *bodies: Any, **client: Any) -> list[dict[str, Any]]:
    """The exceptions of these requests, made all at once."""
    found: list[dict[str, Any]] = (await node.call("refusals", gateway, client, bodies=bodies)).value
    assert all(found)
    return found


async def test_each_refusal_is_its_exception_after_the_right_attempts(node: NodeSdk, gateway: CountingGateway) -> None:
    gateway.upstream.script(by_model({f"gpt-{status}": refused(status) for status in REFUSALS}))
    errors = await refusals_of(node, gateway, *(chat_body(model=f"gpt-{status}") for status in REFUSALS))
    attempts = requests_per_model(gateway.upstream)
    outcomes = {
        status: Outcome(error["status"], error["code"], _python_name(error["exception"]), attempts[f"gpt-{status}"])
        for status, error in zip(REFUSALS, errors, strict=True)
    }
    assert outcomes == REFUSALS
    assert gateway.received.count(CHAT) == sum(attempts.values())
    assert all(error["request_id"] == error["headers"]["x-muxx-request-id"] for error in errors)
    assert (errors[0]["param"], errors[0]["type"]) == ("messages", "scripted_error")


def _python_name(exception: str) -> str:
    """Node has no class of its own for the statuses without a name."""
    return "APIStatusError" if exception == "APIError" else exception


async def test_a_refusal_that_passes_is_retried_into_an_answer(node: NodeSdk, gateway: CountingGateway) -> None:
    gateway.upstream.script(refused(503), refused(429), completion("back"))
    called = await node.call("create", gateway, body=chat_body())
    assert content_of(called.value) == "back"
    assert (len(gateway.upstream.requests), gateway.received.count(CHAT)) == (3, 3)


async def test_a_long_wait_is_left_to_the_application(node: NodeSdk, default_gateway: CountingGateway) -> None:
    cases = list(itertools.product((429, 503, 529), LONG_WAITS))
    models = [f"gpt-{number}" for number in range(len(cases))]
    default_gateway.upstream.script(by_model({model: refused(*case) for model, case in zip(models, cases, strict=True)}))
    started = time.monotonic()
    errors = await refusals_of(node, default_gateway, *(chat_body(model=model) for model in models))
    assert time.monotonic() - started < 5
    assert [(error["status"], error["code"]) for error in errors] == [(status, "scripted_code") for status, _ in cases]
    assert {error["headers"]["x-should-retry"] for error in errors} == {"false"}
    assert requests_per_model(default_gateway.upstream) == dict.fromkeys(models, 1)


async def test_a_provider_nobody_can_reach_and_one_that_is_late_are_tried_three_times(node: NodeSdk) -> None:
    config = {
        "server": {"first_byte_timeout_s": 0.3},
        "providers": {"gone": {"format": "openai", "base_url": f"http://127.0.0.1:{unused_port()}/v1", "api_key": "sk-gone"}},
    }
    async with CountingGateway(config) as gateway:
        gateway.upstream.script([b""])
        errors = await refusals_of(node, gateway, chat_body(model="gone/m"), chat_body())
        assert [error["code"] for error in errors] == ["upstream_unreachable", "upstream_timeout"]
        assert [error["status"] for error in errors] == [502, 504]
        assert {error["exception"] for error in errors} == {"InternalServerError"}
        assert (len(gateway.upstream.requests), gateway.received.count(CHAT)) == (3, 6)


async def test_a_missing_or_wrong_key_is_refused_once(node: NodeSdk, default_gateway: CountingGateway) -> None:
    for key, code in WRONG_KEYS.items():
        (error,) = await refusals_of(node, default_gateway, chat_body(), apiKey=key)
        assert (error["exception"], error["status"], error["code"]) == ("AuthenticationError", 401, code)
        assert key not in error["message"]
    assert (default_gateway.received.count(CHAT), default_gateway.upstream.requests) == (len(WRONG_KEYS), [])


async def test_an_admin_key_calls_no_model(node: NodeSdk, default_gateway: CountingGateway) -> None:
    (error,) = await refusals_of(node, default_gateway, chat_body(), apiKey=await default_gateway.make_key("--admin"))
    assert (error["exception"], error["type"]) == ("PermissionDeniedError", "permission_error")
    assert (default_gateway.received.count(CHAT), default_gateway.upstream.requests) == (1, [])


async def test_an_unknown_model_a_wrong_base_url_and_wrong_fields_are_told_apart(
    node: NodeSdk, default_gateway: CountingGateway
) -> None:
    wrong = [chat_body() | fields for fields in WRONG_FIELDS.values()]
    model, *fields = await refusals_of(node, default_gateway, chat_body(model="no-such-model"), *wrong)
    (path,) = await refusals_of(node, default_gateway, chat_body(), baseURL=default_gateway.base_url)
    assert (model["exception"], model["code"], model["param"]) == ("NotFoundError", "model_not_found", "model")
    assert (path["exception"], path["code"]) == ("NotFoundError", "not_found")
    assert [(error["exception"], error["param"]) for error in fields] == [("BadRequestError", name) for name in WRONG_FIELDS]
    assert (default_gateway.received.count(CHAT), default_gateway.upstream.requests) == (1 + len(WRONG_FIELDS), [])


async def test_a_body_over_the_limit_is_refused_once_however_large(node: NodeSdk) -> None:
    async with CountingGateway({"server": {"max_body_bytes": 100_000}}) as gateway:
        (error,) = await refusals_of(node, gateway, chat_body("x" * 5_000_000))
        assert (error["status"], error["code"]) == (413, "request_too_large")
        assert (gateway.received.count(CHAT), gateway.upstream.requests) == (1, [])


# ── broken streams, clients that leave, gateways that go ────────────────────────────────────────────────────────────────────


async def test_a_broken_stream_raises_after_what_was_told(node: NodeSdk, gateway: CountingGateway) -> None:
    for how, code in BREAKS.items():
        gateway.upstream.script(broken(how))
        called = await node.call("stream", gateway, body=chat_body(model=f"gpt-{how}"))
        assert called.error is not None, how
        assert called.error["isAPIError"]
        assert called.error["code"] == code
        assert text_of(called.seen["chunks"]) == TOLD
        row = await gateway.get_row(called.seen["request_id"])
        assert (row["status"], row["ended_by"], row["phase"], row["error_code"]) == (200, "upstream", "stream", code)
    assert requests_per_model(gateway.upstream) == {f"gpt-{how}": 1 for how in BREAKS}
    assert gateway.received.count(CHAT) == len(BREAKS)


async def test_the_helper_raises_too(node: NodeSdk, default_gateway: CountingGateway) -> None:
    default_gateway.upstream.script(broken("truncated"))
    called = await node.call("helper", default_gateway, body=chat_body())
    assert called.error is not None
    assert called.seen["text"] == TOLD
    assert len(default_gateway.upstream.requests) == 1


async def test_a_stream_reset_before_its_first_byte_is_retried(node: NodeSdk, gateway: CountingGateway) -> None:
    gateway.upstream.script([rst()], sse(events(chunk({"content": "back"}), chunk({}, "stop"))))
    called = await node.call("stream", gateway, body=chat_body())
    assert text_of(called.seen["chunks"]) == "back"
    assert (len(gateway.upstream.requests), gateway.received.count(CHAT)) == (2, 2)


async def test_leaving_a_stream_closes_the_upstream(node: NodeSdk, gateway: CountingGateway) -> None:
    gateway.upstream.script(unfinished())
    called = await node.call("stream", gateway, body=chat_body(), leaveAfter=1)
    ended = time.monotonic()
    assert called.error is None
    assert await gateway.upstream.last.peer_left() - ended < 1.0
    row = await gateway.get_row(called.seen["request_id"])
    assert (row["status"], row["ended_by"], row["phase"]) == (499, "client", "stream")
    assert Decimal(row["cost_usd"]) > 0


async def test_a_client_that_times_out_closes_the_upstream(node: NodeSdk, gateway: CountingGateway) -> None:
    gateway.upstream.script([b""])
    called = await node.call("create", gateway, body=chat_body(), options={"timeout": 400, "maxRetries": 0})
    ended = time.monotonic()
    assert called.error is not None
    assert called.error["exception"] == "APIConnectionTimeoutError"
    assert await gateway.upstream.last.peer_left() - ended < 1.0
    assert len(gateway.upstream.requests) == 1


async def test_one_client_outlives_a_restart_of_the_gateway(
    node: NodeSdk, tmp_path: Path, scripted_upstream: ScriptedUpstream
) -> None:
    async with GatewayProcess(tmp_path, scripted_upstream.base_url) as gateway:
        assert (await node.call("create", gateway, body=chat_body())).error is None
        scripted_upstream.script(unfinished())
        assert (await node.call("begin", gateway, body=chat_body())).error is None
        await gateway.kill()
        assert (await node.call("goOn", gateway)).error is not None
        await gateway.start()
        scripted_upstream.script(completion("again"))
        called = await node.call("create", gateway, body=chat_body())
        assert content_of(called.value) == "again"
        assert len(scripted_upstream.requests) == 3
