"""A provider's plain answer: all of its bytes, within the limits."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .errors import UpstreamError, UpstreamProtocolError
from .targets import Attempt

if TYPE_CHECKING:
    from .call import Call
    from .transport import UpstreamResponse


def refuse_encoded(call: Call, response: UpstreamResponse) -> None:
    """Nobody here reads a compressed answer. A good one is an answer all the same, and paid for: no other provider is asked."""
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        call.committed = 200 <= response.status < 300
        raise UpstreamProtocolError("The model provider sent a compressed answer though none was asked for.")


TOO_LARGE = "The model provider's answer is larger than the gateway's limit."


class Collector:
    """A sink for a plain answer: all of it, up to a limit."""

    def __init__(self, call: Call, response: UpstreamResponse, seconds: float, most: int, *, commits: bool) -> None:
        self._call = call
        self._response = response
        self._seconds = seconds
        self._most = most
        self._commits = commits
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> None:
        self._call.committed = self._commits
        self._call.due = time.monotonic() + self._seconds
        self._size += len(data)
        if self.overfull:
            self._response.close()
        else:
            self._pieces.append(data)

    @property
    def overfull(self) -> bool:
        return self._size > self._most

    @property
    def body(self) -> bytes:
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)


async def whole_body(call: Call, attempt: Attempt, response: UpstreamResponse) -> bytes:
    """All of a plain answer's bytes, within the limits."""
    refuse_encoded(call, response)
    call.exchange.phase = "stream"
    body = response.body_now()
    if body is None:
        return await _collect(call, attempt, response)
    if len(body) > call.gateway.config.server.max_response_bytes:
        raise UpstreamProtocolError(TOO_LARGE)
    return body


async def _collect(call: Call, attempt: Attempt, response: UpstreamResponse) -> bytes:
    timeouts, server = attempt.target.timeouts, call.gateway.config.server
    commits = 200 <= response.status < 300
    collector = Collector(call, response, timeouts.between_events, server.max_response_bytes, commits=commits)
    with call.within(timeouts.first_token):
        try:
            await response.pump(collector)
        except UpstreamError:
            if not collector.overfull:
                raise
    if collector.overfull:
        raise UpstreamProtocolError(TOO_LARGE)
    return collector.body
