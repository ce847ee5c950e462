"""Ready-made scripts for the answers a provider usually gives, and the ways they usually break."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import orjson

from .steps import Chooser, Script, Step, fin, pause

if TYPE_CHECKING:
    from .upstream import RecordedRequest

DONE = b"data: [DONE]\n\n"
LAST_CHUNK = b"0\r\n\r\n"


def head(status: int = 200, headers: Mapping[str, str] | None = None) -> bytes:
    """A response head with exactly these headers."""
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = "Unknown"
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in (headers or {}).items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def json(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> list[Step]:
    """A plain answer: `body` as JSON, or as it is when it is bytes."""
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    fields = {"Content-Type": "application/json", "Content-Length": str(len(data))} | dict(headers or {})
    return [head(status, fields) + data]


def error(
    status: int, message: str = "scripted", type: str = "server_error", code: str | None = None, **headers: str
) -> list[Step]:
    """OpenAI's error body. Keyword arguments become headers: `error(429, retry_after="1")`."""
    body = {"error": {"message": message, "type": type, "param": None, "code": code}}
    return json(body, status, {name.replace("_", "-"): value for name, value in headers.items()})


def sse(
    stream: bytes = b"",
    chunks: Iterable[bytes] | None = None,
    *,
    chunked: bool = True,
    gap: float = 0.0,
    end: Step | None = None,
    headers: Mapping[str, str] | None = None,
) -> list[Step]:
    """An answer as server-sent events, cut into `chunks` (`stream` in one piece without them), `gap` seconds apart.

    Without `chunked` the end of the connection is the end of the body. `end` takes the place of the proper end, for answers that
    break off: `sse(data[:k], end=rst())`.
    """
    framing = {"Transfer-Encoding": "chunked"} if chunked else {"Connection": "close"}
    steps: list[Step] = [head(200, {"Content-Type": "text/event-stream"} | framing | dict(headers or {}))]
    for number, piece in enumerate((stream,) if chunks is None else chunks):
        if gap and number:
            steps.append(pause(gap))
        if piece:
            steps.append(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
    steps.append(end or (LAST_CHUNK if chunked else fin()))
    return steps


def event(data: Any) -> bytes:
    """One server-sent event: JSON, or text as it is."""
    return b"data: %b\n\n" % (data.encode() if isinstance(data, str) else orjson.dumps(data))


def events(*data: Any, done: bool = True) -> bytes:
    """A stream in OpenAI's framing: one event per argument, then `[DONE]`."""
    return b"".join(map(event, data)) + (DONE if done else b"")


def chat(text: str = "Hello there.", *, input_tokens: int = 10, output_tokens: int = 5, model: str | None = None) -> Chooser:
    """Answer every chat request with `text`, streamed word by word or plain, with usage where OpenAI would send it."""
    usage = {"prompt_tokens": input_tokens, "completion_tokens": output_tokens, "total_tokens": input_tokens + output_tokens}

    def choose(request: RecordedRequest) -> Script:
        asked = request.json()
        name = model or asked.get("model", "gpt-4o")
        if not asked.get("stream"):
            return json(_completion(name, text) | {"usage": usage})
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": word} for word in re.findall(r"\S+\s*|\s+", text)]
        parts = [*(_chunk(name, delta) for delta in deltas), _chunk(name, {}, "stop")]
        if (asked.get("stream_options") or {}).get("include_usage"):
            parts.append(_chunk(name, {}) | {"choices": [], "usage": usage})
        return sse(chunks=[*(event(part) for part in parts), DONE])

    return choose


def _completion(model: str, text: str) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model, "choices": [choice]}


def _chunk(model: str, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [choice]}
