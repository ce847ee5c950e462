"""The answers that the cache gave most often, and what was asked for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from muxx import Database, usd

from .figures import ask
from .periods import DAY, Span
from .question import Question

PREVIEW = 120
"""Characters shown of what was asked."""
READABLE = 65_536
"""Bytes of a request up to which it is read for that."""

_ASKED = (
    "SELECT g.request_id, coalesce(g.model, g.model_requested) AS model, CASE WHEN length(c.input) <= ? THEN c.input END AS input"
    " FROM generations AS g LEFT JOIN contents AS c ON c.request_id = g.request_id"
    " WHERE g.request_id IN (SELECT value FROM json_each(?)) AND (? IS NULL OR g.project = ?)"
)
_TEXTS = ("content", "text", "input", "prompt", "contents", "parts", "messages")
"""Members of requests, in any format, that hold what is asked or lead there."""


async def most_frequent(db: Database, question: Question) -> list[dict[str, Any]]:
    """Of the days that the question's time touches, the most frequent first."""
    span = question.span
    days = Span(span.start // DAY * DAY, -(-span.end // DAY) * DAY)
    found = await ask(db, Question(days, "total", "answer", question.project, question.environment, {}, question.limit, "cache"))
    wanted = [line.value for line in found.lines]
    rows = await db.read_logs(_ASKED, (READABLE, orjson.dumps(wanted).decode(), question.project, question.project))
    asked = {row["request_id"]: row for row in rows}
    return [
        {
            "request_id": line.value,
            "model": asked[line.value]["model"] if line.value in asked else None,
            "preview": preview(asked[line.value]["input"]) if line.value in asked else None,
            "hits": line.hits,
            "joined": line.joined,
            "saved_usd": usd(line.saved_pico),
        }
        for line in found.lines
    ]


def preview(content: str | bytes | None) -> str | None:
    """The beginning of the last text of a request, in a line."""
    if content is None:
        return None
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    texts = [*_texts(body)]
    return " ".join(texts[-1][: 4 * PREVIEW].split())[:PREVIEW] if texts else None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        for name in _TEXTS:
            if name in value:
                yield from _texts(value[name])
