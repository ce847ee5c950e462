"""How many tokens a request may come to, before anybody knows: what is reserved until its usage is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muxx import Exchange

COUNTING = ("count_tokens", "count_content")
"""Operations that only count: requests, of no tokens."""

BYTES_PER_TOKEN = 4
"""Of a whole request, JSON and all: fewer than a token of English takes, and the words around it come on top."""

MOST_CHOICES = 128
"""Providers allow no more; of a number nobody would accept nothing should depend."""

_MOST = ("max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens")
_CHOICES = ("n", "candidateCount", "candidate_count")
_INNER = ("generationConfig", "generation_config")


def reserve(exchange: Exchange, guess: int, limit: int) -> int | None:
    """Tokens to reserve for a request: its input and its most output; None when that is more than the `limit` will ever allow.

    `guess` is the output of an answer whose request names no most. What only seems to be more than the limit, a guess or the size
    of an image, is cut to it: such a request waits for an empty minute, but not for ever.
    """
    if exchange.operation in COUNTING:
        return 0
    said, choices = 0, 0
    if exchange.operation != "embeddings":
        body = exchange.request.body
        inner = next((value for name in _INNER if isinstance(value := body.get(name), dict)), {})
        choices = min(max(_numbers(body, inner, _CHOICES), 1), MOST_CHOICES)
        said = _numbers(body, inner, _MOST) * choices
    tokens = -(-exchange.request.size // BYTES_PER_TOKEN) + (said or guess * choices)
    if tokens <= limit:
        return tokens
    text = sum(len(part.text.encode("utf-8", "surrogatepass")) for part in exchange.request.parts())
    return None if text // BYTES_PER_TOKEN + said > limit else limit


def _numbers(body: Mapping[str, Any], inner: Mapping[str, Any], names: tuple[str, ...]) -> int:
    """The largest of these members; 0 where there is none."""
    found = [holder.get(name) for holder in (body, inner) for name in names]
    return max((value for value in found if type(value) is int), default=0)
