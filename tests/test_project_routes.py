"""Projects, keys and the audit log over HTTP: what admins may do, and what a project may see."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Any

import orjson
import pytest
from http_kit import add_key, plain, say

from muxx.testing import RawResponse, RunningGateway, error, leak
from muxx.testing.client import post_chat
from muxx.testing.settings import PROVIDER_KEY

CANARY = "sk-project-canary-3b8a6d90"


@pytest.fixture
async def gateway() -> AsyncIterator[RunningGateway]:
    async with RunningGateway() as running:
        yield running


async def call(gateway: RunningGateway, key: str, method: str, path: str, body: Any = None) -> RawResponse:
    """One request of the management API with this key."""
    data = b"" if body is None else orjson.dumps(body)
    text = plain("Connection: close", "Content-Type: application/json", line=f"{method} {path} HTTP/1.1", body=data)
    [response] = (await say(gateway, text.replace(b"<KEY>", key.encode()))).responses
    return response


class Admin:
    """An admin key of a gateway."""

    def __init__(self, gateway: RunningGateway, key: str) -> None:
        self.gateway = gateway
        self.key = key

    @classmethod
    async def of(cls, gateway: RunningGateway) -> Admin:
        return cls(gateway, await add_key(gateway, "admin", None))

    async def __call__(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        response = await call(self.gateway, self.key, method, path, body)
        assert response.status == status, response.text
        return response.json() if status < 300 else response.error

    async def project(self, name: str, **settings: Any) -> dict[str, Any]:
        made: dict[str, Any] = await self("POST", "/v1/projects", {"name": name, "settings": settings}, 201)
        return made

    async def make_key(self, **members: Any) -> dict[str, Any]:
        made: dict[str, Any] = await self("POST", "/v1/keys", members, 201)
        return made


async def test_a_project_is_made_changed_listed_and_archived(gateway: RunningGateway) -> None:
    admin = await Admin.of(gateway)
    made = await admin.project("cycle", cache={"ttl": "1h"})
    path = f"/v1/projects/{made['id']}"
    assert (made["settings"], made["effective"]["cache"]) == ({"cache": {"ttl": 3600}}, {"enabled": True, "ttl": 3600})
    assert await admin("GET", path) == made
    changed = await admin("PATCH", path, {"settings": {"cache": {"ttl": None}, "store_content": False}})
    assert (changed["settings"], changed["effective"]["store_content"]) == ({"store_content": False}, False)
    assert changed in (await admin("GET", "/v1/projects"))["data"]
    key = (await admin.make_key(project="cycle"))["key"]
    assert (await call(gateway, key, "GET", "/v1/project")).json() == changed
    archived = await admin("DELETE", path)
    assert archived["archived_at"] is not None
    assert (await call(gateway, key, "GET", "/v1/project")).status == 401
    assert (await admin("PATCH", path, {"settings": {}}, 400))["param"] == "project"


async def test_a_key_is_shown_once_works_at_once_and_is_refused_once_revoked(gateway: RunningGateway) -> None:
    admin = await Admin.of(gateway)
    await admin.project("keyed")
    made = await admin.make_key(project="keyed", environment="test", name="ci", models=["gpt-4o*"])
    assert made["key"].startswith("muxx_sk_test_")
    assert (await post_chat(gateway.base_url, made["key"], "Hello", model="gpt-4o")).status == 200
    assert (await post_chat(gateway.base_url, made["key"], "Hello", model="claude-3-5-haiku")).status == 403
    listed = await admin("GET", "/v1/keys")
    assert {name: value for name, value in made.items() if name != "key"} in listed["data"]
    assert leak.find([made["key"]], orjson.dumps(listed), gateway.directory) == []
    assert (await admin("DELETE", f"/v1/keys/{made['id']}"))["revoked"] is True
    assert (await post_chat(gateway.base_url, made["key"], "Hello", model="gpt-4o")).status == 401
    assert (await admin("DELETE", "/v1/keys/key_0", status=404))["code"] == "not_found"


async def test_an_admin_key_may_be_made_and_an_expiring_one_ends(gateway: RunningGateway) -> None:
    admin = await Admin.of(gateway)
    second = Admin(gateway, (await admin.make_key(environment="admin"))["key"])
    assert (await second("GET", "/v1/projects"))["object"] == "list"
    made = await admin.make_key(expires_at="2999-01-01T00:00:00Z")
    assert (made["project"], made["expires_at"]) == ("default", "2999-01-01T00:00:00.000Z")


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/projects", {"name": "x", "role": "admin"}, "role"),
        ("/v1/projects", {"name": "x", "id": "proj_1"}, "id"),
        ("/v1/projects", {"name": "default"}, "name"),
        ("/v1/projects", {"name": "a b"}, "name"),
        ("/v1/projects", {"name": 5}, "name"),
        ("/v1/projects", {}, "name"),
        ("/v1/projects", {"name": "x", "settings": {"cache": {"tll": 5}}}, "cache.tll"),
        ("/v1/keys", {"is_admin": True}, "is_admin"),
        ("/v1/keys", {"budget": 5}, "budget"),
        ("/v1/keys", {"project": "nowhere"}, "project"),
        ("/v1/keys", {"project": ""}, "project"),
        ("/v1/keys", {"environment": "admin", "project": "default"}, "project"),
        ("/v1/keys", {"environment": "root"}, "environment"),
        ("/v1/keys", {"expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
        ("/v1/keys", {"expires_at": "2999-01-01T00:00:00"}, "expires_at"),
        ("/v1/keys", {"expires_at": "9999-12-31T23:59:59-12:00"}, "expires_at"),
        ("/v1/keys", {"models": ["gpt-*", ""]}, "models[1]"),
        ("/v1/keys", {"name": "a\u202eb"}, "name"),
    ],
)  # fmt: skip
async def test_A09_members_that_are_not_asked_for_or_wrong_are_400_and_change_nothing(
    path: str, body: dict[str, Any], param: str, gateway: RunningGateway
) -> None:
    admin = await Admin.of(gateway)
    before = await admin("GET", path), await admin("GET", "/v1/audit")
    error = await admin("POST", path, body, 400)
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert (await admin("GET", path), await admin("GET", "/v1/audit")) == before


async def test_A09_another_projects_id_is_answered_as_one_that_does_not_exist(gateway: RunningGateway) -> None:
    admin = await Admin.of(gateway)
    mine, other = await admin.project("mine"), await admin.project("other")
    key = (await admin.make_key(project="mine"))["key"]
    assert (await call(gateway, key, "GET", f"/v1/projects/{mine['id']}")).json() == mine
    foreign, missing = [await call(gateway, key, "GET", f"/v1/projects/{id}") for id in (other["id"], "proj_" + "0" * 20)]
    assert foreign.status == 404
    assert foreign.body == missing.body
    for method, path in (("PATCH", ""), ("DELETE", ""), ("GET", "/provider-keys"), ("PUT", "/provider-keys/openai")):
        body = {} if method in ("PATCH", "PUT") else None
        refused = await call(gateway, key, method, f"/v1/projects/{mine['id']}{path}", body)
        assert (refused.status, refused.error["code"]) == (403, "admin_required")
    assert await admin("GET", f"/v1/projects/{other['id']}") == other


async def test_a_provider_key_is_set_replaced_listed_without_it_and_removed(gateway: RunningGateway) -> None:
    admin = await Admin.of(gateway)
    project = await admin.project("payer")
    key = (await admin.make_key(project="payer"))["key"]
    path = f"/v1/projects/{project['id']}/provider-keys"
    for text in ("sk-before-0123456789", CANARY):
        shown = await admin("PUT", f"{path}/openai", {"key": text})
        assert shown["last4"] == text[-4:]
    listed = await admin("GET", path)
    assert listed["data"] == [shown]
    assert (await post_chat(gateway.base_url, key, "Hello", model="gpt-4o")).status == 200
    assert gateway.upstream.last.header("authorization") == f"Bearer {CANARY}"
    audit = await admin("GET", "/v1/audit?project=payer")
    assert leak.find([CANARY], orjson.dumps([listed, shown, audit]), gateway.directory) == []
    assert (await admin("DELETE", f"{path}/openai"))["deleted"] is True
    await admin("DELETE", f"{path}/openai", status=404)
    await admin("PUT", f"{path}/nobody", {"key": CANARY}, 404)
    for body in ({"key": "a b"}, {"key": 5}, {"key": CANARY, "role": "x"}, {}):
        assert CANARY not in str(await admin("PUT", f"{path}/openai", body, 400))
    assert (await post_chat(gateway.base_url, key, "Hello", model="gpt-4o")).status == 200
    assert gateway.upstream.last.header("authorization") == f"Bearer {PROVIDER_KEY}"


async def test_a_project_lists_the_models_that_its_own_keys_open() -> None:
    """The operator has no key there, so nobody else is shown what it serves."""
    config = {"providers": {"anthropic": {"api_key": ""}}}
    async with RunningGateway(config) as gateway:
        admin = await Admin.of(gateway)
        project = await admin.project("payer")
        key = (await admin.make_key(project="payer"))["key"]

        async def listed(key: str) -> set[str]:
            return {item["id"] for item in (await call(gateway, key, "GET", "/v1/models")).json()["data"]}

        assert "claude-3-5-haiku" not in await listed(key)
        await admin("PUT", f"/v1/projects/{project['id']}/provider-keys/anthropic", {"key": CANARY})
        assert "claude-3-5-haiku" in await listed(key)
        assert "claude-3-5-haiku" not in await listed(gateway.key) | await listed(admin.key)


async def test_a_key_is_shown_changed_and_listed_by_what_it_is(gateway: RunningGateway) -> None:
    admin = await Admin.of(gateway)
    await admin.project("changing")
    made = await admin.make_key(project="changing", name="one", models=["gpt-*"])
    path = f"/v1/keys/{made['id']}"
    assert await admin("GET", path) == {name: value for name, value in made.items() if name != "key"}
    changed = await admin("PATCH", path, {"name": None, "models": ["claude-*"]})
    assert (changed["name"], changed["models"], changed["expires_at"]) == (None, ["claude-*"], None)
    assert (await post_chat(gateway.base_url, made["key"], "Hello", model="gpt-4o")).status == 403
    assert await admin("PATCH", path, {}) == changed
    later = await admin("PATCH", path, {"expires_at": "2999-01-01T00:00:00Z", "models": []})
    assert (later["expires_at"], later["models"]) == ("2999-01-01T00:00:00.000Z", [])
    assert (await post_chat(gateway.base_url, made["key"], "Hello", model="gpt-4o")).status == 200
    for body, param in (({"expires_at": "2001-01-01T00:00:00Z"}, "expires_at"), ({"project": "x"}, "project"), ({"models": 5}, "models")):
        assert (await admin("PATCH", path, body, 400))["param"] == param
    assert await admin("GET", path) == later
    rows = (await admin("GET", "/v1/audit?project=changing"))["data"]
    assert [row["detail"] for row in rows if row["action"] == "key.change"] == [
        {"environment": "live", "models": [], "expires_at": 32472144000.0},
        {"environment": "live", "name": None, "models": ["claude-*"]},
    ]
    await admin("DELETE", path)
    assert "revoked" in (await admin("PATCH", path, {"name": "again"}, 400))["message"]


async def test_A08_both_keys_of_a_rotation_work_during_the_overlap_only(gateway: RunningGateway) -> None:
    admin = await Admin.of(gateway)
    await admin.project("turning")
    old = await admin.make_key(project="turning", name="web", models=["gpt-*"])
    new = await admin("POST", f"/v1/keys/{old['id']}/rotate", {"overlap_s": 1}, 201)
    ended = time.time() + 1
    assert (new["name"], new["models"], new["project"]) == ("web", ["gpt-*"], "turning")
    assert (await call(gateway, old["key"], "GET", "/v1/project")).status == 200
    assert (await call(gateway, new["key"], "GET", "/v1/project")).status == 200
    shown = await admin("GET", f"/v1/keys/{old['id']}")
    assert (shown["status"], shown["replaced_by"]) == ("active", new["id"])
    assert new["id"] in (await admin("POST", f"/v1/keys/{old['id']}/rotate", {}, 400))["message"]
    assert new["id"] in (await admin("PATCH", f"/v1/keys/{old['id']}", {"expires_at": None}, 400))["message"]
    await asyncio.sleep(max(0.0, ended - time.time()) + 0.05)
    assert (await call(gateway, old["key"], "GET", "/v1/project")).status == 401
    assert (await call(gateway, new["key"], "GET", "/v1/project")).status == 200
    at_once = await admin("POST", f"/v1/keys/{new['id']}/rotate", {"overlap_s": 0}, 201)
    assert (await call(gateway, new["key"], "GET", "/v1/project")).status == 401
    assert (await call(gateway, at_once["key"], "GET", "/v1/project")).status == 200
    assert leak.find([old["key"], new["key"], at_once["key"]], gateway.directory) == []
    for body in ({"overlap_s": -1}, {"overlap_s": 10**9}, {"overlap_s": "1h"}, {"overlap": 5}):
        await admin("POST", f"/v1/keys/{at_once['id']}/rotate", body, 400)


async def test_lists_are_filtered_and_come_in_pages(gateway: RunningGateway) -> None:
    admin = await Admin.of(gateway)
    projects = [(await admin.project(f"page-{number}"))["id"] for number in range(3)]
    keys = [(await admin.make_key(project="page-0", environment=kind))["id"] for kind in ("live", "test", "live")]
    await admin("DELETE", f"/v1/keys/{keys[0]}")
    await admin("DELETE", f"/v1/projects/{projects[2]}")
    assert await ids(admin, "/v1/keys?project=page-0") == keys
    assert await ids(admin, "/v1/keys?project=page-0&status=active") == keys[1:]
    assert await ids(admin, "/v1/keys?project=page-0&environment=live&status=revoked") == keys[:1]
    assert await ids(admin, "/v1/keys?project=page-0&limit=1") == keys
    assert await ids(admin, "/v1/projects?limit=1") == await ids(admin, "/v1/projects")
    assert (await ids(admin, "/v1/projects?limit=2"))[1:] == projects
    assert await ids(admin, "/v1/projects?archived=true") == projects[2:]
    assert await ids(admin, "/v1/projects?archived=false&name=page-1") == projects[1:2]
    for query in ("limit=0", "limit=x", "after=key_0", "sort=id"):
        for path in ("/v1/keys", "/v1/projects"):
            assert (await admin("GET", f"{path}?{query}", status=400))["param"] == query.partition("=")[0]


async def ids(admin: Admin, path: str) -> list[str]:
    """All there are, page by page."""
    page = await admin("GET", path)
    found = [row["id"] for row in page["data"]]
    while page["has_more"]:
        page = await admin("GET", f"{path}&after={found[-1]}")
        found += [row["id"] for row in page["data"]]
    return found


async def test_an_archived_project_is_restored_with_its_keys(gateway: RunningGateway) -> None:
    admin = await Admin.of(gateway)
    project = await admin.project("returning", store_content=False)
    kept, gone = await admin.make_key(project="returning"), await admin.make_key(project="returning")
    await admin("DELETE", f"/v1/keys/{gone['id']}")
    await admin("DELETE", f"/v1/projects/{project['id']}")
    assert (await call(gateway, kept["key"], "GET", "/v1/project")).status == 401
    assert await admin("POST", f"/v1/projects/{project['id']}/restore") == project
    assert (await call(gateway, kept["key"], "GET", "/v1/project")).json() == project
    assert (await call(gateway, gone["key"], "GET", "/v1/project")).status == 401
    assert await admin("POST", f"/v1/projects/{project['id']}/restore") == project
    assert [row["action"] for row in (await admin("GET", "/v1/audit?project=returning"))["data"]].count("project.restore") == 1
    assert await admin("POST", f"/v1/projects/{project['id']}/restore", {}) == project
    assert (await admin("POST", f"/v1/projects/{project['id']}/restore", {"keys": "none"}, 400))["param"] == "keys"
    assert (await admin("PATCH", f"/v1/projects/{project['id']}", {"name": "renamed"}, 400))["param"] == "settings"


async def test_L08_no_secret_of_the_management_api_is_anywhere_but_in_the_answer_that_made_it(
    gateway: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    """Database, write-ahead log, journal, log, answers, audit log: after keys were made, rotated, revoked and provider keys were set,
    replaced, refused and removed."""
    admin = await Admin.of(gateway)
    project = await admin.project("secretive")
    path = f"/v1/projects/{project['id']}/provider-keys"
    made = await admin.make_key(project="secretive")
    rotated = await admin("POST", f"/v1/keys/{made['id']}/rotate", {}, 201)
    provider_keys = [f"sk-canary-{number}-0123456789abcdef" for number in range(4)]
    answers = [await admin("PUT", f"{path}/{name}", {"key": key}) for name, key in zip(("openai", "openai", "google"), provider_keys, strict=False)]
    answers += [await admin("PUT", f"{path}/openai", {"key": provider_keys[3] + "\n"}, 400)]
    answers += [await admin("PUT", f"{path}/nobody", {"key": provider_keys[3]}, 404)]
    gateway.upstream.script(error(401, f"Incorrect API key provided: {provider_keys[1]}"))
    refused = await post_chat(gateway.base_url, rotated["key"], "Hello", model="gpt-4o")
    assert gateway.upstream.last.header("authorization") == f"Bearer {provider_keys[1]}"
    await gateway.gateway.db.read("SELECT 1")
    answers += [await admin("GET", p) for p in (path, "/v1/keys", "/v1/projects", "/v1/audit", f"/v1/keys/{made['id']}")]
    answers += [await admin("DELETE", f"{path}/google"), await admin("DELETE", f"/v1/keys/{made['id']}")]
    secrets = [made["key"], rotated["key"], admin.key, *provider_keys]
    shown = orjson.dumps(answers) + refused.body + repr(gateway.gateway.host.projects).encode()
    assert leak.find(secrets, shown, gateway.directory, caplog.text) == []


async def test_every_change_names_the_key_that_made_it(gateway: RunningGateway) -> None:
    admin = await Admin.of(gateway)
    project = await admin.project("watched", store_content=False)
    made = await admin.make_key(project="watched")
    await admin("DELETE", f"/v1/keys/{made['id']}")
    await admin("DELETE", f"/v1/keys/{made['id']}")
    await admin("DELETE", f"/v1/projects/{project['id']}")
    [own] = [key["id"] for key in (await admin("GET", "/v1/keys"))["data"] if key["last4"] == admin.key[-4:]]
    rows = (await admin("GET", "/v1/audit?project=watched"))["data"]
    assert [(row["action"], row["subject"]) for row in rows] == [
        ("project.archive", None), ("key.revoke", made["id"]), ("key.create", made["id"]), ("project.create", None),
    ]  # fmt: skip
    assert {row["actor"] for row in rows} == {own}
    assert rows[-1]["detail"] == {"settings": {"store_content": False}}
    assert made["key"] not in str(rows)


async def test_the_audit_log_is_paged_and_refuses_what_it_does_not_know(gateway: RunningGateway) -> None:
    admin = await Admin.of(gateway)
    project = await admin.project("paged")
    for ttl in (1, 2, 3):
        await admin("PATCH", f"/v1/projects/{project['id']}", {"settings": {"cache": {"ttl": ttl}}})
    first = await admin("GET", "/v1/audit?project=paged&limit=3")
    assert ([row["detail"]["settings"] for row in first["data"]], first["has_more"]) == (
        [{"cache.ttl": 3}, {"cache.ttl": 2}, {"cache.ttl": 1}],
        True,
    )
    rest = await admin("GET", f"/v1/audit?project=paged&after={first['data'][-1]['id']}")
    assert ([row["action"] for row in rest["data"]], rest["has_more"]) == (["project.create"], False)
    for query in ("limit=0", "limit=x", "after=-1", "sort=at"):
        assert (await admin("GET", f"/v1/audit?{query}", status=400))["param"] == query.partition("=")[0]


@pytest.mark.parametrize(
    ("fault", "told", "logged"),
    [
        ("locked", "Another program holds the gateway's database.", "database is locked"),
        ("full", "There is no room on the disk of the gateway's database.", "database or disk is full"),
        ("read-only", "The gateway may not write its database.", "attempt to write a readonly database"),
    ],
)
async def test_a_change_that_the_database_cannot_take_is_a_503_that_says_why_and_changes_nothing(
    gateway: RunningGateway, caplog: pytest.LogCaptureFixture, fault: str, told: str, logged: str
) -> None:
    admin = await Admin.of(gateway)
    db = gateway.gateway.db
    db._writers["main"]._busy_ms = 1
    await admin.project("before")
    if fault != "locked":
        setting = "max_page_count = 1" if fault == "full" else "query_only = ON"
        await db.write(lambda connection: connection.execute_fetchall("PRAGMA " + setting))
    with closing(sqlite3.connect(db.path, isolation_level=None)) as other:
        if fault == "locked":
            await db._writers["main"].close()  # whose waiting was settled when it began
            other.execute("BEGIN IMMEDIATE")
        models = [f"{number:0>60}" for number in range(60)]
        made = 0
        while True:
            response = await call(gateway, admin.key, "POST", "/v1/keys", {"name": "after", "models": models})
            if response.status != 201 or made == 3:
                break
            made += 1
    assert (response.status, response.error["code"], response.header("x-should-retry")) == (503, "database_unavailable", "true")
    assert response.error["message"].startswith(told)
    [line] = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert line.startswith("plugin keys failed in POST /v1/keys: OperationalError at ")
    assert line.endswith(": " + logged)
    assert len([key for key in (await admin("GET", "/v1/keys"))["data"] if key["name"] == "after"]) == made
