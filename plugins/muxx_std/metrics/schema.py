"""The sums that metrics are made of: their table, and how the log's rows are added to it. They only grow.

A row is added once, some seconds after its answer has ended, as it is then. What is amended later is in the log and in analytics,
which are exact; metrics are for graphs and alarms.
"""

from __future__ import annotations

from muxx import Connection, Database, Migration

BOUNDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Seconds; those that OpenTelemetry names for `gen_ai.client.operation.duration`."""

LABELS = ("endpoint", "provider", "model", "status", "ended_by", "cache", "stream")
TOKENS = ("input", "output", "cache_read", "cache_write", "reasoning")
SLICE = 2_000
"""Rows added in one transaction: it takes some milliseconds."""

_MOST_TOKENS = "min(max(coalesce(CASE WHEN usage_source IS 'cache' THEN 0 ELSE "
"""Of a request that another paid for: none. A provider that claims more than 10^12 is not believed, so that no sum overflows."""


def _within(column: str, prefix: str) -> dict[str, str]:
    """How many took no longer than each bound, how many there were, and what all took."""
    counts = {
        "_".join((prefix, str(number))): " ".join(("coalesce(sum(", column, "<=", str(round(bound * 1000)), "), 0)"))
        for number, bound in enumerate(BOUNDS)
    }
    return {**counts, prefix + "_all": "count(" + column + ")", prefix + "_ms": "coalesce(sum(" + column + "), 0)"}


_FIGURES = {
    "requests": "count(*)",
    **{name + "_tokens": "sum(" + _MOST_TOKENS + name + "_tokens END, 0), 0), 1000000000000))" for name in TOKENS},
    "unpriced": "sum(cost_pico IS NULL)",
    "cost_micro": "coalesce(sum(cost_pico / 1000000), 0)",
    "cost_rest": "coalesce(sum(cost_pico % 1000000), 0)",
    "saved_micro": "coalesce(sum(saved_pico / 1000000), 0)",
    "saved_rest": "coalesce(sum(saved_pico % 1000000), 0)",
    **_within("duration_ms", "took"),
    **_within("first_token_ms", "first"),
}
"""What is summed, and how. Money is summed in two parts, as its sum may pass 64 bits."""

_TYPES = {name: "REAL" if name.endswith("_ms") else "INTEGER" for name in _FIGURES} | {"status": "INTEGER", "stream": "INTEGER"}
_COLUMNS = ", ".join(" ".join((name, _TYPES.get(name, "TEXT"), "NOT NULL")) for name in (*LABELS, *_FIGURES))
MIGRATIONS = (
    Migration("logs", "CREATE TABLE metrics_state (position INTEGER NOT NULL) STRICT; INSERT INTO metrics_state VALUES (0);"),
    Migration("logs", "CREATE TABLE metrics_models (model TEXT PRIMARY KEY) STRICT, WITHOUT ROWID"),
    Migration(
        "logs",
        " ".join(("CREATE TABLE metrics_sums (", _COLUMNS, ", PRIMARY KEY (", ", ".join(LABELS), ")) STRICT, WITHOUT ROWID")),
    ),
)

_SPAN = (
    "SELECT position, first, coalesce((SELECT max(position) FROM (SELECT position FROM generations WHERE position > first"
    " ORDER BY position LIMIT ?)), first) FROM (SELECT position,"
    " min(position, coalesce((SELECT max(position) FROM generations), 0)) AS first FROM metrics_state)"
)
"""Where the sums end, from where on rows are to be added, and up to which. Positions are given again when the last rows have been
deleted, so the sums never end beyond the last one there is."""
_NOTE_MODELS = (
    "INSERT INTO metrics_models SELECT DISTINCT model FROM generations WHERE position > ? AND position <= ? AND model IS NOT NULL"
    " AND model NOT IN (SELECT model FROM metrics_models) LIMIT max(0, ? - (SELECT count(*) FROM metrics_models))"
)
# Beyond as many models as are told apart they are `other`: who has a key may ask for any number of names.
_ADD = " ".join(
    (
        "INSERT INTO metrics_sums SELECT coalesce(endpoint, ''), coalesce(provider, ''), CASE WHEN model IS NULL THEN ''",
        "WHEN model IN (SELECT model FROM metrics_models) THEN model ELSE 'other' END, coalesce(status, 0),",
        "coalesce(ended_by, ''), coalesce(cache, ''), coalesce(stream, 0),", ", ".join(_FIGURES.values()),
        "FROM generations WHERE position > ? AND position <= ? GROUP BY 1, 2, 3, 4, 5, 6, 7",
        "ON CONFLICT DO UPDATE SET", ", ".join(" ".join((name, "=", name, "+ excluded." + name)) for name in _FIGURES),
    )
)  # fmt: skip
READ = " ".join(("SELECT", ", ".join((*LABELS, *_FIGURES)), "FROM metrics_sums"))


async def catch_up(db: Database, most_models: int) -> None:
    """Add what there is to the sums."""

    async def add(writer: Connection) -> int:
        [(_, first, last)] = await writer.execute_fetchall(_SPAN, (SLICE,))
        await writer.execute(_NOTE_MODELS, (first, last, most_models))
        await writer.execute(_ADD, (first, last))
        await writer.execute("UPDATE metrics_state SET position = ?", (last,))
        return int(last - first)

    while await _waiting(db) and await db.write_logs(add) >= SLICE:
        pass


async def _waiting(db: Database) -> bool:
    [(position, _, last)] = await db.read_logs(_SPAN, (1,))
    return bool(last != position)
