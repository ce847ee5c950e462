"""The sums of the log: their tables, what is added to them, and what is not in them yet.

Invariants:

- The sums cover the rows up to a position. Sums, plus `analytics_unfolded`, are always the figures of every row there ever was,
  to the pico-dollar: each row counts once, however often it is stored, as it was changed last.
- A row that changes when it has been summed leaves two lines in `analytics_changes`: what it was, negative, and what it is.
- A row that is deleted stays in the figures. Positions may be given again after that, so the position that is covered never stays
  beyond the last one there is.

Money is summed in two parts, as its sum may pass 64 bits: millions of pico-dollars and the rest.
"""

from __future__ import annotations

from muxx import Migration

FIGURES = (
    "requests", "errors", "input_tokens", "output_tokens", "cost_micro", "cost_rest", "priced", "saved_micro", "saved_rest",
    "hits", "joined", "misses",
)  # fmt: skip
"""What is summed. `priced` is how many requests have a known cost; `misses` are those for which the cache was asked in vain."""

_NUMBERS = " INTEGER NOT NULL, ".join(FIGURES) + " INTEGER NOT NULL"
_MEMBERS = "hour, project, environment, endpoint, provider, model, key_id, user_id, metadata, answer_of"
ROW = ", ".join((_MEMBERS, *FIGURES))
"""What there is of a row: when and whose it was, and its figures. None of it is NULL but metadata; what a row lacks is ''."""
_UNINDEXED = ", ".join(("hour, +project AS project, +environment AS environment", *_MEMBERS.split(", ")[3:], *FIGURES))
"""So that the last rows are looked up by their position, whatever is asked of them: there are few."""
_NEGATED = ", ".join((_MEMBERS, *("-" + name for name in FIGURES)))
MEMBER_VALUE = "CASE WHEN m.type IN ('true', 'false', 'null') THEN m.type ELSE CAST(m.value AS TEXT) END"
"""Of a member `m` of metadata, as text."""
_TOKENS = ("min(max(coalesce(CASE WHEN usage_source IS 'cache' THEN 0 ELSE ", " END, 0), 0), 1000000000000)")
"""Of a request that another paid for: none. A provider that claims more than 10^12 is not believed, so that no sum overflows."""

_ROWS_VIEW = " ".join(
    (
        "CREATE VIEW analytics_rows AS SELECT position, started_at,",
        "coalesce(strftime('%Y-%m-%d %H', CAST(started_at AS INTEGER), 'unixepoch'), '1970-01-01 00') AS hour,",
        "project, environment, coalesce(endpoint, '') AS endpoint, coalesce(provider, '') AS provider,",
        "coalesce(model, model_requested, '') AS model, coalesce(key_id, '') AS key_id, coalesce(user_id, '') AS user_id,",
        "CASE WHEN json_valid(metadata) THEN metadata END AS metadata,",
        "CASE WHEN cache IN ('hit', 'joined') AND json_valid(attributes)",
        "THEN coalesce(json_extract(attributes, '$.answer_of'), '') ELSE '' END AS answer_of,",
        "1 AS requests, coalesce(status >= 400, 0) OR error_code IS NOT NULL AS errors,",
        "input_tokens".join(_TOKENS) + " AS input_tokens,",
        "output_tokens".join(_TOKENS) + " AS output_tokens,",
        "coalesce(cost_pico / 1000000, 0) AS cost_micro, coalesce(cost_pico % 1000000, 0) AS cost_rest,",
        "cost_pico IS NOT NULL AS priced,",
        "coalesce(saved_pico / 1000000, 0) AS saved_micro, coalesce(saved_pico % 1000000, 0) AS saved_rest,",
        "cache IS 'hit' AS hits, cache IS 'joined' AS joined, cache IS 'miss' AS misses",
        "FROM generations WHERE project IS NOT NULL AND environment IS NOT NULL",
    )
)
"""Requests without a key that works are nobody's, and in no figure."""


def _sums(name: str, key: str) -> Migration:
    """A table of sums by these columns, in which it is ordered."""
    texts = " TEXT NOT NULL, ".join(key.split(", ")) + " TEXT NOT NULL,"
    pieces = ("CREATE TABLE", name, "(", texts, _NUMBERS, ", PRIMARY KEY (", key, ")) STRICT, WITHOUT ROWID")
    return Migration("logs", " ".join(pieces))


