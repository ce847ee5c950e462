"""What the kernel asks of a format: an endpoint's format as one value, and what its parts can do.

A `Wire` is data and pure functions. The kernel picks one by the request's path, and one by who answers, and never asks again
which they are. Where the two are the same, an answer passes as it came; where not, requests cross as a `Prompt` and answers as
Chunks.

How a stream ends: `StreamFacts.observe` says `DONE` at the last event of a complete answer, be it `[DONE]` (chat, completions) or
the event that holds all of the answer (Responses) or says that it is over (Messages). That event is held back until the answer's
row is recorded; the comment with the cost goes right before it; nothing goes after it. With chunk hooks it is what `Codec.last`
returns. Google's streams have no such event: they end with their body.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from orjson import dumps

from ..errors import MuxxError
from ..money import Cost, Usage
from ..reply import Chunk
from ..request import Part
from ..targets import Format
from .alike import Alike
from .fragments import Fragments
from .prompt import Losses, Prompt
from .sse import Event


class Verdict(enum.Enum):
    """What the relay does with an event of an upstream stream."""

    FORWARD = "forward"
    WITHHOLD = "withhold"
    """The usage event muxx asked for and the client did not."""
    DROP = "drop"
    """An event without data: SDKs die of them."""
    DONE = "done"
    """The last event of a complete answer: nothing after it counts."""
    ERROR_EVENT = "error_event"
    """The provider's own error: it goes to the client once, without the secrets it may quote, and ends the stream."""


# Looked up once: reading a member off an Enum class costs as much as the rest of an event's bookkeeping.
FORWARD, WITHHOLD, DROP, DONE, ERROR_EVENT = Verdict


class Head(Protocol):
    """What new events of an answer are headed with; what is known of a stream is one."""

    @property
    def id(self) -> str | None: ...

    @property
    def model(self) -> str | None: ...

    @property
    def created(self) -> int | None: ...


@dataclass(slots=True)
class AnswerHead:
    """The head of an answer no provider made."""

    id: str | None
    model: str | None
    created: int | None


class Facts(Head, Protocol):
    """What is known of an answer, streamed or plain: who made it (as a `Head` says), how it ended, what it used, what it says."""

    @property
    def usage(self) -> Usage | None: ...

    @property
    def usage_invalid(self) -> bool: ...

    @property
    def finish_reasons(self) -> dict[int, str]: ...

    @property
    def text(self) -> str: ...

    @property
    def output_bytes(self) -> int: ...

    @property
    def text_since_usage(self) -> bool: ...


class StreamFacts(Facts, Protocol):
    """Observes a stream, each event once. `done`: its last event has come; `finished`: it may end here and is complete; `error`:
    what the provider's error event held, or why the answer failed."""

    done: bool
    error: Any
    value: Any
    """The JSON of the event observed last; None when it was none."""
    saying: Fragments | None
    """What the event observed last was one more piece of, and nothing else; None where it was anything else."""
    ends_with_body: bool
    """The format has no last event: a complete answer is over when its body ends."""

    @property
    def finished(self) -> bool: ...

    def observe(self, event: Event, value: Any = None) -> Verdict:
        """What is to be done with the event. `value` is its JSON, where another observer has read it; it is not changed."""

    def likeness(self, raw: bytes) -> Alike | None:
        """What the event observed last, of which these are the bytes, has in common with others that say more of the same, where
        it can be told. `value` is of no use after it."""


class Codec(Protocol):
    """One answer's way through chunk hooks: `decode`, the hooks and `encode` take turns, event by event.

    Where hooks change nothing, what `encode` returns is what came. An `end` among its Chunks closes the answer; the last event is
    only what `last` returns, asked for after that. `end` is for an answer that ends without a last event of its own.
    """

    def decode(self, event: Event) -> list[Chunk]: ...

    def end(self) -> Chunk: ...

    def encode(self, chunks: Iterable[Chunk]) -> bytes: ...

    def last(self) -> bytes: ...


