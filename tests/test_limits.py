"""The standard plugin `limits` in a gateway: what callers see of it, and what every end of a request gives back."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest
from cache_kit import ROOM
from carrying_kit import delta, hang, serving
from http_kit import add_key

from muxx import Attempt, Exchange, Gateway, Limits, Part, PermissionDenied, Request, Shared, hookimpl, journalled
from muxx.testing import (
    GatewayProcess,
    RawResponse,
    RunningGateway,
    ScriptedUpstream,
    answers,
    chat,
    chat_body,
    eventually,
    get,
    sse,
    wait,
)
from muxx.testing.settings import merged
from muxx_std.limits.ledger import Ledger
from muxx_std.limits.refill import DayWatch, refill
from muxx_std.limits.reserve import reserve

RATE_LIMITED = ("rate_limit_error", "rate_limit_exceeded")


def limited(config: dict[str, Any] | None = None, /, plugins: dict[str, type] | None = None, **limits: int) -> Any:
    return serving(config=merged({"project": {"limits": limits}}, config or {}), plugins=plugins or {})


def used(gateway: RunningGateway, user: str | None = None, project: str = "default", **limits: int) -> dict[str, int]:
    """What is counted now, beside the gateway, as another process would."""
    ledger = Ledger(gateway.gateway.shared)
    wanted = Limits(**(limits or gateway.gateway.config.project.limits.model_dump()))
    subject = ledger.subject(wanted, project, user, None)
    assert subject is not None
    return {standing.name: standing.used for standing in ledger.standings(subject)}


def rate_headers(response: RawResponse) -> tuple[int, int, int]:
    names = ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset")
    limit, remaining, reset = (int(response.header(name) or -1) for name in names)
    return limit, remaining, reset


# ── what callers see ──


async def test_every_answer_tells_how_the_limit_stands_and_the_last_one_when_to_come_again() -> None:
    async with limited(rpm=2) as gateway:
        gateway.upstream.script(chat())
        started = time.time()
        answers_ = [await gateway.chat(str(number)) for number in range(2)]
        streamed = await gateway.chat("3", stream=True)
        assert [answer.status for answer in answers_] == [200, 200]
        assert [rate_headers(answer)[:2] for answer in answers_] == [(2, 1), (2, 0)]
        refused = await gateway.chat("4")
        for response in (streamed, refused):
            assert response.status == 429
            error = response.json()["error"]
            assert (error["type"], error["code"], error["param"]) == (*RATE_LIMITED, None)
            wait = error["retry_after"]
            assert error["message"] == f"Rate limit exceeded. Please retry after {wait} seconds."
            assert 55 <= wait <= 60
            assert response.header("retry-after") == str(wait)
            assert wait - 1 <= int(response.header("retry-after-ms") or 0) / 1000 <= wait
            assert response.header("x-should-retry") == "true"
            limit, remaining, reset = rate_headers(response)
            assert (limit, remaining) == (2, 0)
            assert started + 59 <= reset <= time.time() + 61
        row = await gateway.get_row(refused.request_id)
        assert (row["status"], row["error_code"], row["phase"], row["cost_usd"]) == (429, "rate_limit_exceeded", "limit", "0")
        assert len(gateway.upstream.requests) == 2


async def test_a_wait_until_midnight_is_told_and_left_to_the_application() -> None:
    async with limited(rpd=1) as gateway:
        gateway.upstream.script(chat())
        await gateway.chat()
        refused = await gateway.chat("again")
        wait = refused.json()["error"]["retry_after"]
        midnight = (time.time() // 86400 + 1) * 86400
        assert refused.status == 429
        assert abs(time.time() + wait - midnight) < 5
        assert refused.header("retry-after") == str(wait)
        assert refused.header("x-should-retry") == ("false" if wait > 60 else "true")
        assert rate_headers(refused) == (1, 0, midnight)


@pytest.mark.parametrize("path", ["/v1/messages", "/v1beta/models/gemini-1.5-flash:generateContent"])
async def test_callers_of_other_formats_are_refused_in_theirs(path: str) -> None:
    async with limited(rpm=1) as gateway:
        gateway.upstream.script(chat())
        await gateway.chat()
        body: dict[str, Any] = {"model": "gpt-4o", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}
        if "messages" not in path:
            body = {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}
        async with await gateway.connect() as client:
            await client.request("POST", path, {"X-Muxx-Api-Key": gateway.key}, orjson.dumps(body))
            refused = await client.read_response()
        assert refused.status == 429
        said = refused.json()
        assert said["error"].get("status", said["error"].get("type")) in ("RESOURCE_EXHAUSTED", "rate_limit_error")


async def test_the_openai_sdk_gets_the_class_it_has_for_it_and_waits_as_told() -> None:
    async with limited(rpm=1) as gateway:
        gateway.upstream.script(chat())
        async with openai.AsyncOpenAI(base_url=f"{gateway.base_url}/v1", api_key=gateway.key, max_retries=0) as client:
            await client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}])
            with pytest.raises(openai.RateLimitError) as caught:
                await client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi again"}])
        error = caught.value
        assert (error.status_code, error.type, error.code, error.param) == (429, *RATE_LIMITED, None)
        assert isinstance(error.body, dict)
        wait = error.body["retry_after"]
        assert error.body == {
            "message": f"Rate limit exceeded. Please retry after {wait} seconds.",
            "type": "rate_limit_error",
            "param": None,
            "code": "rate_limit_exceeded",
            "retry_after": wait,
        }
        headers = error.response.headers
        assert (headers["retry-after"], headers["x-should-retry"]) == (str(wait), "true")
        assert (headers["x-ratelimit-limit"], headers["x-ratelimit-remaining"]) == ("1", "0")


async def test_users_have_counters_of_their_own_within_the_projects() -> None:
    async with limited(rpm=3, user_rpm=1) as gateway:
        gateway.upstream.script(chat())

        async def status(number: int, user: str | None) -> int:
            headers = {"X-Muxx-User-Id": user} if user is not None else {}
            return (await gateway.chat(str(number), headers=headers)).status

        assert [await status(0, "ann"), await status(1, "ann"), await status(2, "ben")] == [200, 429, 200]
        assert [await status(3, None), await status(4, "cy"), await status(5, None)] == [200, 429, 429]


async def test_an_empty_user_id_names_nobody() -> None:
    async with limited(user_rpm=1) as gateway:
        gateway.upstream.script(chat())
        answers = [await gateway.chat(str(number), headers={"X-Muxx-User-Id": ""}) for number in range(2)]
        assert [answer.status for answer in answers] == [200, 200]
        assert (await gateway.get_row(answers[1].request_id))["user_id"] is None


async def test_a_project_without_limits_is_told_nothing() -> None:
    async with serving() as gateway:
        gateway.upstream.script(chat())
        response = await gateway.chat()
        assert response.header("x-ratelimit-limit") is None
        assert not any(name.startswith("limits.") for name in gateway.gateway.shared._counters)


async def test_a_limit_of_users_binds_no_request_without_one() -> None:
    async with limited(user_rpm=1) as gateway:
        gateway.upstream.script(chat())
        for number in range(3):
            response = await gateway.chat(str(number))
            assert (response.status, response.header("x-ratelimit-limit")) == (200, None)


# ── what is counted ──


async def test_a_hit_is_a_request_of_no_tokens_and_refused_ones_are_none() -> None:
    async with limited(ROOM, rpm=3, tpm=10_000) as gateway:
        gateway.upstream.script(chat())
        first = await gateway.chat()
        spent = sum(first.json()["usage"][name] for name in ("prompt_tokens", "completion_tokens"))
        assert used(gateway) == {"rpm": 1, "tpm": spent}
        hit = await gateway.chat()
        assert hit.header("x-muxx-cache") == "HIT"
        assert rate_headers(hit)[:2] == (3, 1)
        assert used(gateway) == {"rpm": 2, "tpm": spent}
        await gateway.chat()
        assert (await gateway.chat()).status == 429
        assert used(gateway) == {"rpm": 3, "tpm": spent}


async def test_requests_that_share_a_call_count_its_tokens_once() -> None:
    async with limited(ROOM, rpm=10, tpm=100_000) as gateway:
        release = asyncio.Event()
        gateway.upstream.choose = lambda request: [wait(release), *chat("shared")(request)]
        asking = [asyncio.create_task(gateway.chat(max_tokens=50)) for _ in range(3)]
        await eventually(lambda: used(gateway)["rpm"] == 3)
        assert 50 < used(gateway)["tpm"] < 2 * 50
        release.set()
        found = await asyncio.gather(*asking)
        spent = sum(found[0].json()["usage"][name] for name in ("prompt_tokens", "completion_tokens"))
        await eventually(lambda: used(gateway) == {"rpm": 3, "tpm": spent})


async def test_an_answer_that_takes_no_tokens_needs_no_room_for_any() -> None:
    """A hit, and one that joins another's call, are served where the minute has no tokens left."""
    async with limited(ROOM, rpm=9, tpm=1000) as gateway:
        gate = asyncio.Event()
        gateway.upstream.script(chat(), lambda request: [wait(gate), *chat()(request)])
        assert (await gateway.chat("stored", max_tokens=500)).status == 200
        first = asyncio.create_task(gateway.chat("shared", max_tokens=900))
        await eventually(lambda: used(gateway)["tpm"] > 900)
        assert (await gateway.chat("stored", max_tokens=500)).header("x-muxx-cache") == "HIT"
        joined = asyncio.create_task(gateway.chat("shared", max_tokens=900))
        await eventually(lambda: used(gateway)["rpm"] == 4)
        refused = await gateway.chat("another", max_tokens=500)
        assert (refused.status, rate_headers(refused)[:2]) == (429, (9, 5)), "it is no request, and says how those stand"
        assert 0 < int(refused.header("retry-after") or 0) <= 60
        row = await gateway.get_row(refused.request_id)
        assert (row["phase"], row["error_code"], row["attempts"], row["cost_usd"]) == ("limit", "rate_limit_exceeded", 0, "0")
        gate.set()
        assert (await first).status == 200
        assert (await joined).header("x-muxx-cache") == "HIT"
        assert used(gateway)["rpm"] == 4


