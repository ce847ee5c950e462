"""The tables of the log database, and how a Record becomes a row of each.

Content (what was asked, what was answered) has a table of its own, because it has a life of its own: it is deleted after the
project's retention while its row stays, and reading a page of rows never drags megabytes of it along.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from typing import Any

import orjson

from muxx import Migration

MIGRATIONS = (
    Migration(
        "logs",
        """
        CREATE TABLE generations (
            position INTEGER PRIMARY KEY,
            request_id TEXT NOT NULL UNIQUE,
            started_at REAL NOT NULL,
            first_token_ms REAL,
            duration_ms REAL,
            project TEXT,
            key_id TEXT,
            key_prefix TEXT,
            key_last4 TEXT,
            environment TEXT,
            user_id TEXT,
            metadata TEXT,
            client_ip TEXT,
            endpoint TEXT,
            provider TEXT,
            model_requested TEXT,
            model TEXT,
            stream INTEGER,
            status INTEGER,
            ended_by TEXT,
            phase TEXT,
            attempts INTEGER,
            input_tokens INTEGER,
            output_tokens INTEGER,
            cache_read_tokens INTEGER,
            cache_write_tokens INTEGER,
            reasoning_tokens INTEGER,
            usage_source TEXT,
            input_cost_pico INTEGER,
            output_cost_pico INTEGER,
            cost_pico INTEGER,
            saved_pico INTEGER,
            price_version TEXT,
            cache TEXT,
            finish_reasons TEXT,
            error_code TEXT,
            attributes TEXT
        )
        """,
    ),
    Migration(
        "logs",
        "CREATE INDEX generations_by_project ON generations (project, environment, started_at DESC, request_id DESC)",
    ),
    Migration("logs", "CREATE INDEX generations_by_time ON generations (started_at DESC, request_id DESC)"),
    Migration(
        "logs",
        """
        CREATE TABLE contents (
            request_id TEXT NOT NULL PRIMARY KEY,
            started_at REAL NOT NULL,
            input TEXT,
            output TEXT
        )
        """,
    ),
    Migration(
        "logs",
        """
        DROP INDEX generations_by_project;
        DROP INDEX generations_by_time;
        CREATE INDEX generations_by_project ON generations (project, environment, started_at);
        CREATE INDEX generations_by_time ON generations (started_at);
        """,
    ),
    Migration(
        "logs",
        """
        DROP INDEX generations_by_project;
        CREATE INDEX generations_by_project ON generations (project, started_at);
        CREATE TABLE logs_indexed (name TEXT PRIMARY KEY, position INTEGER NOT NULL) STRICT, WITHOUT ROWID;
        """,
    ),
    Migration(
        "logs",
        """
        CREATE VIEW generations_usd AS SELECT
            position, request_id, strftime('%Y-%m-%dT%H:%M:%fZ', started_at, 'unixepoch') AS started_at,
            first_token_ms, duration_ms, project, key_id, key_prefix, key_last4, environment, user_id, metadata,
            client_ip, endpoint, provider, model_requested, model, stream, status, ended_by, phase, attempts,
            input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens, usage_source,
            input_cost_pico / 1e12 AS input_cost_usd, output_cost_pico / 1e12 AS output_cost_usd,
            cost_pico / 1e12 AS cost_usd, saved_pico / 1e12 AS saved_usd, price_version, cache, finish_reasons,
            error_code, attributes
        FROM generations
        """,
    ),
)
"""An index ends in the row's position by itself, which tells rows of the same moment apart, and rows arrive at its end."""

_INT64 = 2**63 - 1
_SPELT_ANYHOW = re.compile(rb"\\[u/]")


def _integer(value: Any) -> int | None:
    """Clamped to what SQLite can hold: a provider that reports 10^20 tokens must not be able to stop the log."""
    return None if value is None else max(-_INT64, min(int(value), _INT64))


