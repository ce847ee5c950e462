"""A transport that a plugin brought, run as its hooks are: nothing it does passes for a fault of the kernel or the provider.

A `MuxxError` it raises is what became of the call. Anything else is a crash of the plugin, named in the log and `plugin_error`
to the client, be it a SystemExit; and a call that does not hear its cancellation is left.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from .chains import crashed, named_when_late, run_step
from .crashes import describe_crash
from .errors import PluginError
from .plugins import Step
from .targets import Attempt
from .transport import Sink, Transport, UpstreamResponse

log = logging.getLogger("muxx.plugins")

_METHODS = ("body_now", "pump", "pause", "resume", "close")


class BroughtTransport:
    """What the kernel calls in the place of the plugin's transport."""

    def __init__(self, plugin: str, name: str, transport: Transport) -> None:
        self._transport = transport
        self._step = partial(Step, plugin, is_async=True)
        self._name = name

    def _part(self, call: Callable[..., Awaitable[Any]], what: str) -> Step:
        async def awaited(*args: Any) -> Any:
            return await call(*args)

        return self._step(awaited, hook=f"{what} of its transport {self._name!r}")

    async def send(self, attempt: Attempt) -> UpstreamResponse:
        sending = self._part(self._transport.send, "send")
        response = await run_step(sending, (attempt,), None)
        attempt.sent = True
        if (problem := _problem_of(response)) is not None:
            crashed(sending, problem)
        return BroughtResponse(response, self._part(response.pump, "an answer"))

    async def close(self) -> None:
        closing = self._part(self._transport.close, "close")
        try:
            with named_when_late(closing.plugin, closing.hook):
                await run_step(closing, (), None)
        except PluginError:
            pass  # it has been named, and others are still to be closed


class BroughtResponse:
    """The same of an answer."""

    def __init__(self, response: UpstreamResponse, pumping: Step) -> None:
        self._response = response
        self._pumping = pumping
        self.status: int = response.status
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}

    def body_now(self) -> bytes | None:
        try:
            body = self._response.body_now()
        except BaseException as error:  # plain `def`, so not even a cancellation is anybody else's
            crashed(self._pumping, describe_crash(error), error)
            raise
        return body if body is None else as_bytes(self._pumping, body)

    async def pump(self, sink: Sink) -> None:
        await run_step(self._pumping, (_BytesOnly(self._pumping, sink),), None)

    def pause(self) -> None:
        self._try(self._response.pause)

    def resume(self) -> None:
        self._try(self._response.resume)

    def close(self) -> None:
        self._try(self._response.close)

    def _try(self, call: Callable[[], None]) -> None:
        """Whether or not that works, the call goes on to its end."""
        try:
            call()
        except BaseException as error:
            log.error("plugin %s failed in %s: %s", self._pumping.plugin, self._pumping.hook, describe_crash(error))


class _BytesOnly:
    """A sink for what a plugin feeds."""

    def __init__(self, step: Step, sink: Sink) -> None:
        self._step = step
        self._sink = sink

    def feed(self, data: bytes) -> None:
        self._sink.feed(data if type(data) is bytes else as_bytes(self._step, data))


def as_bytes(step: Step, data: Any) -> bytes:
    """What it gave as bytes, which nobody changes afterwards."""
    if not isinstance(data, bytes | bytearray | memoryview):
        crashed(step, f"it gave a {type(data).__name__} for a body; give bytes")
    return bytes(data)


def _problem_of(response: Any) -> str | None:
    """Why something is no `UpstreamResponse`."""
    if lacking := [name for name in _METHODS if not callable(getattr(response, name, None))]:
        return f"it gave a {type(response).__name__} that has no {', '.join(lacking)}; give a muxx.UpstreamResponse"
    status, headers = getattr(response, "status", None), getattr(response, "headers", None)
    if type(status) is not int or not 100 <= status <= 599:
        return f"the status of its answer is {type(status).__name__}; give an int from 100 to 599"
    if not isinstance(headers, Mapping) or not all(isinstance(text, str) for pair in headers.items() for text in pair):
        return "the headers of its answer are no mapping of str to str"
    return None
