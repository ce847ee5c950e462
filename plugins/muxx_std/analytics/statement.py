"""The SQL that answers a question: fixed pieces of it, and bound values."""

from __future__ import annotations

from typing import Any

from .periods import day_name, edges, hour_name
from .question import Question
from .schema import MEMBER_VALUE

_STARTS = {
    "hour": "period",
    "day": "period",
    "week": "date(period, 'weekday 0', '-6 days')",
    "month": "substr(period, 1, 7) || '-01'",
    "total": "''",
}
"""What a period is called, by an hour or a day of it. ISO weeks begin on Mondays."""
_RANKS = {
    "spend": "sum(cost_micro) * 1000000.0 + sum(cost_rest) DESC, sum(requests) DESC, value",
    "cache": "sum(hits) + sum(joined) DESC, value",
}
"""Which values are wanted: the most expensive, or those that the cache gave most often."""

_TABLES = {
    "models": "analytics_days",
    "users": "analytics_user_days",
    "metadata": "analytics_metadata_days",
    "answers": "analytics_answer_days",
}
_MEMBERS = ", json_each(metadata) AS m"

_IN_DAY = "day = :first_day"
_IN_DAYS = "day >= :first_day AND day < :day_after"
_IN_HOURS = "hour >= :first_hour AND hour < :hour_after"
_IN_EDGES = "hour >= :hour0 AND hour < :hour0_after", "hour >= :hour1 AND hour < :hour1_after"
_IN_TIME = "started_at >= :start AND started_at < :end"


def figures(question: Question) -> str:
    """A line for each period and value, of as many values as are wanted and one more; and one, marked, for all there is."""
    totals = _totals(question)
    before, lines, everything = _of_candidates(question) if _has_many_values(question) else ("", _lines(question), "grouped")
    return " ".join(
        (
            "WITH", before, "grouped AS MATERIALIZED (SELECT start, value,", totals,
            "FROM (", lines, ")", _grouping(question), "HAVING sum(requests) <> 0)",
            "SELECT 1 AS is_total, '' AS start, '' AS value,", totals, "FROM", everything, "UNION ALL",
            "SELECT 0, start, value,", ", ".join(question.figures), "FROM grouped WHERE value IN",
            "(SELECT value FROM grouped", _ranking(question, each_once=_is_of_one_period(question)), "LIMIT :limit + 1)",
        )
    )  # fmt: skip


def _totals(question: Question) -> str:
    return ", ".join("sum(" + name + ") AS " + name for name in question.figures)


def _has_many_values(question: Question) -> bool:
    """Whether the sums that answer may have a line for each of a great many values, of which few are wanted."""
    return question.source in ("users", "metadata", "answers") and not question.filters


def _of_candidates(question: Question) -> tuple[str, str, str]:
    """What comes before, the lines that are grouped, and what all comes to.

    To sort all figures of 20,000 users takes five times as long as to read them. So the sums are read for what all comes to, and
    for the values that come first among those that are not in `rest`, whose sums are whole. With all that are in `rest` these are
    the candidates, and only their lines are grouped.
    """
    value, names = str(question.column), ", ".join(question.figures)
    rest = _from_rows(question, "analytics_unfolded", "substr(hour, 1, 10)", _IN_HOURS)
    sums = " ".join((_TABLES[question.source], "WHERE", _conditions(question, _of_days(question))))
    before = " ".join(
        (
            "rest AS MATERIALIZED (", rest, "),",
            "candidates AS MATERIALIZED (SELECT value FROM rest UNION SELECT value FROM (",
            "SELECT", value, "AS value FROM", sums, "AND requests <> 0 AND", value, "NOT IN (SELECT value FROM rest)",
            _ranking(question, each_once=_is_of_one_group(question)), "LIMIT :limit + 1)),",
        )
    )  # fmt: skip
    lines = " ".join(
        (
            "SELECT", _start(question, "day"), "AS start,", value, "AS value,", names, "FROM", sums,
            "AND", value, "IN (SELECT value FROM candidates) UNION ALL SELECT start, value,", names, "FROM rest",
        )
    )  # fmt: skip
    totals = _totals(question)
    everything = " ".join(("(SELECT", totals, "FROM", sums, "UNION ALL SELECT", totals, "FROM rest)"))
    return before, lines, everything


