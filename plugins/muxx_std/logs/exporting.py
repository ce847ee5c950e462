"""Every row that matches a filter, as lines of JSON or as CSV: one way for `GET /v1/logs/export` and for `muxx logs export`.

However many rows there are and however large, only a page of them is held without content, and one with it. Nothing is read
before what came before has been taken.
"""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from muxx import HttpRequest, InvalidRequest, Reply, Route, csv_cell, json_line

from . import described, filters
from .filters import Filter
from .present import CONTENT, FIELDS, generation
from .store import LogReader

if TYPE_CHECKING:
    from muxx import Gateway

Format = Literal["jsonl", "csv"]
T = TypeVar("T", bound=str)

PAGE_ROWS = 100
"""Rows read at once, without content: some hundred kilobytes."""
PIECE_CHARACTERS = 32_768
"""About what is sent at once."""
CONTENT_TYPES: dict[Format, str] = {"jsonl": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}
"""For tools that ask how to read it."""

_QUERY_OF_LISTS = ("limit", "after")


async def export(gateway: Gateway, request: HttpRequest) -> Reply:
    """Every row, oldest first, streamed as JSON Lines or as CSV, with what was asked and answered only where `content=true`.
    It is filtered as the list of rows is."""
    query = request.query_once
    kind, content = _choice(query, "format", tuple(CONTENT_TYPES)), _choice(query, "content", ("true", "false"))
    if kind is None:
        raise InvalidRequest("format is required: jsonl or csv.", param="format", code="missing_field")
    for name in _QUERY_OF_LISTS:
        if name in query:
            raise InvalidRequest(f"{name} is for lists: an export has every row. Narrow it with from and to.", param=name)
    filter, _ = filters.parse(query, filters.asking(request))
    pieces = written(LogReader(gateway.db), filter, kind, content == "true")
    file = {"Content-Disposition": f'attachment; filename="muxx-logs.{kind}"', "Cache-Control": "no-store"}
    return Reply(encoded(pieces), content_type=CONTENT_TYPES[kind], headers=file)


def _choice(query: dict[str, str], name: str, allowed: tuple[T, ...]) -> T | None:
    """Taken out of the query, whose other parameters are those of the list."""
    value = query.pop(name, None)
    if value is None:
        return None
    for one in allowed:
        if one == value:
            return one
    raise InvalidRequest(f"{name} must be {' or '.join(allowed)}.", param=name)


async def encoded(pieces: AsyncIterator[str]) -> AsyncIterator[bytes]:
    async for piece in pieces:
        yield piece.encode()


async def written(reader: LogReader, filter: Filter, kind: Format, content: bool) -> AsyncIterator[str]:
    """The rows as text, in pieces of some lines. A CSV begins with the names of its columns."""
    names = [name for name in FIELDS if content or name not in CONTENT]
    piece = csv_line(names) if kind == "csv" else ""
    async for record in matching(reader, filter, content):
        row = generation(record)
        piece += csv_line(csv_cell(row[name]) for name in names) if kind == "csv" else json_line(row) + "\n"
        if len(piece) >= PIECE_CHARACTERS:
            yield piece
            piece = ""
    if piece:
        yield piece


async def matching(reader: LogReader, filter: Filter, content: bool) -> AsyncIterator[dict[str, Any]]:
    """Rows in order of arrival. One that is deleted meanwhile comes without what is gone."""
    position = 0
    while page := await reader.arrivals(filter, position, limit=PAGE_ROWS):
        for position, record in page:  # noqa: B007  (where to go on)
            whole = await reader.one(record["request_id"]) if content else record
            yield whole or record | dict.fromkeys(CONTENT)


def csv_line(cells: Iterable[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


_PROPERTIES: Mapping[str, Any] = described.QUERY["properties"]  # type: ignore[assignment]
_NOT_OF_LISTS = {name: schema for name, schema in _PROPERTIES.items() if name not in _QUERY_OF_LISTS}
ROUTE = Route(
    "GET",
    "/v1/logs/export",
    export,
    query={
        "type": "object",
        "required": ["format"],
        "properties": {
            "format": {"enum": list(CONTENT_TYPES), "description": "One JSON object a line, or CSV."},
            "content": {"enum": ["true", "false"], "default": "false", "description": "With what was asked and answered."},
            **_NOT_OF_LISTS,
        },
    },
    content_types=("application/x-ndjson", "text/csv"),
)
"""Besides its parameters `metadata.KEY`, as for the list."""
