"""Small Anthropic streams of our own making, their way through the gateway, and how Anthropic's own SDK reads them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import count
from typing import Any

from muxx.reply import Chunk
from muxx.wire.anthropic import MessageCodec, MessageReader
from muxx.wire.sse import EventSplitter
from muxx.wire.wire import AnswerHead
from muxx.wire.wires import MESSAGES

from .passing import Hook, objects, through

USAGE = {"input_tokens": 20, "cache_creation_input_tokens": 3, "cache_read_input_tokens": 5, "output_tokens": 1}
MESSAGE: dict[str, Any] = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5", "content": [], "stop_reason": None,
    "stop_sequence": None, "stop_details": None, "usage": {**USAGE, "service_tier": "standard"},
}  # fmt: skip

HEAD = AnswerHead("msg_mine", "gpt-5", 1)

WIRE = MESSAGES

Events = list[dict[str, Any]]


def event(value: dict[str, Any], named: bool = True) -> bytes:
    return (f"event: {value['type']}\n".encode() if named else b"") + b"data: " + json.dumps(value).encode() + b"\n\n"


def stream(*events: dict[str, Any], named: bool = True) -> bytes:
    return b"".join([event(value, named) for value in events])


START: dict[str, Any] = {"type": "message_start", "message": MESSAGE}
PING: dict[str, Any] = {"type": "ping"}
STOP: dict[str, Any] = {"type": "message_stop"}


def ending(reason: str = "end_turn", **usage: Any) -> Events:
    delta = {"stop_reason": reason, "stop_sequence": None}
    return [{"type": "message_delta", "delta": delta, "usage": {"output_tokens": 30, **usage}}, STOP]


def block(at: int, begun: dict[str, Any], *deltas: dict[str, Any]) -> Events:
    return [
        {"type": "content_block_start", "index": at, "content_block": begun},
        *({"type": "content_block_delta", "index": at, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": at},
    ]


def text(at: int, *pieces: str) -> Events:
    return block(at, {"type": "text", "text": ""}, *({"type": "text_delta", "text": piece} for piece in pieces))


def thinking(at: int, *pieces: str, signature: str = "sig==") -> Events:
    deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces]
    signed = {"type": "signature_delta", "signature": signature}
    return block(at, {"type": "thinking", "thinking": "", "signature": ""}, *deltas, signed)


def tool(at: int, *pieces: str, kind: str = "tool_use") -> Events:
    begun = {"type": kind, "id": f"toolu_{at}", "name": "weather", "input": {}}
    return block(at, begun, *({"type": "input_json_delta", "partial_json": piece} for piece in pieces))


def cited(at: int, *pieces: str) -> Events:
    citation = {"type": "char_location", "cited_text": "a source", "document_index": 0, "start_char_index": 0,
                "end_char_index": 8, "document_title": None}  # fmt: skip
    deltas = [{"type": "text_delta", "text": piece} for piece in pieces]
    return block(at, {"type": "text", "text": "", "citations": []}, *deltas, {"type": "citations_delta", "citation": citation})


RESULT: dict[str, Any] = {
    "type": "code_execution_tool_result",
    "tool_use_id": "toolu_4",
    "content": {"type": "code_execution_result", "stdout": "out\n", "stderr": "warned", "return_code": 0, "content": []},
}


def answer(*blocks: Events, reason: str = "end_turn") -> Events:
    """A whole answer of these blocks."""
    return [START, PING, *[entry for events in blocks for entry in events], *ending(reason)]


TEXT = stream(*answer(text(0, "Grüß ", "Gott ", "👋")))
MANY = stream(
    *answer(
        thinking(0, "Let me ", "think."),
        text(1, "It is ", "warm."),
        block(2, {"type": "redacted_thinking", "data": "hidden=="}),
        tool(3, "", '{"city":', ' "Graz"}'),
        tool(4, '{"code": ', '"x"}', kind="server_tool_use"),
        block(5, RESULT),
        cited(6, "as a ", "source says"),
        tool(7, '{"city": "Linz"}'),
        reason="tool_use",
    )
)
"""Every kind of block there is."""

OWN = {
    "text": TEXT,
    "many": MANY,
    "unnamed": stream(*answer(text(0, "a", "b")), named=False),
    "cut_short": stream(*answer(text(0, "cut ", "off"), reason="max_tokens")),
    "empty": stream(*answer()),
    "empty_block": stream(*answer(text(0))),
    "whole": stream(*answer(block(0, {"type": "text", "text": "all at once"}), reason="refusal")),
    "unknown": stream(START, {"type": "hologram", "index": 0, "text": "?"}, *text(0, "a"), *ending()),
    "odd_delta": stream(*answer(block(0, {"type": "text", "text": ""}, {"type": "hologram_delta", "beam": "?"}))),
    "late_ping": stream(START, *text(0, "a"), ending()[0], PING, STOP),
    "crlf": TEXT.replace(b"\n", b"\r\n"),
}


def passed(data: bytes, hook: Hook) -> bytes:
    return through(WIRE, data, hook)


def translated(data: bytes) -> tuple[bytes, MessageReader]:
    """A stream read as for another format, and written as if it came from one."""
    reader, codec, out = MessageReader(), MessageCodec(HEAD), []
    for value in objects(data):
        out.append(codec.encode(reader.read(value)))
    return b"".join([*out, codec.encode([reader.end()]), codec.last()]), reader


def written(*chunks: Chunk, head: Any = HEAD) -> bytes:
    """Chunks that came from no event, each by itself, as a stream."""
    codec = MessageCodec(head)
    return b"".join([codec.encode([chunk]) for chunk in chunks]) + codec.last()


def consistent(data: bytes) -> Events:
    """What any client may rely on: the events of a stream, after a look at their order and numbers."""
    events = objects(data)
    kinds = [value["type"] for value in events if value["type"] != "ping"]
    assert (kinds[0], kinds[-2], kinds[-1]) == ("message_start", "message_delta", "message_stop")
    assert all(kinds.count(kind) == 1 for kind in ("message_start", "message_delta", "message_stop"))
    begun, opened = 0, None
    for value in events:
        if value["type"] == "content_block_start":
            assert opened is None, "a block begins while another is open"
            assert value["index"] == begun, "blocks are numbered in the order in which they begin"
            begun, opened = begun + 1, value["index"]
        elif value["type"].startswith("content_block"):
            assert value["index"] == opened, "an event of a block that is not open"
            opened = None if value["type"] == "content_block_stop" else opened
        elif value["type"] == "message_delta":
            assert opened is None, "a block never ends"
            assert value["delta"]["stop_reason"]
            assert value["usage"]["output_tokens"] >= 0
    for raw, payload in EventSplitter(1 << 24).feed(data):
        if payload and raw.startswith(b"event:"):
            assert raw.split()[1].decode() == json.loads(payload)["type"], "clients go by the event line"
    return events


def client_for(content: bytes, kind: str, status: int = 200) -> Any:
    import httpx2
    from anthropic import Anthropic

    def serve(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, headers={"content-type": kind}, content=content)

    transport = httpx2.MockTransport(serve)
    return Anthropic(api_key="x", base_url="http://x", max_retries=0, http_client=httpx2.Client(transport=transport))


ASKED: dict[str, Any] = {"model": "claude", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}


def accepted(data: bytes) -> dict[str, Any]:
    """The message that Anthropic's own SDK accumulates of a stream."""
    with client_for(data, "text/event-stream").messages.stream(**ASKED) as events:
        assert [value.type for value in events][-1] == "message_stop"
        message: dict[str, Any] = events.get_final_message().to_dict(mode="json", warnings=False)
        return message