async def test_tokens_are_reserved_while_a_request_runs() -> None:
    async with limited(tpm=1000) as gateway:
        gateway.upstream.script([hang()])
        first = asyncio.create_task(gateway.chat(max_tokens=900))
        await eventually(lambda: used(gateway)["tpm"] > 900)
        refused = await gateway.chat("more", max_tokens=100)
        assert refused.status == 429
        assert refused.header("x-ratelimit-limit") is None, "that is of requests"
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await eventually(lambda: used(gateway)["tpm"] < 100)


@pytest.mark.parametrize("most", [-1, -(10**9), -(2**63)])
async def test_a_request_for_less_than_no_tokens_makes_no_room_and_takes_none(most: int) -> None:
    async with limited(tpm=5000) as gateway:
        gate = asyncio.Event()
        gateway.upstream.script(chat(), [wait(gate), *answers.json(chat_body())])
        assert (await gateway.chat(max_completion_tokens=most)).status == 200
        assert used(gateway) == {"tpm": 15}
        first = asyncio.create_task(gateway.chat("more", max_completion_tokens=most))
        await eventually(lambda: len(gateway.upstream.requests) == 2)
        assert used(gateway)["tpm"] > 15
        gate.set()
        await first


async def test_what_no_minute_can_hold_is_refused_for_good() -> None:
    async with limited(tpm=100, rpm=5) as gateway:
        gateway.upstream.script(chat())
        refused = await gateway.chat(max_tokens=101)
        assert rate_headers(refused)[:2] == (5, 5)
        assert (refused.status, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert "100" in refused.json()["error"]["message"]
        assert refused.header("x-should-retry") == "false"
        assert refused.header("retry-after") is None
        assert (await gateway.chat()).status == 200, "a guess is no demand"


class Refuses:
    @hookimpl
    def pre_request(self, exchange: Exchange) -> None:
        if exchange.request.body["messages"][0]["content"] == "forbidden":
            raise PermissionDenied("No.")
        if exchange.request.body["messages"][0]["content"] == "crash":
            raise ValueError

    @hookimpl
    def pre_attempt(self, attempt: Attempt) -> None:
        if attempt.body["messages"][0]["content"] == "too dear":
            raise PermissionDenied("No.")


@pytest.mark.parametrize(("content", "status"), [("forbidden", 403), ("crash", 500), ("too dear", 403)])
async def test_what_a_later_plugin_refuses_is_given_back(content: str, status: int) -> None:
    async with limited(plugins={"refuses": Refuses}, rpm=5, rpd=5, tpm=5000, key_in_flight=1) as gateway:
        gateway.upstream.script(chat())
        for _ in range(7):
            assert (await gateway.chat(content)).status == status
        assert used(gateway, rpm=5, rpd=5, tpm=5000) == {"rpm": 0, "rpd": 0, "tpm": 0}
        assert (await gateway.chat()).status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failed_request_stays_one_and_keeps_no_tokens(stream: bool) -> None:
    async with limited(rpm=5, tpm=5000, key_in_flight=1) as gateway:
        gateway.upstream.script(answers.json({"error": {"message": "broken", "type": "x", "param": None, "code": "x"}}, 500))
        for _ in range(3):
            assert (await gateway.chat(stream=stream)).status == 500
        await eventually(lambda: used(gateway, rpm=5, tpm=5000)["tpm"] == 0)
        assert used(gateway, rpm=5, tpm=5000)["rpm"] == 3


async def test_a_client_that_leaves_makes_room_for_the_keys_next_request() -> None:
    async with limited(key_in_flight=1) as gateway:
        gateway.upstream.script([hang()], chat())
        first = asyncio.create_task(gateway.chat(stream=True))
        await eventually(lambda: len(gateway.upstream.requests) == 1)
        refused = await gateway.chat("second")
        assert (refused.status, refused.json()["error"]["retry_after"]) == (429, 1)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        deadline = time.monotonic() + 5
        while (response := await gateway.chat("second")).status == 429:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        assert response.status == 200


async def test_one_thousand_at_once_get_what_is_allowed_and_not_one_more() -> None:
    async with limited(rpm=60) as gateway:
        gateway.upstream.script(chat())
        found = await asyncio.gather(*(gateway.chat(str(number)) for number in range(200)))
        assert sorted({response.status for response in found}) == [200, 429]
        assert sum(response.status == 200 for response in found) == 60
        assert sorted(rate_headers(r)[1] for r in found if r.status == 200) == list(range(60))


# ── estimates ──


@pytest.mark.parametrize(
    ("operation", "body", "size", "tokens"),
    [
        ("chat", {}, 400, 100 + 50),
        ("chat", {"max_tokens": 30}, 401, 101 + 30),
        ("chat", {"max_completion_tokens": 30, "n": 3}, 400, 100 + 90),
        ("chat", {"max_completion_tokens": -1}, 400, 100 + 50),
        ("chat", {"max_tokens": 30, "max_completion_tokens": -(10**9)}, 400, 100 + 50),
        ("chat", {"n": 2}, 400, 100 + 100),
        ("chat", {"n": 10**9}, 400, 1000),
        ("responses", {"max_output_tokens": 7}, 400, 107),
        ("generate_content", {"generationConfig": {"maxOutputTokens": 9, "candidateCount": 2}}, 400, 118),
        ("embeddings", {"input": "x"}, 400, 100),
        ("embeddings", {"input": "x"}, 40_000, 1000),
        ("count_tokens", {"max_tokens": 30}, 400, 0),
        ("count_content", {}, 400, 0),
        ("chat", {"max_tokens": 1001}, 4, None),
        ("chat", {"max_tokens": True}, 400, 150),
    ],
)
def test_what_is_reserved(operation: str, body: dict[str, Any], size: int, tokens: int | None) -> None:
    request = Request.__new__(Request)
    request.body, request.size, request._parts = body, size, None
    assert reserve(Exchange("req_1", operation, request), 50, 1000) == tokens


def test_an_image_waits_for_an_empty_minute_and_a_text_of_that_size_for_none() -> None:
    request = Request.__new__(Request)
    for text, tokens in (("short", 1000), ("long " * 4000, None)):
        request.body, request.size = {}, 40_000
        request._parts = lambda _, text=text: iter([Part("user", "text", "x", lambda: text, lambda _: None)])  # type: ignore[misc]
        assert reserve(Exchange("req_1", "chat", request), 50, 1000) == tokens


# ── after a crash ──


async def test_what_the_shared_file_forgot_is_counted_again_from_rows_and_journal(tmp_path: Path) -> None:
    """The rows say the same as the counters did: hits, refusals and failures among them."""
    config = merged(ROOM, {"project": {"limits": {"rpm": 50, "tpm": 50_000, "rpd": 60, "user_rpm": 40, "user_rpd": 40}}})
    limits = Limits(**config["project"]["limits"])
    async with serving(config=config, directory=tmp_path, plugins={"refuses": Refuses}) as gateway:
        gateway.upstream.script(chat(), chat("streamed"), answers.json({"error": {"message": "x", "code": "x"}}, 500))
        for content in ("one", "two", "three", "one", "forbidden", "too dear"):
            await gateway.chat(content, headers={"X-Muxx-User-Id": "ann"})
        await gateway.chat("one")
        assert (await gateway.chat(model="nobody/else")).status == 404
        before = used(gateway, "ann")
        assert before | {"tpm": 0} == {"rpm": 5, "user_rpm": 4, "rpd": 5, "user_rpd": 4, "tpm": 0}
        assert before["tpm"] > 0
        await asyncio.sleep(1.2)  # some rows are in the database by now
        await gateway.chat("one", headers={"X-Muxx-User-Id": "ann"})
        before = used(gateway, "ann")
        forget(gateway)
        assert set(used(gateway, "ann").values()) == {0}
        await refill(Ledger(gateway.gateway.shared), gateway.gateway, lambda _: limits)
        assert used(gateway, "ann") == before
        await refill(Ledger(gateway.gateway.shared), gateway.gateway, lambda _: limits)
        assert used(gateway, "ann") == before, "once is enough"


async def test_limits_that_only_a_project_sets_are_counted_again_and_not_twice(tmp_path: Path) -> None:
    """Set while the gateway ran, a minute counts from then, and the day what it has had; after a start with them, both do."""
    async with ScriptedUpstream() as upstream:
        upstream.script(chat())
        gateway = GatewayProcess(tmp_path, upstream.base_url, {"project": {"cache": {"enabled": False}}})
        async with gateway:
            await gateway.chat("before any limit")
            await gateway.run("limits", "set", "rpm=9", "rpd=3")
            for number in range(2):
                assert (await gateway.chat(str(number))).status == 200
            await gateway.restart()
            async with asyncio.timeout(20):
                while await counted(gateway) != {"rpm": 2, "rpd": 3}:
                    await asyncio.sleep(0.05)
            await gateway.kill()
            (tmp_path / "muxx.db.shared").unlink()
            await gateway.start()
            assert await counted(gateway) == {"rpm": 3, "rpd": 3}
            assert (await gateway.chat("one too many")).status == 429


async def test_a_limit_of_a_day_set_in_the_middle_of_it_counts_what_the_day_has_had() -> None:
    ann, limits = {"X-Muxx-User-Id": "ann"}, {"rpd": 6, "user_rpd": 9}
    async with serving(config={"project": {"cache": {"enabled": False}}}) as gateway:
        gateway.upstream.script(chat())
        for headers in (ann, ann, {}):
            assert (await gateway.chat(headers=headers)).status == 200
        await gateway.gateway.host.projects.change("default", {"limits": limits})
        assert (await gateway.chat(headers=ann)).status == 200
        await eventually(lambda: used(gateway, "ann", **limits) == {"rpd": 4, "user_rpd": 3})
        await DayWatch(gateway.gateway).look()
        assert used(gateway, "ann", **limits) == {"rpd": 4, "user_rpd": 3}, "who looks anew counts none twice"
        assert [(await gateway.chat(headers=ann)).status for _ in range(3)] == [200, 200, 429]


async def counted(gateway: GatewayProcess) -> dict[str, int]:
    said = (await gateway.get("/v1/limits")).json()["data"][0]
    return {row["name"]: row["used"] for row in said["limits"]}


def forget(gateway: RunningGateway) -> None:
    """As after a boot."""
    shared = gateway.gateway.shared
    for name, table in shared._counters.items():
        if name.startswith("limits."):
            table.table[0] = 1
            table.begin()


async def test_another_boot_begins_with_empty_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Shared(tmp_path / "shared")
    ledger = Ledger(first)
    subject = ledger.subject(Limits(rpm=1), "p", None, None)
    assert subject is not None
    assert ledger.admit(subject, 0).ticket
    first.close()
    second = Shared(tmp_path / "shared")
    assert Ledger(second).admit(subject, 0).ticket is None
    second.close()
    monkeypatch.setattr("muxx.counters.boot", lambda: 7)
    third = Shared(tmp_path / "shared")
    assert Ledger(third).admit(subject, 0).ticket
    third.close()


# ── the route and the command ──


async def test_a_project_sees_how_its_own_limits_stand() -> None:
    async with limited(rpm=10, user_rpd=3, key_in_flight=2) as gateway:
        gateway.upstream.script(sse(delta("Hi"), end=hang()))
        async with await gateway.connect() as client:
            await client.post_chat(gateway.key, chat_body("Hi", stream=True), {"X-Muxx-User-Id": "ann"})
            await client.readuntil(b"data: ")
            told = (await gateway.get("/v1/limits?user_id=ann")).json()["data"][0]
            assert {one["name"]: (one["limit"], one["used"], one["remaining"]) for one in told["limits"]} == {
                "rpm": (10, 1, 9), "user_rpd": (3, 1, 2), "key_in_flight": (2, 1, 1),
            }  # fmt: skip
            assert (told["project"], told["user_id"]) == ("default", "ann")
            assert all(time.time() - 5 < one["reset"] < time.time() + 86_405 for one in told["limits"])
            nobody = (await gateway.get(f"/v1/limits?user_id=ben&key_id={told['key_id']}x")).json()["data"][0]["limits"]
            assert {one["name"]: one["used"] for one in nobody} == {"rpm": 1, "user_rpd": 0, "key_in_flight": 0}
            refused = await gateway.get("/v1/limits?project=default")
            assert (refused.status, refused.json()["error"]["param"]) == (400, "project")


async def test_an_admin_sees_the_limits_of_every_project_and_a_project_none_of_anothers() -> None:
    async with limited(rpm=10, key_in_flight=2) as gateway:
        gateway.upstream.script(sse(delta("Hi"), end=hang()))
        await gateway.gateway.host.projects.create("shop", {"limits": {"rpm": 5}})
        shop, admin = await add_key(gateway, project="shop"), await add_key(gateway, "admin", None)

        async def told(key: str, query: str = "") -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = (await get(gateway.base_url, f"/v1/limits{query}", key)).json()["data"]
            return found

        async with await gateway.connect() as client:
            await client.post_chat(gateway.key, chat_body("Hi", stream=True))
            await client.readuntil(b"data: ")
            [mine] = await told(gateway.key)
            assert {one["project"]: one["limits"][0]["limit"] for one in await told(admin)} == {"default": 10, "shop": 5}
            [named] = await told(admin, f"?project=default&key_id={mine['key_id']}")
            assert [one["used"] for one in named["limits"]] == [1, 1]
            [other] = await told(shop, f"?key_id={mine['key_id']}")
            assert [one["used"] for one in other["limits"]] == [0, 0], "as of a key that does not exist"
            assert (await get(gateway.base_url, "/v1/limits?project=none", admin)).status == 404


async def test_limits_show_tells_beside_a_running_server(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream:
        upstream.script(chat())
        config = {"project": {"limits": {"rpm": 10, "tpm": 5000, "user_rpd": 3}}}
        async with GatewayProcess(tmp_path, upstream.base_url, config) as gateway:
            for number in range(2):
                await gateway.chat(str(number), headers={"X-Muxx-User-Id": "ann"})
            said = orjson.loads(await gateway.run("limits", "show", "--user", "ann", "--json"))
            assert (said["project"], said["user_id"], said["key_id"]) == ("default", "ann", None)
            told = {row["name"]: (row["limit"], row["used"], row["remaining"]) for row in said["limits"]}
            assert told["rpm"] == (10, 2, 8)
            assert told["user_rpd"] == (3, 2, 1)
            route = (await gateway.get("/v1/limits?user_id=ann")).json()["data"][0]
            assert {row["name"]: (row["limit"], row["used"], row["remaining"]) for row in route["limits"]} == told
            assert 0 < told["tpm"][1] < 100
            assert all(time.time() - 5 < row["reset"] < time.time() + 86_405 for row in said["limits"])
            table = await gateway.run("limits", "show")
            assert "rpm" in table
            assert "user_rpd" not in table


async def test_without_a_log_the_journal_is_counted_and_a_log_that_cannot_be_read_stops_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = Limits(rpm=50)
    async with limited({"plugins": {"only": ["keys", "limits"]}}, rpm=50) as gateway:
        gateway.upstream.script(chat())
        for number in range(3):
            await gateway.chat(str(number))
        forget(gateway)
        held = len(journalled(gateway.gateway.host.paths.journal))
        await refill(Ledger(gateway.gateway.shared), gateway.gateway, lambda _: limits)
        assert used(gateway)["rpm"] == held == 3

        async def fail(*_: Any) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        forget(gateway)
        monkeypatch.setattr(gateway.gateway.db, "read_logs", fail)
        with pytest.raises(sqlite3.OperationalError):
            await refill(Ledger(gateway.gateway.shared), gateway.gateway, lambda _: limits)
        assert not Ledger(gateway.gateway.shared).minute_table.filled


class Asks:
    """Asks a model about each request of a client."""

    @hookimpl
    async def pre_request(self, gateway: Gateway, exchange: Exchange) -> None:
        if exchange.parent is None:
            await gateway.call("chat", chat_body("Is that allowed?"), parent=exchange)


async def test_what_a_plugin_asked_is_not_counted_from_the_journal_either() -> None:
    async with limited({"plugins": {"only": ["keys", "limits", "asks"]}}, {"asks": Asks}, rpm=50) as gateway:
        for number in range(3):
            await gateway.chat(str(number))
        assert used(gateway) == {"rpm": 3}
        assert len(journalled(gateway.gateway.host.paths.journal)) == 6
        forget(gateway)
        await refill(Ledger(gateway.gateway.shared), gateway.gateway, lambda _: Limits(rpm=50))
        assert used(gateway) == {"rpm": 3}


class Watcher:
    """Notes how the limits stand of each request that is over."""

    def __init__(self) -> None:
        self.seen: list[list[tuple[str, int, int]]] = []
        self.ends: set[int] = set()

    @hookimpl
    def post_response(self, exchange: Exchange) -> None:
        self.seen.append([(standing.name, standing.limit, standing.used) for standing in exchange.standings])
        self.ends.update(standing.window for standing in exchange.standings)


async def test_how_the_limits_stand_is_told_only_where_alerts_ask_for_it() -> None:
    for alerts, told in (([{"limit": "rpm"}], True), ([{"usd": "1"}, {"limit": "spend_cap"}], False)):
        config = {"project": {"alerts": alerts, "cache": {"enabled": False}}}
        async with limited(config, {"watcher": Watcher}, rpm=2, rpd=9, user_rpd=5, tpm=100_000, key_in_flight=9) as gateway:
            gateway.upstream.script(chat())
            for _ in range(3):
                await gateway.chat(headers={"X-Muxx-User-Id": "ann"}, max_tokens=100)
            watcher = gateway.gateway.plugins.by_name["watcher"].instance
            await eventually(lambda watcher=watcher: len(watcher.seen) == 3)
        if not told:
            assert watcher.seen == [[], [], []]
            continue
        counts = [{name: used for name, _, used in seen if name != "tpm"} for seen in watcher.seen]
        assert counts == [{"rpm": n, "rpd": n, "user_rpd": n} for n in (1, 2, 2)], "the refused one too"
        assert {limit for seen in watcher.seen for name, limit, _ in seen if name == "tpm"} == {100_000}
        hour, day = 3_600_000, 86_400_000
        now = time.time_ns() // 1_000_000
        assert watcher.ends <= {(moment // length + 1) * length for length in (hour, day) for moment in (now, now - 60_000)}
        assert len(watcher.ends) >= (1 if (now // hour + 1) % 24 == 0 else 2)
