"""The standard plugin `cache`: what callers may say to it, what operators see of it, and what a purge does."""

from __future__ import annotations

import asyncio
import gc
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import orjson
import pytest
from cache_kit import ROOM, asked, cached, caching, told
from http_kit import add_key

from muxx import HttpRequest, Identity, Provider, Target, Usage, WholeAnswer, hookimpl
from muxx.testing import GatewayProcess, RunningGateway, ScriptedUpstream, answers, chat, chat_body, eventually, post_chat
from muxx_std.cache.directives import Directives, parse
from muxx_std.cache.memory import OVERHEAD, Entry, Memory
from muxx_std.cache.store import purge

CONTROL = "X-Muxx-Cache-Control"


# ── what a caller may say ──


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, Directives()),
        ("", Directives()),
        ("no-cache", Directives(no_cache=True)),
        ("No-Store, ONLY-IF-CACHED", Directives(no_store=True, only_if_cached=True)),
        ("max-age=60", Directives(max_age=60)),
        ('max-age="60"', Directives(max_age=60)),
        ("max-age = 60", Directives(max_age=60)),
        ("max-age=0,no-cache", Directives(no_cache=True, max_age=0)),
        ("max-age", Directives(max_age=0)),
        ("max-age=soon", Directives(max_age=0)),
        ("max-age=2147483648", Directives(max_age=2**31)),
        ("max-age=99999999999999999999", Directives(max_age=1e20)),
        (f"max-age={'9' * 400}", Directives(max_age=float("inf"))),
        ("max-age=-1", Directives(max_age=0)),
        ("max-age=1e9", Directives(max_age=0)),
        ("max-age=٣", Directives(max_age=0)),
        ("max-stale=5, min-fresh, stale-if-error, x=\"no-store, no-cache\"", Directives()),
        (";;,,=,", Directives()),
    ],
)
def test_request_directives_are_read_as_rfc_9111_has_them(text: str | None, said: Directives) -> None:
    assert parse(text) == said


async def say(gateway: RunningGateway, control: str | None = None, **members: Any) -> Any:
    return await gateway.chat(headers={CONTROL: control} if control else {}, **members)


@pytest.mark.parametrize("stream", [False, True])
async def test_no_cache_asks_anew_and_keeps_what_comes(stream: bool) -> None:
    async with caching() as gateway:
        gateway.upstream.script(chat("old"), chat("new"))
        await say(gateway)
        fresh = await say(gateway, "no-cache", stream=stream)
        assert (fresh.header("x-muxx-cache"), await cached(gateway, fresh)) == ("MISS", "bypass")
        assert "new" in fresh.text
        again = await say(gateway)
        assert again.header("x-muxx-cache") == "HIT"
        assert "new" in again.text


async def test_only_if_cached_never_asks_a_provider() -> None:
    async with caching() as gateway:
        for control in ("only-if-cached", "only-if-cached, no-cache", "only-if-cached, no-store"):
            missing = await say(gateway, control)
            assert (missing.status, missing.error["type"], missing.error["code"]) == (504, "invalid_request_error", "cache_miss")
            assert missing.header("x-should-retry") == "false"
        assert asked(gateway) == 0
        await say(gateway)
        assert (await say(gateway, "only-if-cached")).header("x-muxx-cache") == "HIT"
        row = await gateway.get_row(missing.request_id)
        assert (row["status"], row["error_code"], row["cost_usd"], row["usage_source"]) == (504, "cache_miss", "0", "none")


async def test_two_lines_of_the_header_are_one_value() -> None:
    async with caching() as gateway, await gateway.connect() as client:
        body = orjson.dumps(chat_body())
        lines = f"{CONTROL}: max-age=5\r\n{CONTROL}: no-store\r\n"
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Muxx-Api-Key: {gateway.key}\r\n{lines}"
        for _ in range(2):
            await client.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            assert (await client.read_response()).header("x-muxx-cache") == "MISS"


@pytest.mark.parametrize("control", ["no-cache", "no-store"])
async def test_who_wants_a_fresh_answer_shares_no_call(control: str) -> None:
    async with caching() as gateway:
        await asyncio.gather(*(say(gateway, control) for _ in range(5)))
        assert asked(gateway) == 5


