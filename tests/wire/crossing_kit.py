"""An answer's way from a provider of one format to a client of another, through the kernel's own relay between plain objects."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from muxx.errors import MuxxError
from muxx.hookedrelay import ChunkHooks
from muxx.reply import Chunk
from muxx.translating import TranslatedHookedRelay, TranslatedRelay, Translator, whole
from muxx.wire.wire import Head, Wire
from muxx.wire.wires import CHAT, GENERATE_CONTENT, MESSAGES, RESPONSES

from . import anthropic_kit, gemini_kit, responses_kit
from .crossing_judges import KINDS
from .recordings import recordings

WIRES = (CHAT, RESPONSES, MESSAGES, GENERATE_CONTENT)
PAIRS = [(up, called) for up in WIRES for called in WIRES if up is not called]
"""Every format, and every other that a client may call."""

BY_PAIR = {f"{up.name} to {called.name}": (up, called) for up, called in PAIRS}

REQUEST_ID = "req_1"


def chat_event(delta: dict[str, Any], reason: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    value = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **more}
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def _call(index: int, arguments: str, **more: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": index, "function": {"arguments": arguments, **more.pop("function", {})}, **more}]}


SHORT = {
    "chat": b"".join(
        [
            chat_event({"role": "assistant", "reasoning_content": "Hm"}),
            chat_event({"content": "Grüß 👋"}),
            chat_event(_call(0, "", id="a", type="function", function={"name": "f"})),
            chat_event(_call(0, '{"a":1}')),
            chat_event(_call(1, "", id="b", type="function", function={"name": "g"})),
            chat_event(_call(1, "{}")),
            chat_event({}, "tool_calls", usage={"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}),
            b"data: [DONE]\n\n",
        ]
    ),
    "responses": responses_kit.stream(
        *responses_kit.answer(
            responses_kit.reasoning(0, "Hm"), responses_kit.message(1, "Grüß ", "👋"), responses_kit.call(2, "{}")
        )
    ),
    "messages": anthropic_kit.stream(
        *anthropic_kit.answer(
            anthropic_kit.thinking(0, "Hm"),
            anthropic_kit.text(1, "Grüß ", "👋"),
            anthropic_kit.tool(2, "{", "}"),
            reason="tool_use",
        )
    ),
    "generate_content": b"".join(
        [
            gemini_kit.event(gemini_kit.candidate({"text": "Hm", "thought": True})),
            gemini_kit.said("Grüß "),
            gemini_kit.said("👋"),
            gemini_kit.event(gemini_kit.candidate({**gemini_kit.CALL, "thoughtSignature": "Y2FsbA=="}, gemini_kit.UNNAMED_CALL)),
            gemini_kit.event(gemini_kit.candidate(finishReason="STOP"), usageMetadata=gemini_kit.usage(5, 7)),
        ]
    ),
}
"""A stream of each format that says all there is, in few bytes."""


class _Client:
    """Takes everything."""

    paused = False
    stalled_since: float | None = None
    on_resume: Any = None

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def send(self, data: bytes) -> None:
        self.pieces.append(data)


class _Provider:
    def close(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class _Limits:
    due = float("inf")


class _Head:
    """The head of a translated answer: what the provider tells of it, and else muxx's own."""

    def __init__(self, up: Head, called: Wire) -> None:
        self._up, self._called = up, called

    @property
    def id(self) -> str:
        return self._up.id or f"{self._called.id_prefix}1"

    @property
    def model(self) -> str:
        return self._up.model or "asked-model"

    @property
    def created(self) -> int:
        return self._up.created or 1


@dataclass
class Crossed:
    """What the client got, with what ends it; the error that broke the answer; what had no counterpart."""

    data: bytes
    before_end: bytes
    error: MuxxError | None
    lost: set[str]
    said: list[Chunk] = field(default_factory=list)


async def crossed(up: Wire, called: Wire, pieces: Iterable[bytes], *, hooks: ChunkHooks | None = None) -> Crossed:
    """A provider's stream as the client of another format gets it, past plugins' hooks or not."""
    stream, client, provider = up.stream({}, True), _Client(), _Provider()
    translator = Translator(up, called.codec(_Head(stream, called), True), called)
    options: dict[str, Any] = {"between_events": 60.0, "finish_grace": 5.0, "max_event_bytes": 1 << 24, "codec": translator}
    kind: Any = TranslatedRelay if hooks is None else partial(TranslatedHookedRelay, hooks=hooks)
    relay = kind(stream, provider, client, _Limits(), distrusted=provider.close, **options)
    for piece in pieces:
        relay.feed(piece)
    pump: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    pump.set_result(None)
    relay.pumped(pump)
    error = relay.over.result() if hooks is None else await relay.run()
    end = relay.last if error is None else called.error_event(error, REQUEST_ID, translator.next_number)
    before = b"".join(client.pieces)
    return Crossed(before + end, before, error, translator.lost, translator.said)


def crossed_whole(up: Wire, called: Wire, body: bytes) -> tuple[bytes, set[str]]:
    """A provider's plain answer as the client of another format gets it, and what had no counterpart."""
    chunks, lost = whole(up, body, called)
    return called.encode_answer(chunks, _Head(up.read_plain(body), called)), lost


@cache
def recorded(up: Wire) -> dict[str, bytes]:
    """The recordings of a format by their names."""
    return {path.stem: path.read_bytes() for path in recordings(KINDS[up.name])}
