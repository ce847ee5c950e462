"""The search indexes: which rows may match a filter, so that what is rare is found without looking at every row.

Both are full-text tables of SQLite that keep no text, only for each word the positions of the rows that hold it. The words of
`logs_facets` are the values of fields and of metadata; those of `logs_text` are all runs of three characters of the content.

Invariants:

- Of the rows up to the position an index has reached, every one that matches a filter is among its candidates. Which of them do
  match, the filter itself decides.
- What is deleted or changed leaves the index in the same transaction, whoever does it: triggers see to that.
- An index is a convenience: without it, as where SQLite comes without FTS5, the same rows are found by looking at all.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from muxx import Connection

from .filters import MEMBER_VALUE, Filter

MERGED_PAGES = 64
"""Pages of an index that are written anew in one transaction, to keep its pieces few: some milliseconds' work."""
_VALUE_LENGTH = 64
"""Characters of a value that go into its word."""
_RUN = 3
"""What the tokenizer `trigram` cuts text into."""
_MOST_WORDS = 4
"""Words that are asked for together: four rare ones leave few candidates, and each one more is another list to go through."""
_TRIGRAM_SINCE = (3, 34)

_METADATA = " ".join(
    (
        "CASE WHEN json_valid(g.metadata) THEN (SELECT group_concat('k' || hex(substr(m.key, 1, 64)) || 'x' || hex(substr(",
        MEMBER_VALUE,
        ", 1, 64)), ' ') FROM json_each(g.metadata) AS m) END",
    )
)
_WORDS = " ".join(
    (
        "coalesce('j' || hex(substr(g.project, 1, 64)), '') || ' ' || coalesce('e' || hex(g.environment), '') || ' ' ||",
        "coalesce('p' || hex(substr(g.provider, 1, 64)), '') || ' ' ||",
        "coalesce('m' || hex(substr(g.model, 1, 64)), '') || ' ' ||",
        "coalesce('m' || hex(substr(g.model_requested, 1, 64)), '') || ' ' || coalesce('s' || g.status, '') || ' ' ||",
        "coalesce('c' || hex(g.cache), '') || ' ' || coalesce('u' || hex(substr(g.user_id, 1, 64)), '') || ' ' ||",
        "coalesce(" + _METADATA + ", '')",
    )
)
"""The words of a row `g`: a letter for the field and its value in hexadecimal digits, which no tokenizer takes apart."""
_FACET_COLUMNS = ("project", "environment", "provider", "model", "model_requested", "status", "cache", "user_id", "metadata")


def _changed(columns: tuple[str, ...]) -> str:
    return " OR ".join("old." + name + " IS NOT new." + name for name in columns)


@dataclass(frozen=True)
class Index:
    """The SQL of one of them."""

    name: str
    table: str
    create: str
    triggers: tuple[tuple[str, str], ...]
    """Names, and what makes them."""
    add: str
    """Takes rows in: those behind the first position it binds, up to the second."""
    command: str
    """Tells FTS5 something: a word and a number."""
    among: str
    """A condition on a generation `g`: it is a candidate for the words, between two positions."""
    newest: str
    """How many candidates there are for the words, at most so many, and the positions of the newest as a JSON list."""


_AS_LIST = "SELECT count(*), json_group_array(rowid) FROM"
_FACETS_REACHED = "(SELECT position FROM logs_indexed WHERE name = 'facets')"
_FACETS_GONE = " ".join(
    (
        "INSERT INTO logs_facets (logs_facets, rowid, words) SELECT 'delete', old.position,",
        _WORDS.replace("g.", "old."),
        "WHERE old.position <=",
        _FACETS_REACHED + ";",
    )
)
FACETS = Index(
    "facets",
    "logs_facets",
    "CREATE VIRTUAL TABLE logs_facets USING fts5(words, content = '', columnsize = 0, detail = none, tokenize = 'ascii')",
    (
        (
            "logs_facets_deleted",
            "CREATE TRIGGER logs_facets_deleted AFTER DELETE ON generations BEGIN " + _FACETS_GONE + " END",
        ),
        (
            "logs_facets_changed",
            " ".join(
                (
                    "CREATE TRIGGER logs_facets_changed AFTER UPDATE ON generations WHEN",
                    _changed(_FACET_COLUMNS),
                    "BEGIN",
                    _FACETS_GONE,
                    "INSERT INTO logs_facets (rowid, words) SELECT new.position,",
                    _WORDS.replace("g.", "new."),
                    "WHERE new.position <=",
                    _FACETS_REACHED + "; END",
                )
            ),
        ),
    ),
    " ".join(
        (
            "INSERT INTO logs_facets (rowid, words) SELECT g.position,",
            _WORDS,
            "FROM generations AS g WHERE g.position > ? AND g.position <= ? ORDER BY g.position",
        )
    ),
    "INSERT INTO logs_facets (logs_facets, rank) VALUES (?, ?)",
    "g.position IN (SELECT rowid FROM logs_facets WHERE logs_facets MATCH ? AND rowid BETWEEN ? AND ?)",
    " ".join((_AS_LIST, "(SELECT rowid FROM logs_facets WHERE logs_facets MATCH ? ORDER BY rowid DESC LIMIT ?)")),
)

