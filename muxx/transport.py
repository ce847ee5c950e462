"""What carries a call to a provider and its answer back: the interface the kernel knows, and outside plugins may implement.

A transport turns an `Attempt` into an `UpstreamResponse` whose body is pushed into a sink. What holds for all of muxx's own: a
redirect is never followed; a connection is used again only when its last answer was read to its end and nothing came after it; a
cancelled or failed call closes its connection at once; bodies come as the provider encoded them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Protocol

from .targets import Attempt


class Sink(Protocol):
    """Where a response's body goes. `feed` must not block; it may call `pause()` on the response that feeds it."""

    def feed(self, data: bytes) -> None: ...


class UpstreamResponse(Protocol):
    """The head of a provider's answer, and the means to have its body pushed. `headers` is asked with lower-case names."""

    status: int
    headers: Mapping[str, str]

    def body_now(self) -> bytes | None:
        """All of the body, when it has come with its head; then there is nothing to pump. None when it is to be waited for."""

    def pump(self, sink: Sink) -> Awaitable[None]:
        """Push the body into `sink` until its clean end; `UpstreamDisconnected` or `UpstreamProtocolError` when there is none."""

    def pause(self) -> None:
        """Stop reading from the provider."""

    def resume(self) -> None: ...

    def close(self) -> None:
        """Let go of the response. Unless its body was read to the end, and nothing beyond the answer's (`attempt.surplus`), the
        connection is closed at once. Idempotent."""


class Transport(Protocol):
    """Carries attempts to providers. Outside plugins may bring their own (`register_providers`)."""

    async def send(self, attempt: Attempt) -> UpstreamResponse:
        """Send and wait for the head. Sets `attempt.sent`; raises a `UpstreamError` of the fitting kind."""

    async def close(self) -> None: ...


RECEIVE_BUFFER = 128 * 1024
"""Bytes of kernel buffer per upstream connection, so that a paused stream holds little."""

IDLE_SECONDS = 20.0
"""Idle connections older than this are not used again: below the shortest keep-alive of the big providers."""
