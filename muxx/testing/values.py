"""Ready-made values, for calling a hook by hand: exchanges, attempts, chunks and what they are made of. Nothing runs here.

Every maker has defaults that a gateway could have come to, and every one of them can be overridden.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from multidict import CIMultiDict, CIMultiDictProxy

from muxx.exchange import Exchange
from muxx.ids import RequestIds
from muxx.money import Usage
from muxx.providers import BUILT_IN
from muxx.reply import Chunk, ToolCall
from muxx.request import HttpRequest, Identity, Request
from muxx.settings import Project
from muxx.targets import Attempt, Provider, Target
from muxx.wire.wires import BY_NAME

from .asking import model_for, request_body, request_target, sent
from .settings import PROVIDER_KEY

Headers = Mapping[str, str] | Iterable[tuple[str, str]]

_FORMATS = {row.name: row.format for row in BUILT_IN}
_VENDORS = {row.format: row.name for row in reversed(BUILT_IN)}


class HeadOf(HttpRequest):
    """The head of a request that never was on a wire, and its body."""

    __slots__ = ("_body",)

    def __init__(self, method: str, target: str, headers: Headers, body: bytes, remote: str | None) -> None:
        path, _, query = target.partition("?")
        super().__init__(method, path, query, CIMultiDictProxy(CIMultiDict(headers)), remote)
        self._body = body

    def body_now(self) -> bytes:
        return self._body

    async def body(self) -> bytes:
        return self._body


# ── requests ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def http_request(
    target: str = "/v1/chat/completions",
    *,
    method: str = "POST",
    headers: Headers = (),
    body: bytes = b"",
    remote: str | None = "127.0.0.1",
) -> HttpRequest:
    """What `authenticate` and the handler of a route get. The headers are as given: credentials are the test's to add."""
    return HeadOf(method, target, headers, body, remote)


def identity(project: str = "default", **fields: Any) -> Identity:
    """A caller with a live key; keyword arguments are fields of `muxx.Identity`."""
    return Identity(project, **{"key_id": "key_1", "key_prefix": "muxx_sk_live_", "key_last4": "0042", **fields})


def exchange(
    endpoint: str = "chat",
    content: str = "Hello",
    *,
    model: str | None = None,
    stream: bool = False,
    headers: Headers = (),
    identity: Identity | None = identity(),  # noqa: B008  (frozen)
    project: Project | None = None,
    targets: Iterable[Target] | None = None,
    **members: Any,
) -> Exchange:
    """An exchange as `pre_request` gets it. `members` are further members of the request's body.

    Without a `model` or `targets` it goes to a provider that speaks the endpoint's format.
    """
    if stream:
        members["stream"] = True
    model, wire = model or model_for(endpoint), BY_NAME[endpoint]
    body = request_body(endpoint, content, model=model, **members)
    data = orjson.dumps(sent(endpoint, body))
    head = http_request(request_target(endpoint, model, stream=stream), headers=headers, body=data)
    made = Exchange(RequestIds().next(), endpoint, Request(head, wire.parts))
    made.request.body, made.request.model, made.request.stream, made.request.size = body, model, stream, len(data)
    made.format, made.identity = wire.format, identity
    made.project = project or Project(identity.project if identity else "default")
    made.targets = tuple(targets) if targets is not None else (target(model, provider=provider(_VENDORS[wire.format])),)
    made.phase = "limit"
    return made


# ── providers ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def provider(name: str = "openai", **fields: Any) -> Provider:
    """A provider's row, in the format that the provider of this name speaks; keyword arguments are fields of `muxx.Provider`."""
    known = {"base_url": "http://provider.test/v1", "format": _FORMATS.get(name, "openai"), "prices": name}
    return Provider(name, **{**known, "api_key": PROVIDER_KEY, **fields})


def target(model: str = "gpt-4o", **fields: Any) -> Target:
    """A model at a provider; keyword arguments are fields of `muxx.Target`."""
    return Target(**{"provider": provider(), "model": model, **fields})


def attempt(exchange: Exchange, **fields: Any) -> Attempt:
    """The exchange's next upstream call, as `pre_attempt` gets it; keyword arguments are those of `muxx.Attempt`."""
    to: Target = fields.get("target") or exchange.targets[0]
    row = to.provider
    made = {
        "target": to,
        "number": len(exchange.attempts) + 1,
        "url": BY_NAME[exchange.operation].upstream_url(row.base_url, to.model, exchange.request.stream),
        "headers": {"content-type": "application/json", row.auth_header: f"{row.auth_scheme}{row.api_key}"},
        "body": {**exchange.request.body, "model": to.model, **to.parameters},
    }
    return Attempt(**{**made, **fields})


# ── chunks ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def text(*pieces: str, index: int = 0) -> list[Chunk]:
    """One chunk of text for each piece."""
    return [Chunk("text", piece, index) for piece in pieces]


def reasoning(*pieces: str, index: int = 0) -> list[Chunk]:
    return [Chunk("reasoning", piece, index) for piece in pieces]


def tool_call(name: str, *arguments: str, call: int = 0, id: str = "call_1", index: int = 0) -> list[Chunk]:
    """The fragments of a call of a tool: its id and name first, then one for each piece of its arguments."""
    fragments = [ToolCall(call, id, name), *(ToolCall(call, arguments=piece) for piece in arguments)]
    return [Chunk("tool_call", index=index, tool_call=fragment) for fragment in fragments]


def end(finish_reason: str | None = "stop", usage: Usage | None = None) -> Chunk:
    """What comes last in every answer."""
    return Chunk("end", finish_reason=finish_reason, usage=usage)


def chunks(*parts: str | Chunk, finish_reason: str | None = "stop", usage: Usage | None = None) -> list[Chunk]:
    """All of an answer: `chunks("Hel", "lo")`, `chunks(*reasoning("Hm"), "Yes")`. A str is a chunk of text; an `end` is added."""
    return [*(text(part)[0] if isinstance(part, str) else part for part in parts), end(finish_reason, usage)]