_TEXT_ROW = (
    "FROM generations AS g JOIN logs_indexed AS i ON i.name = 'text' AND g.position <= i.position"
    " WHERE g.request_id = old.request_id;"
)
_TEXT_GONE = " ".join(
    ("INSERT INTO logs_text (logs_text, rowid, input, output) SELECT 'delete', g.position, old.input, old.output", _TEXT_ROW)
)
TEXT = Index(
    "text",
    "logs_text",
    "CREATE VIRTUAL TABLE logs_text USING fts5(input, output, content = '', columnsize = 0, detail = none, tokenize = 'trigram')",
    (
        ("logs_text_deleted", "CREATE TRIGGER logs_text_deleted AFTER DELETE ON contents BEGIN " + _TEXT_GONE + " END"),
        (
            "logs_text_changed",
            " ".join(
                (
                    "CREATE TRIGGER logs_text_changed AFTER UPDATE ON contents WHEN",
                    _changed(("input", "output")),
                    "BEGIN",
                    _TEXT_GONE,
                    "INSERT INTO logs_text (rowid, input, output) SELECT g.position, new.input, new.output",
                    _TEXT_ROW,
                    "END",
                )
            ),
        ),
    ),
    "INSERT INTO logs_text (rowid, input, output) SELECT g.position, c.input, c.output FROM generations AS g"
    " CROSS JOIN contents AS c ON c.request_id = g.request_id WHERE g.position > ? AND g.position <= ? ORDER BY g.position",
    "INSERT INTO logs_text (logs_text, rank) VALUES (?, ?)",
    "g.position IN (SELECT rowid FROM logs_text WHERE logs_text MATCH ? AND rowid BETWEEN ? AND ?)",
    " ".join((_AS_LIST, "(SELECT rowid FROM logs_text WHERE logs_text MATCH ? ORDER BY rowid DESC LIMIT ?)")),
)
INDEXES = (FACETS, TEXT)

_REACHED = "SELECT position FROM logs_indexed WHERE name = ?"
_NEXT = "SELECT max(position), count(*) FROM (SELECT position FROM generations WHERE position > ? ORDER BY position LIMIT ?)"
_HAS_FTS5 = "SELECT 1 FROM pragma_module_list WHERE name = 'fts5'"


async def prepare(db: Connection, wanted: bool) -> None:
    """Make the indexes that are missing, empty. Where they are not `wanted`, or SQLite has no such thing, see to it that nothing
    goes by what is there.

    The transaction is the caller's.
    """
    possible = sqlite3.sqlite_version_info >= _TRIGRAM_SINCE and bool(list(await db.execute_fetchall(_HAS_FTS5)))
    for index in INDEXES:
        begun = bool(list(await db.execute_fetchall(_REACHED, (index.name,))))
        if begun and wanted and possible:
            continue
        for name, _ in index.triggers:
            await db.execute("DROP TRIGGER IF EXISTS " + name)
        await db.execute("DELETE FROM logs_indexed WHERE name = ?", (index.name,))
        if possible:
            await db.execute("DROP TABLE IF EXISTS " + index.table)
        if possible and wanted:
            await _make(db, index)


async def _make(db: Connection, index: Index) -> None:
    """Its pieces are merged by `merge`, a little at a time, and never all at once behind a writer's back."""
    await db.execute(index.create)
    await db.execute(index.command, ("automerge", 0))
    await db.execute(index.command, ("crisismerge", 1000))
    for _, trigger in index.triggers:
        await db.execute(trigger)
    await db.execute("INSERT INTO logs_indexed VALUES (?, 0)", (index.name,))


async def extend(db: Connection, rows: int, index: Index) -> int:
    """Take some more rows in; how many there were. None where there is no such index."""
    reached = [row[0] for row in await db.execute_fetchall(_REACHED, (index.name,))]
    if not reached:
        return 0
    [(last, count)] = await db.execute_fetchall(_NEXT, (reached[0], rows))
    if count:
        await db.execute(index.add, (reached[0], last))
        await db.execute("UPDATE logs_indexed SET position = ? WHERE name = ?", (last, index.name))
    return int(count)


async def merge(db: Connection, index: Index) -> bool:
    """Merge some of the index's pieces; False when there is nothing to merge, or no such index."""
    if not list(await db.execute_fetchall(_REACHED, (index.name,))):
        return False
    before = db.total_changes
    await db.execute(index.command, ("merge", MERGED_PAGES))
    return db.total_changes - before > 1  # so FTS5 tells


async def begin_whole_merge(db: Connection, index: Index) -> None:
    """Have `merge` go on until there is one piece: only then nothing is left of what has left the index."""
    if list(await db.execute_fetchall(_REACHED, (index.name,))):
        await db.execute(index.command, ("merge", -MERGED_PAGES))


def facet_words(filter: Filter) -> str | None:
    """What to ask `logs_facets` for rows that match `filter`, what is mostly rare first; None when it asks for no value."""
    words = [] if filter.user_id is None else ["u" + _digits(filter.user_id)]
    words += ["k" + _digits(key) + "x" + _digits(value) for key, value in filter.metadata]
    if filter.status is not None:
        words.append("s" + str(filter.status))
    fields = (
        ("c", filter.cache),
        ("p", filter.provider),
        ("m", filter.model),
        ("j", filter.project),
        ("e", filter.environment),
    )
    words += [letter + _digits(value) for letter, value in fields if value is not None]
    return _all_of(words) or None


def text_runs(filter: Filter) -> list[str]:
    """The runs of three characters of the text that is looked for, each once; none where there is no text, or one too short."""
    text = filter.spelt_text or ""
    return list(dict.fromkeys(text[at : at + _RUN] for at in range(len(text) - _RUN + 1)))


def text_words(runs: Iterable[str]) -> str:
    """What to ask `logs_text` for rows that hold all of these runs."""
    return _all_of(runs)


def _all_of(words: Iterable[str]) -> str:
    """FTS5 goes by the first word, so what is rare should come first."""
    return " AND ".join('"' + word.replace('"', '""') + '"' for word in islice(words, _MOST_WORDS))


def _digits(value: str) -> str:
    """As `hex(substr(value, 1, 64))` in SQLite, for which text ends at a NUL."""
    return value.partition("\0")[0][:_VALUE_LENGTH].encode().hex()
