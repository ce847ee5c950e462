"""What the tests with the real OpenAI SDKs share: a gateway that counts what reaches it, and the provider's part by script."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from muxx import HttpRequest, hookimpl
from muxx.testing import Chooser, RunningGateway, Script, ScriptedUpstream, clean_environment, event, events, rst, sse, wait
from muxx.testing.answers import json

TRANSPORTS = ("lean", "aiohttp")
CHAT = "POST /v1/chat/completions"
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class CountingGateway(RunningGateway):
    """A gateway that notes each request as it comes in, whatever becomes of it. `received` holds `METHOD /path`."""

    def __init__(self, config: Mapping[str, Any] | None = None, **options: Any) -> None:
        self.received: list[str] = []
        received = self.received

        class Noting:
            @hookimpl(tryfirst=True)
            def authenticate(self, request: HttpRequest) -> None:
                received.append(f"{request.method} {request.path}")

        super().__init__(config, plugins={"noting": Noting}, **options)

    @property
    def v1(self) -> str:
        """What an SDK is given as its base URL."""
        return f"{self.base_url}/v1"

    async def make_key(self, *options: str) -> str:
        """A further key, made by the command line beside the running gateway."""
        command = [sys.executable, "-m", "muxx", "keys", "create", "--json", *options, "--config", f"{self.directory}/muxx.toml"]
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, check=True, timeout=60, env=clean_environment()
        )
        key: str = orjson.loads(done.stdout)["key"]
        return key


# ── refusals ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Outcome(NamedTuple):
    """What an SDK makes of a refusal: the status and code it shows, the exception it raises, the requests it made."""

    status: int
    code: str | None
    exception: str
    attempts: int


UPSTREAM_AUTH = Outcome(502, "upstream_auth", "InternalServerError", 1)
"""The provider refuses muxx's own key: not the caller's fault, and no retry mends it."""

REFUSALS = {
    400: Outcome(400, "scripted_code", "BadRequestError", 1),
    401: UPSTREAM_AUTH,
    403: UPSTREAM_AUTH,
    404: Outcome(404, "scripted_code", "NotFoundError", 1),
    408: Outcome(408, "scripted_code", "APIStatusError", 3),
    409: Outcome(409, "scripted_code", "ConflictError", 3),
    422: Outcome(422, "scripted_code", "UnprocessableEntityError", 1),
    429: Outcome(429, "scripted_code", "RateLimitError", 3),
    500: Outcome(500, "scripted_code", "InternalServerError", 3),
    502: Outcome(502, "scripted_code", "InternalServerError", 3),
    503: Outcome(503, "scripted_code", "InternalServerError", 3),
    504: Outcome(504, "scripted_code", "InternalServerError", 3),
    529: Outcome(529, "scripted_code", "InternalServerError", 3),
}
"""A provider's status, and the outcome for an SDK with its default of two retries."""

LONG_WAITS = ({"retry-after": "300"}, {"retry-after": "Fri, 31 Dec 2999 23:59:59 GMT"}, {"retry-after-ms": "300000"})
NO_WAITS = ({"retry-after": "soon"}, {"retry-after": "-5"}, {"retry-after-ms": "-1"})
"""What says nothing sane: the SDK falls back on a wait of its own."""

WRONG_FIELDS: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": "hot"},
    "max_tokens": {"max_tokens": 0},
    "tools": {"tools": {}},
    "stream": {"stream": "yes"},
    "messages": {"messages": []},
}
WRONG_KEYS = {
    "sk-not-a-muxx-key": "missing_api_key",
    "muxx_sk_live_misspelt": "invalid_api_key",
    "muxx_sk_live_00000000000000000000000000000000000000": "invalid_api_key",
}


def refused(status: int, headers: Mapping[str, str] | None = None, **members: Any) -> Script:
    """An error of the provider with all four members, which asks for a wait of a millisecond unless told otherwise."""
    error = {"message": "scripted", "type": "scripted_error", "param": "messages", "code": "scripted_code"} | members
    return json({"error": error}, status, {"retry-after-ms": "1"} if headers is None else headers)


def by_model(scripts: Mapping[str, Script]) -> Chooser:
    """Each model its own script, so that many cases run through one gateway at once."""
    return lambda request: scripts[request.json()["model"]]


def requests_per_model(upstream: ScriptedUpstream) -> dict[str, int]:
    return dict(Counter(request.json()["model"] for request in upstream.requests))


# ── streams ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def chunk(delta: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
    """One `chat.completion.chunk`."""
    choice = {"index": 0, "delta": dict(delta), "finish_reason": finish}
    return {"id": "chatcmpl-7", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o", "choices": [choice]}


TOLD = "Once upon a "
STORY = [
    event(chunk({"role": "assistant", "content": ""})),
    *(event(chunk({"content": word})) for word in ("Once ", "upon ", "a ")),
]


def unfinished() -> Script:
    """A story that is told so far and never goes on."""
    return sse(chunks=STORY, end=wait(asyncio.Event()))


def broken(how: str) -> Script:
    """The story, broken off in one of the ways of `BREAKS`."""
    ends: dict[str, list[Any]] = {
        "truncated": sse(chunks=STORY),
        "reset": sse(chunks=STORY, end=rst()),
        "stalled": sse(chunks=STORY, end=wait(asyncio.Event())),
        "garbage": sse(chunks=[*STORY, event("{no json")]),
        "told": sse(chunks=[*STORY, event({"error": {"message": "engine down", "type": "server_error", "code": "engine_down"}})]),
    }
    return ends[how]


BREAKS = {
    "truncated": "upstream_truncated",
    "reset": "upstream_disconnected",
    "stalled": "upstream_timeout",
    "garbage": "upstream_protocol_error",
    "told": "engine_down",
}
"""How a provider breaks a stream, and the code its client is told."""

STALLS = {"name": "gpt-stalled", "targets": [{"target": "openai/gpt-stalled", "between_events_timeout_s": 0.3}]}
"""A model that is waited for only briefly, so that `gpt-stalled` can stall."""

FRAGMENTS = ('{"ci', 'ty": "Kö', 'ln"}')


def tool_call() -> Script:
    """A streamed call of `TOOL`, its arguments in pieces."""
    first = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
    calls = [first, *({"index": 0, "function": {"arguments": piece}} for piece in FRAGMENTS)]
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": None}, *({"tool_calls": [call]} for call in calls)]
    return sse(events(*(chunk(delta) for delta in deltas), chunk({}, "tool_calls")))


def completion(content: str | None = "Hello there.", **message: Any) -> Script:
    """A plain answer without usage."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": "stop"}
    return json({"id": "chatcmpl-7", "object": "chat.completion", "created": 1, "model": "gpt-4o", "choices": [choice]})
