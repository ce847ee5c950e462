"""muxx-guard: asks a service of yours about every request, and about every answer before the client gets it, streamed or plain.

The service speaks a small JSON protocol, which the README describes. It may allow, refuse, or allow with replacements.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from functools import partial
from typing import Any, Literal

from muxx import Chunk, Exchange, Gateway, InvalidRequest, PermissionDenied, StartError, StateKey, Unavailable, hookimpl

from .protocol import Edit, Refused, ServiceFailed, Text, edited
from .service import Service
from .settings import GuardConfig
from .windows import Windows

__all__ = ["Guard"]

NAME = "guard"
"""The name of the entry point, which is this plugin's name everywhere: in the configuration, and for `skip_chunks`."""

WINDOWS = StateKey[Windows]("guard.windows")

VERDICTS = ("allowed", "changed", "unchecked", "refused")
"""What the row says of a side; of several looks the one that stands furthest right."""


class Guard:
    """The plugin. The row's attribute `guard` says for each side what became of it, and in how many questions."""

    Config = GuardConfig

    def __init__(self, config: GuardConfig) -> None:
        self.config = config
        self.service = Service(config)

    @hookimpl
    async def lifespan(self, gateway: Gateway) -> AsyncIterator[None]:
        """A service that is given as long as the whole chain would never be heard: the chain's end is a crash."""
        limit = gateway.config.server.chain_timeout_s
        if self.config.requests and self.config.service_timeout_s >= limit:
            raise StartError(
                f"plugins.guard.service_timeout_s: must be below [server] chain_timeout_s ({limit:g} s), or every slow answer of "
                "the service would count as a crash; lower the one or raise the other"
            )
        yield

    @hookimpl
    async def pre_request(self, gateway: Gateway, exchange: Exchange) -> None:
        """Ask about every text of the request; the answer's time comes later, if there is to be any."""
        if not self.config.answers or exchange.operation == "embeddings":
            exchange.skip_chunks(NAME)
        if not self.config.requests:
            return
        parts = [part for part in exchange.request.parts() if part.text.strip() and self._is_asked_about(part.kind)]
        if not parts:
            return
        texts = [Text(part.role, part.kind, part.path, part.text) for part in parts]
        try:
            edits = await self._judge(gateway, exchange, "request", texts)
        except Refused as no:
            message = f"The request holds something that is not allowed here ({no.code}). Take it out."
            raise InvalidRequest(message, code="guard_refused") from None
        for part, found in zip(parts, edits, strict=True):
            if found:
                part.text = edited(part.text, found)

    @hookimpl
    async def on_chunk(self, gateway: Gateway, exchange: Exchange, chunk: Chunk) -> Iterable[Chunk] | None:
        """Hold back what the service has not seen; what it refuses never leaves."""
        windows = exchange.state.get(WINDOWS)
        if windows is None:
            judge = partial(self._judge, gateway, exchange, "answer")
            windows = exchange.state[WINDOWS] = Windows(self.config, judge, streamed=exchange.request.stream)
        try:
            return await windows.take(chunk)
        except Refused as no:
            if self.config.on_refused == "end":
                return [Chunk("end", finish_reason="content_filter")]
            raise PermissionDenied(f"The answer was not allowed here ({no.code}).", code="guard_refused") from None

    def _is_asked_about(self, kind: str) -> bool:
        return kind != "tool_arguments" or self.config.tool_arguments

    async def _judge(
        self, gateway: Gateway, exchange: Exchange, side: Literal["request", "answer"], texts: Sequence[Text]
    ) -> list[list[Edit]]:
        """The edits of each text. Raises `Refused`, and `Unavailable` where the service fails and that is to refuse."""
        note = exchange.attributes.setdefault(NAME, {}).setdefault(side, {"verdict": "allowed", "questions": 0})
        try:
            edits, questions = await self.service.judge(gateway, side, _about(exchange), texts)
        except Refused as no:
            _note(note, "refused", questions=1, code=no.code, reason=no.reason)
            raise
        except ServiceFailed as error:
            _note(note, "unchecked", questions=1)
            gateway.log.warning("guard: request %s: the service failed: %s", exchange.id, error)
            if self.config.on_failure == "allow":
                return [[] for _ in texts]
            raise Unavailable("The gateway cannot check this just now. Try again shortly.", code="guard_unavailable") from None
        _note(note, "changed" if any(edits) else "allowed", questions=questions)
        return edits


def _note(note: dict[str, Any], verdict: str, *, questions: int, **more: str) -> None:
    note["verdict"] = max(note["verdict"], verdict, key=VERDICTS.index)
    note["questions"] += questions
    note.update({name: value for name, value in more.items() if value})


def _about(exchange: Exchange) -> dict[str, Any]:
    """What the service is told of the exchange, besides its texts."""
    request, identity = exchange.request, exchange.identity
    return {
        "request_id": exchange.id,
        "operation": exchange.operation,
        "project": identity.project if identity is not None else None,
        "environment": identity.environment if identity is not None else None,
        "model": request.model,
        "user_id": request.user_id,
        "stream": request.stream,
    }
