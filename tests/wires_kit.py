"""What the tests of completions, embeddings and Responses through a running gateway share: each endpoint as a client calls it, and
plain readings to hold answers and rows against. Responses streams come from `wire.responses_kit`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from carrying_kit import CACHED, INPUT, OUTPUT, PICO, chunks_of, events_of, tokens, usd
from wire import responses_kit
from wire.recordings import recordings
from wire.responses_kit import call, message, reasoning

from muxx import Chunk, Exchange, StateKey, TextWindow, hookimpl
from muxx.testing import DONE, RawResponse, RunningGateway, event

Row = dict[str, Any]

EMBEDDING_INPUT = 20_000
"""text-embedding-3-small in pico-dollars per token: 0.02 USD per million."""


@dataclass(frozen=True)
class Endpoint:
    """An endpoint, a request it takes, and an answer to it in both forms. `stream` is empty where there is no such form."""

    name: str
    path: str
    asked: Mapping[str, Any]
    plain: bytes
    row: Mapping[str, Any]
    """What the row of that answer says of it, in either form."""
    stream: bytes = b""

    def __str__(self) -> str:
        return self.name

    @property
    def last(self) -> bytes:
        """The event that ends a complete stream."""
        return events_of(self.stream)[-1][0]


# ── completions ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def piece(text: str, reason: str | None = None, **members: Any) -> bytes:
    """An event of a completion."""
    choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": reason}
    return event({"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "gpt-4o", "choices": [choice]} | members)


TOLD = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}
USAGE_EVENT = event({"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "gpt-4o", "choices": [], "usage": TOLD})
ASKED_USAGE = {"stream": True, "stream_options": {"include_usage": True}}


def completion(text: str) -> bytes:
    """A plain completion as no JSON writer of ours would write it."""
    choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": "stop"}
    answer = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "gpt-4o", "choices": [choice], "usage": TOLD}
    return json.dumps(answer | {"odd": 1.10}, indent=1).encode()


def completion_stream(*texts: str) -> bytes:
    return b"".join(map(piece, texts)) + piece("", "stop") + USAGE_EVENT + DONE


COMPLETIONS = Endpoint(
    "text_completion",
    "/v1/completions",
    {"model": "gpt-4o", "prompt": "Once", "suffix": "ever after."},
    completion("upon a time 👋"),
    {"input_tokens": 12, "output_tokens": 3, "finish_reasons": ["stop"], "cost_usd": usd(12 * INPUT + 3 * OUTPUT)},
    completion_stream("upon ", "a ", "time 👋"),
)


# ── embeddings ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

EMBEDDINGS = Endpoint(
    "embeddings",
    "/v1/embeddings",
    {"model": "openai/text-embedding-3-small", "input": ["one", "two"]},
    b"""{ "object" : "list", "data": [ {"object":"embedding","index":0,"embedding":[0.10, -2.50e-3]},
    {"object":"embedding","index":1,"embedding":[1.0,0.0]} ],
    "model": "text-embedding-3-small", "usage":{"prompt_tokens":40,"total_tokens":40} }\n""",
    {"input_tokens": 40, "output_tokens": 0, "finish_reasons": [], "cost_usd": usd(40 * EMBEDDING_INPUT)},
)


# ── Responses ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def response_stream(*texts: str) -> bytes:
    """A message, after some reasoning, and a call of a tool: the same words in each."""
    built = (reasoning(0, *texts), message(1, *texts), call(2, *texts))
    return responses_kit.stream(*responses_kit.answer(*built))


def terminal(stream: bytes) -> dict[str, Any]:
    """The response object of a stream's terminal event."""
    found: dict[str, Any] = chunks_of(stream)[-1]["response"]
    return found


def response_of(*texts: str) -> bytes:
    return json.dumps(terminal(response_stream(*texts)), indent=1).encode()


RESPONSES = Endpoint(
    "responses",
    "/v1/responses",
    {
        "model": "gpt-4o",
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
        "instructions": "be brief",
    },
    response_of("Grüß ", "Gott 👋"),
    {
        "input_tokens": 20,
        "cache_read_tokens": 5,
        "output_tokens": 30,
        "reasoning_tokens": 7,
        "finish_reasons": ["tool_calls"],
        "cost_usd": usd(15 * INPUT + 5 * CACHED + 30 * OUTPUT),
    },
    response_stream("Grüß ", "Gott 👋"),
)

STREAMED = [COMPLETIONS, RESPONSES]
ALL = [COMPLETIONS, EMBEDDINGS, RESPONSES]
FORMS = [(COMPLETIONS, False), (COMPLETIONS, True), (EMBEDDINGS, False), (RESPONSES, False), (RESPONSES, True)]


def middle(endpoint: Endpoint) -> bytes:
    """The first events of a stream: some of its text has come, and nothing that ends it."""
    before = b'"text":"time' if endpoint is COMPLETIONS else b"response.reasoning_summary_text.done"
    events = [raw for raw, _ in events_of(endpoint.stream)]
    return b"".join(events[: next(number for number, raw in enumerate(events) if before in raw)])


each_streamed = pytest.mark.parametrize("endpoint", STREAMED, ids=str)
each = pytest.mark.parametrize("endpoint", ALL, ids=str)
each_form = pytest.mark.parametrize(("endpoint", "stream"), FORMS, ids=lambda value: str(value))