MIGRATIONS = (
    Migration("logs", "CREATE TABLE analytics_state (position INTEGER NOT NULL) STRICT; INSERT INTO analytics_state VALUES (0);"),
    _sums("analytics_hours", "hour, project, environment, endpoint, provider, model, key_id"),
    _sums("analytics_days", "day, project, environment, endpoint, provider, model, key_id"),
    _sums("analytics_user_days", "day, project, environment, user_id"),
    _sums("analytics_metadata_days", "member, day, project, environment, value"),
    _sums("analytics_answer_days", "day, project, environment, answer_of"),
    Migration(
        "logs",
        " ".join(
            (
                "CREATE TABLE analytics_changes (id INTEGER PRIMARY KEY, hour TEXT NOT NULL, project TEXT NOT NULL,",
                "environment TEXT NOT NULL, endpoint TEXT NOT NULL, provider TEXT NOT NULL, model TEXT NOT NULL,",
                "key_id TEXT NOT NULL, user_id TEXT NOT NULL, metadata TEXT, answer_of TEXT NOT NULL,",
                _NUMBERS,
                ") STRICT",
            )
        ),
    ),
    Migration("logs", _ROWS_VIEW),
    Migration(
        "logs",
        " ".join(
            (
                "CREATE VIEW analytics_unfolded AS SELECT",
                _UNINDEXED,
                "FROM analytics_rows WHERE position > (SELECT position FROM analytics_state) UNION ALL SELECT",
                ROW,
                "FROM analytics_changes",
            )
        ),
    ),
    Migration(
        "logs",
        """
        CREATE VIEW spend_by_day AS
        SELECT project, environment, day, requests, cost_micro AS micro, cost_rest AS rest FROM analytics_days
        UNION ALL SELECT project, environment, substr(hour, 1, 10), requests, cost_micro, cost_rest FROM analytics_unfolded
        """,
    ),
)
"""`spend_by_day` is for other plugins and for people: several lines a day, to be summed by whoever reads them. A day is in UTC,
and what was spent in it `micro * 1000000 + rest` pico-dollars."""

_COUNTED = (
    "started_at", "project", "environment", "endpoint", "provider", "model", "model_requested", "key_id", "user_id", "metadata",
    "attributes", "status", "error_code", "usage_source", "input_tokens", "output_tokens", "cost_pico", "saved_pico", "cache",
)  # fmt: skip
"""What the figures are made of."""
_CHANGED = " ".join(
    (
        "WHEN OLD.position <= (SELECT position FROM analytics_state) AND",
        "(" + ", ".join("OLD." + name for name in _COUNTED) + ") IS NOT (" + ", ".join("NEW." + name for name in _COUNTED) + ")",
    )
)
_NOTE = " ".join(("BEGIN INSERT INTO analytics_changes (", ROW, ") SELECT"))
TRIGGERS = (
    " ".join(
        (
            "CREATE TRIGGER IF NOT EXISTS analytics_before_change BEFORE UPDATE ON generations",
            _CHANGED,
            _NOTE,
            _NEGATED,
            "FROM analytics_rows WHERE position = OLD.position; END",
        )
    ),
    " ".join(
        (
            "CREATE TRIGGER IF NOT EXISTS analytics_after_change AFTER UPDATE ON generations",
            _CHANGED,
            _NOTE,
            ROW,
            "FROM analytics_rows WHERE position = NEW.position; END",
        )
    ),
    " ".join(
        (
            "CREATE TRIGGER IF NOT EXISTS analytics_before_delete BEFORE DELETE ON generations",
            "WHEN OLD.position > (SELECT position FROM analytics_state)",
            _NOTE,
            ROW,
            "FROM analytics_rows WHERE position = OLD.position; END",
        )
    ),
    "CREATE TRIGGER IF NOT EXISTS analytics_after_delete AFTER DELETE ON generations"
    " WHEN OLD.position >= (SELECT position FROM analytics_state)"
    " BEGIN UPDATE analytics_state SET position = min(position, coalesce((SELECT max(position) FROM generations), 0)); END",
)
"""They stand on another plugin's table, so they are made when that is there: before anything is summed, and at each start."""