async def test_a_project_may_have_no_cache() -> None:
    async with caching({"project": {"cache": {"enabled": False}}}) as gateway:
        for _ in range(2):
            assert await cached(gateway, await say(gateway)) == "bypass"
        assert asked(gateway) == 2
        assert (await say(gateway, "only-if-cached")).status == 504


async def test_a_hit_is_refused_to_a_key_that_may_not_use_the_model() -> None:
    async with caching() as gateway:
        await say(gateway)
        gateway.key = await add_key(gateway, models=("gpt-4o-mini",))
        assert (await say(gateway)).status == 403


async def test_what_a_guard_made_of_the_request_is_what_counts() -> None:
    from muxx import Exchange, hookimpl

    class Masks:
        @hookimpl
        def pre_request(self, exchange: Exchange) -> None:
            for part in exchange.request.parts():
                part.text = part.text.replace("Ada", "[NAME]").replace("Bob", "[NAME]")

    async with caching(plugins={"masks": Masks}) as gateway:
        await say(gateway, content="I am Ada")
        assert (await say(gateway, content="I am Bob")).header("x-muxx-cache") == "HIT"


async def test_a_streamed_hit_of_a_plain_answer_has_every_text_of_a_block_that_comes_whole() -> None:
    results = [
        {"type": "web_search_result", "title": title, "url": f"https://{title}.example", "encrypted_content": "e", "page_age": None}
        for title in ("one", "two")
    ]
    found = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": results}
    message = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-3-5-haiku", "content": [found],
        "stop_reason": "end_turn", "stop_sequence": None, "usage": {"input_tokens": 3, "output_tokens": 2},
    }  # fmt: skip
    async with caching() as gateway:
        gateway.upstream.script(answers.json(message))
        await gateway.ask("messages")
        hit = await gateway.ask("messages", stream=True)
        events = [orjson.loads(line[6:]) for line in hit.text.splitlines() if line.startswith("data: ")]
    assert hit.header("x-muxx-cache") == "HIT"
    assert [event["content_block"] for event in events if event["type"] == "content_block_start"] == [found]


async def test_a_hit_is_answered_while_no_provider_is() -> None:
    async with caching() as gateway:
        await say(gateway)
        await gateway.upstream.__aexit__(None, None, None)
        try:
            assert (await say(gateway)).header("x-muxx-cache") == "HIT"
            assert (await say(gateway, content="else")).status == 502
        finally:
            await gateway.upstream.__aenter__()


# ── how much is held ──


def entry(number: int, size: int = 300, project: str = "p", expires: float = 1e9) -> tuple[bytes, Entry]:
    target = Target(Provider("p", "http://x"), "m")
    body = (b"%d" % number).ljust(size, b".")
    return b"%032d" % number, Entry(WholeAnswer(body, target, Usage(1, 2), None, 0.0), project, expires, "req_1")


def test_what_an_entry_takes_is_no_more_than_it_is_counted_as() -> None:
    memory = Memory(2**40)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(5000):
            memory.put(*entry(number))
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert memory.size == 5000 * (300 + OVERHEAD)
    assert 0.4 * memory.size < taken < 1.1 * memory.size
    assert sys.getsizeof(entry(1)[1].answer.body) < 400


def test_the_least_recently_used_leave_first_and_looking_through_is_no_use() -> None:
    memory = Memory(3 * (300 + OVERHEAD))
    for number in range(3):
        memory.put(*entry(number))
    memory.get(entry(0)[0])
    memory.drop_expired(memory.keys(), 0.0)
    memory.put(*entry(3))
    assert memory.get(entry(1)[0]) is None
    assert memory.get(entry(0)[0]) is not None


def test_an_entry_that_is_put_again_takes_its_own_place() -> None:
    memory = Memory(3 * (300 + OVERHEAD))
    for number in range(3):
        memory.put(*entry(number))
    key, larger = entry(1, size=310)
    assert memory.put(key, larger)
    assert (memory.get(key), len(memory), memory.get(entry(0)[0])) == (larger, 2, None)
    key, same = entry(2)
    assert memory.put(key, same)
    assert (memory.get(key), len(memory), memory.size) == (same, 2, 610 + 2 * OVERHEAD)
    assert not memory.put(*entry(2, size=10**6))
    assert memory.get(key) is same