def accepted_plain(body: bytes) -> dict[str, Any]:
    """The message that the SDK reads of a plain answer."""
    message: dict[str, Any] = client_for(body, "application/json").messages.create(**ASKED).to_dict(mode="json", warnings=False)
    return message


def said(message: dict[str, Any]) -> dict[str, Any]:
    """What of a message crosses to other formats and back: its words, its calls, its end, its totals."""
    blocks, usage = message["content"], message["usage"]
    cached = (usage.get("cache_read_input_tokens") or 0, usage.get("cache_creation_input_tokens") or 0)
    return {
        "text": "".join(block["text"] for block in blocks if block["type"] == "text"),
        "thinking": "".join(block["thinking"] for block in blocks if block["type"] == "thinking"),
        "signatures": [block["signature"] for block in blocks if block["type"] == "thinking"],
        "calls": [(block["id"], block["name"], block["input"]) for block in blocks if block["type"] == "tool_use"],
        "stop_reason": message["stop_reason"],
        "tokens": (usage["input_tokens"], *cached, usage["output_tokens"]),
    }


def drop(chunk: Chunk) -> list[Chunk] | None:
    return [] if chunk.text or (chunk.tool_call is not None and chunk.tool_call.arguments) else None


def ending_at(at: int, **members: Any) -> Hook:
    """Ends an answer at its Chunk of that number."""
    numbers = count()
    return lambda chunk: [Chunk("end", **members)] if next(numbers) == at else None


def strung(chunks: Iterable[Chunk]) -> list[tuple[Any, ...]]:
    """What Chunks say, as plain tuples."""
    told = []
    for chunk in chunks:
        call = chunk.tool_call
        words = (call.index, call.id, call.name, call.arguments) if call is not None else chunk.text
        told.append((chunk.kind, chunk.index, words, chunk.signature, chunk.finish_reason))
    return told
