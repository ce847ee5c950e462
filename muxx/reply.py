"""What goes out: an answer as plugins see it, as they make one, as it is kept, and what is known of it so far."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import orjson

from .money import Cost, Usage
from .targets import Target

ServedBy = Literal["upstream", "cache", "plugin", "gateway"]
ChunkKind = Literal["text", "reasoning", "tool_call", "other", "end"]


@dataclass(slots=True)
class ToolCall:
    """A fragment of a tool call: `id` and `name` come with its first fragment, `arguments` is a piece of JSON text."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(slots=True)
class Chunk:
    """What plugins see of any answer, streamed or plain, whatever format is spoken.

    `raw` holds the provider's bytes of the event this chunk came from; a chunk nobody touched leaves as those bytes.
    `finish_reason` is in the words of chat completions (stop, length, tool_calls, content_filter), whatever the provider's are.
    """

    kind: ChunkKind
    text: str = ""
    index: int = 0
    tool_call: ToolCall | None = None
    finish_reason: str | None = None
    usage: Usage | None = None
    raw: bytes | None = None
    signature: str | None = None
    """What the provider wants back with this reasoning or call in the next turn; opaque. It may come without text."""


def is_event_stream(content_type: str) -> bool:
    return content_type.lower().startswith("text/event-stream")


class WholeAnswer:
    """A provider's complete, successful answer, as it came and before any `on_chunk`: what `Exchange.collect` hands out.

    A `Reply` that carries one gives it again, streamed or plain as that caller asked, whichever of the two it is, and says in
    `Age` how old it is.
    """

    __slots__ = ("at", "body", "cache_control", "content_type", "cost", "headed", "kept", "target", "usage")

    def __init__(
        self,
        body: bytes,
        target: Target,
        usage: Usage,
        cost: Cost | None,
        at: float,
        content_type: str = "application/json",
        cache_control: str = "",
        headed: tuple[str, str, int] | None = None,
    ) -> None:
        self.body = body
        """The events of a stream, or a plain answer."""
        self.target = target
        """Who gave it."""
        self.usage = usage
        self.cost = cost
        """What it came to; None where no price is known."""
        self.at = at
        """When it was complete, in monotonic seconds."""
        self.content_type = content_type
        self.cache_control = cache_control
        """What the provider says of storing it, as its header has it."""
        self.headed = headed
        """Id, model and time with which it was given in another format than the provider's, which may not tell them."""
        self.kept: Any = None
        """What the kernel has made of it, for the next time it is given."""

    @property
    def is_stream(self) -> bool:
        return is_event_stream(self.content_type)


ReplyBody = bytes | WholeAnswer | Iterable[Chunk] | AsyncIterator[bytes] | AsyncIterator[Chunk]


@dataclass(slots=True)
class Reply:
    """An answer made by a plugin: from `pre_request` it answers instead of a provider, from a route it is the response.

    `body` is bytes, Chunks, or an async iterator of either; Chunks are put into the caller's format by the kernel. A
    `WholeAnswer` is given again in the form this caller asked for.
    """

    body: ReplyBody
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    served_by: ServedBy = "plugin"
    plugin: str = field(default="", init=False, repr=False, compare=False)
    """Written by the kernel: whose it is, where it came from `pre_request`."""

    @classmethod
    def json(cls, value: Any, status: int = 200) -> Reply:
        return cls(orjson.dumps(value), status)


class _Facts(Protocol):
    @property
    def text(self) -> str: ...


class Response:
    """What is known of the answer so far."""

    __slots__ = ("facts", "finish_reasons", "id", "model", "status")

    def __init__(self) -> None:
        self.status: int | None = None
        self.id: str | None = None
        self.model: str | None = None
        self.finish_reasons: Sequence[str] = ()
        self.facts: _Facts | None = None
        """What the kernel has read of the answer; it knows the text."""

    @property
    def text(self) -> str:
        """The text delivered so far, of all choices."""
        return "" if self.facts is None else self.facts.text


KERNEL_HEADERS = frozenset(
    {"x-muxx-request-id", "x-request-id", "x-muxx-cache", "x-muxx-cost", "server-timing", "date", "connection"}
    | {"content-type", "content-length", "transfer-encoding", "cache-control", "x-accel-buffering"}
)
"""Response headers that are not a plugin's to set, nor a provider's: the kernel writes each of them once."""

AT_TIMES_HEADERS = frozenset(
    {"request-id", "age", "x-should-retry", "retry-after", "retry-after-ms", "allow", "www-authenticate"}
)
"""Those that the kernel writes on some answers, and a provider's are never passed on."""


class ReplyHeaders(MutableMapping[str, str]):
    """Extra response headers. Settable until the head has left; after that changing them raises `RuntimeError`. `ValueError`
    for those the kernel writes."""

    __slots__ = ("_values", "sent")

    def __init__(self) -> None:
        self._values: dict[str, str] = {}
        self.sent = False

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def __setitem__(self, name: str, value: str) -> None:
        self._check()
        if name.lower() in KERNEL_HEADERS:
            raise ValueError(f"{name} is written by the kernel; set a header of another name")
        self._values[name] = value

    def __delitem__(self, name: str) -> None:
        self._check()
        del self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(self._values)

    def _check(self) -> None:
        if self.sent:
            raise RuntimeError("the response head has already been sent; set reply_headers in pre_request or pre_attempt")
