"""The OpenAPI document: it is one, it tells of every route, and a running gateway keeps to it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio
from http_kit import one_loop
from openapi_kit import Things, fuzz
from openapi_spec_validator import OpenAPIV31SpecValidator

from muxx import Asked, HttpRequest, InvalidRequest, Reply, Route, hookimpl, openapi, query_as
from muxx.endpoints import HEALTH_PATHS, KERNEL_PATHS, Table
from muxx.testing import RunningGateway, get


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway() -> AsyncIterator[RunningGateway]:
    async with RunningGateway(mock=True) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def things(gateway: RunningGateway) -> Things:
    return await Things.of(gateway)


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(method.upper(), path): found for path, item in document["paths"].items() for method, found in item.items()}


@one_loop
async def test_the_document_is_valid_and_read_without_a_key(gateway: RunningGateway) -> None:
    response = await get(gateway.base_url, "/v1/openapi.json", "")
    assert (response.status, response.header("content-type")) == (200, "application/json")
    document = response.json()
    assert [str(error) for error in OpenAPIV31SpecValidator(document).iter_errors()] == []
    assert document["openapi"].startswith("3.1")


@one_loop
async def test_the_document_is_made_beside_the_event_loop(gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    made_in = []

    def document(*arguments: Any) -> dict[str, Any]:
        made_in.append(threading.current_thread())
        return {}

    monkeypatch.setattr(openapi, "document", document)
    assert await openapi.written(Table(gateway.gateway).routes, HEALTH_PATHS) == b"{}"
    assert made_in != [threading.current_thread()]


@one_loop
async def test_the_document_tells_of_every_route_and_of_no_other(things: Things, gateway: RunningGateway) -> None:
    served = {(route.method, route.path) for route in Table(gateway.gateway).routes}
    served |= {(method, path) for path, method in KERNEL_PATHS.items()} | {("GET", path) for path in HEALTH_PATHS}
    told = operations(things.document)
    assert told.keys() == served
    assert len({found["operationId"] for found in told.values()}) == len(told)


@one_loop
async def test_every_operation_says_what_it_does_who_may_call_it_and_what_it_answers(things: Things) -> None:
    for (method, path), found in operations(things.document).items():
        assert found["summary"], (method, path)
        assert (found.get("security") == []) == (found["x-muxx-role"] == "public"), (method, path)
        [good] = [status for status in found["responses"] if status.startswith("2")]
        json = found["responses"][good]["content"].get("application/json")
        assert json is None or json["schema"] or path in KERNEL_PATHS, (method, path)
        assert ("requestBody" in found) == (method in ("PUT", "PATCH") or (method == "POST" and not path.endswith("/restore")))


@one_loop
async def test_the_page_lists_exactly_the_routes_of_the_document(things: Things) -> None:
    """Where it does not, what is compared here is what the page has to say."""
    roles = {"public": "anybody", "project_only": "a project's key", "project": "any key", "admin": "admin"}
    told = operations(things.document)
    wanted = [f"| `{way} {path}` | {roles[found['x-muxx-role']]} | {found['summary']} |" for (way, path), found in told.items()]
    page = (Path(__file__).parent.parent / "docs/api.md").read_text()
    assert [line for line in page.splitlines() if line.startswith(("| `GET ", "| `POST ", "| `PUT ", "| `PATCH ", "| `DELETE "))] == wanted


@one_loop
async def test_the_document_holds_nothing_of_this_gateway(things: Things, gateway: RunningGateway) -> None:
    text = orjson.dumps(things.document).decode()
    for secret in (gateway.key, str(gateway.directory), *things.keys.values(), *things.ids.values()):
        assert not secret or secret == "gpt-4o" or secret not in text


@one_loop
@pytest.mark.parametrize(
    ("role", "mode"),
    [("nobody", "allowed"), ("project", "allowed"), ("project", "forbidden"), ("admin", "allowed"), ("admin", "forbidden")],
)
async def test_every_answer_conforms_to_the_document(role: str, mode: str, things: Things) -> None:
    """A hundredth of what tests/soak asks."""
    assert await asyncio.to_thread(fuzz, things, role, mode, 2) > 20


WITH_QUERIES_OF_THEIR_OWN = ("/v1/models", "/v1beta/models")
"""SDKs send these what muxx has no use for."""


@one_loop
async def test_a_parameter_that_a_route_does_not_know_or_that_comes_twice_is_refused_before_anything_is_done(
    things: Things, gateway: RunningGateway
) -> None:
    asked = 0
    for (method, path), found in operations(things.document).items():
        if found["x-muxx-role"] not in ("project", "admin") or path.startswith(WITH_QUERIES_OF_THEIR_OWN):
            continue
        known = {"id": things.ids.get(path.partition("{")[0]), "request_id": things.ids["/v1/logs/"], "provider": "openai"}
        given = "format=csv&" if path.endswith("/export") else ""
        for query in ("dry_run=1", "dry_run=1&dry_run=1"):
            async with await gateway.connect() as client:
                await client.request(method, f"{path.format(**known)}?{given}{query}", {"X-Muxx-Api-Key": things.keys["admin"]})
                refused = await client.read_response()
            assert (refused.status, refused.error["param"]) == (400, "dry_run"), (method, path, refused.text)
            asked += 1
    assert asked > 50


@one_loop
@pytest.mark.parametrize(
    ("method", "target", "param"),
    [("POST", "/v1/projects", "name"), ("PUT", "/v1/projects/{spare}/provider-keys/openai", "key"), ("GET", "/v1/logs/export", "format")],
)
async def test_what_is_missing_is_told_from_what_is_wrong(
    method: str, target: str, param: str, things: Things, gateway: RunningGateway
) -> None:
    for given, code in ((None, "missing_field"), (7, "invalid_type")):
        body = b"{}" if given is None else orjson.dumps({param: given})
        query = f"?{param}={given}" if given is not None and method == "GET" else ""
        async with await gateway.connect() as client:
            headers = {"X-Muxx-Api-Key": things.keys["admin"]}
            path = target.format(spare=things.ids["/v1/projects/"]) + query
            await client.request(method, path, headers, None if method == "GET" else body)
            refused = await client.read_response()
        assert (refused.status, refused.error["code"], refused.error["param"]) == (400, code, param)


class ShelfQuery(Asked):
    limit: int = 10
    open: bool = False
    """Only those that are open now."""


async def shelf(gateway: Any, request: HttpRequest) -> Reply:
    """List the books. Nobody lends them."""
    asked = query_as(request, ShelfQuery)
    return Reply.json({"limit": asked.limit, "open": asked.open})


async def bare(gateway: Any, request: HttpRequest) -> Reply:
    return Reply.json([])


class Library:
    @hookimpl
    def register_routes(self) -> list[Route]:
        return [
            Route("GET", "/books", shelf, query=ShelfQuery, answer={"type": "object"}),
            Route("DELETE", "/books", bare, "admin"),
            Route("GET", "/books.csv", bare, content_types=("text/csv",), status=203, summary="The same for spreadsheets"),
        ]


async def test_a_plugins_routes_are_in_it_with_as_much_as_they_say_of_themselves() -> None:
    async with RunningGateway(mock=True, plugins={"library": Library}) as gateway:
        document = (await gateway.get("/v1/openapi.json")).json()
        assert [str(error) for error in OpenAPIV31SpecValidator(document).iter_errors()] == []
        listed = document["paths"]["/books"]["get"]
        assert (listed["summary"], listed["description"]) == ("List the books", "Nobody lends them. Any key.")
        assert {found["name"]: found["schema"]["type"] for found in listed["parameters"]} == {"limit": "integer", "open": "boolean"}
        assert listed["parameters"][1]["description"] == "Only those that are open now."
        assert document["paths"]["/books"]["delete"]["x-muxx-role"] == "admin"
        csv = document["paths"]["/books.csv"]["get"]
        assert (csv["summary"], csv["responses"]["203"]["content"]) == ("The same for spreadsheets", {"text/csv": {}})
        assert (await gateway.get("/books?limit=7&open=true")).json() == {"limit": 7, "open": True}


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=x", "limit"), ("limit=", "limit"), ("limit=1.5", "limit"), ("limit=%D9%A3", "limit"), ("limit=1_0", "limit"),
        ("limit=%201", "limit"), ("limit=1&limit=2", "limit"), ("a%0Ab=1&a%0Ab=2", None), ("open=1", "open"), ("open=True", "open"), ("limti=1", "limti"), ("=1", '""'),
    ],
)  # fmt: skip
@one_loop
async def test_a_query_is_read_strictly_and_never_repeated(query: str, param: str | None) -> None:
    request = HttpRequest("GET", "/books", query, None, None)
    with pytest.raises(InvalidRequest) as refused:
        query_as(request, ShelfQuery)
    assert refused.value.param == param
