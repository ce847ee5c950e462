"""FAULTS P04: after `authenticate` no plugin sees a credential of the client, wherever it looks, at any endpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from carrying_kit import serving
from hooks_kit import Seen, watching
from test_plugin_chunks import FORMS, answer_of
from wires_kit import Endpoint, ask

from muxx import Attempt, Chunk, Exchange, Gateway, HttpRequest, StateKey, Target, Usage, hookimpl
from muxx.testing import eventually

CREDENTIALS = {
    "Authorization": "Bearer sk-client-canary-1",
    "X-Api-Key": "sk-client-canary-2",
    "X-Goog-Api-Key": "sk-client-canary-3",
    "Cookie": "session=sk-client-canary-4",
    "Proxy-Authorization": "Basic sk-client-canary-5",
}
LEFT_ASIDE = {"_head"}
"""The kernel's own way to the head. A plugin that takes it is not held back by anything Python has."""


def reachable(value: Any, path: str, known: set[int]) -> Iterator[tuple[str, str]]:
    """Every text that can be reached from a value through attributes, private ones too, and what containers hold."""
    if id(value) in known or isinstance(value, type | Gateway) or callable(value):
        return
    known.add(id(value))
    if isinstance(value, str | bytes | bytearray):
        yield path, value if isinstance(value, str) else bytes(value).decode("utf-8", "replace")
    elif isinstance(value, Mapping):
        for key, child in value.items():
            yield from reachable(key, f"{path} key", known)
            yield from reachable(child, f"{path}[{key!r}]", known)
    elif isinstance(value, list | tuple | set | frozenset):
        for number, child in enumerate(value):
            yield from reachable(child, f"{path}[{number}]", known)
    elif type(value).__module__.split(".")[0] in ("muxx", "test_plugin_credentials"):
        names = {name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())} | vars_of(value)
        for name in names - LEFT_ASIDE:
            yield from reachable(getattr(value, name, None), f"{path}.{name}", known)


def vars_of(value: Any) -> set[str]:
    return set(getattr(value, "__dict__", ()))


def looking(found: list[str], looked: set[str]) -> type:
    """A plugin that searches what it is given, in every hook after `authenticate`, for what it saw there."""

    class Looks:
        def __init__(self) -> None:
            self.canaries: list[str] = []

        @hookimpl(tryfirst=True)
        def authenticate(self, request: HttpRequest) -> None:
            values = [request.headers["X-Muxx-Api-Key"], *(request.headers[name] for name in CREDENTIALS)]
            self.canaries = [value.split()[-1].removeprefix("session=") for value in values]
            request.memory["own"] = "a plugin's entry, which is no secret"

        def _search(self, hook: str, *values: Any) -> None:
            looked.add(hook)
            texts = list(reachable(list(values), hook, set()))
            assert any("gpt-4o" in text or "embedding" in text for _, text in texts), "the search reaches what is there"
            found.extend(path for path, text in texts if any(canary in text for canary in self.canaries))

        @hookimpl
        def pre_request(self, exchange: Exchange) -> None:
            exchange.state[StateKey[str]("seen")] = "state is searched as well"
            self._search("pre_request", exchange)

        @hookimpl
        def pre_attempt(self, exchange: Exchange, attempt: Attempt) -> None:
            self._search("pre_attempt", exchange, attempt)

        @hookimpl
        def on_chunk(self, exchange: Exchange, chunk: Chunk) -> None:
            self._search("on_chunk", exchange, chunk)

        @hookimpl(tryfirst=True)
        def price(self, target: Target, usage: Usage) -> None:
            self._search("price", target, usage)

        @hookimpl
        def post_response(self, exchange: Exchange) -> None:
            self._search("post_response", exchange)

    return Looks


@pytest.mark.parametrize(("endpoint", "stream"), FORMS, ids=lambda value: str(value))
async def test_P04_after_authenticate_no_plugin_reaches_a_credential_of_the_client(endpoint: Endpoint, stream: bool) -> None:
    found: list[str] = []
    looked: set[str] = set()
    seen = Seen()
    async with serving(plugins={"looks": looking(found, looked), "watching": watching(seen)}) as gateway:
        gateway.upstream.script(answer_of(endpoint, stream))
        headers = {"X-Muxx-Api-Key": gateway.key, **CREDENTIALS}
        for _ in range(2):  # the second head may be known from the first
            assert (await ask(gateway, endpoint, stream, headers)).status == 200
        await eventually(lambda: len(seen.after) == 2)
        sent = gateway.upstream.last
    assert looked == {"pre_request", "pre_attempt", "on_chunk", "price", "post_response"}
    assert found == []
    assert not [value for _, value in sent.headers if "canary" in value and "client" in value]


async def test_P04_the_row_and_its_attributes_hold_no_credential() -> None:
    async with serving() as gateway:
        response = await gateway.chat(headers={"X-Muxx-Api-Key": gateway.key, **CREDENTIALS})
        told = repr(await gateway.get_row(response.request_id))
    assert "client-canary" not in told
    assert gateway.key not in told
