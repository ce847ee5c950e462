"""OpenAI's completions, both directions: `POST /v1/completions`.

The format is that of chat completions but for one thing: a choice's text is its own member `text`, where chat has a `delta` or a
`message` with a `content`. So it is read and written through those words, and keeps its rules: usage, finish reasons, `[DONE]`.
A completion has no place for reasoning, refusals and tool calls; what a plugin adds of them is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from orjson import dumps, loads

from ...asked import prompts
from ...reply import Chunk
from ...request import Part
from ..fields import MODEL, STREAM, TEMPERATURE, Place, Rule, at_least, check, part_at
from ..fragments import utf8_length
from ..large import Data
from ..wire import Head
from .answer import ChatFacts, PlainFacts, whole_answer
from .apart import as_bytes
from .chunks import ChunkEncoder, decode_completion, encode_completion, encode_plain
from .pieces import choices_of
from .prompt import is_prompt, prompt_bytes, prompt_places
from .stream import ChatStream
from .usage import usage_object

_REQUIRED = {
    "model": MODEL,
    "prompt": Rule(
        lambda value: value is None or is_prompt(value),
        "Give a string, an array of strings, an array of tokens, or an array of arrays of tokens.",
    ),
}
_OPTIONAL = {
    "temperature": TEMPERATURE,
    # With `echo`, no token at all makes sense: the caller wants the prompt's own log probabilities.
    "max_tokens": Rule(at_least(0), "Give an integer of at least 0, or leave it out."),
    "stream": STREAM,
}


def validate_completion(body: dict[str, Any]) -> None:
    """Check what the API fixes; the rest is the provider's to judge."""
    check(body, _REQUIRED, _OPTIONAL)


def request_parts(body: dict[str, Any]) -> Iterator[Part]:
    """Every text of the request: the prompts, and what comes after the text to insert. Tokens are no text."""
    return map(part_at, _places(body))


def _places(body: dict[str, Any]) -> Iterator[Place]:
    yield from prompt_places(body, "prompt")
    if type(body.get("suffix")) is str:
        yield "user", "text", "suffix", body, "suffix"


def input_bytes(body: dict[str, Any]) -> int:
    """UTF-8 bytes of what the model reads; a token counts as many as the estimate takes for one."""
    suffix = body.get("suffix")
    return prompt_bytes(body.get("prompt")) + (utf8_length(suffix) if type(suffix) is str else 0)


def choices_asked(body: dict[str, Any]) -> int:
    """How many choices the answer has: `n` for each prompt."""
    n = body.get("n")
    return prompts(body.get("prompt")) * (n if type(n) is int and n > 1 else 1)


class CompletionStream(ChatStream):
    """Observes a stream of completions as `ChatStream` does one of chat completions."""

    __slots__ = ()

    def _takes_piece(self, chunk: Any) -> bool:
        [choice] = chunk["choices"]
        text = choice["text"]
        if not text or type(text) is not str or choice["finish_reason"] or "error" in chunk or chunk.get("usage") is not None:
            return False
        self.saying = said = self._choices[choice["index"]].text
        said.append(text)
        return True

    def _place_of_text(self, choice: dict[str, Any]) -> tuple[dict[str, Any], str]:
        return choice, "text"

    def _take_choice(self, choice: Any, field: str) -> None:
        super()._take_choice(as_chat(choice, field), field)


class _PlainCompletion(PlainFacts):
    __slots__ = ()

    def _take_choice(self, choice: Any, field: str) -> None:
        super()._take_choice(as_chat(choice, field), field)


def read_text_completion(body: bytes) -> ChatFacts:
    """The facts of a plain answer. Raises as `read_completion` does."""
    return _PlainCompletion(whole_answer(body, "choices"))


def assembled(facts: ChatFacts) -> dict[str, Any]:
    """An answer as one `text_completion` object, whatever way it came; what never came is null or absent."""
    answer: dict[str, Any] = {
        "id": facts.id,
        "object": "text_completion",
        "created": facts.created,
        "model": facts.model,
        "choices": [
            {
                "text": "".join(choice.text),
                "index": index,
                "logprobs": None,
                "finish_reason": choice.finish_reason,
                **choice.beside(),
            }
            for index, choice in sorted(facts.choices.items())
        ],
    }
    if facts.usage is not None:
        answer["usage"] = usage_object(facts.usage)
    return answer | facts.beside()


class CompletionEncoder(ChunkEncoder):
    """Reads and writes the events of one answer."""

    def _read(self, data: Data) -> dict[str, Any]:
        return _to_chat(super()._read(data), "delta")

    def _write(self, event: dict[str, Any]) -> bytes:
        return super()._write(_from_chat(event, "delta"))


def decode_text_completion(body: bytes) -> list[Chunk]:
    """The Chunks of a plain answer, an `end` last. The `raw` of each is the event it would be in a stream."""
    return decode_completion(_chat_of(body), _event)


def _event(event: dict[str, Any]) -> bytes:
    return as_bytes(_from_chat({**event, "choices": [dict(choice) for choice in event["choices"]]}, "delta"))


def encode_plain_completion(body: bytes, chunks: Iterable[Chunk]) -> bytes:
    """A provider's plain answer after the hooks: its own bytes when nobody touched a Chunk, else rebuilt from its own JSON."""
    chat = _chat_of(body)
    rebuilt = encode_plain(chat, chunks, _event)
    return body if rebuilt is chat else dumps(_from_chat(loads(rebuilt), "message"))


def encode_text_completion(chunks: Iterable[Chunk], head: Head) -> bytes:
    """A whole answer, of Chunks that came from no provider, as a plain `text_completion`."""
    return dumps(_from_chat(loads(encode_completion(chunks, head)), "message"))


def _chat_of(body: bytes) -> bytes:
    return dumps(_to_chat(whole_answer(body, "choices"), "message"))


def _to_chat(answer: dict[str, Any], field: str) -> dict[str, Any]:
    """An event or a plain answer in the words of chat completions."""
    if type(choices := answer.get("choices")) is list:
        answer["choices"] = [as_chat(choice, field) for choice in choices]
    return answer


def as_chat(choice: Any, field: str) -> Any:
    if type(choice) is not dict or "text" not in choice:
        return choice
    return {**{name: value for name, value in choice.items() if name != "text"}, field: {"content": choice["text"]}}


def _from_chat(answer: dict[str, Any], field: str) -> dict[str, Any]:
    """The other way round."""
    answer["object"] = "text_completion"
    for choice in choices_of(answer).values():
        holder = choice.pop(field, None) or {}
        choice["text"] = holder.get("content") or ""
        choice.setdefault("logprobs", None)
    return answer
