"""Which headers cross the gateway, in either direction, and what muxx says of itself in them. Pure."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .errors import InvalidRequest, MethodNotAllowed, MuxxError, StrangerLimited
from .exchange import Exchange
from .reply import AT_TIMES_HEADERS, KERNEL_HEADERS
from .request import CREDENTIAL_HEADERS, HttpRequest, Request
from .targets import Provider
from .wire.body import parse_json_object

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

SENT_UP = ("accept", "user-agent", "openai-beta", "anthropic-version", "anthropic-beta", "idempotency-key", "traceparent")
_DEFAULTS = {"anthropic": {"anthropic-version": "2023-06-01"}}
"""What a provider of a format insists on, for clients of another that do not send it."""
SENT_DOWN = ("openai-processing-ms",)

MUXX_HEADERS = "x-muxx"
"""The kernel's entry in a head's memory."""

TRACEPARENT = "traceparent"
"""The attribute of a row that says in whose trace its request was made."""
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)

METADATA_BYTES = 4096
METADATA_MEMBERS = 64
METADATA_DEPTH = 64
USER_ID_BYTES = 256
LONGEST_WAIT = 366 * 86_400
"""Seconds that a provider may ask to wait and be believed."""


def read_said(head: HttpRequest, exchange: Exchange) -> None:
    """What a caller says of its request beside it: X-Muxx-User-Id, X-Muxx-Metadata and traceparent. `InvalidRequest` for what
    does not fit of muxx's own."""
    known = head.memory.get(MUXX_HEADERS)
    if known is None:
        known = head.memory[MUXX_HEADERS] = (
            _user_id(head.headers), head.headers.getall("X-Muxx-Metadata", ()), _traceparent(head.headers)
        )  # fmt: skip
    exchange.request.user_id, metadata, traceparent = known
    if metadata:
        exchange.request.metadata = _metadata(*metadata)
    if traceparent is not None:
        exchange.attributes[TRACEPARENT] = traceparent


def _traceparent(headers: CIMultiDictProxy[str]) -> str | None:
    """W3C Trace Context: a header that is not in order counts as none."""
    lines = headers.getall("traceparent", ())
    return lines[0] if len(lines) == 1 and _TRACEPARENT.fullmatch(lines[0]) else None


def _user_id(headers: CIMultiDictProxy[str]) -> str | None:
    lines = headers.getall("X-Muxx-User-Id", [])
    if not any(lines):  # an empty one, as of a variable that was never set, names nobody
        return None
    [user, *others] = lines
    if others or not user.isprintable() or len(user.encode("utf-8", "replace")) > USER_ID_BYTES:
        raise InvalidRequest(
            f"X-Muxx-User-Id must come once, and be printable text of at most {USER_ID_BYTES} bytes.", param="X-Muxx-User-Id"
        )
    return user


def _metadata(text: str, *others: str) -> dict[str, Any]:
    raw = text.encode("utf-8", "surrogateescape")
    value: dict[str, Any] = {}
    try:
        if len(raw) <= METADATA_BYTES and not others:
            value = parse_json_object(raw, max_depth=METADATA_DEPTH, max_tokens=METADATA_BYTES)
            if len(value) <= METADATA_MEMBERS:
                return value
    except InvalidRequest:
        pass  # it is told in other words than a body's
    raise InvalidRequest(
        f"X-Muxx-Metadata must come once, and be a JSON object of at most {METADATA_BYTES} bytes and {METADATA_MEMBERS} members, "
        f"nested at most {METADATA_DEPTH} deep, with integers of 64 bits.",
        code="invalid_metadata",
        param="X-Muxx-Metadata",
    )


def upstream_headers(provider: Provider, head: HttpRequest, credential: str | None, format: str) -> dict[str, str]:
    """The request headers a provider sees: an allow-list, muxx's own key, nothing of the client's credentials. `format` is the
    one it is asked in: where that is not its own, its key goes where OpenAI's does."""
    headers = sent_up(provider, head).copy()
    if credential is not None:
        if format == provider.format:
            headers[provider.auth_header] = provider.auth_scheme + credential
        else:
            headers["authorization"] = f"Bearer {credential}"
    return headers


def sent_up(provider: Provider, head: HttpRequest | Request) -> dict[str, str]:
    """The allow-list's part of a request's headers, remembered with the head."""
    known = head.memory.get(provider.name)
    if known is None or known[0] is not provider:
        known = head.memory[provider.name] = provider, _allowed_up(provider, head.headers)
    headers: dict[str, str] = known[1]
    return headers


