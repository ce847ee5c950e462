"""The SQL that answers a question: fixed pieces of it, and bound values."""

from __future__ import annotations

from typing import Any

from .periods import DAY, Span, day_name, edges, hour_name
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

_IN_DAYS = "day >= :first_day AND day < :day_after"
_IN_HOURS = "hour >= :first_hour AND hour < :hour_after"
_IN_EDGES = "hour >= :hour0 AND hour < :hour0_after", "hour >= :hour1 AND hour < :hour1_after"
_IN_TIME = "started_at >= :start AND started_at < :end"


def figures(question: Question) -> str:
    """A line for each period and value, of as many values as are wanted and one more; and one, marked, for all there is."""
    names = ", ".join(question.figures)
    totals = ", ".join("sum(" + name + ") AS " + name for name in question.figures)
    return " ".join(
        (
            "WITH grouped AS MATERIALIZED (SELECT start, value,", totals,
            "FROM (", _lines(question), ")", _grouping(question), "HAVING sum(requests) <> 0)",
            "SELECT 1 AS is_total, '' AS start, '' AS value,", totals, "FROM grouped UNION ALL",
            "SELECT 0, start, value,", names, "FROM grouped WHERE value IN",
            "(SELECT value FROM grouped", _ranking(question), "LIMIT :limit + 1)",
        )
    )  # fmt: skip


def _ranking(question: Question) -> str:
    """In what order values are wanted. Where there is one period each has one line, which is its sum already."""
    rank = _RANKS[question.about]
    if question.interval == "total" or (question.interval != "hour" and _is_of_one_day(question.span)):
        return " ".join(("ORDER BY", rank.replace("sum(", "(")))
    return " ".join(("GROUP BY value ORDER BY", rank))


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
        return " UNION ALL ".join((_from_sums(question, "analytics_hours", period, _IN_HOURS), rest))
    days = _from_sums(question, _TABLES[question.source], "day", _IN_DAYS)
    if question.source != "models":
        return " UNION ALL ".join((days, rest))
    hours = [_from_sums(question, "analytics_hours", period, edge) for edge in _IN_EDGES]
    return " UNION ALL ".join((days, *hours, rest))


def _from_sums(question: Question, table: str, period: str, when: str) -> str:
    member = ["member = :member"] if question.member is not None else []
    summed = not (table == _TABLES["users"] and _has_each_user_once(question))
    return _select(question, period, question.column or "''", table, [when, *member], summed=summed)


def _has_each_user_once(question: Question) -> bool:
    """Whether the sums of users' days have one line for each user it is about: to group them takes longer than to read them."""
    by_user = question.by == "user" and question.project is not None and question.environment is not None
    return by_user and _is_of_one_day(question.span)


def _is_of_one_day(span: Span) -> bool:
    return span.is_of_days and span.end - span.start == DAY


def _from_rows(question: Question, table: str, period: str, when: str) -> str:
    if question.member is not None:
        return _select(question, period, MEMBER_VALUE, table + _MEMBERS, [when, "m.key = :member"])
    answered = ["answer_of <> ''"] if question.source == "answers" else []
    return _select(question, period, question.column or "''", table, [when, *answered])


def _select(
    question: Question, period: str, value: str, table: str, conditions: list[str], *, summed: bool = True
) -> str:
    for name, wanted in (("project", question.project), ("environment", question.environment), *question.filters.items()):
        if wanted is not None:
            conditions.append(" ".join((name, "= :" + name)))
    start, where = _STARTS[question.interval].replace("period", period), " AND ".join(conditions)
    head = ("SELECT", start, "AS start,", value, "AS value,")
    if not summed:
        return " ".join((*head, ", ".join(question.figures), "FROM", table, "WHERE", where))
    totals = ", ".join("sum(" + name + ") AS " + name for name in question.figures)
    return " ".join((*head, totals, "FROM", table, "WHERE", where, _grouping(question)))


def _grouping(question: Question) -> str:
    """By period and value. What is the same in all lines is left out: sorting by it takes as long as by anything else."""
    if question.interval == "total" and question.by is not None:
        return "GROUP BY 2"
    return "GROUP BY 1" if question.by is None else "GROUP BY 1, 2"
