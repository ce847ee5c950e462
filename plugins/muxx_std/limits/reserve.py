"""How many tokens a request may come to, before anybody knows: what is reserved until its usage is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxx import asked_output

if TYPE_CHECKING:
    from muxx import Exchange

COUNTING = ("count_tokens", "count_content")
"""Operations that only count: requests, of no tokens."""

BYTES_PER_TOKEN = 4
"""Of a whole request, JSON and all: fewer than a token of English takes, and the words around it come on top."""


def reserve(exchange: Exchange, guess: int, limit: int) -> int | None:
    """Tokens to reserve for a request: its input and its most output; None when that is more than the `limit` will ever allow.

    `guess` is the output of an answer whose request names no most. What only seems to be more than the limit, a guess or the size
    of an image, is cut to it: such a request waits for an empty minute, but not for ever.
    """
    if exchange.operation in COUNTING:
        return 0
    said, choices = 0, 0
    if exchange.operation != "embeddings":
        most, choices = asked_output(exchange.request.body)
        said = most * choices
    tokens = -(-exchange.request.size // BYTES_PER_TOKEN) + (said or guess * choices)
    if tokens <= limit:
        return tokens
    text = sum(len(part.text.encode("utf-8", "surrogatepass")) for part in exchange.request.parts())
    return None if text // BYTES_PER_TOKEN + said > limit else limit