def _ranking(question: Question, *, each_once: bool) -> str:
    """In what order values are wanted. To group those that have one line each takes longer than to read them."""
    rank = _RANKS[question.about]
    return " ".join(("ORDER BY", rank.replace("sum(", "("))) if each_once else " ".join(("GROUP BY value ORDER BY", rank))


def _is_of_one_period(question: Question) -> bool:
    return question.interval == "total" or (question.interval != "hour" and question.span.is_one_day)


def _is_of_one_group(question: Question) -> bool:
    """Whether a value has one line in the sums of days."""
    return question.project is not None and question.environment is not None and question.span.is_one_day


def requests(question: Question) -> str:
    """How many there are."""
    return " ".join(("SELECT coalesce(sum(requests), 0) FROM (", _lines(question), ")"))


def values(question: Question) -> dict[str, Any]:
    """What both of them bind."""
    span = question.span
    days = span.days()
    bound: dict[str, Any] = {"start": span.start, "end": span.end, "limit": question.limit}
    bound |= {"project": question.project, "environment": question.environment, "member": question.member}
    bound |= {"first_day": day_name(days.start), "day_after": day_name(days.end)}
    bound |= {"first_hour": hour_name(span.start), "hour_after": hour_name(span.end)}
    for number, edge in enumerate(edges(span)):
        bound |= {"hour" + str(number): hour_name(edge.start), "hour" + str(number) + "_after": hour_name(edge.end)}
    return bound | question.filters


def _lines(question: Question) -> str:
    """Everything that is to be summed: from the sums what they cover, and what they do not cover yet; or from the rows. Each is
    grouped by itself, which takes half as long as all together."""
    period = "hour" if question.interval == "hour" else "substr(hour, 1, 10)"
    if question.source == "rows":
        return _from_rows(question, "analytics_rows", period, _IN_TIME)
    rest = _from_rows(question, "analytics_unfolded", period, _IN_HOURS)
    if question.interval == "hour":
        return " UNION ALL ".join((_from_sums(question, "analytics_hours", period, [_IN_HOURS]), rest))
    days = _from_sums(question, _TABLES[question.source], "day", _of_days(question))
    if question.source != "models":
        return " UNION ALL ".join((days, rest))
    hours = [_from_sums(question, "analytics_hours", period, [edge]) for edge in _IN_EDGES]
    return " UNION ALL ".join((days, *hours, rest))


def _from_sums(question: Question, table: str, period: str, conditions: list[str]) -> str:
    return _select(question, period, question.column or "''", table, conditions)


def _from_rows(question: Question, table: str, period: str, when: str) -> str:
    if question.member is not None:
        return _select(question, period, MEMBER_VALUE, table + _MEMBERS, [when, "m.key = :member"])
    answered = ["answer_of <> ''"] if question.source == "answers" else []
    return _select(question, period, question.column or "''", table, [when, *answered])


def _select(question: Question, period: str, value: str, table: str, conditions: list[str]) -> str:
    where = _conditions(question, conditions)
    head = ("SELECT", _start(question, period), "AS start,", value, "AS value,")
    return " ".join((*head, _totals(question), "FROM", table, "WHERE", where, _grouping(question)))


def _start(question: Question, period: str) -> str:
    return _STARTS[question.interval].replace("period", period)


def _of_days(question: Question) -> list[str]:
    """Which lines of sums of days. One day is named as such, so that what comes behind it in the table's order is looked up."""
    member = ["member = :member"] if question.member is not None else []
    return [_IN_DAY if question.span.is_one_day else _IN_DAYS, *member]


def _conditions(question: Question, conditions: list[str]) -> str:
    columns = ("project", question.project), ("environment", question.environment), *question.filters.items()
    return " AND ".join((*conditions, *(" ".join((name, "= :" + name)) for name, wanted in columns if wanted is not None)))


def _grouping(question: Question) -> str:
    """By period and value. What is the same in all lines is left out: sorting by it takes as long as by anything else."""
    if question.interval == "total" and question.by is not None:
        return "GROUP BY 2"
    return "GROUP BY 1" if question.by is None else "GROUP BY 1, 2"
