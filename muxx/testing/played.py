"""A provider without a network: a transport that answers from memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from muxx.errors import UpstreamDisconnected
from muxx.reply import Chunk
from muxx.targets import Attempt
from muxx.transport import Sink, UpstreamResponse
from muxx.wire.wire import AnswerHead
from muxx.wire.wires import BY_NAME

from .asking import asks_for_stream, endpoint_at
from .said import Said
from .speaking import plain, refused, streamed


@dataclass(frozen=True, slots=True)
class Played:
    """An answer as bytes. `error`, if any, comes after the last piece: a provider that breaks off."""

    pieces: Sequence[bytes]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """A provider's error, in the words of the endpoint that is asked: `refusal(429)`."""

    status: int
    message: str
    code: str | None
    headers: Mapping[str, str]


def refusal(
    status: int = 400, message: str = "No.", code: str | None = "refused", headers: Mapping[str, str] | None = None
) -> Refused:
    """A provider's error, in the words of the endpoint that is asked. `code` is what OpenAI would say; others have none."""
    return Refused(status, message, code, headers or {})


Answer = str | Said | Sequence[Chunk] | Played | Refused | BaseException
"""What a provider does: says this text or all this, sends these Chunks or these bytes, refuses, or fails before its head."""


@dataclass(frozen=True, slots=True)
class Broken:
    """An answer that breaks off after so many events: `broken("Hello there.", after=2)`."""

    said: Said
    after: int
    error: BaseException


def broken(answer: str | Said, after: int = 2, error: BaseException | None = None) -> Broken:
    """A stream that breaks off after so many events; a plain answer breaks off in its middle."""
    return Broken(answer if isinstance(answer, Said) else Said(answer), after, error or UpstreamDisconnected())


class PlayedTransport:
    """Answers attempts in turn from what it was told to play; the last answer goes on answering."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        """Every attempt it was given, as it was sent."""
        self._answers: list[Answer | Broken] = []
        self._asked: Callable[[], None] = lambda: None

    def play(self, answers: Sequence[Answer | Broken], asked: Callable[[], None]) -> None:
        """From now on answer with these; `asked` is called with each attempt."""
        self._answers, self._asked = list(answers), asked

    async def send(self, attempt: Attempt) -> UpstreamResponse:
        attempt.sent = True
        self.attempts.append(attempt)
        self._asked()
        await asyncio.sleep(0)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return PlayedResponse(as_played(answer, attempt))

    async def close(self) -> None:
        """There is nothing to close."""


def as_played(answer: Answer | Broken, attempt: Attempt) -> Played:
    """The bytes of an answer, in the form the attempt asks for."""
    if isinstance(answer, Played):
        return answer
    assert not isinstance(answer, BaseException)
    body, endpoint = attempt.body, endpoint_at(attempt.url)
    if isinstance(answer, Refused):
        told = refused(endpoint, answer.status, answer.message, answer.code)
        return Played([told], answer.status, {"content-type": "application/json", **answer.headers})
    streams = asks_for_stream(attempt.url, body)
    said = answer.said if isinstance(answer, Broken) else Said(answer) if isinstance(answer, str) else answer
    if isinstance(said, Said):
        usage = bool((body.get("stream_options") or {}).get("include_usage"))
        model = attempt.target.model
        pieces = streamed(endpoint, said, model, usage=usage) if streams else [plain(endpoint, said, model)]
    else:
        pieces = _encoded(endpoint, said, attempt, streams)
    headers = {"content-type": "text/event-stream" if streams else "application/json"}
    if isinstance(answer, Broken):
        pieces = pieces[: answer.after] if streams else [pieces[0][: len(pieces[0]) // 2]]
        return Played(pieces, headers=headers, error=answer.error)
    return Played(pieces, headers=headers)


def _encoded(endpoint: str, chunks: Iterable[Chunk], attempt: Attempt, streams: bool) -> list[bytes]:
    """Chunks as a provider would send them: an event for each."""
    wire = BY_NAME[endpoint]
    head = AnswerHead(f"{wire.id_prefix}1", attempt.target.model, 1)
    if not streams:
        return [wire.encode_answer(chunks, head)]
    codec = wire.codec(head, True)
    return [*filter(None, (codec.encode([chunk]) for chunk in chunks)), codec.last()]


class PlayedResponse:
    """An answer on its way, one piece at each turn of the event loop."""

    def __init__(self, played: Played) -> None:
        self.status = played.status
        self.headers: Mapping[str, str] = dict(played.headers)
        self._played = played
        self._closed = False
        self._flowing = asyncio.Event()
        self._flowing.set()

    def body_now(self) -> bytes | None:
        return None

    async def pump(self, sink: Sink) -> None:
        for piece in self._played.pieces:
            await asyncio.sleep(0)
            await self._flowing.wait()
            if self._closed:
                raise UpstreamDisconnected
            sink.feed(piece)
        await asyncio.sleep(0)
        if self._played.error is not None:
            raise self._played.error

    def pause(self) -> None:
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    def close(self) -> None:
        self._closed = True
        self._flowing.set()