def _real(value: Any) -> float | None:
    return None if value is None else float(value)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _json(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


COLUMNS: Mapping[str, Callable[[Any], Any]] = {
    "request_id": _text,
    "started_at": _real,
    "first_token_ms": _real,
    "duration_ms": _real,
    "project": _text,
    "key_id": _text,
    "key_prefix": _text,
    "key_last4": _text,
    "environment": _text,
    "user_id": _text,
    "metadata": _json,
    "client_ip": _text,
    "endpoint": _text,
    "provider": _text,
    "model_requested": _text,
    "model": _text,
    "stream": _integer,
    "status": _integer,
    "ended_by": _text,
    "phase": _text,
    "attempts": _integer,
    "input_tokens": _integer,
    "output_tokens": _integer,
    "cache_read_tokens": _integer,
    "cache_write_tokens": _integer,
    "reasoning_tokens": _integer,
    "usage_source": _text,
    "input_cost_pico": _integer,
    "output_cost_pico": _integer,
    "cost_pico": _integer,
    "saved_pico": _integer,
    "price_version": _text,
    "cache": _text,
    "finish_reasons": _json,
    "error_code": _text,
    "attributes": _json,
}
"""Every field of a Record but its content, with what brings its value into the column's type."""

JSON_COLUMNS = tuple(name for name, kind in COLUMNS.items() if kind is _json)
NUMBER_COLUMNS = frozenset(name for name, kind in COLUMNS.items() if kind in (_integer, _real))

_PICK = itemgetter(*orjson.loads(orjson.dumps(dict.fromkeys(COLUMNS))))
"""By the very objects that orjson makes the keys of a parsed record of: then no lookup compares characters."""
_JSON_PLACES = tuple(place for place, name in enumerate(COLUMNS) if name in JSON_COLUMNS)


def plain_columns_of(records: Iterable[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    """The values of `generations`, column by column, of records whose values have the right types, as nearly every one's do:
    several times as fast as `row_of` for each.

    A missing field is a KeyError here, and a value of another type an error of the database.
    """
    columns, dumps = list(zip(*map(_PICK, records), strict=True)), orjson.dumps
    for place in _JSON_PLACES:
        columns[place] = tuple([None if value is None else dumps(value).decode() for value in columns[place]])
    return columns


def row_of(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """The values of `generations`, in the order of `COLUMNS`, made to fit. A field the record lacks is NULL."""
    return tuple(convert(record.get(name)) for name, convert in COLUMNS.items())


def content_of(record: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """The values of `contents`; None when the project stores none."""
    asked, answered = record["input"], record["output"]
    if asked is None and answered is None:
        return None
    text = None if asked is None else _decoded(asked)
    return record["request_id"], record["started_at"], text, None if answered is None else _decoded(_spelt(answered))


def _spelt(answer: bytes) -> bytes:
    """JSON as it came, but made anew where it may spell a character as orjson would not: a search goes by orjson's spelling.

    What was sent needs none of this: orjson made it. Looking for a single byte first takes a fraction of the time.
    """
    if answer.find(b"\\") >= 0 and _SPELT_ANYHOW.search(answer):
        try:
            return orjson.dumps(orjson.loads(answer))
        except orjson.JSONDecodeError:
            pass
    return answer


def _decoded(content: bytes) -> str:
    """SQLite would keep bytes that are not UTF-8, and then not give them back as text."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("utf-8", "replace")


def content_value(content: str | bytes | None) -> Any:
    """The JSON value of an `input` or `output`. What is no JSON after all is shown as the text it is."""
    if content is None:
        return None
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return content if isinstance(content, str) else _decoded(content)


def record_of(row: Any, decode: Callable[[str], Any] = orjson.loads) -> dict[str, Any]:
    """A row of `generations` as a Record without content, JSON columns passed through `decode`."""
    record = {name: row[name] for name in COLUMNS}
    for name in JSON_COLUMNS:
        if record[name] is not None:
            record[name] = decode(record[name])
    return record
