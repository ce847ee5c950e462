"""What a receiver reads: of a crossing its facts and a sentence, and those as a webhook's body, for Slack, and as mail."""

from __future__ import annotations

from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any

import orjson

from muxx import iso_time, usd

from .rules import DAY_SECONDS, HOUR_SECONDS, Crossing, Rule, bounds
from .settings import Smtp
from .store import Event

TEST = "alert.test"


def kind_of(rule: Rule) -> str:
    return "alert.spend" if rule.is_money else "alert.limit"


def facts(crossing: Crossing) -> dict[str, Any]:
    """A crossing as JSON. Money is in exact decimal strings; what does not apply is null."""
    rule, end = crossing.rule, crossing.window_end // 1000
    lengths = {"hour": HOUR_SECONDS, "day": DAY_SECONDS}
    start = end - lengths[rule.window] if rule.window in lengths else bounds("month", end - 1)[0]
    money = rule.is_money
    return {
        "project": crossing.project,
        "alert": rule.name,
        "measure": rule.measure,
        "window": rule.window,
        "window_start": iso_time(start),
        "window_end": iso_time(end),
        "share": rule.share,
        "spent_usd": usd(crossing.used) if money else None,
        "limit_usd": usd(rule.limit) if money else None,
        "used": None if money else crossing.used,
        "limit": None if money else rule.limit,
        "user_id": crossing.user or None,
        "message": _sentence(crossing, start),
    }


def _sentence(crossing: Crossing, start: int) -> str:
    rule = crossing.rule
    shown = {"hour": "%Y-%m-%d %H:00", "day": "%Y-%m-%d", "month": "%Y-%m"}[rule.window]
    stretch = f"in the UTC {rule.window} {datetime.fromtimestamp(start, UTC).strftime(shown)}"
    who = f"Project {crossing.project}" + (f", user {crossing.user}," if crossing.user else "")
    share = "" if rule.share == 1 else f"{100 * rule.share:.10g} % of "
    if not rule.is_money:
        return f"{who} is at {crossing.used} {stretch}, which reaches {share}its {rule.measure} of {rule.limit}."
    owner = "its cap of" if rule.measure == "spend_cap" else "the alert's"
    return f"{who} has spent ${usd(crossing.used)} {stretch}, which reaches {share}{owner} ${usd(rule.limit)}."


def test_facts() -> dict[str, Any]:
    return {"message": "This is a test. Alerts of muxx will reach you this way."}


def body(event: Event) -> bytes:
    """What a webhook gets, and what its signature is of: the same bytes each time."""
    told = {"type": event.type, "timestamp": iso_time(event.at), "data": {"id": event.id, **event.facts}}
    return orjson.dumps(told)


def slack(event: Event) -> bytes:
    """Slack reads <, > and & as its own; what a user is called must not notify a channel."""
    text = _one_line(event.facts["message"]).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return orjson.dumps({"text": text})


def mail(event: Event, smtp: Smtp, to: tuple[str, ...]) -> EmailMessage:
    message = EmailMessage()
    message["From"] = smtp.from_
    message["To"] = ", ".join(to)
    message["Subject"] = _one_line(_subject(event))
    message["Date"] = format_datetime(datetime.fromtimestamp(event.at, UTC))
    message["Message-ID"] = f"<{event.id}@{smtp.from_.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"
    told = {name: value for name, value in event.facts.items() if value is not None}
    lines = [_one_line(told.pop("message")), "", *(f"{name}: {_one_line(str(value))}" for name, value in told.items())]
    message.set_content("\n".join([*lines, f"id: {event.id}", ""]))
    return message


def _subject(event: Event) -> str:
    return "muxx: a test" if event.type == TEST else f"muxx: {event.facts['project']}: {event.facts['alert']}"


def _one_line(text: str) -> str:
    """Names come from callers: none may begin a header or a line of its own."""
    return "".join(char if char.isprintable() else "?" for char in text)
