"""Where a request may go: providers, their models, and one try at one of them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .errors import MuxxError


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
