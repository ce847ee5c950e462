"""A stream's way through the gateway, sans-IO: observed, decoded, through a chunk hook, encoded, its last event at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from muxx.reply import Chunk
from muxx.wire.sse import EventSplitter
from muxx.wire.wire import Verdict
from muxx.wire.wires import StreamFacts, Wire

Hook = Callable[[Chunk], Iterable[Chunk] | None]


def observed(wire: Wire, pieces: Iterable[bytes], *, body: Any = None, asked: bool = True) -> tuple[StreamFacts, bytes]:
    """The facts of a stream, and what of it goes out on the fast path."""
    facts, splitter, out = wire.stream(body or {}, asked), EventSplitter(1 << 24), []
    for piece in pieces:
        for event in splitter.feed(piece):
            verdict = facts.observe(event)
            if verdict in (Verdict.FORWARD, Verdict.DONE, Verdict.ERROR_EVENT):
                out.append(event[0])
            if verdict is Verdict.DONE:
                return facts, b"".join(out)
    return facts, b"".join(out)


def through(wire: Wire, data: bytes, hook: Hook, *, usage: bool = True) -> bytes:
    """A stream through a chunk hook, as the relay takes it there."""
    facts = wire.stream({}, True)
    codec = wire.codec(facts, usage)
    out = []
    for event in EventSplitter(1 << 24).feed(data):
        verdict = facts.observe(event)
        if verdict is Verdict.ERROR_EVENT:
            return b"".join([*out, event[0]])
        if verdict not in (Verdict.FORWARD, Verdict.DONE):
            continue
        chunks = codec.decode(event)
        if not chunks:
            out.append(event[0])
            continue
        results = hooked(chunks, hook)
        out.append(codec.encode(results))
        if verdict is Verdict.DONE or any(chunk.kind == "end" for chunk in results):
            return b"".join([*out, codec.last()])
    return b"".join(out)


def hooked(chunks: Iterable[Chunk], hook: Hook) -> list[Chunk]:
    """What a hook makes of Chunks, up to the first `end`."""
    results: list[Chunk] = []
    for chunk in chunks:
        made = hook(chunk)
        for result in [chunk] if made is None else made:
            results.append(result)
            if result.kind == "end":
                return results
    return results


def objects(data: bytes) -> list[Any]:
    """What the events of a stream say."""
    found = [payload for _, payload in EventSplitter(1 << 24).feed(data) if payload]
    return [json.loads(payload) for payload in found if payload != b"[DONE]"]


def words(chunk: Chunk) -> str:
    return chunk.tool_call.arguments if chunk.tool_call is not None else chunk.text


def said(chunk: Chunk, text: str) -> Chunk:
    """The Chunk with another text."""
    if chunk.tool_call is not None:
        return replace(chunk, tool_call=replace(chunk.tool_call, arguments=text))
    return replace(chunk, text=text)


def shout(chunk: Chunk) -> list[Chunk] | None:
    return [said(chunk, words(chunk).upper())] if words(chunk) else None


def holder(*, until_end: bool = False) -> Hook:
    """Holds every text back, until the event that ends a text or until the end."""
    held: list[Chunk] = []

    def hook(chunk: Chunk) -> list[Chunk] | None:
        if chunk.kind != "end" and (chunk.text or chunk.tool_call is not None):
            held.append(chunk)
            return []
        if chunk.kind == "end" or (chunk.finish_reason and not until_end):
            due, held[:] = [*held, chunk], []
            return due
        return None

    return hook


def masker(secret: str, mask: str = "*") -> Hook:
    """Takes a secret out of every text, however it is cut: what may be its beginning is held until the next piece of that text."""
    windows: dict[tuple[str, int, bool], Chunk] = {}

    def flushed(index: int | None) -> list[Chunk]:
        due = [key for key in windows if index in (None, key[1])]
        return [windows.pop(key) for key in due]

    def hook(chunk: Chunk) -> list[Chunk] | None:
        if chunk.kind == "end":
            return [*flushed(None), chunk]
        if chunk.finish_reason:
            return [*flushed(chunk.index), chunk]
        if not words(chunk):
            return None
        key = (chunk.kind, chunk.index, chunk.tool_call is not None)
        text = ((words(windows.pop(key)) if key in windows else "") + words(chunk)).replace(secret, mask)
        hold = next((n for n in range(len(secret) - 1, 0, -1) if text.endswith(secret[:n])), 0)
        if hold:
            windows[key] = said(chunk, text[-hold:])
        rest = text[: len(text) - hold]
        return [said(chunk, rest)] if rest else []

    return hook


def strings(value: Any) -> Iterable[str]:
    """Every string in a JSON value."""
    if isinstance(value, str):
        yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from strings(child)
