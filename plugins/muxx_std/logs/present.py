"""How a row looks outside: the JSON of the wire contract, a line of a table, a cell of a CSV.

Stored values come from strangers. Whatever is printed is free of control characters, of C1 and bidirectional ones too, so that no
value can move a terminal's cursor, forge a second line, or reverse what stands around it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from muxx import usd

_BIDI = "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f" + _BIDI + "\ufeff\ud800-\udfff]")
_FORMULA = tuple("=+-@＝＋－＠")
"""The wide ones too, which spreadsheets take for the others where such are written."""

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
        return iso(value)
    if name == "stream" and value is not None:
        return bool(value)
    return value


def iso(moment: float) -> str:
    """ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def printable(value: Any) -> str:
    """Text fit for a terminal: what is unsafe stands there as its escape. None is a dash."""
    if value is None:
        return "-"
    return _UNSAFE.sub(lambda match: _escape(match[0]), str(value))


def json_line(value: Any) -> str:
    """One line of JSON, fit for a terminal. Unsafe characters occur inside strings only, where their escapes mean the same."""
    return _UNSAFE.sub(lambda match: _escape(match[0]), orjson.dumps(value).decode())


def csv_cell(value: Any) -> str:
    """Text for a spreadsheet: JSON for what is not plain, nothing that a spreadsheet would run as a formula. None is empty."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return json_line(value)
    text = printable(value)
    return "'" + text if text.startswith(_FORMULA) else text


def summary(record: Mapping[str, Any]) -> str:
    """A row in a line of a terminal."""
    tokens = f"{record['input_tokens']}→{record['output_tokens']}"
    cost = usd(record["cost_pico"])
    cells = (
        iso(record["started_at"]),
        record["status"],
        record["model"] or record["model_requested"],
        tokens,
        "-" if cost is None else "$" + cost,
        f"{record['duration_ms'] or 0:.0f} ms",
        record["error_code"] or "",
        record["request_id"],
    )
    return "  ".join(printable(cell) for cell in cells if cell != "")


def _escape(character: str) -> str:
    return f"\\u{ord(character):04x}"
