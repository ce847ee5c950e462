"""Tokens and money, in integers: $0.0375 per million tokens is 37.5 nano-dollars a token, so pico-dollars it is."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal, NamedTuple, TypeGuard

UsageSource = Literal["provider", "partial", "estimated", "cache", "none"]
PICO_PER_USD = 10**12
TOO_MUCH = 2**63
"""No row holds so much of anything."""


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
    cache_write_1h_tokens: int = 0
    """Those of the cache-written that stay for an hour, which costs more than the usual minutes."""
    input_image_tokens: int = 0
    output_image_tokens: int = 0
    cache_read_image_tokens: int = 0
    input_video_tokens: int = 0
    output_video_tokens: int = 0
    service_tier: str | None = None
    source: UsageSource = "none"


def estimate_tokens(n_bytes: int) -> int:
    """Tokens of that many bytes of UTF-8 text: one for each 4.1 begun, the mean of English prose in OpenAI's encodings."""
    return -(-n_bytes * 10 // 41)


class Cost(NamedTuple):
    """What an answer costs, in integer pico-dollars (10⁻¹² USD), and the price table that said so."""

    input_pico: int
    output_pico: int
    price_version: str

    @property
    def total_pico(self) -> int:
        return self.input_pico + self.output_pico


def is_sum(cost: Any) -> TypeGuard[Cost]:
    """Whether it can be added up and stored. Fractions cannot be, a negative one would make room under a spend cap, and no row
    holds more than 64 bits."""
    if not isinstance(cost, Cost):
        return False
    asked, made, _ = cost
    return type(asked) is type(made) is int and asked >= 0 and made >= 0 and asked + made < TOO_MUCH


def is_count(number: Any) -> bool:
    """Whether it can be a number of tokens or pico-dollars."""
    return type(number) is int and 0 <= number < TOO_MUCH


def pico_of(usd: Decimal) -> int:
    """US dollars with at most twelve decimals, in pico-dollars: exactly."""
    return int(usd.scaleb(12))


def usd(pico: int | None) -> str | None:
    """Pico-dollars as the exact plain decimal string of the wire contract: no sign, no exponent, no trailing zeros."""
    if not pico:
        return None if pico is None else "0"
    whole, rest = divmod(pico, PICO_PER_USD)
    decimals = str(rest).zfill(12).rstrip("0")
    return f"{whole}.{decimals}" if rest else str(whole)
