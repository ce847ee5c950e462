"""Chunks: what plugins see of an answer in OpenAI's format, and back again.

Reading: each event of a stream becomes one Chunk per piece it holds (reasoning, text, refusal, tool call fragments, finish
reason), in that order; all of them carry the event's bytes as `raw`. A refusal is a Chunk of kind `other` that has text. An
event that holds none of these is one `other`, and `[DONE]` is the `end`. A plain answer is read the same way.

Writing: the Chunks of an event that nobody touched leave as the event's own bytes. When some were changed or dropped, the
event is rebuilt from its own JSON: what was changed is replaced, what was dropped is taken out, what nobody touched stays. A
Chunk that came from no event gets an event of its own. `usage` is told to plugins, not taken back from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

from orjson import JSONDecodeError, dumps, loads

from ...errors import UpstreamProtocolError
from ...exchange import Chunk
from ..sse import Event, data_of
from .answer import ChatFacts, ChatStream, assembled
from .pieces import Slot, choices_of, decode, distinct, index_of, joined, put, rebuild, slot_of
from .usage import usage_object

DONE_EVENT = b"data: [DONE]\n\n"


class Head(Protocol):
    """What new events are headed with; a `ChatStream` is one."""

    id: str | None
    model: str | None
    created: int | None


@dataclass(slots=True)
class AnswerHead:
    """The head of an answer no provider made."""

    id: str | None
    model: str | None
    created: int | None


def decode_event(event: Event, stream: ChatStream | None = None) -> list[Chunk]:
    """The Chunks of an event; none of one without data. The `end` gets `stream`'s usage and first finish reason."""
    raw, data = event
    if not data:
        return []
    if _is_done(data):
        return [end_chunk(stream, raw)]
    return decode(loads(data), "delta", raw)


def end_chunk(facts: ChatFacts | None, raw: bytes | None = None) -> Chunk:
    """The `end` of an answer, for where a stream ends without saying so."""
    reasons = list(facts.finish_reasons.values()) if facts is not None else []
    usage = facts.usage if facts is not None else None
    return Chunk("end", finish_reason=reasons[0] if reasons else None, usage=usage, raw=raw)


def decode_completion(body: bytes) -> list[Chunk]:
    """The Chunks of a plain answer, an `end` last."""
    answer = _parse_answer(body)
    facts = ChatFacts()
    facts.learn(answer, "message")
    return [*decode(answer, "message", body), end_chunk(facts, body)]


class ChunkEncoder:
    """Writes the Chunks of one answer as events, in as many calls as they come.

    An `end` closes what is open: choices without a finish reason get the end's, or `stop`; when `include_usage` says that the
    client asked for usage and none has gone out, the end's usage follows. `[DONE]` is left to the relay, which puts the cost
    before it. The provider's own `[DONE]` closes nothing: the provider has said what it had to say.
    """

    def __init__(self, head: Head, *, include_usage: bool = False) -> None:
        self._head = head
        self._owes_usage = include_usage
        self._open: dict[int, bool] = {}
        """Choices begun; True until their finish reason is out."""

    def encode(self, chunks: Iterable[Chunk]) -> bytes:
        """The bytes of these Chunks, in order."""
        events = []
        for _, run in groupby(chunks, key=lambda chunk: (id(chunk.raw), chunk.kind == "end")):
            group = list(run)
            if group[0].kind == "end":
                events.append(self._end(group[0]))
            elif group[0].raw is None:
                events += [self._new_event(chunk) for chunk in group]
            else:
                events.append(self._event(group[0].raw, group))
        return b"".join(events)

    def _event(self, raw: bytes, group: list[Chunk]) -> bytes:
        """Consecutive Chunks of one event: its own bytes when they are all of it and unchanged."""
        originals = decode_event((raw, data_of(raw)))
        if group == originals:
            for chunk in group:
                self._note(chunk)
            return raw
        return b"".join(self._changed(raw, originals, wanted) for wanted in distinct(group))

    def _changed(self, raw: bytes, originals: list[Chunk], wanted: dict[Slot, Chunk]) -> bytes:
        """The event with what is left of it; what never stood in it follows in events of its own."""
        slots = {slot_of(original) for original in originals}
        kept = {slot: chunk for slot, chunk in wanted.items() if slot in slots}
        events = [self._new_event(chunk) for slot, chunk in wanted.items() if slot not in slots]
        if kept:
            for chunk in kept.values():
                self._note(chunk)
            event = loads(data_of(raw) or b"{}")
            rebuild(event, "delta", originals, kept)
            left = {chunk.index for chunk in kept.values()}
            event["choices"] = [choice for choice in event.get("choices", ()) if index_of(choice) in left]
            events.insert(0, _as_event(event))
        return b"".join(events)

    def _new_event(self, chunk: Chunk) -> bytes:
        delta: dict[str, Any] = {} if chunk.index in self._open else {"role": "assistant"}
        put(delta, "delta", chunk)
        self._note(chunk)
        choice = {"index": chunk.index, "delta": delta, "finish_reason": chunk.finish_reason}
        return _as_event(self._envelope([choice]))

    def _end(self, end: Chunk) -> bytes:
        if end.raw is not None and _is_done(data_of(end.raw)):
            return b""
        reason = end.finish_reason or "stop"
        unfinished = sorted(index for index, is_open in self._open.items() if is_open) if self._open else [0]
        events = [self._new_event(Chunk("other", index=index, finish_reason=reason)) for index in unfinished]
        if self._owes_usage and end.usage is not None:
            events.append(_as_event({**self._envelope([]), "usage": usage_object(end.usage)}))
        return b"".join(events)

    def _note(self, chunk: Chunk) -> None:
        self._open[chunk.index] = self._open.get(chunk.index, True) and not chunk.finish_reason
        if chunk.usage is not None:
            self._owes_usage = False

    def _envelope(self, choices: list[Any]) -> dict[str, Any]:
        return {
            "id": self._head.id or "chatcmpl-muxx",
            "object": "chat.completion.chunk",
            "created": self._head.created or 0,
            "model": self._head.model or "",
            "choices": choices,
        }


