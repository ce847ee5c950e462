"""Answer a client in one format with a provider that speaks another.

A request crosses as a `Prompt`, an answer as Chunks. Neither format knows the other, and what cannot be carried is refused by its
place in the request, or dropped where the configuration says so and then told in the row and in a header.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from orjson import JSONDecodeError, loads

from .errors import InvalidRequest, UpstreamError
from .hookedrelay import HookedRelay
from .outages import failure_told
from .relay import ReadingRelay, form_of
from .reply import Chunk
from .wire.alike import Alike
from .wire.mending import mended
from .wire.prompt import Losses
from .wire.seals import sealed
from .wire.sse import Event
from .wire.wire import DONE, DROP, ERROR_EVENT, AnswerReader, Codec, Verdict, Wire
from .wire.wires import BY_NAME
from .written import Written

if TYPE_CHECKING:
    from .errors import MuxxError
    from .money import Usage
    from .targets import Provider, Target

DROPPED_HEADER = "X-Muxx-Dropped"
"""Tells the client which of its fields the provider was not sent."""

DROPPED = "dropped"
LOST = "lost"
"""Attributes of the row: places of the request, and kinds of items of the answer, that had no counterpart."""


def upstream_wire(called: Wire, provider: Provider) -> Wire | None:
    """The format in which this provider is asked: the caller's own where it speaks that, else its first that can say the same;
    None when it has none."""
    endpoints = provider.endpoints
    if called.name in endpoints:
        return called
    if called.format == "openai" and called.translation is None and provider.openai_url is not None:
        return called
    if called.translation is None:
        return None
    wires = (BY_NAME[name] for name in endpoints)
    return next((wire for wire in wires if wire.translation is not None and wire.counts == called.counts), None)


def no_counterpart(called: Wire, provider: Provider) -> InvalidRequest:
    """Why a provider cannot be asked at all."""
    return InvalidRequest(
        f"Provider {provider.name} has no counterpart of {called.path}. Ask for a model of a provider that has one.",
        code="unsupported_parameter",
        param="model",
    )


def translated(called: Wire, up: Wire, body: dict[str, Any], target: Target) -> tuple[dict[str, Any], list[str]]:
    """The request in the provider's format, and the places of it that were dropped. `InvalidRequest` names those that cannot be,
    unless the target drops them."""
    assert called.translation is not None
    assert up.translation is not None
    losses = Losses(str(target), drop=target.drops_unsupported)
    prompt = called.translation.read_prompt(body, losses)
    prompt.model = target.model
    out = up.translation.write_prompt(prompt, losses)
    losses.check()
    return out, losses.dropped


CHOICES = "choices"
"""What is lost of an answer of several choices, where the caller's format has one."""


def _crossing(up: Wire, called: Wire, chunks: list[Chunk], lost: set[str]) -> list[Chunk]:
    """What the caller's format is given of these: signatures sealed, and the first choice where it has no other."""
    others = False
    for chunk in chunks:
        if chunk.signature is not None:
            chunk.signature = sealed(up.format, chunk.signature)
        if chunk.index:
            others = True
    if not others or called.choices:
        return chunks
    lost.add(CHOICES)
    return [chunk for chunk in chunks if not chunk.index]


def _json_of(event: Event) -> Any:
    """An event's JSON; None where it has none, as the `[DONE]`, which says nothing more."""
    data = event[1]
    try:
        return loads(data) if data else None
    except JSONDecodeError:
        return None


class Translator:
    """An answer's way from the provider's format to the caller's: a `Codec` that reads the one and writes the other. `usage` is
    asked at its end for what it used, which providers do not always tell; without it that is what they tell."""

    def __init__(self, up: Wire, codec: Codec, called: Wire, usage: Callable[[], Usage] | None = None) -> None:
        assert up.translation is not None
        self._up, self._called, self._usage = up, called, usage
        self._reader: AnswerReader = up.translation.reader()
        self._codec = codec
        self._written = Written()

    @property
    def lost(self) -> set[str]:
        return self._reader.lost

    @property
    def said(self) -> list[Chunk]:
        """All that was written."""
        return self._written.chunks

    @property
    def next_number(self) -> int | None:
        """The number an event after those written would have, where events are numbered."""
        number: int | None = getattr(self._codec, "next_number", None)
        return number

    def read(self, value: Any) -> list[Chunk]:
        """The Chunks of an event's JSON."""
        return _crossing(self._up, self._called, self._reader.read(value), self._reader.lost)

    def decode(self, event: Event) -> list[Chunk]:
        value = _json_of(event)
        return self.read(value) if value is not None else []

    def end(self) -> Chunk:
        end = self._reader.end()
        if self._usage is not None:
            end.usage = self._usage()
        return end

    def encode(self, chunks: Iterable[Chunk]) -> bytes:
        if type(chunks) is not list:
            chunks = list(chunks)
        self._written.add(chunks)
        return self._codec.encode(chunks)

    def last(self) -> bytes:
        return self._codec.last()


