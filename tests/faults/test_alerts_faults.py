"""Alerts when processes are killed, when several workers see the same crossing, and when receivers or the database do not answer."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alerts_kit import OK, PRICE, QUICK, alerting, costing, events, receiving, settled, until, webhook
from durability_scenarios import locked
from process_kit import gateway_process, query

from muxx.testing import GatewayProcess, ScriptedUpstream, chat, eventually, hold, json
from muxx.testing.upstream import unused_port
from muxx_std.alerts import store
from muxx_std.alerts.store import AlertStore


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as provider:
        provider.script(costing(1))
        yield provider


def process(
    directory: Path, upstream: ScriptedUpstream, project: Mapping[str, Any], receiver: Mapping[str, Any], workers: int = 1
) -> GatewayProcess:
    config = {
        "project": {"cache": {"enabled": False}, **project},
        "plugins": {"alerts": {**QUICK, "receivers": {"ops": receiver}}, "pricing": {"prices": [PRICE]}},
    }
    return gateway_process(directory, upstream, config, workers=workers)


def told(directory: Path) -> list[tuple[Any, ...]]:
    return query(directory / "muxx.db", "SELECT rule, state FROM alert_events LEFT JOIN alert_deliveries ON event = id ORDER BY rule")


def make_due(directory: Path) -> None:
    """Let the time pass until every delivery is tried, or tried again."""
    with closing(sqlite3.connect(directory / "muxx.db")) as db, db:
        db.execute("UPDATE alert_deliveries SET state = 'waiting', due_at = 0")


async def test_workers_that_see_one_crossing_make_one_event(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    project = {"limits": {"rpd": 100}, "alerts": [{"limit": "rpd", "share": 0.1}, {"usd": "20"}]}
    async with receiving() as hook, process(tmp_path, upstream, project, webhook(hook), workers=2) as gateway:
        await asyncio.gather(*(gateway.chat(str(number)) for number in range(50)))
        await eventually(lambda: len(hook.requests) >= 2)
        await asyncio.sleep(0.4)
        assert [(rule.partition(" ")[0], state) for rule, state in told(tmp_path)] == [
            ("rpd:0.1", "delivered"), ("spend:day:20", "delivered"),
        ]  # fmt: skip
        assert len(hook.requests) == 2


async def test_a_crossing_whose_receiver_was_away_is_delivered_after_a_kill_with_its_id(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    port = unused_port()
    receiver = {"kind": "slack", "url": f"http://127.0.0.1:{port}/x"}
    async with process(tmp_path, upstream, {"alerts": [{"usd": "1"}]}, receiver) as gateway:
        await gateway.chat()
        await eventually(lambda: told(tmp_path) == [("spend:day:1 of 1000000000000", "waiting")])
        await gateway.kill()
        async with receiving() as hook:
            gateway.config_path.write_text(gateway.config_path.read_text().replace(f"127.0.0.1:{port}/", f"127.0.0.1:{hook.port}/"))
            await gateway.start()
            await eventually(lambda: told(tmp_path)[0][1] == "delivered", 30.0)
            await gateway.restart()
            await asyncio.sleep(0.4)
            assert len(hook.requests) == 1


async def test_spend_that_crossed_while_nobody_looked_is_told_after_the_start(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """The process is killed right after the answer, before anybody has added up."""
    async with receiving() as hook:
        gateway = process(tmp_path, upstream, {"alerts": [{"usd": "1"}]}, webhook(hook))
        quick = gateway.config_path.read_text()
        slow = quick.replace('"check_every_s" = 0.05', '"check_every_s" = 3600')
        assert slow != quick
        gateway.config_path.write_text(slow)
        async with gateway:
            assert (await gateway.chat()).status == 200
            await gateway.kill()
            assert told(tmp_path) == []
            gateway.config_path.write_text(quick)
            await gateway.start()
            await eventually(lambda: len(hook.requests) == 1, 10.0)
            assert hook.last.json()["data"]["spent_usd"] == "1"


async def test_a_delivery_under_way_survives_a_kill(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """It is tried again when its claim is over, which is moved here."""
    async with receiving([hold()], OK) as hook, process(tmp_path, upstream, {"alerts": [{"usd": "1"}]}, webhook(hook)) as gateway:
        await gateway.chat()
        await hook.request(1)
        await gateway.kill()
        [(state, due_at)] = query(tmp_path / "muxx.db", "SELECT state, due_at FROM alert_deliveries")
        assert state == "waiting"
        assert 5 < due_at - time.time() < 16
        make_due(tmp_path)
        await gateway.start()
        again = await hook.request(2, 10.0)
        await eventually(lambda: told(tmp_path)[0][1] == "delivered")
        assert again.header("webhook-id") == hook.requests[0].header("webhook-id")
        assert again.body == hook.requests[0].body


async def test_a_locked_database_delays_no_request_and_loses_no_crossing() -> None:
    project = {"limits": {"rpd": 5}, "alerts": [{"limit": "rpd", "share": 0.2}]}
    async with receiving() as hook, alerting(project, {"ops": webhook(hook)}) as gateway:
        await gateway.chat()
        await settled(gateway)
        await gateway.gateway.host.projects.change("default", {"alerts": [{"limit": "rpd", "share": 0.4}]})
        with locked(gateway.directory / "muxx.db"):
            began = time.monotonic()
            assert (await gateway.chat()).status == 200
            assert time.monotonic() - began < 1
            await asyncio.sleep(0.3)
        await settled(gateway, count=2)
        assert [request.json()["data"]["alert"] for request in hook.requests] == ["rpd:0.2", "rpd:0.4"]


async def test_a_receiver_that_comes_with_a_reload_gets_what_was_crossed_before(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    async with receiving() as hook, process(tmp_path, upstream, {"alerts": [{"usd": "1"}]}, webhook(hook)) as gateway:
        with_receiver = gateway.config_path.read_text()
        await gateway.chat()
        await eventually(lambda: len(hook.requests) == 1)
        gateway.config_path.write_text(with_receiver.replace('"ops"', '"others"'))
        gateway.reload()
        await eventually(lambda: gateway.stderr.count("configuration reloaded") == 2, 10.0)  # in the worker and the keeper
        make_due(tmp_path)
        await eventually(lambda: "there is no receiver of this name" in gateway.stderr, 10.0)
        gateway.config_path.write_text(with_receiver)
        gateway.reload()
        await eventually(lambda: gateway.stderr.count("configuration reloaded") == 4, 10.0)
        make_due(tmp_path)
        await eventually(lambda: len(hook.requests) == 2, 10.0)
        assert hook.last.header("webhook-id") == hook.requests[0].header("webhook-id")


async def test_what_fails_for_a_day_is_given_up_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async with receiving([*json({}, 500)]) as hook, alerting({"alerts": [{"usd": "1"}]}, {"ops": webhook(hook)}) as gateway:
        await gateway.chat()
        await eventually(lambda: len(hook.requests) >= 2)

        async def a_day_later(db: Any) -> None:
            await db.execute("UPDATE alert_events SET at = at - 86400")

        await gateway.gateway.db.write(a_day_later)
        [event] = await settled(gateway, "failed")
        [delivery] = event["deliveries"]
        assert (delivery["status"], delivery["problem"], delivery["due_at"]) == (500, "answered 500", None)
        assert "answered 500; it is given up" in caplog.text
        tried = len(hook.requests)
        await asyncio.sleep(0.3)
        assert len(hook.requests) == tried


async def test_the_outbox_and_the_users_that_are_told_of_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MOST_WAITING", 2)
    monkeypatch.setattr(store, "MOST_USERS", 5)
    project = {"limits": {"user_rpd": 1}, "alerts": [{"limit": "user_rpd", "share": 1.0}]}
    async with receiving([hold()]) as hook, alerting(project, {"ops": webhook(hook)}, first_retry_s=60) as gateway:
        for number in range(8):
            await gateway.chat(headers={"X-Muxx-User-Id": f"user {number}"})

        async def all_there() -> Any:
            found = await events(gateway)
            return found if len(found) >= 5 else None

        found = await until(all_there)
        await asyncio.sleep(0.3)
        assert len(await events(gateway)) == 5
        states = [event["deliveries"][0]["state"] for event in found]
        assert sorted(states) == ["failed"] * 3 + ["waiting"] * 2
        assert found[0]["deliveries"][0]["problem"] == store.TOO_MANY


async def test_old_events_are_forgotten_and_those_of_this_window_are_not() -> None:
    async with receiving() as hook, alerting({"alerts": [{"usd": "1"}, {"usd": "2"}]}, {"ops": webhook(hook)}) as gateway:
        gateway.upstream.script(chat(input_tokens=2, output_tokens=0))
        await gateway.chat()
        await settled(gateway, count=2)

        async def long_ago(db: Any) -> None:
            await db.execute("UPDATE alert_events SET window_end = 1 WHERE rule LIKE 'spend:day:1 %'")

        await gateway.gateway.db.write(long_ago)
        await AlertStore(gateway.gateway.db).prune(time.time())
        rows = await gateway.gateway.db.read("SELECT window_end, event FROM alert_deliveries LEFT JOIN alert_events ON event = id")
        assert all(row["window_end"] and row["window_end"] > 1 for row in rows)
        assert "spend:day:2" in {event["alert"] for event in await events(gateway)}
