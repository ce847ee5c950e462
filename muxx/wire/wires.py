"""The endpoints' formats, each as one value: all that the kernel asks of the format in which a client called.

A `Wire` is data and pure functions. The kernel picks one by the request's path and never asks again which it is.

How a stream ends: `StreamFacts.observe` says `DONE` at the last event of a complete answer, be it `[DONE]` (chat, completions) or
the event that holds all of the answer (Responses). That event is held back until the answer's row is recorded; the comment with
the cost goes right before it; nothing goes after it. With chunk hooks it is what `Codec.last` returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import MuxxError
from ..money import Cost, Usage
from ..reply import Chunk
from ..request import Part
from . import openai, responses
from .openai import Head, Verdict, completions, embeddings
from .responses import ResponseStream
from .sse import Event


class Facts(Head, Protocol):
    """What is known of an answer, streamed or plain: who made it (as a `Head` says), how it ended, what it used, what it says."""

    usage: Usage | None
    usage_invalid: bool

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

    @property
    def finished(self) -> bool: ...

    def observe(self, event: Event) -> Verdict: ...


class Codec(Protocol):
    """One answer's way through chunk hooks: `decode`, the hooks and `encode` take turns, event by event.

    Where hooks change nothing, what `encode` returns is what came. An `end` among its Chunks closes the answer; the last event is
    only what `last` returns, asked for after that. `end` is for an answer that ends without a last event of its own.
    """

    def decode(self, event: Event) -> list[Chunk]: ...

    def end(self) -> Chunk: ...

    def encode(self, chunks: Iterable[Chunk]) -> bytes: ...

    def last(self) -> bytes: ...


def _chat_error(error: MuxxError, facts: StreamFacts | None) -> bytes:
    return openai.error_event(error)


@dataclass(frozen=True, slots=True)
class Wire:
    """An endpoint's format. `Any` stands for the format's own kind of facts."""

    name: str
    """Which endpoint it is, in rows and for `gateway.call`."""
    operation: str
    """OpenTelemetry's `gen_ai.operation.name`. Its conventions have no `responses`: such a call is a `chat`, told apart by
    `openai.api.type`."""
    path: str
    """Where clients call it."""
    upstream_path: str
    """What follows a provider's base URL."""
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

    error_body: Callable[[MuxxError], bytes] = openai.error_body
    error_event: Callable[[MuxxError, StreamFacts | None], bytes] = _chat_error
    """What ends a broken stream, of which as much is known."""
    comment_event: Callable[[Cost | None, str, Usage | None], bytes] = openai.comment_event
    """The comment with a stream's cost: the same on every endpoint, its usage in the words of chat completions."""


def _chat_stream(body: dict[str, Any], client_asked_usage: bool) -> StreamFacts:
    n = body.get("n")
    choices = n if type(n) is int and n > 1 else 1
    return openai.ChatStream(client_asked_usage=client_asked_usage, choices=choices)


def _chat_codec(head: Head, include_usage: bool) -> Codec:
    return openai.ChunkEncoder(head, include_usage=include_usage)


def _completion_stream(body: dict[str, Any], client_asked_usage: bool) -> StreamFacts:
    choices = completions.choices_asked(body)
    return completions.CompletionStream(client_asked_usage=client_asked_usage, choices=choices)


def _completion_codec(head: Head, include_usage: bool) -> Codec:
    return completions.CompletionEncoder(head, include_usage=include_usage)


def _response_stream(body: dict[str, Any], client_asked_usage: bool) -> StreamFacts:
    return ResponseStream()


def _response_codec(head: Head, include_usage: bool) -> Codec:
    return responses.ResponseCodec(head)


def _response_error(error: MuxxError, facts: StreamFacts | None) -> bytes:
    return responses.error_event(error, facts.next_number if isinstance(facts, ResponseStream) else None)


def _usage_comes_anyway(body: dict[str, Any]) -> bool:
    return True


def _anything(body: dict[str, Any]) -> tuple[Any, ...]:
    """A format that looks into its arrays: nobody can tell cheaply that nothing in them has changed."""
    return (object(),)


def _never(*_: Any) -> Any:
    raise TypeError("this format does not stream")


CHAT = Wire(
    name="chat",
    operation="chat",
    path="/v1/chat/completions",
    upstream_path="/chat/completions",
    id_prefix="chatcmpl-",
    streams=True,
    validate=openai.validate_chat,
    checked=openai.checked_in_chat,
    parts=openai.request_parts,
    input_bytes=openai.input_bytes,
    ask_for_usage=openai.ask_for_usage,
    stream=_chat_stream,
    read_plain=openai.read_completion,
    assembled=openai.assembled,
    codec=_chat_codec,
    decode_plain=openai.decode_completion,
    encode_plain=openai.encode_plain,
    encode_answer=openai.encode_completion,
)

COMPLETIONS = Wire(
    name="text_completion",
    operation="text_completion",
    path="/v1/completions",
    upstream_path="/completions",
    id_prefix="cmpl-",
    streams=True,
    validate=completions.validate_completion,
    checked=_anything,
    parts=completions.request_parts,
    input_bytes=completions.input_bytes,
    ask_for_usage=openai.ask_for_usage,
    stream=_completion_stream,
    read_plain=completions.read_text_completion,
    assembled=completions.assembled,
    codec=_completion_codec,
    decode_plain=completions.decode_text_completion,
    encode_plain=completions.encode_plain_completion,
    encode_answer=completions.encode_text_completion,
)

EMBEDDINGS = Wire(
    name="embeddings",
    operation="embeddings",
    path="/v1/embeddings",
    upstream_path="/embeddings",
    id_prefix="embd-",
    streams=False,
    validate=embeddings.validate_embeddings,
    checked=_anything,
    parts=embeddings.request_parts,
    input_bytes=embeddings.input_bytes,
    ask_for_usage=_usage_comes_anyway,
    stream=_never,
    read_plain=embeddings.read_embeddings,
    assembled=embeddings.assembled,
    codec=_never,
    decode_plain=embeddings.decode_embeddings,
    encode_plain=embeddings.encode_plain,
    encode_answer=embeddings.encode_embeddings,
)

RESPONSES = Wire(
    name="responses",
    operation="chat",
    path="/v1/responses",
    upstream_path="/responses",
    id_prefix="resp_",
    streams=True,
    validate=responses.validate_response,
    checked=_anything,
    parts=responses.request_parts,
    input_bytes=responses.input_bytes,
    ask_for_usage=_usage_comes_anyway,
    stream=_response_stream,
    read_plain=responses.read_response,
    assembled=responses.assembled,
    codec=_response_codec,
    decode_plain=responses.decode_response,
    encode_plain=responses.encode_plain,
    encode_answer=responses.encode_response,
    error_event=_response_error,
)

WIRES = {wire.path: wire for wire in (CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES)}
"""Every format by the path at which clients call it."""
