"""The rules of projects and how they stand, and the events: as JSON, the same over HTTP and from commands."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict

from muxx import Config, Host, Moment, Shown, resolved_settings, settings_of, usd

from .rules import Rule, bounds, rules_of
from .settings import AlertsConfig
from .spend import WINDOWS, spent
from .store import AlertStore, Outcome


class Alert(Shown):
    """A rule, and how it stands."""

    object: Literal["alert"] = "alert"
    project: str
    alert: str
    """In words."""
    measure: str
    window: str
    share: float
    """Of the limit at which somebody is told."""
    spent_usd: str | None
    limit_usd: str | None
    limit: int | None
    told: int
    """How often somebody was told in the window that runs."""
    to: list[str]
    """The receivers."""
    unknown_receivers: list[str]
    """Those it names and the file does not know."""


class Delivery(Shown):
    receiver: str
    state: str
    attempts: int
    tried_at: Moment | None
    due_at: Moment | None
    """When it is tried next."""
    status: int | None
    """What the receiver answered last."""
    problem: str | None


class AlertEvent(Shown):
    """A crossing; what it was of is as in the message to the receivers."""

    model_config = ConfigDict(extra="allow")

    object: Literal["alert_event"] = "alert_event"
    id: str
    at: Moment
    type: str
    deliveries: list[Delivery]


class AlertTest(Shown):
    object: Literal["alert_test"] = "alert_test"
    receiver: str
    delivered: bool
    status: int | None
    problem: str | None


async def projects(host: Host, name: str | None) -> dict[str, Mapping[str, Any]]:
    """What this project sets itself, or every one that is not archived. Raises `NotFound`."""
    rows = await host.projects.rows() if name is None else [await host.projects.named(name)]
    return {row.name: row.own for row in rows if row.archived_at is None}


async def rules(host: Host, config: Config, alerts: AlertsConfig, own: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rules of projects, by their names and what they set themselves, and how they stand."""
    now = time.time()
    sums = {window: await spent(host.db, *bounds(window, now), list(own)) for window in WINDOWS}
    told: dict[tuple[str, str], int] = {}
    for name, key, _, _ in await AlertStore(host.db).told(now):
        told[name, key] = told.get((name, key), 0) + 1
    return [
        _rule(name, rule, alerts, sums.get(rule.window, {}).get(name, 0), told.get((name, rule.key), 0))
        for name, set_itself in own.items()
        for rule in rules_of(settings_of(resolved_settings(config.project, set_itself)))
    ]


def _rule(project: str, rule: Rule, alerts: AlertsConfig, pico: int, told: int) -> dict[str, Any]:
    money = rule.is_money
    return Alert(
        project=project,
        alert=rule.name,
        measure=rule.measure,
        window=rule.window,
        share=rule.share,
        spent_usd=usd(pico) if money else None,
        limit_usd=usd(rule.limit) if money else None,
        limit=None if money else rule.limit,
        told=told,
        to=list(alerts.chosen(rule.to)),
        unknown_receivers=[name for name in rule.to if name not in alerts.receivers],
    ).as_json()


def event(row: Mapping[str, Any]) -> dict[str, Any]:
    deliveries = [_delivery(delivery) for delivery in row["deliveries"]]
    return AlertEvent(id=row["id"], at=row["at"], type=row["type"], deliveries=deliveries, **row["facts"]).as_json()


def _delivery(row: Mapping[str, Any]) -> Delivery:
    return Delivery(
        receiver=row["receiver"],
        state=row["state"],
        attempts=row["attempts"],
        tried_at=row["tried_at"],
        due_at=row["due_at"] if row["state"] == "waiting" else None,
        status=row["status"],
        problem=row["problem"],
    )


def tested(receiver: str, outcome: Outcome) -> dict[str, Any]:
    status, problem, _ = outcome
    return AlertTest(receiver=receiver, delivered=problem is None, status=status, problem=problem).as_json()
