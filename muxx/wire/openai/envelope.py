"""The gateway's own words in OpenAI's format: errors, and the comment with a stream's cost."""

from __future__ import annotations

import math
from typing import Any

from orjson import dumps

from ...errors import MuxxError
from ...money import Cost, Usage, usd
from ..failures import worded
from .usage import usage_object

_TOO_LONG = "Input tokens exceed the configured limit"


def error_body(error: MuxxError, retry_after: float | None = None) -> bytes:
    """The error envelope: message, type, param and code always, and for 429 how many seconds to wait."""
    inner: dict[str, Any] = {
        "message": worded(error, _TOO_LONG),
        "type": error.type,
        "param": error.param,
        "code": error.code,
    }
    wait = error.retry_after if retry_after is None else retry_after
    if error.status == 429 and wait is not None:
        inner["retry_after"] = math.ceil(wait)
    return dumps({"error": inner})


def error_event(error: MuxxError) -> bytes:
    """What ends a broken stream: the envelope as one event."""
    return b"data: " + error_body(error) + b"\n\n"


def comment_event(cost: Cost | None, request_id: str, usage: Usage | None) -> bytes:
    """The comment that tells a stream's cost, null when it is unknown."""
    told = {
        "cost": usd(cost.total_pico) if cost is not None else None,
        "request_id": request_id,
        "usage": usage_object(usage) if usage is not None else None,
    }
    return b": muxx " + dumps(told) + b"\n\n"
