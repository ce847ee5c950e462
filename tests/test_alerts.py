"""The standard plugin `alerts` in a gateway: what is told, to whom, how often, and what of it is seen."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from typing import Any

import pytest
from alerts_kit import (
    OK,
    SECRET,
    SLACK_PATH,
    MailServer,
    alerting,
    costing,
    events,
    is_signed,
    receiving,
    settled,
    slack,
    until,
    webhook,
)
from http_kit import add_key

from muxx.testing import RunningGateway, eventually, hold, json, rst
from muxx_std.alerts import mail as sending
from muxx_std.alerts.rules import bounds
from muxx_std.alerts.spend import SpendWatch
from muxx_std.alerts.store import AlertStore, Event, Found

MAIL = {"host": "127.0.0.1", "security": "none", "from": "muxx@example.org"}


async def quiet() -> None:
    """Long enough for every loop of the plugin to have run several times."""
    await asyncio.sleep(0.4)


async def test_spend_that_reaches_an_alert_is_told_once_to_every_receiver() -> None:
    mail = MailServer()
    async with receiving() as hook, receiving() as chatroom, mail.running():
        receivers = {"ops": webhook(hook), "chat": slack(chatroom), "team": {"kind": "email", "to": ["team@example.org"]}}
        async with alerting({"alerts": [{"usd": "2"}]}, receivers, smtp={**MAIL, "port": mail.port}) as gateway:
            await gateway.chat()
            await quiet()
            assert await events(gateway) == []
            for _ in range(3):
                await gateway.chat()
            [event] = await settled(gateway)
            await quiet()
            assert [len(receiver.requests) for receiver in (hook, chatroom)] == [1, 1]
            assert len(mail.mails) == 1
            assert await events(gateway) == [event]
    told = hook.last.json()
    assert (told["type"], told["timestamp"]) == ("alert.spend", event["at"])
    assert told["data"] == {name: event[name] for name in told["data"]}
    assert (event["project"], event["alert"], event["limit_usd"], event["user_id"]) == ("default", "spend:day:2", "2", None)
    assert event["spent_usd"] in ("2", "3", "4")
    assert is_signed(hook.last)
    assert hook.last.header("webhook-id") == event["id"]
    assert abs(int(hook.last.header("webhook-timestamp") or 0) - time.time()) < 60
    assert chatroom.last.target == SLACK_PATH
    assert chatroom.last.json() == {"text": event["message"]}
    assert mail.envelopes == [["team@example.org"]]
    assert mail.mails[0]["subject"] == "muxx: default: spend:day:2"
    assert event["message"] in mail.mails[0].get_content()
    assert [(one["receiver"], one["status"], one["attempts"]) for one in event["deliveries"]] == [
        ("chat", 200, 1), ("ops", 200, 1), ("team", 250, 1),
    ]  # fmt: skip


async def test_a_cap_that_only_tells_tells_and_shares_of_block_caps_do_before_them() -> None:
    project = {
        "spend_caps": [{"window": "month", "usd": "2", "action": "alert"}, {"window": "day", "usd": "100"}],
        "alerts": [{"limit": "spend_cap", "share": 0.03, "window": "day"}, {"limit": "spend_cap", "window": "month"}],
    }
    async with receiving() as hook, alerting(project, {"ops": webhook(hook)}) as gateway:
        for _ in range(4):
            await gateway.chat()
        found = await settled(gateway, count=2)
        assert {(event["alert"], event["limit_usd"], event["share"]) for event in found} == {
            ("cap:month:2", "2", 1.0), ("spend_cap:day:0.03", "100", 0.03),
        }  # fmt: skip
        rules = (await gateway.get("/v1/alerts")).json()["data"]
        assert [(rule["alert"], rule["limit_usd"], rule["told"]) for rule in rules] == [
            ("spend_cap:day:0.03", "100", 1), ("spend_cap:month:0.8", None, 0), ("cap:month:2", "2", 1),
        ]  # fmt: skip
        assert rules[0]["spent_usd"] == "4"


async def test_spend_is_told_where_nobody_keeps_sums_of_it() -> None:
    without = {"plugins": {"analytics": {"enabled": False}}}
    async with receiving() as hook, alerting({"alerts": [{"usd": "2"}]}, {"ops": webhook(hook)}, config=without) as gateway:
        for _ in range(2):
            await gateway.chat()
        [event] = await settled(gateway)
        assert (event["alert"], event["spent_usd"]) == ("spend:day:2", "2")


async def test_a_window_is_still_looked_at_for_a_while_after_its_end() -> None:
    """So that what was spent in its last seconds, or by requests that ended after it, is told."""
    async with alerting({"alerts": [{"usd": "1"}]}, {}, check_every_s=3600) as gateway:
        row = await gateway.get_row((await gateway.chat()).request_id)
        midnight = bounds("day", datetime.fromisoformat(row["started_at"]).timestamp())[1]
        await until(lambda: SpendWatch(gateway.gateway, lambda: midnight - 1.0).look())
        [late] = await SpendWatch(gateway.gateway, lambda: midnight + 890.0).look()
        assert (late.used, late.window_end) == (10**12, midnight * 1000)
        assert await SpendWatch(gateway.gateway, lambda: midnight + 910.0).look() == []
        await AlertStore(gateway.gateway.db).note([Found(late, Event.now("alert.spend", {}), ())])
        assert await SpendWatch(gateway.gateway, lambda: midnight + 890.0).look() == []


async def test_shares_of_limits_are_told_once_in_a_window_and_of_each_user_by_itself() -> None:
    project = {
        "limits": {"rpm": 1000, "rpd": 5, "user_rpd": 2},
        "alerts": [{"limit": "rpd", "share": 0.8}, {"limit": "user_rpd", "share": 1.0, "to": ["ops"]}, {"limit": "rpm"}],
    }
    async with receiving() as hook, alerting(project, {"ops": webhook(hook)}) as gateway:
        for user in ("ann", "ben", "ann", "ben", "cid", "ann"):
            await gateway.chat(headers={"X-Muxx-User-Id": user})
        found = await settled(gateway, count=3)
        await quiet()
        assert len(hook.requests) == 3
        assert {(event["alert"], event["user_id"]) for event in found} == {
            ("rpd:0.8", None), ("user_rpd:1.0", "ann"), ("user_rpd:1.0", "ben"),
        }  # fmt: skip
        [day] = [event for event in found if event["user_id"] is None]
        assert (day["type"], day["used"], day["limit"], day["window"], day["spent_usd"]) == ("alert.limit", 4, 5, "day", None)


async def test_a_refused_request_counts_and_a_minute_is_told_once_in_an_hour() -> None:
    project = {"limits": {"rpm": 2, "tpm": 2000}, "alerts": [{"limit": "rpm", "share": 1.0}, {"limit": "tpm", "share": 0.5}]}
    async with receiving() as hook, alerting(project, {"ops": webhook(hook)}) as gateway:
        assert [(await gateway.chat(max_tokens=1000)).status for _ in range(4)] == [200, 200, 429, 429]
        found = await settled(gateway, count=2)
        await quiet()
        assert {event["alert"]: event["window"] for event in found} == {"rpm:1.0": "hour", "tpm:0.5": "hour"}
        assert len(hook.requests) == 2


async def test_fifty_requests_that_cross_at_once_are_one_event() -> None:
    project = {"limits": {"rpd": 60}, "alerts": [{"limit": "rpd", "share": 0.1}, {"usd": "3"}]}
    async with receiving() as hook, alerting(project, {"ops": webhook(hook)}) as gateway:
        answers = await asyncio.gather(*(gateway.chat(str(number)) for number in range(50)))
        assert {answer.status for answer in answers} == {200}
        await settled(gateway, count=2)
        await quiet()
        assert sorted(request.json()["data"]["alert"] for request in hook.requests) == ["rpd:0.1", "spend:day:3"]


async def test_what_no_alert_asks_for_is_neither_looked_at_nor_written() -> None:
    async with receiving() as hook, alerting({"limits": {"rpd": 2}}, {"ops": webhook(hook)}) as gateway:
        for _ in range(3):
            await gateway.chat()
        await quiet()
        assert await events(gateway) == []
        assert hook.requests == []


async def test_a_receiver_that_fails_is_tried_again_with_the_same_id_and_others_do_not_wait() -> None:
    broken = [[*json({}, 500)], [rst()], [*json({}, 307, {"Location": "/elsewhere"})], OK]
    async with receiving(*broken) as hook, receiving([hold()]) as hangs, receiving() as quick:
        receivers = {"ops": webhook(hook), "hangs": webhook(hangs), "quick": webhook(quick)}
        async with alerting({"alerts": [{"usd": "1"}]}, receivers) as gateway:
            answer = await gateway.chat()
            began = time.monotonic()
            assert answer.status == 200
            await eventually(lambda: len(hook.requests) == 4 and len(quick.requests) == 1)
            assert time.monotonic() - began < 5
            assert (await gateway.chat()).status == 200
            assert {request.header("webhook-id") for request in hook.requests} == {quick.last.header("webhook-id")}
            assert {request.target for request in hook.requests} == {"/hook"}
            assert len({request.body for request in hook.requests}) == 1
            assert all(is_signed(request) for request in hook.requests)

            async def delivered() -> Any:
                [event] = await events(gateway)
                states = {one["receiver"]: one for one in event["deliveries"]}
                return states["ops"]["state"] == "delivered" and states

            states = await until(delivered)
            assert (states["ops"]["attempts"], states["ops"]["problem"]) == (4, None)
            assert (states["hangs"]["state"], states["hangs"]["status"]) == ("waiting", None)


async def test_a_secret_with_its_prefix_signs_the_same_and_mail_is_refused_with_its_code() -> None:
    mail = MailServer(refusal=b"550 canary-of-the-server")
    async with receiving() as hook, mail.running():
        receivers = {"ops": webhook(hook, "whsec_" + SECRET), "team": {"kind": "email", "to": ["team@example.org"]}}
        async with alerting({"alerts": [{"usd": "1"}]}, receivers, smtp={**MAIL, "port": mail.port}) as gateway:
            await gateway.chat()
            await eventually(lambda: len(hook.requests) == 1)
            assert is_signed(hook.last)

            async def refused() -> Any:
                found = await events(gateway)
                return found and found[0]["deliveries"][1]["problem"] and found[0]["deliveries"][1]

            delivery = await until(refused)
            assert (delivery["receiver"], delivery["state"], delivery["status"]) == ("team", "waiting", 550)
            assert delivery["problem"] == "the mail server refused every address, with 550"


@pytest.mark.parametrize(("refuses", "farewell"), [("gone@example.org", b"221 bye\r\n"), ("", b"421 too busy\r\n"), ("", b"")])
async def test_who_has_a_mail_gets_no_other_of_the_same_event(refuses: str, farewell: bytes) -> None:
    """Neither for another address that is refused, nor for what the server says, or does not say, when it has taken the mail."""
    mail = MailServer(refuses=refuses, farewell=farewell)
    async with mail.running():
        receivers = {"team": {"kind": "email", "to": ["ann@example.org", "gone@example.org"]}}
        async with alerting({"alerts": [{"usd": "1"}]}, receivers, smtp={**MAIL, "port": mail.port}) as gateway:
            await gateway.chat()
            [event] = await settled(gateway)
            await quiet()
    [delivery] = event["deliveries"]
    assert (delivery["status"], delivery["attempts"]) == (250, 1)
    assert delivery["problem"] == ("the mail server refused 1 of 2 addresses" if refuses else None)
    assert mail.envelopes == [["ann@example.org"] if refuses else ["ann@example.org", "gone@example.org"]]


async def test_a_mail_that_is_told_as_failed_does_not_arrive_after_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "SECONDS", 0.25)
    mail = MailServer(thinks=0.1)
    async with mail.running():
        receivers = {"team": {"kind": "email", "to": ["ann@example.org"]}}
        async with alerting({"alerts": [{"usd": "1"}]}, receivers, smtp={**MAIL, "port": mail.port}) as gateway:
            await gateway.chat()
            [event] = await until(lambda: _with_a_problem(gateway))
            assert event["deliveries"][0]["state"] == "waiting"
            await asyncio.sleep(0.5)
            assert mail.envelopes == []
            mail.thinks = 0
            await settled(gateway)
    assert mail.envelopes == [["ann@example.org"]]


async def _with_a_problem(gateway: RunningGateway) -> list[dict[str, Any]]:
    return [event for event in await events(gateway) if event["deliveries"][0]["problem"]]


async def test_a_project_sees_its_own_alerts_only_and_an_admin_everybodys() -> None:
    async with receiving() as hook, alerting({}, {"ops": webhook(hook)}) as gateway:
        admin = await add_key(gateway, "admin", None)
        shop = await add_key(gateway, "live", "shop")
        await gateway.gateway.host.projects.change("shop", {"alerts": [{"usd": "1"}]})
        await gateway.chat()
        own, gateway.key = gateway.key, shop
        await gateway.chat()
        [event] = await settled(gateway)
        assert event["project"] == "shop"
        assert [rule["project"] for rule in (await gateway.get("/v1/alerts")).json()["data"]] == ["shop"]
        assert (await gateway.get("/v1/alerts?project=default")).status == 400
        gateway.key = own
        assert await events(gateway) == []
        assert (await gateway.get("/v1/alerts")).json()["data"] == []
        assert (await gateway.get(f"/v1/alerts/events?after={event['id']}")).status == 400
        gateway.key = admin
        assert await events(gateway, "/v1/alerts/events?project=shop") == [event]
        assert await events(gateway, "/v1/alerts/events?project=default") == []
        assert [rule["project"] for rule in (await gateway.get("/v1/alerts?project=shop")).json()["data"]] == ["shop"]
        assert (await gateway.get("/v1/alerts?project=nobody")).status == 404


async def test_events_are_paged_from_the_newest_on() -> None:
    project = {"alerts": [{"usd": str(amount)} for amount in range(1, 6)]}
    async with receiving() as hook, alerting(project, {"ops": webhook(hook)}) as gateway:
        gateway.upstream.script(costing(5))
        await gateway.chat()
        newest = await settled(gateway, count=5)
        page = (await gateway.get("/v1/alerts/events?limit=2")).json()
        assert (page["data"], page["has_more"]) == (newest[:2], True)
        page = (await gateway.get(f"/v1/alerts/events?limit=3&after={newest[1]['id']}")).json()
        assert (page["data"], page["has_more"]) == (newest[2:], False)
        assert (await gateway.get("/v1/alerts/events?limit=0")).error["param"] == "limit"
        assert (await gateway.get("/v1/alerts/events?before=1")).error["param"] == "before"
