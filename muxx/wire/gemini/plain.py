"""Plain answers, and answers that plugins make.

A plain answer has the form of an event: it is read as a stream of one, and written back from what comes out of that stream.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from orjson import dumps, loads

from ...reply import Chunk
from ..openai import ended
from ..openai.answer import parse_answer
from ..sse import EventSplitter
from ..wire import AnswerHead, Head
from .codec import GenerateCodec
from .envelope import as_event
from .facts import GenerateFacts
from .pieces import read_pieces, shown


def decode_generated(body: bytes) -> list[Chunk]:
    """The Chunks of a plain answer, an `end` last. The `raw` of each is the event it would be in a stream."""
    answer = parse_answer(body)
    raw = as_event(dumps(answer))
    facts = GenerateFacts()
    facts.learn(answer)
    reasons = list(facts.finish_reasons.values())
    end = Chunk("end", finish_reason=reasons[0] if reasons else None, usage=facts.usage, raw=raw)
    return [*[piece.chunk for piece in read_pieces(answer, raw, {})], end]


def encode_plain(body: bytes, chunks: Iterable[Chunk]) -> bytes:
    """A provider's plain answer after the hooks: its own bytes when nobody touched a Chunk, else rebuilt from its own JSON."""
    results = list(ended(chunks))
    if [shown(chunk) for chunk in results] == [shown(chunk) for chunk in decode_generated(body)]:
        return body
    facts = GenerateFacts()
    facts.learn(parse_answer(body))
    return _plain(AnswerHead(facts.id, facts.model, None), results)


def encode_generated(chunks: Iterable[Chunk], head: Head) -> bytes:
    """A whole answer, of Chunks that came from no provider, as a plain `GenerateContentResponse`."""
    return _plain(head, list(ended(chunks)))


def _plain(head: Head, chunks: list[Chunk]) -> bytes:
    codec, facts = GenerateCodec(head), GenerateFacts()
    stream = codec.encode(chunks) + codec.last()
    for _, data in EventSplitter(len(stream)).feed(stream):
        event: dict[str, Any] = loads(data or b"{}")
        facts.learn(event)
    return dumps(facts.as_answer())
