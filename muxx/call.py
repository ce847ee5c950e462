"""A running exchange and what only the kernel knows of it: its task, its limits, the client's side."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from .crashes import let_go_of_frames
from .errors import ClientGone, ClientStalled, MuxxError, UpstreamTimeout

if TYPE_CHECKING:
    from .exchange import Exchange
    from .flight import Flight
    from .gateway import Gateway
    from .reader import WholeResponse
    from .request import HttpRequest
    from .translating import Translator
    from .tries import PassedOver
    from .wire.wire import Facts, StreamFacts, Wire


NEVER = float("inf")

HEAVY_BYTES = 1024 * 1024
"""Of a request, from which on others have their turn between the passes over it: each of them takes tens of milliseconds for the
largest."""


class ClientSide(Protocol):
    """The client as the kernel writes to it: a connection's `Answer`, or what collects the answer of a plugin's own call."""

    on_resume: Callable[[], None] | None
    """Called when a client that had stopped reading reads again."""
    on_gone: Callable[[], bool] | None
    """Called when the client goes; True: the task that serves it goes on all the same, for others."""

    @property
    def head_sent(self) -> bool: ...

    @property
    def stalled_since(self) -> float | None:
        """Monotonic seconds since which the client has not read; None while it does."""

    @property
    def gone(self) -> bool: ...

    @property
    def paused(self) -> bool: ...

    def whole(self, status: int, head: str, body: bytes) -> None: ...

    def begin(self, status: int, head: str) -> None: ...

    def send(self, data: bytes) -> None: ...

    def end(self, data: bytes = b"", otherwise: Callable[[MuxxError], bytes] | None = None) -> None: ...

    def break_off(self, data: bytes) -> None: ...

    def close_after(self) -> None: ...

    def abort(self) -> None: ...

    async def drained(self, seconds: float) -> bool: ...


class _Within:
    """See `Call.within`. (A generator would take several times as long.)"""

    __slots__ = ("_call",)

    def __init__(self, call: Call, seconds: float) -> None:
        self._call = call
        call.due, call.on_due = time.monotonic() + seconds, None

    def __enter__(self) -> None:
        """The time has begun."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        self._call.due = NEVER
        if isinstance(error, asyncio.CancelledError) and (late := self._call.late()) is not None:
            raise late from None


class Call:
    """One running exchange. `abort()` ends it from outside its task; `check()` keeps its limits."""

    facts: Facts | None = None
    stream: StreamFacts | None = None
    """What is known of the stream that answers, for the error that may end it."""
    delivered: bytes | None = None
    """The answer as delivered, as JSON text."""
    committed = False
    """A 2xx answer has begun: nobody else may be asked any more."""
    recorded = False
    row: dict[str, Any] | None = None
    error_relayed = False
    """The provider's own error event was passed on: nothing is added to it."""
    shares = False
    """Others may join this exchange's upstream call, or somebody collects its answer."""
    shared_as: Any = None
    """The key by which others find it, while they may."""
    translator: Translator | None = None
    """What translates the answer, where its provider speaks another format."""
    passed_over: Sequence[PassedOver] = ()
    """Targets that were not tried."""
    body_bytes = 0
    """How much of the room for request bodies it takes."""
    given: Mapping[str, Any] | None = None
    """Members of the body that stand in the path."""
    provider_keys: Mapping[str, str] = {}
    """The project's own keys, by the providers' names; never changed."""
    flight: Flight | None = None
    """The upstream call this exchange shares with others, from the first that joins, or from the first byte, on."""
    whole: WholeResponse | None = None
    """The answer, where it came with its head."""
    reason: MuxxError | None = None
    due = whole_due = NEVER
    on_due: Callable[[], None] | None = None
    """What a passed `due` does; None: the provider is late. (A bound method of this call would make every call a cycle for
    the garbage collector.)"""

    def __init__(
        self,
        gateway: Gateway,
        exchange: Exchange,
        wire: Wire,
        head: HttpRequest,
        down: ClientSide,
        task: asyncio.Task[Any] | None,
    ) -> None:
        """`task` is the one that carries it. (To ask asyncio which that is takes a system call.)"""
        self.gateway = gateway
        self.exchange = exchange
        self.wire = wire
        """The format the client called in."""
        self.head = head
        self.down = down
        self.task = task

    def let_go(self) -> None:
        """The exchange is over: break what would be a cycle, and keep all of it until the garbage collector comes by."""
        exchange = self.exchange
        self.task = self.translator = None
        if exchange.error is not None or len(exchange.attempts) > 1:
            for error in (exchange.error, *(attempt.error for attempt in exchange.attempts)):
                let_go_of_frames(error)

    def error_event(self, error: MuxxError) -> bytes:
        """What ends a broken stream."""
        number = getattr(self.translator or self.stream, "next_number", None)
        return self.wire.error_event(error, self.exchange.id, number)

    def check(self, now: float) -> None:
        """Keep the call's limits; called a few times a second."""
        stalled = self.down.stalled_since
        if stalled is not None and now - stalled > self.gateway.config.server.write_stall_timeout_s:
            self.abort(ClientStalled())
            self.down.abort()
        elif now >= self.whole_due:
            self.abort(UpstreamTimeout())
        elif now >= self.due:
            self.due = NEVER
            if self.on_due is not None:
                self.on_due()
            else:
                self.abort(UpstreamTimeout())

    def abort(self, reason: MuxxError) -> None:
        """End the exchange from outside its task; only the first reason counts."""
        if self.reason is None and self.task is not None:
            self.reason = reason
            self.task.cancel()

    def aborted(self) -> MuxxError:
        """Why the task was cancelled: by `abort`, which is taken back here, or because the client went."""
        if self.reason is None:
            return ClientGone()
        assert self.task is not None
        self.task.uncancel()
        return self.reason

    def within(self, seconds: float) -> _Within:
        """For `with`: the provider has so long for what its block waits for. Its being late is raised as `UpstreamTimeout`."""
        return _Within(self, seconds)

    def late(self) -> UpstreamTimeout | None:
        """The provider's being late, taken back from the task that was cancelled for it, so that another one may be asked; None
        when the task was cancelled for anything else."""
        reason = self.reason
        if not isinstance(reason, UpstreamTimeout) or time.monotonic() >= self.whole_due:
            return None
        self.aborted()
        self.reason = None
        return reason


class TranslatedHead:
    """A translated answer's head: the provider's id, model and time, as far as it tells them; what it has told by now."""

    def __init__(self, call: Call, facts: Facts) -> None:
        self._call = call
        self._facts = facts

    @property
    def id(self) -> str:
        return self._facts.id or self._call.wire.id_prefix + self._call.exchange.id[4:]

    @property
    def model(self) -> str:
        return self._facts.model or self._call.exchange.request.model

    @property
    def created(self) -> int:
        return self._facts.created or int(self._call.exchange.timing.started_at)
