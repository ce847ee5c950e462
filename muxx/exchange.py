"""The values a request is made of. No IO happens here, and nothing here imports what could do any.

An `Exchange` is one call of an LLM endpoint, from the head of the request to the last byte of its answer. Its fields are how
plugins meet: one plugin writes a field, another reads it, and neither knows the other. The words are HTTP's and those of
OpenTelemetry's GenAI conventions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .errors import MuxxError
from .money import Cost, Usage
from .reply import ReplyHeaders, Response, ServedBy, WholeAnswer
from .request import Identity, Request
from .row import CacheStatus, EndedBy, Phase
from .settings import Project, Standing
from .targets import Attempt, Target

T = TypeVar("T")


class Timing:
    """Monotonic seconds; `started_at` is the wall clock (Unix seconds) for the row."""

    __slots__ = ("ended", "first_token", "started", "started_at")

    def __init__(self) -> None:
        self.started_at = time.time()
        self.started = time.monotonic()
        self.first_token: float | None = None
        self.ended: float | None = None


@dataclass(frozen=True, eq=False)
class StateKey(Generic[T]):
    """A typed key into `exchange.state`, one per plugin and purpose: `MINE = StateKey[int]("myplugin.count")`."""

    name: str


class State:
    """Per-exchange memory of plugins, by typed key."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: dict[StateKey[Any], Any] = {}

    def __getitem__(self, key: StateKey[T]) -> T:
        value: T = self._values[key]
        return value

    def __setitem__(self, key: StateKey[T], value: T) -> None:
        self._values[key] = value

    def __contains__(self, key: StateKey[Any]) -> bool:
        return key in self._values

    def get(self, key: StateKey[T]) -> T | None:
        value: T | None = self._values.get(key)
        return value


class Exchange:
    """One call of an LLM endpoint. See the module's docstring; every field is public and typed."""

    # What most exchanges never change stands on the class: making an exchange is on the path of every request.
    format = "openai"
    """Whose format the caller speaks: `openai`, `anthropic` or `gemini`."""
    parent: Exchange | None = None
    """The exchange a plugin made this call for (`gateway.call`); None for a client's own request."""
    depth = 0
    """How many parents there are, one above the other."""
    identity: Identity | None = None
    project: Project | None = None
    targets: tuple[Target, ...] = ()
    usage: Usage = Usage()
    cost: Cost | None = None
    saved_pico: int | None = None
    """What an answer that was given again, or shared, cost whoever paid for it, in pico-dollars; None where nobody knows, or
    nothing was saved."""
    held_pico: int | None = None
    """The most it may cost, as far as anybody could tell before: so much of the project's money is held for it."""
    cache: CacheStatus = "bypass"
    served_by: ServedBy = "upstream"
    recorded = False
    """Its row is where a crash of the process cannot lose it. Known at the end (`at_end`, `post_response`)."""
    origin: Target | None = None
    """Whose answer this is, where the exchange made no call of its own: of a stored answer, or of another exchange's call."""
    error: MuxxError | None = None
    ended_by: EndedBy | None = None
    phase: Phase | None = "auth"
    skipped: frozenset[str] = frozenset()
    taps: tuple[Callable[[bytes], None], ...] = ()
    shared_key: bytes | None = None
    collectors: tuple[tuple[Callable[[WholeAnswer], None], int], ...] = ()
    """Who gets the whole answer, and how large it may be for each."""
    askers: tuple[Callable[[Exchange, Attempt], None], ...] = ()
    """Who may refuse each of its upstream calls."""
    enders: tuple[Callable[[Exchange], None], ...] = ()
    """Who is told when it is over."""
    standings: tuple[Standing, ...] = ()
    """How the limits that this request was counted against stand with it. Only where the project has alerts that ask for it."""
    replan: Callable[[str], tuple[Target, ...]] | None = None
    """What `reroute` plans by; the kernel's, and set for as long as it may be called."""
    _state: State | None = None
    _reply_headers: ReplyHeaders | None = None
    _head_sent = False

    def __init__(self, id: str, operation: str, request: Request) -> None:
        self.id = id
        self.operation = operation
        """Which endpoint was called: `chat`, `responses`, `text_completion`, `embeddings`, `messages`, `count_tokens`,
        `generate_content` or `count_content`."""
        self.request = request
        self.attempts: list[Attempt] = []
        self.response = Response()
        self.timing = Timing()
        self.attributes: dict[str, Any] = {}
        """JSON that goes into the row, e.g. a guard's verdict."""

    @property
    def reply_headers(self) -> ReplyHeaders:
        """Response headers plugins add."""
        if self._reply_headers is None:
            self._reply_headers = ReplyHeaders()
            self._reply_headers.sent = self._head_sent
        return self._reply_headers

    @property
    def added_headers(self) -> Mapping[str, str] | None:
        """`reply_headers` if anybody has asked for them."""
        return self._reply_headers

    def note_head(self, *, sent: bool) -> None:
        """Set by the kernel: from now on `reply_headers` cannot be changed, or can be again."""
        self._head_sent = sent
        if self._reply_headers is not None:
            self._reply_headers.sent = sent

    def note_recorded(self, _: bytes = b"") -> None:
        """Set by the kernel: the row is written."""
        self.recorded = True

    @property
    def state(self) -> State:
        """What plugins remember of this exchange, by typed key."""
        if self._state is None:
            self._state = State()
        return self._state

    def reroute(self, model: str) -> None:
        """Plan anew for another model name; raises `ModelNotFound` and changes nothing when nobody serves it."""
        if self.replan is None:
            raise RuntimeError("reroute() is for pre_request: targets are planned just before it")
        self.targets = self.replan(model)

    def tap(self, sink: Callable[[bytes], None]) -> None:
        """Hand the answer's bytes, as delivered, to `sink`, read-only; this leaves the fast path as it is."""
        self.taps = (*self.taps, sink)

    def coalesce(self, key: bytes) -> None:
        """Let this exchange share one upstream call with the others of its project, environment, endpoint and form (streamed or
        plain) that name the same key while it runs.

        For `pre_request`. Whoever names the key first begins the call and pays for it; the kernel keeps it going for as long as
        anybody waits for it. `on_chunk` runs for each exchange by itself; `pre_attempt` once.
        """
        self.shared_key = key

    def collect(self, take: Callable[[WholeAnswer], None], most_bytes: int) -> None:
        """Hand the provider's whole answer to `take` as its last byte leaves, before another request is looked at: once, and only
        if it is complete, successful and no larger than `most_bytes`. For `pre_request`. An exchange that joins another's call
        (`coalesce`) collects nothing.
        """
        self.collectors = (*self.collectors, (take, most_bytes))

    def before_attempt(self, ask: Callable[[Exchange, Attempt], None]) -> None:
        """Call `ask` with this exchange and the attempt before each of its upstream calls, behind all `pre_attempt` hooks: a
        `MuxxError` it raises refuses the exchange.

        For `pre_request`, and for what only some exchanges need: those that ask for nothing pay nothing. `ask` is `def` and must
        not wait; a crash is the plugin's, as a hook's is.
        """
        self.askers = (*self.askers, ask)

    def at_end(self, tell: Callable[[Exchange], None]) -> None:
        """Call `tell` with this exchange when it is over and its row written, just before `post_response` and exactly as often:
        once, on every path.

        For what only some exchanges need: those that ask for nothing pay nothing. `tell` is `def` and must not wait; a crash is
        logged.
        """
        self.enders = (*self.enders, tell)

    def skip_chunks(self, plugin: str) -> None:
        """Take the named plugin's `on_chunk` off this exchange."""
        self.skipped = self.skipped | {plugin}
