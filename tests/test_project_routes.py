"""Projects, keys and the audit log over HTTP: what admins may do, and what a project may see."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from http_kit import add_key, plain, say

from muxx.testing import RawResponse, RunningGateway, leak
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
        ("/v1/keys", {"environment": "admin", "project": "default"}, "project"),
        ("/v1/keys", {"environment": "root"}, "environment"),
        ("/v1/keys", {"expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
        ("/v1/keys", {"expires_at": "2999-01-01T00:00:00"}, "expires_at"),
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