class AnswerReader(Protocol):
    """An answer of one format for a client of another: its parsed events as Chunks without bytes. One per answer.

    `lost` names what stood in the answer and has no counterpart. `read` raises `UpstreamError` for a failure the answer tells of.
    `end` says how it ended and what it used.
    """

    lost: set[str]

    def read(self, value: dict[str, Any]) -> list[Chunk]: ...

    def end(self) -> Chunk: ...


@dataclass(frozen=True, slots=True)
class Translation:
    """How a format crosses to others: its requests as a `Prompt` and back, its answers as Chunks without bytes."""

    read_prompt: Callable[[dict[str, Any], Losses], Prompt]
    write_prompt: Callable[[Prompt, Losses], dict[str, Any]]
    reader: Callable[[], AnswerReader]
    read_answer: Callable[[bytes], tuple[list[Chunk], set[str]]]
    """A plain answer, and what of it has no counterpart."""


@dataclass(frozen=True, slots=True)
class Wire:
    """An endpoint's format. `Any` stands for the format's own kind of facts."""

    name: str
    """Which endpoint it is, in rows and for `gateway.call`."""
    operation: str
    """OpenTelemetry's `gen_ai.operation.name`. Its conventions have no `responses`: such a call is a `chat`, told apart by
    `openai.api.type`."""
    format: Format
    path: str
    """Where clients call it; `{model}` stands for the model's name, where that is in the path."""
    upstream_url: Callable[[str, str, bool], str]
    """Where it is at a provider: by its base URL, the model, and whether a stream is wanted."""
    id_prefix: str
    """How the ids of its answers begin, for those that muxx makes."""
    streams: bool
    """The request's `stream` means something; where it does not, there are no `stream` and `codec`."""

    validate: Callable[[dict[str, Any]], None]
    """Raises `InvalidRequest` naming a field that is missing or wrong."""
    checked: Callable[[dict[str, Any]], tuple[Any, ...]]
    """All that `validate` looks at: while these are the same objects as before, it need not look again."""
    parts: Callable[[dict[str, Any]], Iterator[Part]]
    input_bytes: Callable[[dict[str, Any]], int]
    ask_for_usage: Callable[[dict[str, Any]], bool]
    """Make a streaming request ask for usage; whether the client did by itself, or need not: then nothing is withheld."""

    stream: Callable[[dict[str, Any], bool], StreamFacts]
    """The observer of the stream that answers this request body; the flag is what `ask_for_usage` returned."""
    read_plain: Callable[[bytes], Facts]
    """Raises `UpstreamError` or `UpstreamProtocolError` for what is no answer."""
    assembled: Callable[[Any], dict[str, Any]]
    """The answer that facts tell of, as one object."""

    codec: Callable[[Head, bool], Codec]
    """For the answer of this head, which may be its `StreamFacts`; the flag says whether the client wants usage."""
    decode_plain: Callable[[bytes], list[Chunk]]
    """A plain answer's Chunks, an `end` last. A codec can stream them."""
    encode_plain: Callable[[bytes, Iterable[Chunk]], bytes]
    """A plain answer and its Chunks after the hooks."""
    encode_answer: Callable[[Iterable[Chunk], Head], bytes]
    """Chunks that came from no provider, as a plain answer."""

    error_body: Callable[[MuxxError, str], bytes]
    """An error as a plain answer, to the request of this id."""
    error_event: Callable[[MuxxError, str, int | None], bytes]
    """What ends a broken stream: the same as an event, with its number where events are numbered."""
    payload: Callable[[dict[str, Any]], bytes] = dumps
    """The request's body as it is sent up."""
    gathering: Callable[[], StreamFacts] | None = None
    """An observer of which `assembled` makes the answer with all its members; None where any of `stream` does for that."""
    comment_event: Callable[[Cost | None, str, Usage | None], bytes] | None = None
    """The comment with a stream's cost, its usage in the words of chat completions; None where clients die of comments, or there
    are no streams."""
    translation: Translation | None = None
    """None: only a provider that has this endpoint can answer it."""
    choices: bool = False
    """An answer may hold several, numbered by the `index` of their Chunks."""
    counts: bool = False
    """It counts the tokens of a prompt, which costs nothing."""
