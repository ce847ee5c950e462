"""Chunks: what plugins see of an answer in OpenAI's format, and back again.

Reading: each event of a stream becomes one Chunk per piece it holds (reasoning, text, refusal, tool call fragments, finish
reason), in that order; all of them carry the event's bytes as `raw`. A refusal is a Chunk of kind `other` that has text. An
event that holds none of these is one `other`, and `[DONE]` is the `end`. A plain answer is read the same way.

Writing: the Chunks of an event that nobody touched leave as the event's own bytes. When some were changed or dropped, the
event is rebuilt from its own JSON: what was changed is replaced, what was dropped is taken out, what nobody touched stays. A
Chunk that came from no event gets an event of its own. `usage` is told to plugins, not taken back from them. Signatures are only
those of answers that came in another format: where they stand is told in `thoughts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any, NamedTuple

from orjson import dumps, loads

from ...reply import Chunk, ToolCall
from ..large import Data
from ..sse import Event, data_of, is_done
from ..wire import Head
from .answer import ChatFacts, assembled, parse_answer
from .apart import as_bytes, events_of, usage_event
from .pieces import Slot, choices_of, copied, decode, distinct, index_of, joined, put, rebuild, slot_of
from .thoughts import Signatures, Thoughts, extra_of
from .usage import read_usage, usage_object

DONE_EVENT = b"data: [DONE]\n\n"


def end_chunk(facts: ChatFacts | None, raw: bytes | None = None) -> Chunk:
    """The `end` of an answer, for where a stream ends without saying so."""
    reasons = list(facts.finish_reasons.values()) if facts is not None else []
    usage = facts.usage if facts is not None else None
    return Chunk("end", finish_reason=reasons[0] if reasons else None, usage=usage, raw=raw)


def decode_completion(body: bytes, written: Callable[[dict[str, Any]], bytes] = as_bytes) -> list[Chunk]:
    """The Chunks of a plain answer, an `end` last. The `raw` of each is the event it would be in a stream, as it is `written`."""
    answer = parse_answer(body)
    facts = ChatFacts()
    facts.learn(answer, "message")
    chunks = [chunk for event in events_of(answer) for chunk in decode(event, "delta", written(event))]
    return [*chunks, end_chunk(facts, written(usage_event(answer)) if facts.usage is not None else None)]


def _told_usage(end: Chunk) -> dict[str, Any] | None:
    """The event of a plain answer's usage, in the provider's own words, where they are what the `end` says."""
    data = data_of(end.raw) if end.raw is not None else None
    event = loads(data) if data and not is_done(data) else {}
    is_it = event.get("choices") == [] and read_usage(event.get("usage"), event.get("service_tier"))[0] == end.usage
    return event if is_it else None


_PIECE = "\0"
"""Stands for the text of a lane's events where they are made."""


class _Lane(NamedTuple):
    """The events of the pieces of one text, which differ in that piece only: the bytes before and after it."""

    kind: str
    choice: int
    call: int
    before: bytes
    after: bytes


