"""A plugin's own call of a model: through the same spine, so that it is planned, priced and recorded like anyone's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson
from multidict import CIMultiDict, CIMultiDictProxy

from .call import Call
from .errors import InvalidRequest, MuxxError, PluginError
from .exchange import Exchange
from .headers import TRACEPARENT
from .pipeline import carry
from .request import HttpRequest, Request
from .wire import halves
from .wire.wires import BY_NAME

if TYPE_CHECKING:
    from .gateway import Gateway

DEEPEST = 3
"""Calls within calls: a guard that guards its own question would ask for ever."""


class Collected:
    """A client's side that keeps the answer instead of sending it."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self.head_sent = False
        self.gone = False
        self.paused = False
        self.stalled_since: float | None = None
        self.on_resume: Callable[[], None] | None = None
        self.on_gone: Callable[[], bool] | None = None

    def whole(self, status: int, head: str, body: bytes) -> None:
        self.head_sent = True
        self.status, self.body = status, body

    def begin(self, status: int, head: str) -> None:
        self.status = status

    def send(self, data: bytes) -> None:
        self.head_sent = True
        self.body += data

    def end(self, data: bytes = b"", otherwise: Callable[[MuxxError], bytes] | None = None) -> None:
        self.send(data)

    def break_off(self, data: bytes) -> None:
        self.send(data)

    def close_after(self) -> None:
        """There is no connection to close."""

    def abort(self) -> None:
        self.gone = True

    async def drained(self, seconds: float) -> bool:
        return True


class InnerRequest(HttpRequest):
    """A request that never was on a wire."""

    __slots__ = ("_body",)

    def __init__(self, path: str, body: bytes, remote: str | None) -> None:
        super().__init__("POST", path, "", CIMultiDictProxy(CIMultiDict()), remote)
        self._body = body

    def body_now(self) -> bytes:
        return self._body

    async def body(self) -> bytes:
        return self._body


async def call(gateway: Gateway, operation: str, body: Mapping[str, Any], parent: Exchange) -> dict[str, Any]:
    """See `Gateway.call`."""
    wire = BY_NAME.get(operation)
    if wire is None:
        raise InvalidRequest(f"gateway.call() knows the operations {', '.join(BY_NAME)}, not {operation!r}.")
    if parent.depth + 1 > DEEPEST:
        text = "request %s: a plugin calls a model for each of its own calls; let it leave an exchange alone that has a `parent`"
        gateway.log.error(text, parent.id)
        raise PluginError()
    plain = {**body, "stream": False} if wire.streams else body
    path = wire.path.replace("{model}", quote(str(body.get("model", "")), safe=""))
    head = InnerRequest(path, orjson.dumps(plain), parent.request.client_ip)
    exchange = Exchange(gateway.ids.next(), wire.name, Request(head, wire.parts))
    exchange.format = wire.format
    exchange.parent, exchange.depth = parent, parent.depth + 1
    exchange.identity = parent.identity
    exchange.attributes["parent"] = parent.id
    if TRACEPARENT in parent.attributes:
        exchange.attributes[TRACEPARENT] = parent.attributes[TRACEPARENT]
    down = Collected()
    await carry(Call(gateway, exchange, wire, head, down, asyncio.current_task()))
    if exchange.error is not None:
        raise exchange.error
    answer: dict[str, Any] = halves.loads(down.body)
    if down.status >= 400:
        raise MuxxError()
    return answer
