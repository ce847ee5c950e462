"""How a row looks outside: the JSON of the wire contract, and a line of a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from muxx import iso_time, printable, usd

CONTENT = ("input", "output")

_MONEY = {
    "input_cost_usd": "input_cost_pico",
    "output_cost_usd": "output_cost_pico",
    "cost_usd": "cost_pico",
    "saved_usd": "saved_pico",
}
FIELDS = (
    "request_id", "started_at", "first_token_ms", "duration_ms", "project", "key_prefix", "key_last4", "environment", "user_id",
    "metadata", "client_ip", "endpoint", "provider", "model_requested", "model", "stream", "status", "ended_by", "phase",
    "attempts", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens", "usage_source",
    "input_cost_usd", "output_cost_usd", "cost_usd", "saved_usd", "price_version", "cache", "finish_reasons", "error_code",
    "attributes", *CONTENT,
)  # fmt: skip
"""A generation, in the order of the wire contract."""


def generation(record: Mapping[str, Any]) -> dict[str, Any]:
    """A Record as the outside sees it. A record read without its content has no `input` and no `output`."""
    return {name: _value(record, name) for name in FIELDS if name not in CONTENT or name in record}


def _value(record: Mapping[str, Any], name: str) -> Any:
    if name in _MONEY:
        return usd(record.get(_MONEY[name]))
    value = record.get(name)
    if name == "started_at" and value is not None:
        return iso_time(value)
    if name == "stream" and value is not None:
        return bool(value)
    return value


def summary(record: Mapping[str, Any]) -> str:
    """A row in a line of a terminal."""
    tokens = f"{record['input_tokens']}→{record['output_tokens']}"
    cost = usd(record["cost_pico"])
    cells = (
        iso_time(record["started_at"]),
        record["status"],
        record["model"] or record["model_requested"],
        tokens,
        "-" if cost is None else "$" + cost,
        f"{record['duration_ms'] or 0:.0f} ms",
        record["error_code"] or "",
        record["request_id"],
    )
    return "  ".join(printable(cell) for cell in cells if cell != "")