class ChunkEncoder:
    """Writes the Chunks of one answer as events, in as many calls as they come.

    An `end` closes what is open: choices without a finish reason get the end's, or `stop`; when `include_usage` says that the
    client asked for usage and none has gone out, the end's usage follows. The last event, `[DONE]`, is not among what `encode`
    returns: the relay asks for it with `last`, and puts the cost before it. At the provider's own `[DONE]` only that is closed
    which a plugin left open: what the provider did not say, nobody says for it.
    """

    def __init__(self, head: Head, *, include_usage: bool = False) -> None:
        self._head = head
        self._owes_usage = include_usage
        self._done = DONE_EVENT
        self._open: dict[int, bool] = {}
        """Choices begun; True until their finish reason is out."""
        self._said: set[int] = set()
        """Choices the provider finished."""
        self._made: set[int] = set()
        """Choices a plugin added to."""
        self._thoughts: dict[int, Thoughts] = {}
        self._relaying = False
        """Events are decoded here; not only Chunks encoded that came from none."""
        self._lane: _Lane | None = None
        """The text of which the last piece was."""
        self._decoded: list[Chunk] = []
        """The last event's Chunks as they were before anybody could change them."""

    def decode(self, event: Event) -> list[Chunk]:
        """The Chunks of the answer's next event; none of one without data."""
        raw, data = event
        self._relaying = True
        if not data:
            return []
        if is_done(data):
            self._done = raw
            return [end_chunk(self._facts, raw)]
        chunks = self._pieces(raw, data)
        for chunk in chunks:
            if chunk.finish_reason:
                self._said.add(chunk.index)
        self._decoded = list(map(copied, chunks))
        return chunks

    def end(self) -> Chunk:
        """The `end` of an answer that ends without saying so."""
        return end_chunk(self._facts)

    def encode(self, chunks: Iterable[Chunk]) -> bytes:
        """The bytes of these Chunks, in order."""
        if self._lane is not None and type(chunks) is list and len(chunks) == 1 and (event := self._piece(self._lane, chunks[0])):
            return event
        self._lane = None
        if chunks and chunks == self._decoded:  # what nearly every event is: nobody changed it
            return self._as_it_came(self._decoded)
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

    def last(self) -> bytes:
        """The last event of a complete answer: the provider's `[DONE]`, or one like it."""
        return self._done

    @property
    def _facts(self) -> ChatFacts | None:
        return self._head if isinstance(self._head, ChatFacts) else None

    def _event(self, raw: bytes, group: list[Chunk]) -> bytes:
        """Consecutive Chunks of one event: its own bytes when they are all of it and unchanged."""
        data = data_of(raw)
        originals = self._pieces(raw, data) if data and not is_done(data) else []
        if group == originals:
            return self._as_it_came(group)
        return b"".join(self._changed(raw, originals, wanted) for wanted in distinct(group))

    def _as_it_came(self, chunks: list[Chunk]) -> bytes:
        """The event that these are all of."""
        for chunk in chunks:
            self._note(chunk)
        return chunks[0].raw or b""

    def _changed(self, raw: bytes, originals: list[Chunk], wanted: dict[Slot, Chunk]) -> bytes:
        """The event with what is left of it; what never stood in it follows in events of its own."""
        slots = {slot_of(original) for original in originals}
        kept = {slot: chunk for slot, chunk in wanted.items() if slot in slots}
        events = [self._new_event(chunk) for slot, chunk in wanted.items() if slot not in slots]
        if kept:
            for chunk in kept.values():
                self._note(chunk)
            event = self._read(data_of(raw) or b"{}")
            rebuild(event, "delta", originals, kept)
            left = {chunk.index for chunk in kept.values()}
            event["choices"] = [choice for choice in event.get("choices", ()) if index_of(choice) in left]
            events.insert(0, self._write(event))
        return b"".join(events)

    def _new_event(self, chunk: Chunk) -> bytes:
        delta: dict[str, Any] = {} if chunk.index in self._open else {"role": "assistant"}
        put(delta, "delta", chunk)
        if chunk.signature is not None or chunk.kind == "reasoning":
            self._sign(delta, chunk)
        self._note(chunk, fresh=True)
        self._made.add(chunk.index)
        if not self._relaying and chunk.kind in ("text", "reasoning", "tool_call"):
            self._lane = self._lane_of(chunk)
        choice = {"index": chunk.index, "delta": delta, "finish_reason": chunk.finish_reason}
        return self._write(self._envelope([choice]))

    def _sign(self, delta: dict[str, Any], chunk: Chunk) -> None:
        """Put the signature of a thought, a call or a text where the client will send it back from."""
        if chunk.kind == "reasoning":
            thoughts = self._thoughts.get(chunk.index) or self._thoughts.setdefault(chunk.index, Thoughts())
            if (entry := thoughts.entry(chunk)) is not None:
                delta["reasoning_details"] = [entry]
        elif chunk.signature is not None:
            holder = delta["tool_calls"][0] if chunk.tool_call is not None else delta
            holder["extra_content"] = extra_of(chunk.signature)

    def _lane_of(self, chunk: Chunk) -> _Lane:
        """The lane for what may follow this Chunk."""
        call = chunk.tool_call.index if chunk.tool_call is not None else 0
        delta: dict[str, Any] = {}
        tool = ToolCall(call, arguments=_PIECE) if chunk.tool_call is not None else None
        put(delta, "delta", Chunk(chunk.kind, _PIECE, chunk.index, tool))
        event = self._write(self._envelope([{"index": chunk.index, "delta": delta, "finish_reason": None}]))
        before, _, after = event.partition(dumps(_PIECE))
        return _Lane(chunk.kind, chunk.index, call, before, after)

    def _piece(self, lane: _Lane, chunk: Chunk) -> bytes | None:
        """The event of a Chunk that is one more piece of the lane's text and nothing else; None for any other."""
        if chunk.kind != lane.kind or chunk.index != lane.choice or chunk.raw is not None:
            return None
        if chunk.signature is not None or chunk.finish_reason is not None or chunk.usage is not None:
            return None
        piece = chunk.text
        if (call := chunk.tool_call) is not None:
            if call.index != lane.call or call.id is not None or call.name is not None:
                return None
            piece = call.arguments
        if not piece:
            return None
        if lane.kind == "reasoning":
            self._thoughts[lane.choice].pieces.append(piece)
        return lane.before + dumps(piece) + lane.after

    def _end(self, end: Chunk) -> bytes:
        reason = end.finish_reason or "stop"
        unfinished = self._unfinished(of_plugin=end.raw is None or not is_done(data_of(end.raw)))
        events = [self._new_event(Chunk("other", index=index, finish_reason=reason)) for index in unfinished]
        if self._owes_usage and end.usage is not None:
            told = _told_usage(end) or {**self._envelope([]), "usage": usage_object(end.usage)}
            events.append(self._write(told))
        return b"".join(events)

    def _unfinished(self, *, of_plugin: bool) -> list[int]:
        """The choices an `end` finishes; an answer of which nothing is left has one."""
        left = sorted(index for index, is_open in self._open.items() if is_open)
        if of_plugin:
            return left if self._open else [0]
        if not self._open:
            return sorted(self._said)[:1]
        return [index for index in left if index in self._said or index in self._made]

    def _note(self, chunk: Chunk, *, fresh: bool = False) -> None:
        """A Chunk goes out: with the provider's event, which tells its usage, or in a fresh one, which does not."""
        self._open[chunk.index] = self._open.get(chunk.index, True) and not chunk.finish_reason
        if chunk.usage is not None and not fresh:
            self._owes_usage = False

    def _envelope(self, choices: list[Any]) -> dict[str, Any]:
        return {
            "id": self._head.id or "chatcmpl-muxx",
            "object": "chat.completion.chunk",
            "created": self._head.created or 0,
            "model": self._head.model or "",
            "choices": choices,
        }

    def _pieces(self, raw: bytes, data: Data) -> list[Chunk]:
        return decode(self._read(data), "delta", raw)

    def _read(self, data: Data) -> dict[str, Any]:
        """An event's JSON, in the words of chat completions."""
        value: dict[str, Any] = loads(data)
        return value

    def _write(self, event: dict[str, Any]) -> bytes:
        """An event that says in the answer's own format what `event` says in the words of chat completions."""
        return b"data: " + dumps(event) + b"\n\n"


