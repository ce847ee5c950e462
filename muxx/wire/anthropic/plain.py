"""Plain Anthropic answers, and answers that plugins make.

A plain answer is read as the stream of the same answer, and written back from what the stream says in the end: what holds for
streams holds for it too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from orjson import dumps

from ...reply import Chunk
from ..openai import ended
from ..sse import Event, EventSplitter
from ..wire import AnswerHead, Head
from .blocks import CALLS, dicts, type_of
from .codec import MessageCodec
from .facts import MessageStream, assembled, read_message
from .writer import MESSAGE_STOP, as_event


def stream_of(body: bytes) -> bytes:
    """A plain answer as the stream of the same answer, each text in one piece. Raises as `read_message` does."""
    message = read_message(body).message
    ending = {name: message.get(name) for name in ("stop_reason", "stop_sequence")}
    ending |= {name: message[name] for name in _TOLD_AT_THE_END if message.get(name) is not None}
    begun = {**message, "content": [], **dict.fromkeys(ending)}
    events = [as_event({"type": "message_start", "message": begun})]
    for number, block in dicts(message.get("content")):
        begun_block, deltas = _taken_apart(block)
        events.append(as_event({"type": "content_block_start", "index": number, "content_block": begun_block}))
        events += [as_event({"type": "content_block_delta", "index": number, "delta": delta}) for delta in deltas]
        events.append(as_event({"type": "content_block_stop", "index": number}))
    edits = {name: message[name] for name in ("context_management",) if message.get(name) is not None}
    events.append(as_event({"type": "message_delta", "delta": ending, "usage": message.get("usage"), **edits}))
    return b"".join([*events, MESSAGE_STOP])


_TOLD_AT_THE_END = ("stop_details", "container")
"""What a stream says of a message beside why it stopped, where there is something to say."""


def _taken_apart(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A block as it begins in a stream, and its deltas. One of which nothing comes later is whole when it begins."""
    begun = dict(block)
    return begun, list(_deltas(type_of(block), begun))


def _deltas(kind: str, begun: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The deltas of a block, whose texts are taken out of `begun`."""
    if kind == "text" and type(text := begun.get("text")) is str:
        begun["text"] = ""
        if text:
            yield {"type": "text_delta", "text": text}
        if type(citations := begun.get("citations")) is list:
            begun["citations"] = []
            yield from ({"type": "citations_delta", "citation": citation} for citation in citations)
    elif kind == "thinking" and type(thinking := begun.get("thinking")) is str:
        begun["thinking"] = ""
        if thinking:
            yield {"type": "thinking_delta", "thinking": thinking}
        if type(signature := begun.get("signature")) is str and signature:
            begun["signature"] = ""
            yield {"type": "signature_delta", "signature": signature}
    elif kind in CALLS and begun.get("input"):
        called_with, begun["input"] = begun["input"], {}
        yield {"type": "input_json_delta", "partial_json": dumps(called_with).decode()}
    elif kind == "compaction" and type(begun.get("content")) is str:
        told: dict[str, Any] = {name: begun[name] for name in ("content", "encrypted_content") if name in begun}
        begun |= dict.fromkeys(told)
        yield {"type": "compaction_delta", **told}


def decode_message(body: bytes) -> list[Chunk]:
    """The Chunks of a plain answer, an `end` last. The `raw` of each is the event it would be in a stream."""
    codec = _codec()
    return [chunk for event in events_of(stream_of(body)) for chunk in codec.decode(event)]


def encode_plain(body: bytes, chunks: Iterable[Chunk]) -> bytes:
    """A provider's plain answer after the hooks: its own bytes when nobody touched a Chunk, else rebuilt from its own JSON."""
    results = list(ended(chunks))
    if results == decode_message(body):
        return body
    facts = read_message(body)
    message, made = dict(facts.message), _written(MessageCodec(facts), results)
    message["content"] = made["content"]
    if made["stop_reason"] is not None:
        message |= {name: made[name] for name in ("stop_reason", "stop_sequence", "usage") if name in made}
    return dumps(message)


def encode_message(chunks: Iterable[Chunk], head: Head) -> bytes:
    """A whole answer, of Chunks that came from no provider, as a plain message object."""
    return dumps(_written(MessageCodec(head), list(ended(chunks))))


def _codec() -> MessageCodec:
    """For an answer that brings its own head."""
    return MessageCodec(AnswerHead(None, None, None))


def _written(codec: MessageCodec, chunks: list[Chunk]) -> dict[str, Any]:
    """The message that these Chunks make."""
    facts = MessageStream()
    for event in events_of(codec.encode(chunks) + codec.last()):
        facts.observe(event)
    return assembled(facts)


def events_of(stream: bytes) -> list[Event]:
    return EventSplitter(len(stream)).feed(stream)