def test_what_is_too_large_for_all_of_it_is_not_kept() -> None:
    memory = Memory(OVERHEAD)
    assert not memory.put(*entry(1))
    assert len(memory) == memory.size == 0


def test_what_is_too_old_is_let_go_of_and_so_is_what_was_purged() -> None:
    memory = Memory(2**20)
    memory.put(*entry(1, expires=10.0))
    memory.put(*entry(2, expires=20.0))
    memory.put(*entry(3, expires=20.0, project="other"))
    memory.drop_expired(memory.keys(), 10.0)
    assert len(memory) == 2
    memory.drop("p")
    assert [memory.get(entry(number)[0]) is not None for number in (1, 2, 3)] == [False, False, True]


# ── purge and statistics ──


async def test_a_purge_binds_on_the_next_request_and_gives_the_memory_back() -> None:
    async with caching() as gateway:
        mine, other = gateway.key, await add_key(gateway, project="other")
        for key in (mine, other):
            await post_chat(gateway.base_url, key)
        held = told(gateway)._memory.size
        purge(gateway.gateway.shared, "other")
        assert (await post_chat(gateway.base_url, mine)).header("x-muxx-cache") == "HIT"
        assert (await post_chat(gateway.base_url, other)).header("x-muxx-cache") == "MISS"
        assert told(gateway)._memory.size == held
        purge(gateway.gateway.shared, None)
        for key in (mine, other):
            assert (await post_chat(gateway.base_url, key)).header("x-muxx-cache") == "MISS"


async def test_an_answer_asked_for_before_a_purge_is_not_kept_after_it() -> None:
    async with caching() as gateway:

        def choose(request: Any) -> Any:
            purge(gateway.gateway.shared, None)
            return chat()(request)

        gateway.upstream.choose = choose
        await say(gateway)
        assert (await say(gateway)).header("x-muxx-cache") == "MISS"
        assert len(told(gateway)._memory) == 0


async def test_the_routes_show_a_project_its_own_and_an_admin_all() -> None:
    async with caching() as gateway:
        admin, other = await add_key(gateway, "admin", None), await add_key(gateway, project="other")
        for _ in range(3):
            last = await say(gateway)
        await say(gateway, "no-store")
        await post_chat(gateway.base_url, other)
        await gateway.get_row(last.request_id)

        async def shown(target: str) -> dict[str, Any]:
            found: dict[str, Any] = (await gateway.get(target)).json()
            return found

        own = {"project": "default", "hits": 2, "joined": 0, "misses": 1, "bypassed": 1, "hit_rate": 0.6667, "saved_usd": "0.00015"}
        async with asyncio.timeout(5):
            while (await shown("/v1/cache"))["data"] != [own]:
                await asyncio.sleep(0.02)
        assert (await shown("/v1/cache"))["has_more"] is False
        assert (await gateway.get("/v1/cache?project=other")).status == 400
        for target in ("hours=0", "hours=x", "environment=none", "unknown=1"):
            assert (await gateway.get(f"/v1/cache?{target}")).status == 400
        gateway.key = admin
        async with asyncio.timeout(5):
            while [row["project"] for row in (await shown("/v1/cache"))["data"]] != ["default", "other"]:
                await asyncio.sleep(0.02)
        assert [row["project"] for row in (await shown("/v1/cache?project=other&hours=1"))["data"]] == ["other"]


async def test_an_admin_purges_over_http() -> None:
    async with caching() as gateway, await gateway.connect() as client:
        admin = await add_key(gateway, "admin", None)
        await say(gateway)
        await client.request("DELETE", "/v1/cache?project=default", {"Authorization": f"Bearer {admin}"})
        assert (await client.read_response()).json() == {"object": "cache", "purged": True, "project": "default"}
        assert (await say(gateway)).header("x-muxx-cache") == "MISS"