def _allowed_up(provider: Provider, client: Mapping[str, str]) -> dict[str, str]:
    """Those of the client's headers that may pass; lines of one name become one."""
    headers = {"content-type": "application/json", "accept-encoding": "identity", **_DEFAULTS.get(provider.format, {})}
    allowed = {*SENT_UP, *(name.lower() for name in provider.request_headers if not _is_ours(name))}
    passed: dict[str, str] = {}
    for name, value in client.items():
        name = name.lower()
        if name in allowed:
            passed[name] = f"{passed[name]}, {value}" if name in passed else value
    return headers | passed


def _is_ours(name: str) -> bool:
    lowered = name.lower()
    return lowered in CREDENTIAL_HEADERS or lowered.startswith("x-muxx-")


def downstream_lines(provider: Provider, upstream: Mapping[str, str], added: Mapping[str, str] | None) -> str:
    """The provider's response headers a client may see, but for what plugins have `added`."""
    headers = {}
    for name in _allowed_down(provider.response_headers):
        value = upstream.get(name)
        if value is not None:
            headers[name] = value
    if headers and added:
        for name in added:
            headers.pop(name.lower(), None)
    return lines(headers) if headers else ""


@lru_cache(maxsize=256)
def _allowed_down(more: tuple[str, ...]) -> tuple[str, ...]:
    """Names of what may pass, with those a provider's row adds."""
    names = (name.lower() for name in (*SENT_DOWN, *more))
    return tuple(name for name in names if name not in _WRITTEN_HERE and not _is_ours(name))


_WRITTEN_HERE = KERNEL_HEADERS | AT_TIMES_HEADERS


def retry_after(upstream: Mapping[str, str]) -> float | None:
    """Seconds the provider asks to wait, from `retry-after-ms` or Retry-After (seconds or a date); None when it says nothing
    sane."""
    milliseconds = upstream.get("retry-after-ms")
    if milliseconds is not None and milliseconds.strip().isdecimal():
        return float(milliseconds) / 1000  # an int of thousands of digits is an error
    value = upstream.get("retry-after")
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.replace(".", "", 1).isdecimal():
        return float(text)
    try:
        date = parsedate_to_datetime(text)
        return max(0.0, (date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def answer_lines(exchange: Exchange) -> str:
    """What muxx says of itself on every answer of an LLM endpoint, and what plugins added, as header lines."""
    now = time.monotonic()
    upstream = 0.0
    for attempt in exchange.attempts:
        upstream += (attempt.ended or now) - attempt.started
    own = max(0.0, now - exchange.timing.started - upstream)
    text = (
        f"X-Muxx-Request-Id: {exchange.id}\r\nx-request-id: {exchange.id}\r\n"
        f"X-Muxx-Cache: {'HIT' if exchange.cache in _HITS else 'MISS'}\r\n"
        f"Server-Timing: upstream;dur={upstream * 1e3:.3f}, muxx;dur={own * 1e3:.3f}\r\n"
    )
    if exchange.format == "anthropic":
        text += f"request-id: {exchange.id}\r\n"
    added = exchange.added_headers
    return text + lines(added) if added else text


_HITS = ("hit", "joined")


def request_id_headers(request_id: str, format: str) -> dict[str, str]:
    """The request's id, where clients of every format, or of this one, look for it."""
    headers = {"X-Muxx-Request-Id": request_id, "x-request-id": request_id}
    return headers | {"request-id": request_id} if format == "anthropic" else headers


def lines(headers: Mapping[str, str]) -> str:
    """Headers as lines. No value, whoever it comes from, begins another line or holds what a client's parser would refuse."""
    text = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if text.count("\n") != len(headers) or not text.replace("\r\n", "").isprintable():
        text = "".join([f"{_safe(name)}: {_safe(value)}\r\n" for name, value in headers.items()])
    return text


@lru_cache(maxsize=256)
def content_type_line(value: str) -> str:
    """The one header every answer has and few providers vary."""
    return lines({"Content-Type": value})


def _safe(value: str) -> str:
    return "".join([c if c.isprintable() else " " for c in value])


def error_headers(error: MuxxError) -> dict[str, str]:
    """What every error says besides its body: whether to retry, when, and how to authenticate."""
    headers = {"x-should-retry": "true" if error.should_retry else "false"}
    wait = error.retry_after
    if wait is not None and wait <= LONGEST_WAIT:
        headers["Retry-After"] = str(max(0, -int(-wait // 1)))
        headers["retry-after-ms"] = str(round(wait * 1000))
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = error.allow
    if isinstance(error, StrangerLimited):
        headers |= {
            "X-RateLimit-Limit": str(error.limit),
            "X-RateLimit-Remaining": "0",
            "X-RateLimit-Reset": str(error.resets_at),
        }
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return headers