class HookedTranslator(Translator):
    """A translator behind chunk hooks. A plugin that holds text back may let go of it between two fragments of a call, which in
    most formats nothing can stand between: what comes there waits until that call is over."""

    def __init__(self, up: Wire, codec: Codec, called: Wire, usage: Callable[[], Usage] | None = None) -> None:
        super().__init__(up, codec, called, usage)
        self._call: tuple[int, int] | None = None
        """Choice and number of the call that has begun."""
        self._waiting: list[Chunk] = []

    def encode(self, chunks: Iterable[Chunk]) -> bytes:
        return super().encode([chunk for each in chunks for chunk in self._in_order(each)])

    def _in_order(self, chunk: Chunk) -> list[Chunk]:
        if chunk.tool_call is not None:
            call = chunk.index, chunk.tool_call.index
            if call == self._call:
                return [chunk]
            self._call = call
        elif self._call is not None and not chunk.finish_reason and chunk.kind != "end":
            self._waiting.append(chunk)
            return []
        waited, self._waiting = self._waiting, []
        return [*waited, chunk]


class _OwnEvents:
    """What holds of a relay whose events are none of the provider's."""

    def _take_line_ends(self, rest: bytes) -> None:
        """They are the provider's, as its events are."""

    @property
    def comments_allowed(self) -> bool:
        return True  # what goes out has no `id` fields


class TranslatedRelay(_OwnEvents, ReadingRelay):
    """The path of a translated answer that nobody hooks: each event is read and written in the step in which it comes."""

    def __init__(self, *args: Any, codec: Translator, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._codec = codec
        self._ended = False

    def _goes_on(self, data: bytes, alike: Alike) -> bool:
        events = alike.events(data)
        if events is None:
            return False
        kind, index = self._known_form
        out = []
        for _, text in events:
            alike.said.append(text)
            out.append(self._codec.encode([Chunk(kind, text, index)]))
        self._send(out)
        return True

    def _take(self, events: list[Event]) -> None:
        out: list[bytes] = []
        stream, codec = self.stream, self._codec
        error: MuxxError | None = None
        chunks: list[Chunk] = []
        number = 0
        if self._mender is not None:
            events = self._mender.take(events)
        try:
            for number, event in enumerate(events):  # noqa: B007 - where it failed
                verdict = stream.observe(event)
                if verdict is ERROR_EVENT:
                    raise failure_told(stream.error, self._masked)
                chunks = codec.read(stream.value) if verdict is not DROP and stream.value is not None else []
                if chunks:
                    out.append(codec.encode(chunks))
                if verdict is DONE:
                    self._ending = self._came(event)
                    break
        except UpstreamError as failure:
            if self._mends(events[number]):
                self._send(out)
                self._take(events[number:])
                return
            error = failure
        self._form = form_of(chunks, None) if self._likenesses and stream.saying is not None else None
        if events:
            self._look_at(events[-1][0])
        self._send(out)
        if error is not None or stream.done:
            self.finish(error)

    def _take_tail(self, tail: Event, verdict: Verdict) -> None:
        if verdict is DONE or self.stream.finished:
            self._take_read()
        if verdict is DONE:
            self.finish(None)

    def _take_read(self) -> None:
        """Write the event that was observed last."""
        if self.stream.value is not None and (data := self._codec.encode(self._codec.read(self.stream.value))):
            self._send([data])

    def finish(self, error: MuxxError | None) -> None:
        """The end is the caller's format's own: it says how the answer ended and what it used."""
        self._take_waiting()
        if error is None and not self._ended and not self.over.done():
            self._ended = True
            try:
                if data := self._codec.encode([self._codec.end()]):
                    self._send([data])
                self.last = self._codec.last()
            except UpstreamError as failure:
                error = failure
        super().finish(error)


class TranslatedHookedRelay(_OwnEvents, HookedRelay):
    """The path of a translated answer with `on_chunk` plugins."""

    def _observe(self, event: Event) -> Verdict:
        verdict = self.stream.observe(event)
        if verdict is ERROR_EVENT:
            raise failure_told(self.stream.error, self._masked)
        return verdict

    def _note_end(self, event: Event) -> None:
        self._ending = self._came(event)

    @property
    def _ends_by_itself(self) -> bool:
        return True

    async def _through(self, event: Event, verdict: Verdict) -> bool:
        if verdict is DROP:
            return False
        chunks = self._codec.decode(event)
        if verdict is DONE:
            chunks.append(self._codec.end())
        return await self._pass(chunks) if chunks else False


def whole(up: Wire, body: bytes, called: Wire) -> tuple[list[Chunk], set[str]]:
    """A provider's plain answer as Chunks for the caller's format, and what of it has no counterpart."""
    assert up.translation is not None
    chunks, lost = up.translation.read_answer(body)
    return _crossing(up, called, chunks, lost), lost


def whole_of_stream(up: Wire, events: Iterable[Event], called: Wire) -> list[Chunk]:
    """A provider's whole stream as Chunks for the caller's format."""
    assert up.translation is not None
    reader = up.translation.reader()
    values = [value for event in mended(events) if (value := _json_of(event)) is not None]
    chunks = [chunk for value in values for chunk in reader.read(value)]
    return _crossing(up, called, [*chunks, reader.end()], reader.lost)
