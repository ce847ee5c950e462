"""The mock's completions. A prompt is said back, as the user's message is in a chat; there are neither tools nor reasoning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from .answer import CREATED, Answer, Asked, Choice, Used, copies_of, tokens
from .chat import DONE, event, wants_usage


def asked(body: Mapping[str, Any]) -> Asked:
    prompts = inputs_of(body.get("prompt"))
    suffix, limit = body.get("suffix"), body.get("max_tokens")
    given = sum(map(input_tokens, prompts)) + (tokens(suffix) if isinstance(suffix, str) else 0)
    return Asked(
        model=str(body.get("model", "mock")),
        echoes=[prompt if isinstance(prompt, str) else "" for prompt in prompts or [""]],
        input_tokens=given,
        limit=limit if isinstance(limit, int) else None,
        copies=copies_of(body),
    )


def inputs_of(value: Any) -> list[Any]:
    """The prompts in a `prompt`, or the inputs in an `input`: each a text or a list of tokens."""
    if not isinstance(value, list):
        return [] if value is None else [value]
    return [value] if value and isinstance(value[0], int) else value


def input_tokens(prompt: Any) -> int:
    """Tokens are counted, a text is estimated."""
    return len(prompt) if isinstance(prompt, list) else tokens(str(prompt))


def plain(answer: Answer, body: Mapping[str, Any]) -> bytes:
    """The answer as one `text_completion` object."""
    choices = [entry(index, "".join(pieces(choice, body)), choice.finish) for index, choice in enumerate(answer.choices)]
    return orjson.dumps(head(answer) | {"choices": choices} | ({"usage": usage_of(answer.used)} if answer.used else {}))


def events(answer: Answer, body: Mapping[str, Any], ended: bool) -> Iterator[bytes]:
    """The answer as a stream: each choice's words and finish, the usage when asked for, `[DONE]`."""
    with_usage = answer.used is not None and wants_usage(body)
    tail = {"usage": None} if with_usage else {}
    for index, choice in enumerate(answer.choices):
        for word in pieces(choice, body):
            yield event(head(answer) | {"choices": [entry(index, word, None)]} | tail)
        yield event(head(answer) | {"choices": [entry(index, "", choice.finish)]} | tail)
    if answer.used is not None and with_usage:
        yield event(head(answer) | {"choices": [], "usage": usage_of(answer.used)})
    if ended:
        yield DONE


def events_before(choice: Choice) -> int:
    """A stream begins with its first piece."""
    return 0


def pieces(choice: Choice, body: Mapping[str, Any]) -> list[str]:
    """What a choice says, after its prompt when `echo` asks for that."""
    return [choice.echo, *choice.words] if body.get("echo") is True and choice.echo else choice.words


def head(answer: Answer) -> dict[str, Any]:
    return {"id": f"cmpl-mock{answer.digest}", "object": "text_completion", "created": CREATED, "model": answer.model}


def entry(index: int, text: str, finish: str | None) -> dict[str, Any]:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": finish}


def usage_of(used: Used) -> dict[str, int]:
    return {"prompt_tokens": used.input, "completion_tokens": used.output, "total_tokens": used.input + used.output}
