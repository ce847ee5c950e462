"""The endpoints' formats as values, and which of them a request or a provider's answer is in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import MuxxError
from ..reply import Chunk
from ..targets import Format
from . import anthropic, gemini, openai, responses
from .counts import assembled_count
from .openai import completions, embeddings
from .openai.gathered import GatheredCompletion, GatheredStream
from .prompt import Losses, Prompt
from .responses import ResponseStream
from .wire import Codec, Head, StreamFacts, Translation, Wire


def _openai_body(error: MuxxError, request_id: str) -> bytes:
    return openai.error_body(error)


def _openai_event(error: MuxxError, request_id: str, number: int | None) -> bytes:
    return openai.error_event(error)


def _response_event(error: MuxxError, request_id: str, number: int | None) -> bytes:
    return responses.error_event(error, number)


def _at(path: str) -> Any:
    """The URL of an endpoint whose path says nothing of the request."""

    def url(base_url: str, model: str, stream: bool) -> str:
        return base_url + path

    return url


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


def _message_stream(body: dict[str, Any], client_asked_usage: bool) -> StreamFacts:
    return anthropic.MessageStream()


def _message_codec(head: Head, include_usage: bool) -> Codec:
    return anthropic.MessageCodec(head)


_COUNTED = ("model", "messages", "system", "tools", "tool_choice", "thinking")
"""What of a request has tokens that Anthropic counts; it refuses the rest there."""


def _write_counted(prompt: Prompt, losses: Losses) -> dict[str, Any]:
    body = anthropic.write_prompt(prompt, losses)
    return {name: body[name] for name in _COUNTED if name in body}


def _read_counted(body: bytes) -> tuple[list[Chunk], set[str]]:
    [end] = anthropic.decode_count(body)
    return [Chunk("end", usage=end.usage)], set()


def _generate_stream(body: dict[str, Any], client_asked_usage: bool) -> StreamFacts:
    return gemini.GenerateStream(gemini.candidates_asked(body))


def _generate_codec(head: Head, include_usage: bool) -> Codec:
    return gemini.GenerateCodec(head)


def _usage_comes_anyway(body: dict[str, Any]) -> bool:
    return True


def _anything(body: dict[str, Any]) -> tuple[Any, ...]:
    """A format that looks into its arrays: nobody can tell cheaply that nothing in them has changed."""
    return (object(),)


def _never(*_: Any) -> Any:
    raise TypeError("this format does not stream")


CHAT = Wire(
    name="chat",
    format="openai",
    operation="chat",
    path="/v1/chat/completions",
    upstream_url=_at("/chat/completions"),
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
    gathering=GatheredStream,
    error_body=_openai_body,
    error_event=_openai_event,
    comment_event=openai.comment_event,
    translation=Translation(openai.read_prompt, openai.write_prompt, openai.ChatReader, openai.read_answer),
    choices=True,
)

COMPLETIONS = Wire(
    name="text_completion",
    format="openai",
    operation="text_completion",
    path="/v1/completions",
    upstream_url=_at("/completions"),
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
    gathering=GatheredCompletion,
    error_body=_openai_body,
    error_event=_openai_event,
    comment_event=openai.comment_event,
)

EMBEDDINGS = Wire(
    name="embeddings",
    format="openai",
    operation="embeddings",
    path="/v1/embeddings",
    upstream_url=_at("/embeddings"),
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
    error_body=_openai_body,
    error_event=_openai_event,
)

RESPONSES = Wire(
    name="responses",
    format="openai",
    operation="chat",
    path="/v1/responses",
    upstream_url=_at("/responses"),
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
    error_body=_openai_body,
    error_event=_response_event,
    comment_event=openai.comment_event,
    translation=Translation(responses.read_prompt, responses.write_prompt, responses.ResponseReader, responses.read_answer),
)

MESSAGES = Wire(
    name="messages",
    format="anthropic",
    operation="chat",
    path="/v1/messages",
    upstream_url=_at("/messages"),
    id_prefix="msg_",
    streams=True,
    validate=anthropic.validate_messages,
    checked=_anything,
    parts=anthropic.request_parts,
    input_bytes=anthropic.input_bytes,
    ask_for_usage=_usage_comes_anyway,
    stream=_message_stream,
    read_plain=anthropic.read_message,
    assembled=anthropic.assembled,
    codec=_message_codec,
    decode_plain=anthropic.decode_message,
    encode_plain=anthropic.encode_plain,
    encode_answer=anthropic.encode_message,
    error_body=anthropic.error_body,
    error_event=anthropic.error_event,
    comment_event=openai.comment_event,
    translation=Translation(anthropic.read_prompt, anthropic.write_prompt, anthropic.MessageReader, anthropic.read_answer),
)

COUNT_TOKENS = Wire(
    name="count_tokens",
    format="anthropic",
    operation="count_tokens",
    path="/v1/messages/count_tokens",
    upstream_url=_at("/messages/count_tokens"),
    id_prefix="count_",
    streams=False,
    validate=anthropic.validate_count,
    checked=_anything,
    parts=anthropic.request_parts,
    input_bytes=anthropic.input_bytes,
    ask_for_usage=_usage_comes_anyway,
    stream=_never,
    read_plain=anthropic.read_count,
    assembled=assembled_count,
    codec=_never,
    decode_plain=anthropic.decode_count,
    encode_plain=anthropic.encode_plain_count,
    encode_answer=anthropic.encode_count,
    error_body=anthropic.error_body,
    error_event=anthropic.error_event,
    translation=Translation(anthropic.read_prompt, _write_counted, anthropic.MessageReader, _read_counted),
    counts=True,
)

GENERATE_CONTENT = Wire(
    name="generate_content",
    format="gemini",
    operation="generate_content",
    path="/v1beta/models/{model}:generateContent",
    upstream_url=gemini.upstream_url,
    id_prefix="gen_",
    streams=True,
    validate=gemini.validate_generate,
    checked=gemini.checked_in_generate,
    parts=gemini.request_parts,
    input_bytes=gemini.input_bytes,
    ask_for_usage=_usage_comes_anyway,
    stream=_generate_stream,
    read_plain=gemini.read_generated,
    assembled=gemini.assembled,
    codec=_generate_codec,
    decode_plain=gemini.decode_generated,
    encode_plain=gemini.encode_plain,
    encode_answer=gemini.encode_generated,
    error_body=gemini.error_body,
    error_event=gemini.error_event,
    payload=gemini.payload,
    translation=Translation(gemini.read_prompt, gemini.write_prompt, gemini.GenerateReader, gemini.read_answer),
    choices=True,
)

COUNT_CONTENT = Wire(
    name="count_content",
    format="gemini",
    operation="count_tokens",
    path="/v1beta/models/{model}:countTokens",
    upstream_url=gemini.count_url,
    id_prefix="count_",
    streams=False,
    validate=gemini.validate_count,
    checked=_anything,
    parts=gemini.count_parts,
    input_bytes=gemini.count_bytes,
    ask_for_usage=_usage_comes_anyway,
    stream=_never,
    read_plain=gemini.read_count,
    assembled=assembled_count,
    codec=_never,
    decode_plain=gemini.decode_count,
    encode_plain=gemini.encode_plain_count,
    encode_answer=gemini.encode_count,
    error_body=gemini.error_body,
    error_event=gemini.error_event,
    payload=gemini.count_payload,
    translation=Translation(gemini.read_count_prompt, gemini.write_count_prompt, gemini.GenerateReader, gemini.read_count_answer),
    counts=True,
)

ALL = (CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, MESSAGES, COUNT_TOKENS, GENERATE_CONTENT, COUNT_CONTENT)

WIRES = {wire.path: wire for wire in ALL if "{" not in wire.path}
"""Formats by the path at which clients call them; those whose path names the model are found by `named_in`."""

ERROR_BODIES: dict[Format, Callable[[MuxxError, str], bytes]] = {
    "openai": _openai_body,
    "anthropic": anthropic.error_body,
    "gemini": gemini.error_body,
}
"""An error to a request of this id, in each vendor's form."""


def named_in(path: str) -> tuple[Wire, dict[str, Any]] | None:
    """The format of a path that names the model, and the members of the body that stand in it instead."""
    if (found := gemini.path_of(path)) is None:
        return None
    model, action = found
    wire = COUNT_CONTENT if action == "countTokens" else GENERATE_CONTENT
    return wire, {"model": model, "stream": action == "streamGenerateContent"}


def format_at(path: str, headers: Mapping[str, str]) -> Format:
    """The vendor's form that a client expects at a path, or that its SDK's headers tell of."""
    if path.startswith("/v1beta/") or "x-goog-api-key" in headers:
        return "gemini"
    return "anthropic" if path.startswith("/v1/messages") or "anthropic-version" in headers else "openai"


BY_NAME = {wire.name: wire for wire in ALL}
"""Every format by its name."""
