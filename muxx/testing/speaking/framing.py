"""Server-sent events as they are written."""

from __future__ import annotations

from typing import Any

import orjson


def event(data: Any, name: str = "") -> bytes:
    """One server-sent event: JSON, or text as it is. `name` is for formats that name their events."""
    named = f"event: {name}\n".encode() if name else b""
    return named + b"data: %b\n\n" % (data.encode() if isinstance(data, str) else orjson.dumps(data))
