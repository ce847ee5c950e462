"""The values a request is made of. No IO happens here, and nothing here imports what could do any.

An `Exchange` is one call of an LLM endpoint, from the head of the request to the last byte of its answer. Its fields are how
plugins meet: one plugin writes a field, another reads it, and neither knows the other. The words are HTTP's and those of
OpenTelemetry's GenAI conventions.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Protocol, TypedDict, TypeVar
from urllib.parse import parse_qs

import orjson

from .errors import InvalidRequest, MuxxError

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

T = TypeVar("T")

Environment = Literal["live", "test", "admin"]
Phase = Literal["auth", "limit", "connect", "head", "stream", "finish"]
EndedBy = Literal["client", "upstream", "muxx"]
UsageSource = Literal["provider", "partial", "estimated", "cache", "none"]
CacheStatus = Literal["hit", "miss", "bypass", "joined"]
ServedBy = Literal["upstream", "cache", "plugin"]
Role = Literal["public", "project", "admin"]

CREDENTIAL_HEADERS = frozenset(
    {"x-muxx-api-key", "authorization", "x-api-key", "x-goog-api-key", "cookie", "proxy-authorization"}
)
"""Headers no plugin sees after `authenticate`, and none of which is sent upstream unless the operator says so."""

PICO_PER_USD = 10**12


class HttpRequest:
    """The head of any HTTP request muxx serves: what `authenticate` and plugin routes get.

    `path` is the raw path as it stood in the request target, without the query. `headers` still hold the credentials.
    For a plugin route `params` holds the decoded path parameters and `identity` the caller, and `body()` reads the body.

    `memory` is for what costs something to learn from a head. Clients send the same head again and again, so the requests of
    one connection share one `memory` for as long as their heads are equal, byte for byte, but for the length of the body. A
    plugin keeps its entry under itself; it must still be true of a later request.
    """

    __slots__ = ("_headers", "identity", "memory", "method", "params", "path", "query_string", "remote")

    def __init__(
        self,
        method: str,
        path: str,
        query_string: str,
        headers: CIMultiDictProxy[str] | None,
        remote: str | None,
        memory: dict[Any, Any] | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.query_string = query_string
        self._headers = headers
        self.remote = remote
        self.memory: dict[Any, Any] = {} if memory is None else memory
        self.params: Mapping[str, str] = {}
        self.identity: Identity | None = None

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """The headers, credentials among them."""
        if self._headers is None:
            self._headers = self._read_headers()
        return self._headers

    def _read_headers(self) -> CIMultiDictProxy[str]:
        raise NotImplementedError

    @property
    def client_credential(self) -> str | None:
        """The client's own provider key, when the muxx key came in a header of its own."""
        headers = self.headers
        if "X-Muxx-Api-Key" not in headers:
            return None
        bearer = headers.get("Authorization", "")
        in_bearer = bearer[:7].lower() == "bearer "
        value = bearer[7:].strip() if in_bearer else headers.get("x-api-key") or headers.get("x-goog-api-key")
        return value if value and not value.startswith("muxx_sk_") else None

    @property
    def query(self) -> dict[str, str]:
        """Query parameters; of a repeated one the last value counts. Names given with no value are kept, as empty strings."""
        pairs = parse_qs(self.query_string, keep_blank_values=True, max_num_fields=100)
        return {name: values[-1] for name, values in pairs.items()}

    def body_now(self) -> bytes | None:
        """The whole request body when nobody has to wait for it; None when `body()` has to be asked."""
        return None

    async def body(self) -> bytes:
        """The whole request body, within the limits of `[server]`."""
        return b""

    async def json(self) -> Any:
        """The body as JSON; `InvalidRequest` (invalid_json) when it is none."""
        try:
            return orjson.loads(await self.body())
        except orjson.JSONDecodeError as error:
            raise InvalidRequest("The request body is not valid JSON.", code="invalid_json") from error


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is calling. What `authenticate` returns; later hooks read it, none sees the credential itself."""

    project: str
    environment: Environment = "live"
    role: Role = "project"
    key_id: str | None = None
    key_prefix: str | None = None
    key_last4: str | None = None
    models: tuple[str, ...] = ()
    """Patterns (`*` stands for anything) of the models this caller may use; empty means all."""


class Usage(NamedTuple):
    """Tokens of one answer. `input_tokens` is all of the input, cached and cache-written included; `output_tokens` is all of the
    output, reasoning included (OpenAI's dialect; the wire modules bring the others to it)."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    input_audio_tokens: int = 0
    output_audio_tokens: int = 0
    cache_read_audio_tokens: int = 0
    service_tier: str | None = None
    source: UsageSource = "none"


class Cost(NamedTuple):
    """What an answer costs, in integer pico-dollars (10⁻¹² USD), and the price table that said so."""

    input_pico: int
    output_pico: int
    price_version: str

    @property
    def total_pico(self) -> int:
        return self.input_pico + self.output_pico


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. `first_byte` waits for the head of the answer, `first_token` for the first event of a stream."""

    connect: float = 5.0
    first_byte: float = 120.0
    first_token: float = 300.0
    between_events: float = 60.0
    whole: float = 600.0


@dataclass(frozen=True, slots=True)
class Provider:
    """A row: where a provider is and how it wants to be spoken to. Data only; `transport` names who carries the bytes."""

    name: str
    base_url: str
    format: Literal["openai"] = "openai"
    api_key: str | None = field(default=None, repr=False)
    auth_header: str = "authorization"
    auth_scheme: str = "Bearer "
    transport: str = "http"
    prices: str | None = None
    """Vendor whose price table applies; None: the format's vendor; "none": this provider's models have no price."""
    ask_usage: bool = True
    forward_client_credentials: bool = False
    request_headers: tuple[str, ...] = ()
    response_headers: tuple[str, ...] = ()
    proxy: str | None = field(default=None, repr=False)
    """May hold a password."""
    ca_file: str | None = None
    api_key_env: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """One model at one provider: where a request may go."""

    provider: Provider
    model: str
    timeouts: Timeouts = Timeouts()
    retries: int = 0
    weight: int = 0
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Members set in the body of every request to this target."""

    def __str__(self) -> str:
        return f"{self.provider.name}/{self.model}"


class Attempt:
    """One upstream call. `pre_attempt` may edit `url`, `headers` and `body` (the JSON object that will be sent)."""

    sent = False
    """True once any byte of the request may have reached the provider: from then on it may have been billed."""
    reused = False
    """Written by the transport: the connection had served another request before."""
    status: int | None = None
    error: MuxxError | None = None
    ended: float | None = None

    def __init__(
        self,
        target: Target,
        number: int,
        url: str,
        headers: dict[str, str],
        body: dict[str, Any],
        payload: bytes = b"",
        replays: int = 0,
    ) -> None:
        self.target = target
        self.number = number
        self.url = url
        self.headers = headers
        self.body = body
        self.payload = payload
        """`body` as sent; written by the kernel after `pre_attempt`."""
        self.replays = replays
        self.started = time.monotonic()


ChunkKind = Literal["text", "reasoning", "tool_call", "other", "end"]


@dataclass(slots=True)
class ToolCall:
    """A fragment of a tool call: `id` and `name` come with its first fragment, `arguments` is a piece of JSON text."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(slots=True)
class Chunk:
    """What plugins see of any answer, streamed or plain, whatever format is spoken.

    `raw` holds the provider's bytes of the event this chunk came from; a chunk nobody touched leaves as those bytes.
    """

    kind: ChunkKind
    text: str = ""
    index: int = 0
    tool_call: ToolCall | None = None
    finish_reason: str | None = None
    usage: Usage | None = None
    raw: bytes | None = None


class WholeAnswer:
    """A provider's complete, successful answer, as it came and before any `on_chunk`: what `Exchange.collect` hands out.

    A `Reply` that carries one gives it again, streamed or plain as that caller asked, whichever of the two it is, and says in
    `Age` how old it is.
    """

    __slots__ = ("at", "body", "cache_control", "content_type", "cost", "kept", "target", "usage")

    def __init__(
        self,
        body: bytes,
        target: Target,
        usage: Usage,
        cost: Cost | None,
        at: float,
        content_type: str = "application/json",
        cache_control: str = "",
    ) -> None:
        self.body = body
        """The events of a stream, or a plain answer."""
        self.target = target
        """Who gave it."""
        self.usage = usage
        self.cost = cost
        """What it came to; None where no price is known."""
        self.at = at
        """When it was complete, in monotonic seconds."""
        self.content_type = content_type
        self.cache_control = cache_control
        """What the provider says of storing it, as its header has it."""
        self.kept: Any = None
        """What the kernel has made of it, for the next time it is given."""

    @property
    def is_stream(self) -> bool:
        return self.content_type.lower().startswith("text/event-stream")


ReplyBody = bytes | WholeAnswer | Iterable[Chunk] | AsyncIterator[bytes] | AsyncIterator[Chunk]


@dataclass(slots=True)
class Reply:
    """An answer made by a plugin: from `pre_request` it answers instead of a provider, from a route it is the response.

    `body` is bytes, Chunks, or an async iterator of either; Chunks are put into the caller's format by the kernel. A
    `WholeAnswer` is given again in the form this caller asked for.
    """

    body: ReplyBody
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    served_by: ServedBy = "plugin"

    @classmethod
    def json(cls, value: Any, status: int = 200) -> Reply:
        return cls(orjson.dumps(value), status)


@dataclass(slots=True)
class Part:
    """A piece of a request a guard may want to read or change; assigning `text` writes it back into the body.

    `kind` is text, tool_arguments or tool_result; `path` names the place in the body, e.g. `messages[2].content[0].text`.
    """

    role: str
    kind: str
    path: str
    _get: Callable[[], str] = field(repr=False)
    _set: Callable[[str], None] = field(repr=False)

    @property
    def text(self) -> str:
        return self._get()

    @text.setter
    def text(self, value: str) -> None:
        self._set(value)


class Request:
    """What the caller asked for. `headers` are without credentials; `body` is the parsed JSON and is what will be sent."""

    __slots__ = ("_head", "_headers", "_parts", "body", "client_ip", "metadata", "model", "size", "stream", "user_id")

    def __init__(self, head: HttpRequest, parts: Callable[[dict[str, Any]], Iterator[Part]] | None = None) -> None:
        """`parts` is how this request's format is taken apart."""
        self._head = head
        self._headers: dict[str, str] | None = None
        self._parts = parts
        self.body: dict[str, Any] = {}
        self.model = ""
        self.stream = False
        self.size = 0
        """Bytes of the body as received."""
        self.user_id: str | None = None
        self.metadata: dict[str, Any] | None = None
        self.client_ip = head.remote

    @property
    def headers(self) -> Mapping[str, str]:
        """Request headers, lower-case names, without any credential. Lines of one name are one value, joined by commas."""
        if self._headers is None:
            found: dict[str, str] = {}
            for name, value in self._head.headers.items():
                name = name.lower()
                if name not in CREDENTIAL_HEADERS:
                    found[name] = f"{found[name]}, {value}" if name in found else value
            self._headers = found
        return self._headers

    @property
    def memory(self) -> dict[Any, Any]:
        """What is learnt of this head, as `HttpRequest.memory`."""
        return self._head.memory

    @property
    def brings_own_credential(self) -> bool:
        """The client sent a provider key of its own, beside the muxx key: providers that forward such keys are paid with it."""
        return self._head.client_credential is not None

    def parts(self) -> Iterator[Part]:
        """Every piece of text in the request, whatever its format: messages, tool arguments, tool results."""
        return self._parts(self.body) if self._parts is not None else iter(())


class _Facts(Protocol):
    @property
    def text(self) -> str: ...


class Response:
    """What is known of the answer so far."""

    __slots__ = ("facts", "finish_reasons", "id", "model", "status")

    def __init__(self) -> None:
        self.status: int | None = None
        self.id: str | None = None
        self.model: str | None = None
        self.finish_reasons: Sequence[str] = ()
        self.facts: _Facts | None = None
        """What the kernel has read of the answer; it knows the text."""

    @property
    def text(self) -> str:
        """The text delivered so far, of all choices."""
        return "" if self.facts is None else self.facts.text


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


KERNEL_HEADERS = frozenset(
    {"x-muxx-request-id", "x-request-id", "x-muxx-cache", "x-muxx-cost", "server-timing", "date", "connection"}
    | {"content-type", "content-length", "transfer-encoding", "cache-control", "x-accel-buffering"}
)
"""Response headers that are not a plugin's to set: the kernel writes each of them once."""


class ReplyHeaders(MutableMapping[str, str]):
    """Extra response headers. Settable until the head has left; after that changing them raises `RuntimeError`. `ValueError`
    for those the kernel writes."""

    __slots__ = ("_values", "sent")

    def __init__(self) -> None:
        self._values: dict[str, str] = {}
        self.sent = False

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def __setitem__(self, name: str, value: str) -> None:
        self._check()
        if name.lower() in KERNEL_HEADERS:
            raise ValueError(f"{name} is written by the kernel; set a header of another name")
        self._values[name] = value

    def __delitem__(self, name: str) -> None:
        self._check()
        del self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(self._values)

    def _check(self) -> None:
        if self.sent:
            raise RuntimeError("the response head has already been sent; set reply_headers in pre_request or pre_attempt")


class Exchange:
    """One call of an LLM endpoint. See the module's docstring; every field is public and typed."""

    # What most exchanges never change stands on the class: making an exchange is on the path of every request.
    format = "openai"
    """The caller's wire format."""
    parent: Exchange | None = None
    """The exchange a plugin made this call for (`gateway.call`); None for a client's own request."""
    depth = 0
    identity: Identity | None = None
    project: Project | None = None
    targets: tuple[Target, ...] = ()
    usage: Usage = Usage()
    cost: Cost | None = None
    saved_pico: int | None = None
    cache: CacheStatus = "bypass"
    served_by: ServedBy = "upstream"
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
    replan: Callable[[str], tuple[Target, ...]] | None = None
    _state: State | None = None
    _reply_headers: ReplyHeaders | None = None
    _head_sent = False

    def __init__(self, id: str, operation: str, request: Request) -> None:
        self.id = id
        self.operation = operation
        """Which endpoint was called: `chat`, `text_completion`, `embeddings` or `responses`."""
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
        """Hand the provider's whole answer to `take`, before its last byte leaves: once, and only if it is complete, successful
        and no larger than `most_bytes`. For `pre_request`. An exchange that joins another's call (`coalesce`) collects nothing.
        """
        self.collectors = (*self.collectors, (take, most_bytes))

    def skip_chunks(self, plugin: str) -> None:
        """Take the named plugin's `on_chunk` off this exchange."""
        self.skipped = self.skipped | {plugin}


@dataclass(frozen=True, slots=True)
class ProjectSettings:
    """A project's settings with every layer applied; frozen, resolved once per request."""

    store_content: bool = True
    content_retention_days: int = 30
    cache_enabled: bool = True
    cache_ttl: float = 86_400
    """Seconds for which a stored answer may be given again."""


@dataclass(frozen=True, slots=True)
class Project:
    """What a caller belongs to, with its settings resolved."""

    name: str
    settings: ProjectSettings = ProjectSettings()


class Record(TypedDict):
    """One row of the log as the journal carries it: a generation, money in integer pico-dollars.

    `input` and `output` are JSON texts, not parsed: the request as sent up and the answer as delivered, as far as the project
    stores content.
    """

    request_id: str
    started_at: float
    first_token_ms: float | None
    duration_ms: float
    project: str | None
    key_id: str | None
    key_prefix: str | None
    key_last4: str | None
    environment: str | None
    user_id: str | None
    metadata: dict[str, Any] | None
    client_ip: str | None
    endpoint: str
    provider: str | None
    model_requested: str | None
    model: str | None
    stream: bool
    status: int
    ended_by: EndedBy | None
    phase: Phase | None
    attempts: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    usage_source: UsageSource
    input_cost_pico: int | None
    output_cost_pico: int | None
    cost_pico: int | None
    saved_pico: int | None
    price_version: str | None
    cache: CacheStatus | None
    finish_reasons: list[str]
    error_code: str | None
    attributes: dict[str, Any]
    input: bytes | None
    output: bytes | None


def usd(pico: int | None) -> str | None:
    """Pico-dollars as the exact plain decimal string of the wire contract: no sign, no exponent, no trailing zeros."""
    if not pico:
        return None if pico is None else "0"
    whole, rest = divmod(pico, PICO_PER_USD)
    return f"{whole}.{rest:012d}".rstrip("0").rstrip(".")


@dataclass(frozen=True, slots=True)
class Route:
    """An HTTP route a plugin serves. `path` may hold `{name}` for one segment; `role` is who may call it.

    The handler is `async def handler(gateway, request: HttpRequest) -> Reply`; a raised `MuxxError` becomes the response.
    """

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    handler: Callable[[Any, HttpRequest], Any]
    role: Role = "project"
