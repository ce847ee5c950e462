"""Ready-made scripts for the answers a provider usually gives, and the ways they usually break."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import orjson

from .asking import MODEL, asks_for_stream, endpoint_at, model_asked
from .said import Pieces, Said, Tool, words
from .speaking import DONE, event, plain, refused, streamed
from .steps import Chooser, Script, Step, fin, pause

if TYPE_CHECKING:
    from .upstream import RecordedRequest

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


def events(*data: Any, done: bool = True) -> bytes:
    """A stream in OpenAI's framing: one event per argument, then `[DONE]`."""
    return b"".join(map(event, data)) + (DONE if done else b"")


def answer(said: Said, *, model: str | None = None, pieces: Pieces = words) -> Chooser:
    """Answer any endpoint with this in its format, streamed or plain as the request asks, with usage where OpenAI would send it.

    Embeddings need `vectors`; completions say text only; counts say `input_tokens`. `pieces` is how a text is spread over the
    events of a stream.
    """

    def choose(request: RecordedRequest) -> Script:
        asked, endpoint = request.json(), endpoint_at(request.target)
        name = model or model_asked(request.target, asked) or MODEL
        if not asks_for_stream(request.target, asked):
            return json(plain(endpoint, said, name))
        usage = bool((asked.get("stream_options") or {}).get("include_usage"))
        return sse(chunks=streamed(endpoint, said, name, usage=usage, pieces=pieces))

    return choose


def refuses(status: int, message: str = "No.", code: str | None = None, **headers: str) -> Chooser:
    """Refuse in the format that is asked for. Keyword arguments become headers: `refuses(429, retry_after="1")`."""

    def choose(request: RecordedRequest) -> Script:
        body = refused(endpoint_at(request.target), status, message, code)
        return json(body, status, {name.replace("_", "-"): value for name, value in headers.items()})

    return choose


def chat(
    text: str = "Hello there.",
    *,
    reasoning: str = "",
    tools: Iterable[Tool] = (),
    input_tokens: int = 10,
    output_tokens: int = 5,
    model: str | None = None,
) -> Chooser:
    """`answer` with this text, reasoning and calls of tools: for chat completions, and every other endpoint that can say them."""
    called = tuple(tools)
    finish = "tool_calls" if called else "stop"
    said = Said(text, reasoning, called, finish_reason=finish, input_tokens=input_tokens, output_tokens=output_tokens)
    return answer(said, model=model)


def embeddings(*vectors: Iterable[float], input_tokens: int = 10, model: str | None = None) -> Chooser:
    """`answer` with these vectors."""
    rows = tuple(tuple(map(float, vector)) for vector in vectors)
    return answer(Said(vectors=rows, finish_reason=None, input_tokens=input_tokens, output_tokens=None), model=model)
