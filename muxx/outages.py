"""What a failure is about that a provider tells of, read in any format: an outage, or an answer to what was asked; and what a
client is told of it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

from .errors import InvalidRequest, MuxxError, ProviderRefusal, UpstreamAuth, UpstreamError
from .wire.failures import TOO_LONG, told_in_refusal, word_for

RefusalKind = Literal["content_filter", "context_length"]

_FILTER_CODES = frozenset({"content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation"})
_FILTER_WORDS = ("content filtering policy",)
"""How Anthropic says, in a refusal like any other, that it blocked what its model wrote."""

_LENGTH_CODES = frozenset({TOO_LONG, "string_above_max_length"})
_LENGTH_WORDS = ("prompt is too long", "exceeds the maximum number of tokens", "maximum context length", "context window")
"""How Anthropic, Google, and those who serve open models say that a prompt does not fit."""

_OF_THE_REQUEST = ("content", "context", "rate_limit", "invalid", "quota", "billing", "permission", "auth", "found", "EXHAUSTED")
"""Parts of the codes by which an error told inside an answer speaks of the request or its owner, not of an outage."""


def refusal_kind(code: str, body: bytes) -> RefusalKind | None:
    """Whether the provider refused what was said, or how much; None when it refused for anything else."""
    return kind_told(code, told_in_refusal(body))


def kind_told(code: str, error: Any) -> RefusalKind | None:
    """The same of an error object, wherever it stood; anything else is none."""
    said = list(_nested(error))
    codes = {code, *(value for error in said for value in (error.get("code"), error.get("type")) if isinstance(value, str))}
    texts = [text.lower() for error in said if isinstance(text := error.get("message"), str)]
    if codes & _FILTER_CODES or _any_says(texts, _FILTER_WORDS):
        return "content_filter"
    if codes & _LENGTH_CODES or _any_says(texts, _LENGTH_WORDS):
        return "context_length"
    return None


def _any_says(texts: list[str], phrases: tuple[str, ...]) -> bool:
    return any(phrase in text for text in texts for phrase in phrases)


def _nested(error: Any) -> Iterator[dict[str, Any]]:
    """An error object and those inside it, where Azure has them."""
    while isinstance(error, dict):
        yield error
        error = error.get("innererror")


def is_outage(error: MuxxError | None, status: int | None) -> bool:
    """Whether a call ended as calls of a provider that is down end: not reached, too late, broken, garbage, 5xx. Never for a 4xx,
    for what the client or a plugin did, or for an answer that was refused."""
    if not isinstance(error, UpstreamError) or isinstance(error, UpstreamAuth):
        return False
    if isinstance(error, ProviderRefusal):
        return error.status >= 500 and refusal_kind(error.code, error.body) is None
    if status is not None and 400 <= status < 500:
        return False
    return not any(word in error.code for word in _OF_THE_REQUEST)


_CODES = {"content_filter": "content_filter", "context_length": TOO_LONG}
"""What refusals of what was said, or how much, are called, whatever the provider's word is."""

_INVALID = ("invalid_request_error", "INVALID_ARGUMENT")


def failure_told(error: Any, masked: Callable[[bytes], bytes] = bytes) -> UpstreamError:
    """A failure that a provider tells of in its own words, for a client that does not know them; `masked` takes known secrets out
    of them. One that is about the request is a 400, for nobody will answer it any better."""
    said = error if isinstance(error, dict) else {"message": error}
    code = word_for(said)
    text = said.get("message")
    message = masked(text.encode()).decode("utf-8", "replace") if isinstance(text, str) else ""
    kind = kind_told(code or "", said)
    if kind is None and not any(said.get(member) in _INVALID for member in ("code", "type", "status")):
        return UpstreamError(message, code=code)
    failure = UpstreamError(message, code=_CODES[kind] if kind else code, status=400, retry=False)
    failure.type = InvalidRequest.type
    return failure