def encode_completion(chunks: Iterable[Chunk], head: Head) -> bytes:
    """A whole answer, of Chunks that came from no provider, as a plain `chat.completion`."""
    facts = ChatFacts()
    facts.id, facts.model, facts.created = head.id or "chatcmpl-muxx", head.model or "", head.created or 0
    signed = Signatures()
    for chunk in ended(chunks):
        facts.usage = chunk.usage or facts.usage
        if chunk.kind == "end":
            for choice in facts.choices.values() or [facts.choice(0)]:
                choice.finish_reason = choice.finish_reason or chunk.finish_reason or "stop"
        else:
            delta: dict[str, Any] = {}
            put(delta, "delta", chunk)
            facts.choice(chunk.index).add(delta)
            facts.choice(chunk.index).finish_reason = chunk.finish_reason or facts.choice(chunk.index).finish_reason
            signed.take(chunk)
    answer = assembled(facts)
    for choice in answer["choices"]:
        signed.put(choice["message"], choice["index"], [call.index for call in facts.choice(choice["index"]).tool_calls])
    return dumps(answer)


def encode_plain(body: bytes, chunks: Iterable[Chunk], written: Callable[[dict[str, Any]], bytes] = as_bytes) -> bytes:
    """A provider's plain answer after the hooks: its own bytes when nobody touched a Chunk, else rebuilt from its own JSON."""
    originals = decode_completion(body, written)
    results = list(ended(chunks))
    if results == originals:
        return body
    answer = parse_answer(body)
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


def ended(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """The Chunks up to the first `end`, and an `end` where there is none: nothing after it is the answer's."""
    for chunk in chunks:
        yield chunk
        if chunk.kind == "end":
            return
    yield Chunk("end")
