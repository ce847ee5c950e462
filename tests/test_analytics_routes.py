"""`/v1/analytics/spend` and `/v1/analytics/cache` of a running gateway: exact, of whoever asks, and clear about what cannot be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest
from cache_kit import at_once, caching
from carrying_kit import serving
from http_kit import add_key

from muxx.testing import RunningGateway, chat, get, post_chat
from muxx_std.analytics import fold
from muxx_std.analytics.hits import preview

NO_CACHE = {"project": {"cache": {"enabled": False}}}
COST = 10 * 2_500_000 + 5 * 10_000_000


async def spend(gateway: RunningGateway, key: str | None = None, status: int = 200, **query: Any) -> Any:
    return await asked(gateway, "spend", key, status, query)


async def asked(gateway: RunningGateway, what: str, key: str | None, status: int, query: Mapping[str, Any]) -> Any:
    names = {name.rstrip("_"): value for name, value in query.items()}
    response = await get(gateway.base_url, f"/v1/analytics/{what}?{urlencode(names)}", key or gateway.key)
    assert response.status == status, response.text
    return response.json()


async def recorded(gateway: RunningGateway, count: int) -> None:
    async def are_there() -> bool:
        return bool((await gateway.gateway.db.read_logs("SELECT count(*) FROM generations"))[0][0] >= count)

    async with asyncio.timeout(5):
        while not await are_there():
            await asyncio.sleep(0.02)


def lines(found: Any) -> dict[str | None, tuple[int, str]]:
    return {line["value"]: (line["requests"], line["cost_usd"]) for line in found["data"]}


async def test_what_was_spent_is_told_by_whatever_is_asked_for() -> None:
    async with serving(config=NO_CACHE) as gateway:
        gateway.upstream.script(chat())
        for user, feature in (("ada", "search"), ("ada", "chat"), ("bob", "chat")):
            metadata = orjson.dumps({"feature": feature}).decode()
            assert (await gateway.chat(headers={"X-Muxx-User-Id": user, "X-Muxx-Metadata": metadata})).status == 200
        await recorded(gateway, 3)
        for _ in range(2):
            assert lines(await spend(gateway, by="user")) == {"ada": (2, "0.00015"), "bob": (1, "0.000075")}
            assert lines(await spend(gateway, by="metadata.feature")) == {"chat": (2, "0.00015"), "search": (1, "0.000075")}
            assert lines(await spend(gateway, by="metadata.team")) == {}
            assert lines(await spend(gateway, by="model")) == {"gpt-4o": (3, "0.000225")}
            assert lines(await spend(gateway, by="endpoint")) == {"chat": (3, "0.000225")}
            assert lines(await spend(gateway, by="model", user_id="bob")) == {"gpt-4o": (1, "0.000075")}
            assert lines(await spend(gateway, model="gpt-4")) == {}
            assert lines(await spend(gateway, environment="test")) == {}
            found = await spend(gateway, interval="month")
            assert lines(found) == {None: (3, "0.000225")}
            assert (found["totals"]["requests"], found["totals"]["input_tokens"], found["totals"]["output_tokens"]) == (3, 30, 15)
            await gateway.gateway.db.write_logs(fold.fold)


async def test_a_project_sees_its_own_live_traffic_and_admins_see_all_or_one() -> None:
    async with serving(config=NO_CACHE) as gateway:
        gateway.upstream.script(chat())
        await gateway.gateway.host.projects.create("bank")
        keys = {"bank": await add_key(gateway, project="bank"), "test": await add_key(gateway, "test")}
        admin = await add_key(gateway, "admin", None)
        for key in (gateway.key, keys["bank"], keys["bank"], keys["test"]):
            assert (await post_chat(gateway.base_url, key, "Hello")).status == 200
        await recorded(gateway, 4)
        assert (await spend(gateway))["totals"]["requests"] == 1
        assert (await spend(gateway, keys["test"]))["totals"]["requests"] == 1, "live, unless asked for"
        assert (await spend(gateway, environment="test"))["totals"]["requests"] == 1
        assert (await spend(gateway, environment="all"))["totals"]["requests"] == 2
        assert (await spend(gateway, keys["bank"]))["totals"]["requests"] == 2
        assert lines(await spend(gateway, admin, by="project")) == {"bank": (2, "0.00015"), "default": (1, "0.000075")}
        assert (await spend(gateway, admin, project="bank"))["totals"]["requests"] == 2
        assert (await spend(gateway, status=400, project="bank"))["error"]["param"] == "project"
        assert (await spend(gateway, status=400, by="project"))["error"]["param"] == "by"


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"by": "colour"}, "by"), ({"by": "metadata."}, "by"), ({"interval": "year"}, "interval"), ({"limit": 0}, "limit"),
        ({"from_": "yesterday"}, "from"), ({"to": "2026-13-01"}, "to"), ({"from_": "2026-11-02", "to": "2026-11-01"}, "from"),
        ({"from_": "1", "to": "9999999999999"}, "to"), ({"from_": "2020-01-01", "to": "2026-01-01", "interval": "hour"}, "interval"),
        ({"by": "user", "limit": 1000}, "interval"), ({"colour": "red"}, "colour"), ({"environment": "admin"}, "environment"),
    ],
)  # fmt: skip
async def test_what_cannot_be_asked_is_named(query: dict[str, Any], param: str) -> None:
    async with RunningGateway(mock=True) as gateway:
        refused = await spend(gateway, status=400, **query)
        assert refused["error"]["param"] == param
        assert refused["error"]["code"] == "invalid_type"


async def test_periods_are_cut_where_the_time_that_was_asked_for_ends() -> None:
    async with serving(config=NO_CACHE) as gateway:
        gateway.upstream.script(chat())
        assert (await gateway.chat()).status == 200
        await recorded(gateway, 1)
        now = time.time()
        [line] = (await spend(gateway, from_=int(now - 60), to=int(now + 60), interval="month"))["data"]
        hours = {time.strftime("%Y-%m-%dT%H:00:00.000Z", time.gmtime(now + moved)) for moved in (-60, 0)}
        assert line["start"] in hours
        assert line["end"] > time.strftime("%Y-%m-%dT%H:%M", time.gmtime(now))


async def test_the_cache_tells_its_rate_its_savings_and_what_it_gave_most_often() -> None:
    async with caching() as gateway:
        gateway.upstream.script(chat())
        first = await gateway.chat("What is a cache?")
        for _ in range(3):
            assert (await gateway.chat("What is a cache?")).header("x-muxx-cache") == "HIT"
        other = await gateway.chat("What else?")
        assert (await gateway.chat("What else?")).header("x-muxx-cache") == "HIT"
        await recorded(gateway, 6)
        for _ in range(2):
            found = await asked(gateway, "cache", None, 200, {"interval": "total"})
            [line] = found["data"]
            assert {name: line[name] for name in ("hits", "joined", "misses", "bypassed", "hit_rate", "saved_usd")} == {
                "hits": 4, "joined": 0, "misses": 2, "bypassed": 0, "hit_rate": 0.6667, "saved_usd": "0.0003",
            }  # fmt: skip
            assert line == found["totals"]
            assert found["top"] == [
                {"request_id": first.request_id, "model": "gpt-4o", "preview": "What is a cache?", "hits": 3, "joined": 0,
                 "saved_usd": "0.000225"},
                {"request_id": other.request_id, "model": "gpt-4o", "preview": "What else?", "hits": 1, "joined": 0,
                 "saved_usd": "0.000075"},
            ]  # fmt: skip
            await gateway.gateway.db.write_logs(fold.fold)
        assert len((await asked(gateway, "cache", None, 200, {"limit": 1}))["top"]) == 1


async def test_requests_that_joined_a_call_name_the_one_that_made_it() -> None:
    async with caching() as gateway:
        gateway.upstream.script(chat())
        answers = await at_once(5, lambda: gateway.chat("All at once"))
        rows = [await gateway.get_row(answer.request_id) for answer in answers]
        [starter] = [row["request_id"] for row in rows if row["cache"] == "miss"]
        assert {row["attributes"].get("answer_of") for row in rows if row["cache"] != "miss"} == {starter}
        await recorded(gateway, 5)
        [top] = (await asked(gateway, "cache", None, 200, {}))["top"]
        assert (top["request_id"], top["hits"] + top["joined"]) == (starter, 4)


async def test_without_content_the_top_has_no_preview() -> None:
    async with caching({"project": {"store_content": False}}) as gateway:
        gateway.upstream.script(chat())
        await gateway.chat("Secret")
        await gateway.chat("Secret")
        await recorded(gateway, 2)
        [top] = (await asked(gateway, "cache", None, 200, {}))["top"]
        assert (top["model"], top["preview"], top["hits"]) == ("gpt-4o", None, 1)


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "text", "text": "b\n c"}]}]}, "b c"),
        ({"input": "hello"}, "hello"),
        ({"prompt": ["x", "y"]}, "y"),
        ({"contents": [{"parts": [{"text": "g"}]}]}, "g"),
        ({"messages": [{"role": "user", "content": "long " * 100}]}, ("long " * 100)[:120]),
        ({"messages": 5}, None),
        ([], None),
    ],
)
def test_a_preview_is_the_beginning_of_what_was_asked_last(body: Any, shown: str | None) -> None:
    assert preview(orjson.dumps(body)) == shown
    assert preview(b"{") is None
    assert preview(None) is None


async def test_enough_rows_are_summed_while_the_gateway_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold, "SLICE", 2)
    async with serving(config=NO_CACHE) as gateway:
        gateway.upstream.script(chat())
        for _ in range(4):
            await gateway.chat()
        await recorded(gateway, 4)

        async def summed() -> bool:
            return bool((await gateway.gateway.db.read_logs("SELECT position FROM analytics_state"))[0][0] == 4)

        async with asyncio.timeout(5):
            while not await summed():
                await asyncio.sleep(0.05)
        assert (await spend(gateway))["totals"]["cost_usd"] == "0.0003"


async def test_without_the_log_it_says_what_is_missing() -> None:
    async with RunningGateway({"plugins": {"logs": {"enabled": False}, "spend_caps": {"enabled": False}}}, mock=True) as gateway:
        refused = await spend(gateway, status=501)
        assert (refused["error"]["message"], refused["error"]["code"]) == (
            "Nothing is logged: the plugin `logs` is off, or no gateway has run on this database yet.",
            "not_implemented",
        )
