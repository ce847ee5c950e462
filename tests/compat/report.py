"""The table: a row per client and endpoint, a column per provider's format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .trial import Row

DOCS_PATH = "docs/compatibility.md"
DOCS = Path(__file__).parents[2] / DOCS_PATH
BEGIN, END = "<!-- table: written by make compat -->", "<!-- end of the table -->"

FORMATS = {"openai": "OpenAI", "anthropic": "Anthropic", "google": "Google"}
TITLES = ("Client", "Version", "Language", "Endpoint", *FORMATS.values(), "Notes")
NAMES = {"schema": "structured output"}
"""Cases by another name than their own."""


def cell(row: Row, format: str) -> str:
    """`ok`, or which cases failed; a dash where the client has nothing to do with that provider."""
    if format not in row.face.formats:
        return "—"
    if row.failure and not row.outcomes:
        return "did not run"
    failed = row.failed(format)
    return f"failed: {_list(failed)}" if failed else "ok"


def cells(row: Row) -> list[str]:
    """One line of the table."""
    return [
        row.face.title,
        row.version,
        row.client.language,
        f"`{row.face.path}`",
        *(cell(row, name) for name in FORMATS),
        _notes(row),
    ]


def _notes(row: Row) -> str:
    without = f"without {_list(row.face.without)}" if row.face.without else ""
    return "; ".join(filter(None, [without, row.face.note, row.failure]))


def _list(cases: Sequence[str]) -> str:
    return ", ".join(NAMES.get(case, case) for case in cases)


def table(rows: Sequence[Row]) -> str:
    """In Markdown."""
    lines = [TITLES, ["---"] * len(TITLES), *map(cells, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def page(text: str, rows: Sequence[Row]) -> str:
    """The page with the table between its markers."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{table(rows)}\n{END}{after}"


def failures(rows: Sequence[Row]) -> list[str]:
    """A line for each thing that went wrong."""
    lines = []
    for row in rows:
        where = f"{row.client.name} {row.face.path}"
        if row.failure:
            lines.append(f"{where}: {row.failure}")
        bad = [outcome for outcome in row.outcomes if not outcome.ok]
        lines += [f"{where}, {outcome.format}, {outcome.case}: {outcome.saw}" for outcome in bad]
        ran = {(outcome.format, outcome.case) for outcome in row.outcomes}
        missing = [f"{format} {case}" for format in row.face.formats for case in row.face.cases if (format, case) not in ran]
        if missing and not row.failure:
            lines.append(f"{where}: never ran: {', '.join(missing)}")
    return lines


def data(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """All of it, as plain data."""
    return [
        {
            "client": row.client.name,
            "language": row.client.language,
            "packages": list(row.face.packages),
            "version": row.version,
            "endpoint": row.face.path,
            "without": list(row.face.without),
            "failure": row.failure or None,
            "outcomes": [
                {"format": it.format, "case": it.case, "ok": it.ok, "seconds": it.seconds, "saw": it.saw} for it in row.outcomes
            ],
        }
        for row in rows
    ]