# ── calling ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def post(
    gateway: RunningGateway, endpoint: Endpoint, headers: Mapping[str, str] | None = None, **members: Any
) -> RawResponse:
    """Call the endpoint with its request and these members; one that is `...` is left out."""
    body = {name: value for name, value in {**endpoint.asked, **members}.items() if value is not ...}
    fields = {"Content-Type": "application/json", "Authorization": f"Bearer {gateway.key}"} | dict(headers or {})
    async with await gateway.connect() as client:
        await client.request("POST", endpoint.path, fields, orjson.dumps(body))
        return await client.read_response()


async def ask(gateway: RunningGateway, endpoint: Endpoint, stream: bool, headers: Mapping[str, str] | None = None) -> RawResponse:
    """Call it in one form or the other; a stream is asked for with its usage."""
    if not stream:
        return await post(gateway, endpoint, headers)
    return await post(gateway, endpoint, headers, **(ASKED_USAGE if endpoint is COMPLETIONS else {"stream": True}))


def less_comment(response: RawResponse, last: bytes) -> bytes:
    """The body of a stream less the one comment with the cost, which is of this very request and stands right before its last
    event."""
    assert (response.status, response.complete, response.header("content-type")) == (200, True, "text/event-stream")
    assert last
    assert response.body.endswith(last)
    before, mark, told = response.body.removesuffix(last).rpartition(b": muxx ")
    assert mark, "the stream carries no cost"
    assert b": muxx " not in before
    assert told.endswith(b"}\n\n")
    assert told.count(b"\n") == 2
    members = json.loads(told)
    assert set(members) == {"cost", "request_id", "usage"}
    assert members["request_id"] == response.request_id
    return before + last


def cost_in(response: RawResponse) -> str | None:
    """The cost a stream's comment tells."""
    found = re.search(rb"^: muxx (.*)$", response.body, re.MULTILINE)
    assert found is not None
    cost: str | None = json.loads(found[1])["cost"]
    return cost


def shown(row: Row, like: Mapping[str, Any]) -> Row:
    """The members of the row that `like` has, money as numbers' plainest decimal."""
    return {name: usd(int(Decimal(row[name]) * PICO)) if name == "cost_usd" and row[name] else row[name] for name in like}


def response_row(stream: bytes) -> Row:
    """What the row has to say of a complete Responses stream, by its terminal event, at gpt-4o's price."""
    answer = terminal(stream)
    used, output = answer["usage"], answer["output"]
    given, made = used["input_tokens"], used["output_tokens"]
    cached = (used.get("input_tokens_details") or {}).get("cached_tokens") or 0
    called = any(item["type"] in ("function_call", "custom_tool_call") for item in output)
    cut = {"max_output_tokens": "length"}.get((answer.get("incomplete_details") or {}).get("reason"))
    return {
        "endpoint": "responses",
        "status": 200,
        "ended_by": None,
        "error_code": None,
        "model": answer["model"],
        "finish_reasons": [cut or ("tool_calls" if called else "stop")],
        "usage_source": "provider",
        "input_tokens": given,
        "output_tokens": made,
        "cache_read_tokens": cached,
        "reasoning_tokens": (used.get("output_tokens_details") or {}).get("reasoning_tokens") or 0,
        "cost_usd": usd((given - cached) * INPUT + cached * CACHED + made * OUTPUT),
    }


def completion_row(stream: bytes, asked: str) -> Row:
    """The same of a completion that tells no usage."""
    choices = [choice for chunk in chunks_of(stream) for choice in chunk["choices"]]
    given, made = tokens(asked), tokens("".join(choice.get("text") or "" for choice in choices))
    return {
        "endpoint": "text_completion",
        "status": 200,
        "ended_by": None,
        "error_code": None,
        "model": chunks_of(stream)[0]["model"],
        "finish_reasons": [choice["finish_reason"] for choice in choices if choice["finish_reason"]],
        "usage_source": "estimated",
        "input_tokens": given,
        "output_tokens": made,
        "cost_usd": usd(given * INPUT + made * OUTPUT),
    }


def completion_recordings() -> list[Path]:
    """The recordings of completions, which stand among the others."""
    return [path for path in recordings("other") if b'"object":"text_completion"' in path.read_bytes()]


def texts(value: Any) -> Iterable[str]:
    """Every string in a JSON value."""
    if isinstance(value, str):
        yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from texts(child)


# ── plugins ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────

WORD, MASK = "hunter2", "[gone]"
PLANTED = ("It is hun", "te", "r2, and again hunter2. ", "Not hunt", "ing.")
CLEAN = "It is [gone], and again [gone]. Not hunting."

WINDOW = StateKey[TextWindow]("masks.window")


class Masks:
    """Takes a word out of answers, however it is cut."""

    @hookimpl
    def on_chunk(self, exchange: Exchange, chunk: Chunk) -> list[Chunk] | None:
        window = exchange.state.get(WINDOW)
        if window is None:
            window = exchange.state[WINDOW] = TextWindow.sub(re.compile(WORD), MASK, hold=len(WORD))
        return window.feed(chunk)


class Looks:
    """Sees every chunk, and changes nothing: it returns nothing, or the chunk it was given."""

    @hookimpl
    def on_chunk(self, exchange: Exchange, chunk: Chunk) -> list[Chunk] | None:
        return [chunk] if exchange.request.user_id == "returned" else None
