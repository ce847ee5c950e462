"""What the tests share: a service on a port of its own, gateways that ask it, and answers of a provider."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from importlib import metadata
from types import TracebackType
from typing import Any, Self

from aiohttp import web
from muxx.testing import DONE, RawResponse, RunningGateway, event, unused_port

from muxx_guard import NAME, Guard

IS_INSTALLED = any(entry.name == NAME for entry in metadata.entry_points(group="muxx"))
PLUGINS = {} if IS_INSTALLED else {NAME: Guard}
"""What a gateway under test has to be given: nothing, where the distribution is installed and found by itself."""

BAD = "forbidden"
"""The word `no_bad_word` refuses."""
SECRET = re.compile(r"code-[0-9]{4}")
"""What `masking` replaces."""

Judging = Callable[[dict[str, Any]], Any]


def allow(question: dict[str, Any]) -> Any:
    return {"allow": True}


def no_bad_word(question: dict[str, Any]) -> Any:
    found = any(BAD in text["text"] for text in question["texts"])
    return {"allow": not found, "code": "bad_word" if found else "", "reason": "it says so" if found else ""}


def masking(question: dict[str, Any]) -> Any:
    """Every secret becomes a longer or shorter word."""
    replace = [
        {"text": number, "start": match.start(), "end": match.end(), "with": "[HIDDEN]"}
        for number, text in enumerate(question["texts"])
        for match in SECRET.finditer(text["text"])
    ]
    return {"allow": True, "replace": replace}


class GuardService:
    """A service that judges as `judge` does. `questions` are those it was asked; `answer` can be replaced for worse manners."""

    def __init__(self, judge: Judging = allow) -> None:
        self.judge = judge
        self.questions: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.connections: set[Any] = set()
        self.at_once = self.most_at_once = 0
        self.delay = 0.0
        self.body: bytes | None = None
        self.status = 200
        self.location = ""
        self.drops = 0
        """So many of the next questions end with their connection, unanswered."""
        self.port = unused_port()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/judge"

    @property
    def texts(self) -> list[str]:
        """Every text asked about, in order."""
        return [text["text"] for question in self.questions for text in question["texts"]]

    async def _asked(self, request: web.Request) -> web.StreamResponse:
        self.connections.add(request.transport)
        self.headers.append(dict(request.headers))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            question = await request.json()
            self.questions.append(question)
            await asyncio.sleep(self.delay)
        finally:
            self.at_once -= 1
        if self.drops:
            self.drops -= 1
            assert request.transport is not None
            request.transport.abort()
        if self.body is not None or self.status != 200:
            return web.Response(body=self.body or b"", status=self.status, headers={"Location": self.location or "/"})
        return web.json_response(self.judge(question))

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/judge", self._asked)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._runner is not None
        await self._runner.cleanup()


def gateway_for(service: GuardService, plugins: dict[str, type] | None = None, **settings: Any) -> RunningGateway:
    return RunningGateway({"plugins": {NAME: {"url": service.url} | settings}}, plugins=PLUGINS | (plugins or {}))


# ── answers of a provider ──


def delta(finish: str | None = None, index: int = 0, **members: Any) -> bytes:
    """An event that adds to one choice: `delta(content="Hi")`."""
    choice = {"index": index, "delta": members, "finish_reason": finish}
    return event({"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o", "choices": [choice]})


def call(arguments: str, index: int = 0, id: str | None = None) -> dict[str, Any]:
    """A fragment of a tool call; with an id it is the first of its call."""
    if id is None:
        return {"index": index, "function": {"arguments": arguments}}
    return {"index": index, "id": id, "type": "function", "function": {"name": "send", "arguments": arguments}}


def texts(pieces: Iterable[str]) -> bytes:
    """A whole streamed answer whose content comes in these pieces."""
    return b"".join(delta(content=piece) for piece in pieces) + delta("stop") + DONE


def plain(message: dict[str, Any]) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": None} | message, "finish_reason": "stop"}
    return {"id": "c-1", "object": "chat.completion", "created": 1, "model": "gpt-4o", "choices": [choice]}


def pieces_of(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def said(response: RawResponse, choice: int = 0) -> str:
    """The text a streamed answer said in one choice."""
    entries = [entry for item in response.events for entry in item.get("choices", ()) if entry["index"] == choice]
    return "".join(entry["delta"].get("content") or "" for entry in entries)


def arguments(response: RawResponse) -> dict[int, str]:
    """The arguments of each tool call of a streamed answer."""
    found: dict[int, str] = {}
    for item in response.events:
        for entry in item.get("choices", ()):
            for tool in entry["delta"].get("tool_calls") or ():
                found[tool["index"]] = found.get(tool["index"], "") + tool["function"].get("arguments", "")
    return found


def reasons(response: RawResponse) -> list[str]:
    return [entry["finish_reason"] for item in response.events for entry in item.get("choices", ()) if entry["finish_reason"]]