def encode_stream(chunks: Iterable[Chunk], head: Head, *, include_usage: bool = False) -> bytes:
    """A whole answer as an event stream, `[DONE]` included."""
    return ChunkEncoder(head, include_usage=include_usage).encode(_ended(chunks)) + DONE_EVENT


def encode_completion(chunks: Iterable[Chunk], head: Head) -> bytes:
    """A whole answer, of Chunks that came from no provider, as a plain `chat.completion`."""
    facts = ChatFacts()
    facts.id, facts.model, facts.created = head.id or "chatcmpl-muxx", head.model or "", head.created or 0
    for chunk in _ended(chunks):
        facts.usage = chunk.usage or facts.usage
        if chunk.kind == "end":
            for choice in facts.choices.values() or [facts.choice(0)]:
                choice.finish_reason = choice.finish_reason or chunk.finish_reason or "stop"
        else:
            delta: dict[str, Any] = {}
            put(delta, "delta", chunk)
            facts.choice(chunk.index).add(delta)
            facts.choice(chunk.index).finish_reason = chunk.finish_reason or facts.choice(chunk.index).finish_reason
    return dumps(assembled(facts))


def encode_plain(body: bytes, chunks: Iterable[Chunk]) -> bytes:
    """A provider's plain answer after the hooks: its own bytes when nobody touched a Chunk, else rebuilt from its own JSON."""
    originals = decode_completion(body)
    results = list(_ended(chunks))
    if results == originals:
        return body
    answer = _parse_answer(body)
    wanted = joined(results[:-1])
    rebuild(answer, "message", originals, wanted)
    choices = choices_of(answer)
    slots = {slot_of(original) for original in originals}
    for slot, chunk in wanted.items():
        if slot not in slots:
            _add_to_choice(choices, chunk)
    for choice in choices.values():
        choice["finish_reason"] = choice.get("finish_reason") or results[-1].finish_reason or "stop"
    answer["choices"] = [choice for _, choice in sorted(choices.items())]
    return dumps(answer)


def _add_to_choice(choices: dict[int, dict[str, Any]], chunk: Chunk) -> None:
    """Put what a plugin added where it belongs, in a choice of its own if there is none of that index."""
    empty = {"index": chunk.index, "message": {"role": "assistant", "content": None}}
    choice = choices.setdefault(chunk.index, empty)
    put(choice["message"], "message", chunk)
    choice["finish_reason"] = chunk.finish_reason or choice.get("finish_reason")


def _is_done(data: bytes | None) -> bool:
    return data is not None and data.strip() == b"[DONE]"


def _as_event(value: dict[str, Any]) -> bytes:
    return b"data: " + dumps(value) + b"\n\n"


def _ended(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """The Chunks up to the first `end`, and an `end` where there is none: nothing after it is the answer's."""
    for chunk in chunks:
        yield chunk
        if chunk.kind == "end":
            return
    yield Chunk("end")


def _parse_answer(body: bytes) -> dict[str, Any]:
    try:
        answer = loads(body)
    except JSONDecodeError:
        raise UpstreamProtocolError from None
    if type(answer) is not dict:
        raise UpstreamProtocolError
    return answer
