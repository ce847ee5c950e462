"""Adding rows to the sums, a slice at a time: the writer of the log is never held for long, however much there is to add."""

from __future__ import annotations

from muxx import Connection, Database

from .schema import FIGURES, MEMBER_VALUE, ROW, TRIGGERS

SLICE = 2_000
"""Rows added in one transaction, and how many are left to be read one by one: either takes some milliseconds."""

_WAITING = (
    "SELECT (SELECT count(*) FROM (SELECT 1 FROM generations WHERE position > (SELECT position FROM analytics_state) LIMIT ?))"
    " + (SELECT count(*) FROM (SELECT 1 FROM analytics_changes LIMIT ?))"
)
_BOUNDS = (
    "SELECT position, coalesce((SELECT max(position) FROM (SELECT position FROM generations WHERE position >"
    " (SELECT position FROM analytics_state) ORDER BY position LIMIT ?)), position),"
    " coalesce((SELECT max(id) FROM (SELECT id FROM analytics_changes ORDER BY id LIMIT ?)), 0) FROM analytics_state"
)

_BY_MODEL = "endpoint, provider, model, key_id"
_TOTALS = ", ".join("sum(" + name + ") AS " + name for name in FIGURES)
_ADDED = ", ".join(" ".join((name, "=", name, "+ excluded." + name)) for name in FIGURES)

_TAKE = " ".join(
    (
        "CREATE TEMP TABLE analytics_slice AS SELECT", ROW, "FROM analytics_rows WHERE position > ? AND position <= ?",
        "UNION ALL SELECT", ROW, "FROM analytics_changes WHERE id <= ?",
    )
)  # fmt: skip
_GROUP = " ".join(
    (
        "CREATE TEMP TABLE analytics_groups AS SELECT hour, project, environment,", _BY_MODEL + ",", _TOTALS,
        "FROM analytics_slice GROUP BY hour, project, environment,", _BY_MODEL,
    )
)  # fmt: skip


def _add(table: str, period: str, members: str, source: str) -> str:
    """Add each line of the source to its sums. They are not grouped first: for lines that differ, that takes twice as long."""
    key = ", ".join((period, "project", "environment", members))
    value = "substr(hour, 1, 10)" if period == "day" else "hour"
    figures = ", ".join(FIGURES)
    return " ".join(
        (
            "INSERT INTO", table, "(", key, ",", figures, ") SELECT", value, ", project, environment,", members, ",", figures,
            "FROM", source, "ON CONFLICT (", key, ") DO UPDATE SET", _ADDED,
        )
    )  # fmt: skip


_ADD = (
    _add("analytics_hours", "hour", _BY_MODEL, "analytics_groups WHERE true"),
    _add("analytics_days", "day", _BY_MODEL, "analytics_groups WHERE true"),
    _add("analytics_user_days", "day", "user_id", "analytics_slice WHERE true"),
    _add(
        "analytics_metadata_days",
        "day",
        "member, value",
        " ".join(
            (
                "(SELECT s.*, m.key AS member,",
                MEMBER_VALUE,
                "AS value FROM analytics_slice AS s, json_each(s.metadata) AS m) WHERE true",
            )
        ),
    ),
    _add("analytics_answer_days", "day", "answer_of", "analytics_slice WHERE answer_of <> ''"),
)


_MADE = "SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND name GLOB 'analytics_*'"


async def watch(db: Database) -> bool:
    """See that changes of rows are noted from now on; False where there is no log."""
    if not await db.has_table("logs", "generations"):
        return False
    [(made,)] = await db.read_logs(_MADE)
    if made < len(TRIGGERS):  # or each start of a worker would wait for whoever has the database locked
        await db.write_logs(_make_triggers)
    return True


async def _make_triggers(db: Connection) -> None:
    for trigger in TRIGGERS:
        await db.execute(trigger)


async def catch_up(db: Database) -> None:
    """Add what there is to the sums, until less than a slice is left."""
    while (await db.read_logs(_WAITING, (SLICE, SLICE)))[0][0] >= SLICE:
        await db.write_logs(fold)


async def fold(db: Connection) -> None:
    """Add a slice to the sums, in the caller's transaction."""
    [(first, last, change)] = await db.execute_fetchall(_BOUNDS, (SLICE, SLICE))
    await db.execute(_TAKE, (first, last, change))
    await db.execute(_GROUP)
    for statement in _ADD:
        await db.execute(statement)
    await db.execute("DROP TABLE temp.analytics_slice")
    await db.execute("DROP TABLE temp.analytics_groups")
    await db.execute("DELETE FROM analytics_changes WHERE id <= ?", (change,))
    await db.execute("UPDATE analytics_state SET position = ?", (last,))
