"""What became of an exchange on the stage, and the client that it was for."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from multidict import CIMultiDict

from muxx.errors import MuxxError
from muxx.exchange import Exchange
from muxx.innercall import Collected
from muxx.reply import Chunk
from muxx.targets import Attempt
from muxx.wire.sse import EventSplitter
from muxx.wire.wire import AnswerHead
from muxx.wire.wires import BY_NAME

from .reading import read_answer, read_comment, read_error
from .said import Said
from .watching import HookCall


class Client(Collected):
    """A client that keeps what it is sent, piece by piece, and may go away in the middle."""

    def __init__(self, leave_after: int | None = None) -> None:
        super().__init__()
        self.headers: CIMultiDict[str] = CIMultiDict()
        self.pieces: list[bytes] = []
        self.streamed = False
        self.task: asyncio.Task[None] | None = None
        self._leave_after = leave_after

    def whole(self, status: int, head: str, body: bytes) -> None:
        self._read(head)
        super().whole(status, head, body)
        self.pieces.append(body)

    def begin(self, status: int, head: str) -> None:
        self._read(head)
        self.streamed = True
        super().begin(status, head)

    def send(self, data: bytes) -> None:
        super().send(data)
        if data:
            self.pieces.append(data)
        if self._leave_after is not None and len(self.pieces) >= self._leave_after:
            self._leave()

    def asked(self) -> None:
        """The provider is asked."""
        if self._leave_after == 0:
            self._leave()

    def _leave(self) -> None:
        if not self.gone and self.task is not None:
            self.gone = True
            self.task.cancel()

    def _read(self, head: str) -> None:
        pairs = (line.partition(": ") for line in head.split("\r\n") if line)
        self.headers = CIMultiDict((name, value) for name, _, value in pairs)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the client got, what the provider was asked, what the database was told, and which hooks ran."""

    plugin: str
    endpoint: str
    exchange: Exchange
    client: Client
    calls: Sequence[HookCall]
    """Every hook of every plugin, in the order they were called."""
    attempts: Sequence[Attempt]
    """The provider's calls, as they were sent; `sent` holds their bodies."""
    row: dict[str, Any] | None
    """The record, as the `record` hooks were given it last."""

    @property
    def status(self) -> int:
        """What the client was told; 0 when it left before that."""
        return self.client.status

    @property
    def headers(self) -> CIMultiDict[str]:
        return self.client.headers

    @property
    def body(self) -> bytes:
        return self.client.body

    @property
    def pieces(self) -> list[bytes]:
        """The body as it was sent, write by write."""
        return self.client.pieces

    @property
    def said(self) -> Said:
        """What the answer says; raises `Unreadable` for one that is refused, broken or not ended."""
        if not self.client.streamed and self.status != 200:
            raise ValueError(f"the request was refused: {self.body!r:.300}")
        return read_answer(self.endpoint, self.body, streamed=self.client.streamed)

    @property
    def text(self) -> str:
        return self.said.text

    @property
    def chunks(self) -> list[Chunk]:
        """The answer as it was delivered, taken apart again."""
        wire = BY_NAME[self.endpoint]
        if not self.client.streamed:
            return wire.decode_plain(self.body)
        codec, splitter = wire.codec(AnswerHead(None, None, None), True), EventSplitter(2**26)
        return [chunk for event in splitter.feed(self.body) for chunk in codec.decode(event)]

    @property
    def error(self) -> MuxxError | None:
        """How the exchange ended, if not well."""
        return self.exchange.error

    @property
    def told(self) -> dict[str, Any]:
        """The error as the client was told it, in the words of its endpoint."""
        return read_error(self.body, streamed=self.client.streamed, endpoint=self.endpoint)

    @property
    def comment(self) -> dict[str, Any] | None:
        """What the comment of a whole stream tells of its cost; None where there is none."""
        return read_comment(self.endpoint, self.body)

    @property
    def attributes(self) -> dict[str, Any]:
        return self.exchange.attributes

    @property
    def sent(self) -> list[Any]:
        """The JSON of each request to the provider."""
        return [orjson.loads(attempt.payload) for attempt in self.attempts]

    @property
    def hooks(self) -> list[str]:
        """The plugin's own hooks, in the order they were called."""
        return [call.hook for call in self.calls if call.plugin == self.plugin]

    @property
    def ran(self) -> Counter[str]:
        """How often each of the plugin's hooks was called."""
        return Counter(self.hooks)

    @property
    def crashes(self) -> list[HookCall]:
        """The calls of the plugin's hooks that crashed."""
        return [call for call in self.calls if call.plugin == self.plugin and call.outcome == "crashed"]
