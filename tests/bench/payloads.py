"""What the benchmark sends: requests of 1 KB, an answer of 570 bytes, a stream of 100 events. All as bytes on the wire.

`MARK` stands for the number of a request: the load generator puts it into the prompt, the upstream into every part of its answer.
`STAMP` stands for the moment in which the upstream sends an event, in microseconds of the monotonic clock.
"""

from __future__ import annotations

import struct
from typing import Any, Protocol

import orjson

MARK = "#" * 16
STAMP = "@" * 16
MODEL = "bench/gpt-4o-mini"
"""With its provider before it: that is how muxx finds it. The pass-through sends it as it is."""

EVENTS = 100
STAMPED = EVENTS - 4
"""Events of a stream that carry text, and in it the moment they were sent: `t=1234567890123456;`. Translated it is still there."""
PROMPT_BYTES = 1024
ANSWER = "The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs. Now waltz, nymph: vex quick jigs!"
USAGE = {
    "prompt_tokens": 210, "completion_tokens": 32, "total_tokens": 242, "prompt_tokens_details": {"cached_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0},
}  # fmt: skip
SDK_LINES = "".join(
    f"{name}: {value}\r\n"
    for name, value in {
        "Accept": "application/json", "Content-Type": "application/json", "User-Agent": "OpenAI/Python 3.54.0",
        "X-Stainless-Lang": "python", "X-Stainless-Package-Version": "3.54.0", "X-Stainless-OS": "Linux",
        "X-Stainless-Arch": "x64", "X-Stainless-Runtime": "CPython", "X-Stainless-Runtime-Version": "3.11.7",
        "X-Stainless-Async": "false", "x-stainless-retry-count": "0", "x-stainless-read-timeout": "600",
    }.items()
)  # fmt: skip
"""What the OpenAI SDK says in the head of every request."""
PROVIDER_LINES = "x-request-id: req_7f3c2b1a\r\nopenai-processing-ms: 412\r\n"
LAST_LINE = {False: "data: [DONE]", True: 'data: {"type":"message_stop"}'}
"""What a stream ends with, by whether it is one of `messages`."""
_FILLER = "Say in one paragraph what a person who has never run a server should know before they run their first one. "


class Addressed(Protocol):
    """Whom a request is for."""

    port: int
    key: str
    model: str


def request(
    server: Addressed, *, stream: bool = False, pace_ms: int = 0, prompt_bytes: int = PROMPT_BYTES, messages: bool = False
) -> bytes:
    """A chat call, whole, with `MARK` in its prompt. `pace_ms` is for the upstream to read: the time between two events.

    With `messages` it asks for the same in Anthropic's format.
    """
    opening = f"Call {MARK}. " + (f"Answer at pace-{pace_ms}. " if pace_ms else "")
    prompt = (opening + _FILLER * (prompt_bytes // len(_FILLER) + 1))[:prompt_bytes]
    body: dict[str, Any] = {"model": server.model, "messages": [{"role": "user", "content": prompt}], "temperature": 0.2}
    if stream:
        body |= {"stream": True} | ({} if messages else {"stream_options": {"include_usage": True}})
    if messages:
        body["max_tokens"] = 1024
    data = orjson.dumps(body)
    head = (
        f"POST /v1/{'messages' if messages else 'chat/completions'} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n{SDK_LINES}"
        f"Authorization: Bearer {server.key}\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


def pieces() -> bytes:
    """What the upstream answers: the plain answer, then each event of a stream, each after its length (u32, little-endian)."""
    return b"".join(struct.pack("<I", len(piece)) + piece for piece in (plain_answer(), *stream_answer()))


def plain_answer() -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": ANSWER}, "logprobs": None, "finish_reason": "stop"}
    body = orjson.dumps(_answer("chat.completion", [choice], usage=USAGE))
    return f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{PROVIDER_LINES}Content-Length: {len(body)}\r\n\r\n".encode() + body


def stream_answer() -> list[bytes]:
    """A role, pieces of text, a finish reason, the usage and `[DONE]`: `EVENTS` in all, one chunk of the body each."""
    words = [f" word{i} t={STAMP};" for i in range(STAMPED)]
    deltas = [_delta({"role": "assistant", "content": ""}), *(_delta({"content": word}) for word in words), _delta({}, "stop")]
    events = [orjson.dumps(delta) for delta in (*deltas, _answer("chat.completion.chunk", [], usage=USAGE))]
    chunks = [_chunk(b"data: " + data + b"\n\n") for data in (*events, b"[DONE]")]
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{PROVIDER_LINES}Transfer-Encoding: chunked\r\n\r\n"
    chunks[0] = head.encode() + chunks[0]
    chunks[-1] += b"0\r\n\r\n"
    return chunks


def _delta(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return _answer("chat.completion.chunk", [choice], usage=None)


def _answer(kind: str, choices: list[Any], usage: Any) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{MARK}", "object": kind, "created": 1_790_000_000, "model": "gpt-4o-mini", "service_tier": "default",
        "system_fingerprint": "fp_44709d6fcb", "choices": choices, "usage": usage,
    }  # fmt: skip


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