async def test_a_purge_of_a_project_without_a_name_is_refused_and_purges_nothing() -> None:
    async with caching() as gateway, await gateway.connect() as client:
        admin = await add_key(gateway, "admin", None)
        await say(gateway)
        await client.request("DELETE", "/v1/cache?project=", {"Authorization": f"Bearer {admin}"})
        refused = await client.read_response()
        assert (refused.status, refused.error["param"]) == (400, "project")
        assert (await say(gateway)).header("x-muxx-cache") == "HIT"


async def test_a_purge_of_a_project_that_nobody_has_is_refused_and_one_that_a_token_names_is_not() -> None:
    """A project of an identity provider's has no row of its own: it is known by what it asked."""

    class Sso:
        @hookimpl(tryfirst=True)
        def authenticate(self, request: HttpRequest) -> Identity | None:
            return Identity("research", key_id="sso") if "x-sso" in request.headers else None

    async with caching(plugins={"sso": Sso}) as gateway, await gateway.connect() as client:
        admin = {"Authorization": f"Bearer {await add_key(gateway, 'admin', None)}"}
        asked = [await gateway.chat("Hi", headers={"X-Sso": "yes"}) for _ in range(2)]
        assert [one.header("x-muxx-cache") for one in asked] == ["MISS", "HIT"]
        await client.request("DELETE", "/v1/cache?project=reserach", admin)
        refused = await client.read_response()
        assert (refused.status, refused.error["code"], refused.error["param"]) == (404, "not_found", "project")
        assert refused.error["message"] == "There is no project of the name 'reserach'."
        async with asyncio.timeout(5):
            while True:  # until its rows are in the log
                await client.request("DELETE", "/v1/cache?project=research", admin)
                if (purged := await client.read_response()).status != 404:
                    break
        assert purged.json() == {"object": "cache", "purged": True, "project": "research"}
        assert (await gateway.chat("Hi", headers={"X-Sso": "yes"})).header("x-muxx-cache") == "MISS"


async def test_the_commands_work_beside_two_workers(tmp_path: Path) -> None:
    config = ROOM | {"server": {"workers": 2}}
    async with ScriptedUpstream() as upstream, GatewayProcess(tmp_path, upstream.base_url, config) as gateway:
        for _ in range(12):
            await gateway.chat()
        assert 1 <= len(upstream.requests) <= 2, "one call by each worker at most"
        await gateway.run("cache", "purge", "--project", "default")
        before = len(upstream.requests)
        assert (await gateway.chat()).header("x-muxx-cache") == "MISS"
        for _ in range(12):
            await gateway.chat()
        assert before < len(upstream.requests) <= before + 2

        async def stats() -> Any:
            return orjson.loads(await gateway.run("cache", "stats", "--json"))

        async with asyncio.timeout(30):
            while sum(worker["entries"] for worker in (await stats())["workers"]) != len(upstream.requests) - before:
                await asyncio.sleep(0.2)
        assert [worker["worker"] for worker in (await stats())["workers"]] == [0, 1]
        [row] = (await stats())["projects"]
        assert row["hits"] + row["misses"] == 25
        assert row["misses"] == len(upstream.requests)
        table = await gateway.run("cache", "stats")
        assert "hit rate" in table
        assert "MiB" in table
        await gateway.run("cache", "purge")
        assert (await gateway.chat()).header("x-muxx-cache") == "MISS"


async def test_statistics_without_a_log_say_what_to_do(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream:
        gateway = GatewayProcess(tmp_path, upstream.base_url, {"plugins": {"logs": {"enabled": False}}})
        with pytest.raises(AssertionError, match="the plugin `logs` is off"):
            await gateway.run("cache", "stats")


async def test_upkeep_lets_go_of_what_is_too_old() -> None:
    async with caching() as gateway:
        await say(gateway)
        plugin = told(gateway)
        key, found = plugin._memory.keys()[0], plugin._memory.get(plugin._memory.keys()[0])
        plugin._memory.put(key, found._replace(expires_at=0.0))
        await plugin._sweep()
        assert len(plugin._memory) == 0
        await eventually(lambda: len(gateway.gateway.calls) == 0)
