"""The mock as a transport: heads, bodies, delays and faults, with no socket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import orjson

from muxx import Attempt, UpstreamDisconnected

from .answer import CannotAnswer, compose
from .behaviour import NAMES, Behaviour, behaviour_of
from .formats import FORMATS, Format, format_at

if TYPE_CHECKING:
    from muxx import Sink, UpstreamResponse

GARBAGE = b'data: {"choices":[{"delta":{"content":\n\n'

ERRORS = {
    400: ("invalid_request_error", "invalid_value", "The mock refuses this request, as it was asked to."),
    401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided. The mock was asked to say so."),
    403: ("invalid_request_error", "forbidden", "The mock forbids this request, as it was asked to."),
    404: ("invalid_request_error", "model_not_found", "The mock does not know this model, as it was asked to."),
    429: ("requests", "rate_limit_exceeded", "Rate limit reached. The mock was asked to say so."),
    503: ("server_error", "overloaded", "The mock is overloaded, as it was asked to be."),
}
OTHER_ERROR = ("server_error", "server_error", "The mock failed, as it was asked to.")


class MockResponse:
    """An answer on its way. Nothing is produced while it is paused, and nothing after it is closed.

    A fault strikes before the piece numbered `fault_at`. `pump` returns only when every piece was handed over; closed before
    that, it raises `UpstreamDisconnected`, as a transport whose connection went away does.
    """

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        pieces: Iterable[bytes],
        *,
        drip: float = 0.0,
        fault: str = "",
        fault_at: int = -1,
    ) -> None:
        self.status = status
        self.headers = headers
        self._pieces = pieces
        self._drip = drip
        self._fault = fault
        self._fault_at = fault_at
        self._closed = asyncio.Event()
        self._flowing = asyncio.Event()
        self._flowing.set()

    def body_now(self) -> bytes | None:
        return None

    async def pump(self, sink: Sink) -> None:
        for number, piece in enumerate(self._pieces):
            await self._turn(self._drip if number else 0.0)
            if self._fault and number == self._fault_at:
                await self._strike(sink)
            sink.feed(piece)

    async def _turn(self, seconds: float) -> None:
        """Wait until the next piece is due and wanted. Gives the event loop a turn even when both are so at once."""
        if seconds:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), seconds)
        else:
            await asyncio.sleep(0)
        await self._flowing.wait()
        if self._closed.is_set():
            raise UpstreamDisconnected

    async def _strike(self, sink: Sink) -> None:
        if self._fault == "garbage":
            sink.feed(GARBAGE)
            return
        if self._fault == "stall":
            await self._closed.wait()
        raise UpstreamDisconnected

    def pause(self) -> None:
        if not self._closed.is_set():
            self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    def close(self) -> None:
        self._closed.set()
        self._flowing.set()


class MockTransport:
    """Answers attempts out of their own body; see `Mock` for the names it knows."""

    def __init__(self, latency_ms: int = 0, text: str = "") -> None:
        self._latency_ms = latency_ms
        self._text = text

    async def send(self, attempt: Attempt) -> UpstreamResponse:
        attempt.sent = True
        behaviour = behaviour_of(attempt.target.model)
        await asyncio.sleep((self._latency_ms + (behaviour.slow if behaviour else 0)) / 1000)
        if behaviour is None:
            return unknown(attempt.target.model)
        if behaviour.error:
            return refusal(behaviour.error)
        spoken = format_at(attempt.url)
        if spoken is None:
            return refusal(404, f"The mock has no such endpoint. It answers {', '.join(FORMATS)}.")
        try:
            return answered(spoken, behaviour, attempt.body, self._text)
        except CannotAnswer as reason:
            return refusal(400, str(reason))

    async def close(self) -> None:
        """Nothing is held open."""


def answered(spoken: Format, behaviour: Behaviour, body: Mapping[str, Any], default_text: str) -> MockResponse:
    """The answer to a request that is to have one, in the form it asks for. A fault of a stream strikes halfway through its
    first choice, when at least one piece of it has been said."""
    answer = compose(behaviour, body, spoken.asked(body), default_text)
    if spoken.stream is None or body.get("stream") is not True:
        return whole(spoken.plain(answer, body), behaviour.fault)
    first = answer.choices[0]
    return MockResponse(
        200,
        {"content-type": "text/event-stream; charset=utf-8"},
        spoken.stream.events(answer, body, not behaviour.nodone),
        drip=behaviour.drip / 1000,
        fault=behaviour.fault,
        fault_at=spoken.stream.before(first) + max(first.pieces // 2, min(first.pieces, 1)),
    )


def whole(data: bytes, fault: str) -> MockResponse:
    """The answer in one body; a fault strikes halfway through it, where the declared length is still to come."""
    half = len(data) // 2
    if fault == "garbage":
        return as_json(200, data[:half])
    headers = {"content-type": "application/json", "content-length": str(len(data))}
    pieces = (data[:half], data[half:]) if fault else (data,)
    return MockResponse(200, headers, pieces, fault=fault, fault_at=1)


def as_json(status: int, body: bytes, extra: Mapping[str, str] = MappingProxyType({})) -> MockResponse:
    headers = {"content-type": "application/json", "content-length": str(len(body)), **extra}
    return MockResponse(status, headers, (body,))


def refusal(status: int, message: str = "") -> MockResponse:
    """OpenAI's error body, with its `retry-after` where waiting helps."""
    kind, code, usual = ERRORS.get(status, OTHER_ERROR)
    body = {"error": {"message": message or usual, "type": kind, "param": None, "code": code}}
    waiting_helps = status in (429, 503)
    return as_json(status, orjson.dumps(body), {"retry-after": "1"} if waiting_helps else {})


def unknown(model: str) -> MockResponse:
    """404, naming every name that would have worked."""
    valid = ", ".join(f"mock/{name}" for name in NAMES)
    return refusal(404, f"The model '{model}' does not exist. The mock knows {valid}, joined with '+'.")
