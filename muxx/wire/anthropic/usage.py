"""Tokens in Anthropic's dialect: `input_tokens` stands beside what was read from the cache and written to it, not above it."""

from __future__ import annotations

from typing import Any

from ...money import Usage
from ..counts import MAX_TOKENS, Details, is_believable

_FAST = "fast"
_MINUTES, _HOUR = "ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"


def read_message_usage(value: Any, service_tier: Any = None) -> tuple[Usage | None, bool]:
    """The usage a message reports, and whether any of it cannot be true. Never raises.

    Without believable totals there is no usage. The fast mode, which costs more, is a service tier of that name. A detail that is
    no count, or thinking beyond the output, counts as 0. What a tool's own model used, or a compaction, is in `iterations` and
    not in these totals (see `compacted`).
    """
    if type(value) is not dict:
        return None, True
    fresh: Any = value.get("input_tokens")
    output: Any = value.get("output_tokens")
    if not (is_believable(fresh) and is_believable(output)):
        return None, True
    details = Details()
    read = details.part(value.get("cache_read_input_tokens"), MAX_TOKENS)
    written, hourly = _written(value, details)
    made = value.get("output_tokens_details")
    if made is not None and type(made) is not dict:
        details.invalid = True
    thinking = details.part(made.get("thinking_tokens") if type(made) is dict else None, output)
    tier = _FAST if value.get("speed") == _FAST else value.get("service_tier", service_tier)
    usage = Usage(
        input_tokens=fresh + read + written,
        output_tokens=output,
        cache_read_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=thinking,
        cache_write_1h_tokens=hourly,
        service_tier=tier if type(tier) is str else None,
        source="provider",
    )
    return usage, details.invalid


def compacted(usage: Usage, value: dict[str, Any]) -> Usage:
    """The usage with that of compactions, which the same model made and which is billed, but which the totals leave out."""
    iterations = value.get("iterations")
    for entry in iterations if type(iterations) is list else ():
        if type(entry) is dict and entry.get("type") == "compaction":
            more, _ = read_message_usage(entry)
            if more is not None:
                usage = usage._replace(
                    input_tokens=usage.input_tokens + more.input_tokens,
                    output_tokens=usage.output_tokens + more.output_tokens,
                    cache_read_tokens=usage.cache_read_tokens + more.cache_read_tokens,
                    cache_write_tokens=usage.cache_write_tokens + more.cache_write_tokens,
                    cache_write_1h_tokens=usage.cache_write_1h_tokens + more.cache_write_1h_tokens,
                )
    return usage


def message_usage_object(usage: Usage) -> dict[str, Any]:
    """A usage object as Anthropic writes it."""
    fresh = usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens
    told: dict[str, Any] = {
        "input_tokens": max(fresh, 0),
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "output_tokens": usage.output_tokens,
    }
    if usage.cache_write_1h_tokens:
        soon = usage.cache_write_tokens - usage.cache_write_1h_tokens
        told["cache_creation"] = {_MINUTES: max(soon, 0), _HOUR: usage.cache_write_1h_tokens}
    if usage.reasoning_tokens:
        told["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    return told


def merged(known: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    """A usage object after a later one: counts are cumulative, so the last one told is right; null says nothing."""
    return {**known, **{name: count for name, count in told.items() if count is not None}}


def _written(value: dict[str, Any], details: Details) -> tuple[int, int]:
    """Tokens written to the cache, by the total, or where there is none, by the counts of each time to live; and those of them
    that stay for an hour."""
    total, by_ttl = value.get("cache_creation_input_tokens"), value.get("cache_creation")
    told = by_ttl if type(by_ttl) is dict else {}
    counts = {name: count for name, count in told.items() if count is not None}
    if (told is not by_ttl and by_ttl is not None) or not all(map(is_believable, counts.values())):
        details.invalid = True
    written = details.part(sum(filter(is_believable, counts.values())) if total is None else total, MAX_TOKENS)
    return written, details.part(counts.get(_HOUR), written)
