"""The faults of a provider as scripts in whichever format it is asked, and what is to become of each.

A request carries a word of its own in its prompt, which translation keeps: by it the upstream's requests are told apart.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from carrying_kit import row_of_user
from sdks_kit import Sdks, Seen

from muxx.testing import (
    Chooser,
    RecordedRequest,
    RunningGateway,
    Said,
    Script,
    ScriptedUpstream,
    Step,
    Tool,
    event,
    fin,
    head,
    hold,
    json,
    pause,
    refuses,
    rst,
    sse,
    unused_port,
)
from muxx.testing.asking import asks_for_stream, endpoint_at
from muxx.testing.speaking import failed, plain, refused, streamed
from muxx.testing.speaking.anthropic import type_of
from muxx.testing.speaking.gemini import STATUSES

STORY = Said("Once upon a time there was a gateway.")
CALL = Said(tools=(Tool("weather", '{"city": "Berlin", "unit": "C"}'),), finish_reason="tool_calls")

MODELS = {"openai": "gpt-4o", "anthropic": "claude-3-5-haiku", "google": "gemini-1.5-flash"}
"""A model of each provider."""
COSTS = {"openai": "0.000075", "anthropic": "0.000028", "google": "0.00000225"}
"""What ten tokens of input and five of output cost there."""
OWN = {"chat": "openai", "responses": "openai", "messages": "anthropic", "generate_content": "google"}
"""Whose format each client speaks."""
OTHER = {"openai": "anthropic", "anthropic": "google", "google": "openai"}

SHORT = 0.3
"""Seconds: the limit that a fault is to run into."""
SECOND = Said("Said by the second.")


COMMENT = b": hello\n\n"
LAST_CHUNK = b"0\r\n\r\n"

# ── scripts ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _stream(request: RecordedRequest, said: Said) -> list[bytes]:
    return streamed(endpoint_at(request.target), said, "scripted")


def _wants_stream(request: RecordedRequest) -> bool:
    return asks_for_stream(request.target, request.json())


def provider_at(request: RecordedRequest) -> str:
    """Which provider is asked, by the endpoint."""
    return OWN[endpoint_at(request.target)]


def _half(request: RecordedRequest, said: Said) -> bytes:
    """The head of a plain answer, and half of its body."""
    body = plain(endpoint_at(request.target), said, "scripted")
    return head(200, {"Content-Type": "application/json", "Content-Length": str(len(body))}) + body[: len(body) // 2]


def before(events: list[bytes], marker: bytes) -> bytes:
    """The events before the first one that says this."""
    return b"".join(itertools.takewhile(lambda one: marker not in one, events))


def begun(stream: bytes) -> bytes:
    """The head of a stream and these bytes of it, at once."""
    steps = sse(stream)[:-1]
    return b"".join(step for step in steps if isinstance(step, bytes))


def breaks(said: Said, marker: bytes, *end: Step) -> Chooser:
    """A stream up to the event that says `marker`, then `end`; a plain answer: half of its body, then `end`."""

    def choose(request: RecordedRequest) -> Script:
        if not _wants_stream(request):
            return [_half(request, said), *end]
        return [begun(COMMENT + before(_stream(request, said), marker)), *end]

    return choose


def ends_early(request: RecordedRequest) -> Script:
    """A stream that ends as it should, only too soon; a plain answer: half of its body."""
    if not _wants_stream(request):
        return [_half(request, STORY), fin()]
    return [begun(before(_stream(request, STORY), b"time")), LAST_CHUNK]


def within(said: Said, marker: bytes, *end: Step) -> Chooser:
    """A stream up to the very byte after `marker`, in the middle of an event."""

    def choose(request: RecordedRequest) -> Script:
        if not _wants_stream(request):
            return [_half(request, said), *end]
        whole = b"".join(_stream(request, said))
        return [begun(whole[: whole.index(marker) + len(marker)]), *end]

    return choose


def garbled(garbage: bytes) -> Chooser:
    """A stream with one event that is none of its format, and a plain answer that is no JSON."""

    def choose(request: RecordedRequest) -> Script:
        if not _wants_stream(request):
            return json(b'{"choices": [')
        events = _stream(request, STORY)
        told = before(events, b"time")
        return sse(told + garbage + b"".join(events)[len(told) :])

    return choose


def silent(request: RecordedRequest) -> Script:
    """A head, what comes before the first token, and pings for ever."""
    if not _wants_stream(request):
        return [head(200, {"Content-Type": "application/json", "Content-Length": "99"}), hold()]
    return _pinging(before(_stream(request, STORY), b"Once"), endpoint_at(request.target))


def _pinging(told: bytes, endpoint: str) -> Script:
    ping = b'event: ping\ndata: {"type": "ping"}\n\n' if endpoint == "messages" else b": ping\n\n"
    yield begun(told + ping)
    while True:
        yield pause(SHORT / 10)
        yield b"%x\r\n%b\r\n" % (len(ping), ping)


def blocked(request: RecordedRequest) -> Script:
    """Google refuses a prompt: an answer without candidates."""
    told = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 10}}
    return sse(event(told)) if _wants_stream(request) else json(told)


def tells_failure(status: int, code: str, marker: bytes = b"Once") -> Chooser:
    """An error inside a 200: instead of a plain answer, or as an event of the stream before the one that says `marker`."""

    def choose(request: RecordedRequest) -> Script:
        endpoint = endpoint_at(request.target)
        if not _wants_stream(request):
            return json(refused(endpoint, status, "No luck.", code, "server_error"))
        told = before(_stream(request, STORY), marker) if marker != b"Once" else b""
        return sse(told + failed(endpoint, status, "No luck.", code))

    return choose


# ── what becomes of them ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Ending:
    """How a request ends at a fault: the status that says so, its code in the row (None: the provider's own word), and how much
    had come by then."""

    status: int
    code: str | None = None
    text: str = ""
    arguments: str = ""
    phase: str = "stream"
    began: bool = False
    """A byte of a 2xx body had come."""
    relayed: bool = False
    """It is the provider's own event that tells it."""
    attempts: int = 1
    retry_after: str | None = None

    def spoke(self, provider: str) -> bool:
        """The model had said something. Google's calls come whole."""
        return bool(self.text) or (bool(self.arguments) and provider != "google")


@dataclass(frozen=True)
class Fault:
    """What a provider does, within which limits (of the target), and how a plain answer and a stream end."""

    name: str
    script: Chooser
    plain: Ending
    stream: Ending
    limits: Mapping[str, float] = field(default_factory=dict)
    reachable: bool = True

    def __str__(self) -> str:
        return self.name

    def ending(self, case: Case) -> Ending:
        return self.stream if case.stream else self.plain

    @classmethod
    def harmless(cls, name: str, script: Chooser) -> Fault:
        """An answer."""
        return cls(name, script, Ending(200), Ending(200))


@dataclass(frozen=True)
class Refusal:
    """What a provider says of the request: its `kind` in `fall_back_on`, its code in the row, and each provider's message."""

    kind: str
    code: str
    messages: Mapping[str, str]

    def __str__(self) -> str:
        return self.kind

    def _message(self, request: RecordedRequest) -> str:
        return self.messages[provider_at(request)]

    def as_status(self) -> Fault:
        def choose(request: RecordedRequest) -> Script:
            return refuses(400, self._message(request), self.code)(request)

        return Fault(self.kind, choose, Ending(400), Ending(400))

    def as_event(self) -> Fault:
        def choose(request: RecordedRequest) -> Script:
            return sse(failed(endpoint_at(request.target), 400, self._message(request), self.code))

        return Fault(self.kind, choose, Ending(400), Ending(400))


def _hangs(request: RecordedRequest) -> Script:
    return [hold()]


def _half_a_head(request: RecordedRequest) -> Script:
    return [b"HTTP/1.1 200 OK\r\nContent-Ty", hold()]


def _refusal(name: str, status: int, code: str, message: str = "No luck.", **headers: str) -> Fault:
    ending = Ending(status, retry_after=headers.get("retry_after"))
    return Fault(name, refuses(status, message, code, **headers), ending, ending)


def _silence(name: str, script: Chooser) -> Fault:
    late = Ending(504, "upstream_timeout", phase="head")
    return Fault(name, script, late, late, {"first_byte_timeout_s": SHORT})


def _broken(name: str, script: Chooser, code: str, *, text: str = "Once upon a ", status: int = 502, **limits: float) -> Fault:
    plain = Ending(status, code, began=True)
    return Fault(name, script, plain, replace(plain, text=text), limits)


_gone = Ending(502, "upstream_disconnected", phase="head")
_unreachable = Ending(502, "upstream_unreachable", phase="connect", attempts=2)
_late = Ending(504, "upstream_timeout")
_cut = Ending(502, "upstream_disconnected", began=True)
_error_inside = Ending(502, "upstream_error", began=True)

FAULTS = [
    _refusal("429 with Retry-After", 429, "rate_limit_exceeded", retry_after="7"),
    _refusal("500", 500, "server_error"),
    _refusal("503 overload", 503, "overloaded"),
    _refusal("529 overload", 529, "overloaded"),
    Fault("refused connection", _hangs, _unreachable, _unreachable, reachable=False),
    Fault("closed without an answer", lambda request: [fin()], _gone, _gone),
    _silence("no response", _hangs),
    _silence("slow head", _half_a_head),
    Fault("slow first token", silent, _late, replace(_late, began=True), {"first_token_timeout_s": SHORT}),
    _broken("stream cut by FIN", breaks(STORY, b"time", fin()), "upstream_disconnected"),
    _broken("stream cut by RST", breaks(STORY, b"time", pause(0.02), rst()), "upstream_disconnected"),
    Fault(
        "stream ended too early",
        ends_early,
        _cut,
        Ending(502, "upstream_truncated", text="Once upon a ", began=True),
    ),
    _broken("stream cut before its first token", breaks(STORY, b"Once", fin()), "upstream_disconnected", text=""),
    _broken("stalled stream", breaks(STORY, b"time", hold()), "upstream_timeout", status=504, between_events_timeout_s=SHORT),
    Fault("cut inside a tool call", within(CALL, b"Berlin", fin()), _cut, replace(_cut, arguments='{"city": ')),
    _broken("malformed event in the middle", garbled(b"data: {oops\n\n"), "upstream_protocol_error"),
    Fault(
        "200 with an error inside",
        tells_failure(500, "server_error"),
        _error_inside,
        Ending(502, began=True, relayed=True),
    ),
    Fault(
        "200 with an error inside, after some text",
        tells_failure(500, "server_error", b"time"),
        _error_inside,
        Ending(502, text="Once upon a ", began=True, relayed=True),
    ),
]

BEFORE_THE_FIRST_TOKEN = [fault for fault in FAULTS if not (fault.stream.text or fault.stream.arguments)]


def word_at(provider: str, status: int, code: str) -> str:
    """What a provider calls an error."""
    return {"openai": code, "anthropic": type_of(status), "google": STATUSES.get(status, "UNKNOWN")}[provider]


# ── asking ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Case:
    """A client, the model it asks for, and the form in which it wants the answer."""

    client: str
    model: str
    stream: bool

    @property
    def provider(self) -> str:
        """Of the model's first target."""
        return self.model.rpartition("-")[2]

    def __str__(self) -> str:
        return f"{self.client} {'stream' if self.stream else 'plain'} {self.model}"


@dataclass(frozen=True)
class Told:
    """What became of a case: what its user has seen, its row, and the requests that the provider was sent."""

    case: Case
    words: str
    """Of its prompt."""
    seen: Seen
    row: dict[str, Any]
    requests: list[RecordedRequest]

    @property
    def attempts(self) -> list[tuple[Any, ...]]:
        return [(one["target"], one["status"], one["error"]) for one in self.row["attributes"].get("attempts", ())]


async def ask_all(gateway: RunningGateway, sdks: Sdks, cases: list[Case], times: int = 1) -> list[Told]:
    """All of them at once, each so many times with the very same words."""

    async def one(case: Case, word: str, number: int) -> Told:
        user = f"{word}{number}"
        seen = await sdks.ask(case.client, case.model, word, stream=case.stream, user=user)
        row = await row_of_user(gateway, user)
        return Told(case, word, seen, row, [request for request in gateway.upstream.requests if word.encode() in request.body])

    asked = [(case, f"w{next(_words)}w") for case in cases]
    return await asyncio.gather(*(one(case, word, number) for case, word in asked for number in range(times)))


_words = itertools.count()


def config_for(fault: Fault, second: ScriptedUpstream | None = None, **members: Any) -> dict[str, Any]:
    """For each provider a model that has only it, one that has another after it, and one that is held back besides. Those that
    come after are at `second`. `members` are of every model."""
    table: list[dict[str, Any]] = []
    for provider, model in MODELS.items():
        first, spare = {"target": f"{provider}/{model}", **fault.limits}, OTHER[provider]
        both = [first, f"spare-{spare}/{MODELS[spare]}"] if second is not None else [first]
        table += [
            {"name": f"alone-{provider}", "targets": [first], **members},
            {"name": f"both-{provider}", "targets": both, **members},
            {"name": f"held-{provider}", "targets": both, "buffer_until": "first_token", **members},
        ]
    providers: dict[str, Any] = {}
    if not fault.reachable:
        providers |= {provider: {"base_url": f"http://127.0.0.1:{unused_port()}/v1"} for provider in MODELS}
    if second is not None:
        spares = {"openai": "openai", "anthropic": "anthropic", "google": "gemini"}
        row = {"base_url": second.base_url, "api_key": "sk-second"}
        providers |= {f"spare-{provider}": {"format": format, **row} for provider, format in spares.items()}
    return {"models": table, "providers": providers}


def native(kind: str = "alone") -> list[Case]:
    """Each client with its own format's provider, in both forms."""
    return [Case(client, f"{kind}-{provider}", stream) for client, provider in OWN.items() for stream in (False, True)]


def foreign(kind: str = "alone") -> list[Case]:
    """Each client with each provider of another format, in both forms."""
    pairs = itertools.product(OWN, MODELS)
    return [
        Case(client, f"{kind}-{provider}", stream)
        for client, provider in pairs
        if OWN[client] != provider
        for stream in (False, True)
    ]
