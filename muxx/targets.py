"""Where a request may go: providers, their models, and one try at one of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .errors import MuxxError

Format = Literal["openai", "anthropic", "gemini"]
"""A vendor's formats: what a provider speaks, and the form of errors."""

OnUnsupported = Literal["error", "drop"]
"""What becomes of a request that cannot be carried whole into a provider's format: it is refused, or what has no counterpart is
left out."""


@dataclass(frozen=True, slots=True)
class FormatDefaults:
    """What holds for a provider of a format whose row does not say otherwise."""

    endpoints: tuple[str, ...]
    auth_header: str
    auth_scheme: str
    vendor: str
    """Whose price table applies."""


FORMATS: Mapping[str, FormatDefaults] = {
    "openai": FormatDefaults(("chat", "responses", "text_completion", "embeddings"), "authorization", "Bearer ", "openai"),
    "anthropic": FormatDefaults(("messages", "count_tokens"), "x-api-key", "", "anthropic"),
    "gemini": FormatDefaults(("generate_content", "count_content"), "x-goog-api-key", "", "google"),
}


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. `first_byte` is for the head of the answer; `first_token`, behind that, for the first thing the model says in a
    stream, which a ping is not, or for the first bytes of a plain answer; `whole` for the request with all its attempts."""

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
    format: Format = "openai"
    api_key: str | None = field(default=None, repr=False)
    auth_header: str = ""
    """The header its key goes into; "": its format's, and its scheme too."""
    auth_scheme: str = "Bearer "
    """What stands before the key in that header."""
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
    """The environment variable that usually holds its key; None: it needs none."""
    endpoints: tuple[str, ...] = ()
    """What it answers, by the endpoints' names, those it does best first; none given: all of its format's."""
    openai_url: str | None = None
    """Where a provider of another format answers OpenAI's endpoints that its own has no counterpart of, with the same key."""
    on_unsupported: OnUnsupported = "error"
    """What becomes of a request that cannot be carried whole into this provider's format."""
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    """More keys beside `api_key`: requests take turns at them, and one that is refused makes way for the next."""
    other_key_envs: tuple[str, ...] = ()
    """Where else its key may be, looked at in this order after `api_key_env`."""
    address_env: str | None = None
    """The environment variable with what comes before `base_url`, for a provider that has an address for each customer."""
    max_in_flight: int | None = None
    """Most calls at a time, in each worker; None: any number."""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"provider {self.name!r} has the format {self.format!r}; it may be one of: {', '.join(FORMATS)}")
        defaults = FORMATS[self.format]
        if not self.endpoints:
            object.__setattr__(self, "endpoints", defaults.endpoints)
        if not self.auth_header:
            object.__setattr__(self, "auth_header", defaults.auth_header)
            object.__setattr__(self, "auth_scheme", defaults.auth_scheme)

    @property
    def vendor(self) -> str:
        """Whose price table applies to its models: its row's, or else its format's; "none": they have no price."""
        return self.prices or FORMATS[self.format].vendor

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key muxx has there."""
        return (self.api_key, *self.api_keys) if self.api_key is not None else self.api_keys

    @property
    def missing(self) -> str | None:
        """Which environment variable is to be set before it can be called with a key of muxx's own; None: nothing is missing."""
        return self.missing_for(paid=False)

    def missing_for(self, paid: bool) -> str | None:
        """The same for a project that has a key of its own there, if it is `paid`."""
        if self.address_env is not None and not self.base_url.startswith("http"):
            return self.address_env
        return None if paid or self.keys else self.api_key_env


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
    on_unsupported: OnUnsupported | None = None
    """None: as its provider."""
    buffer_until: Literal["first_byte", "first_token"] = "first_byte"
    """How far an answer has to have come before the client gets any of it: until then another target may still answer."""
    fall_back_on: frozenset[str | int] = frozenset()
    """Statuses and kinds of refusals that let the next target be tried, beside those that always do."""

    @property
    def drops_unsupported(self) -> bool:
        """What cannot be said in the provider's format is left out instead of refused."""
        return (self.on_unsupported or self.provider.on_unsupported) == "drop"

    def __str__(self) -> str:
        return f"{self.provider.name}/{self.model}"


class Attempt:
    """One upstream call. `pre_attempt` may edit `url`, `headers` and `body` (the JSON object that will be sent)."""

    sent = False
    """True once any byte of the request may have reached the provider: from then on it may have been billed."""
    reused = False
    """Written by the transport: the connection had served another request before."""
    answering = False
    """Written by the transport: bytes of an answer had come when the call failed."""
    status: int | None = None
    head_at: float | None = None
    """When the head of the answer came (monotonic seconds)."""
    on_first_token: Callable[[], None] | None = None
    """Written by the kernel: called, maybe more than once, when the model has begun to say something in a stream."""
    surplus = False
    """More than line ends came after the end of the answer. Known before the response is closed, whose connection the transport
    then uses for no other."""
    error: MuxxError | None = None
    ended: float | None = None
    sign: Callable[[Attempt], None] | None = None
    """Set in `pre_attempt` for a provider that wants requests signed: called once, when `payload` is what will be sent, it may
    change `headers` and `url`."""
    wire: Any = None
    """The format it is made in, a `Wire`; written by the kernel before anybody sees the attempt."""

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
