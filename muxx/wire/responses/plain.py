"""Plain Responses answers, and answers that plugins make.

A plain answer is read as the stream of the same answer, and written back from that stream's terminal event: what holds for
streams holds for it too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from orjson import dumps, loads

from ...reply import Chunk
from ..openai import ended
from ..sse import Event, EventSplitter, data_of
from ..wire import AnswerHead, Head
from .codec import ResponseCodec
from .envelope import outputs
from .facts import TERMINAL, read_response
from .items import written
from .writer import Item, Writer


def stream_of(body: bytes) -> bytes:
    """A plain answer as the stream of the same answer, each text in one piece. Raises as `read_response` does."""
    answer = read_response(body).answer
    writer = Writer()
    begun = {**answer, "status": "in_progress", "output": [], "usage": None, "error": None}
    events = [writer.event(kind, response=begun) for kind in ("response.created", "response.in_progress")]
    for number, item in outputs(answer):
        events += _item_events(writer, Item(number, item.get("type"), item))
    kind = f"response.{answer.get('status')}"
    events.append(writer.event(kind if kind in TERMINAL else "response.completed", response=answer))
    return b"".join(events)


def _item_events(writer: Writer, item: Item) -> Iterator[bytes]:
    status = item.body.get("status")
    yield writer.open(item)
    for path, container, key in written(item.body):
        text, piece = item.text(path), container[key]
        text.came.append(piece)
        if len(path) == 3 and type(container) is dict:
            text.part = container
        if piece:
            yield writer.delta(item, path, piece) + writer.cited(item, path) + writer.end(item, path)
    yield writer.close(item, status)


def decode_response(body: bytes) -> list[Chunk]:
    """The Chunks of a plain answer, an `end` last. The `raw` of each is the event it would be in a stream."""
    codec = _codec()
    return [chunk for event in _events(body) for chunk in codec.decode(event)]


def encode_plain(body: bytes, chunks: Iterable[Chunk]) -> bytes:
    """A provider's plain answer after the hooks: its own bytes when nobody touched a Chunk, else rebuilt from its own JSON."""
    codec, results = _codec(), list(ended(chunks))
    originals = [chunk for event in _events(body) for chunk in codec.decode(event)]
    return body if results == originals else _plain(codec, results)


def encode_response(chunks: Iterable[Chunk], head: Head) -> bytes:
    """A whole answer, of Chunks that came from no provider, as a plain response object."""
    return _plain(ResponseCodec(head), list(ended(chunks)))


def _codec() -> ResponseCodec:
    """For an answer that brings its own head."""
    return ResponseCodec(AnswerHead(None, None, None))


def _plain(codec: ResponseCodec, chunks: list[Chunk]) -> bytes:
    codec.encode(chunks)
    terminal: dict[str, Any] = loads(data_of(codec.last()) or b"{}")
    return dumps(terminal["response"])


def _events(body: bytes) -> list[Event]:
    stream = stream_of(body)
    return EventSplitter(len(stream)).feed(stream)
