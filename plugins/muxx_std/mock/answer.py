"""What the mock says, in no format: composed from the request and the model's name alone."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import orjson

from .behaviour import Behaviour
from .schema import example

CREATED = 1_767_225_600
"""The time of every answer (2026-01-01): a clock would make two equal requests differ."""

BYTES_PER_TOKEN = 4.1
"""Bytes of English text per token, the figure muxx estimates with wherever a provider reports no usage."""

MOST_ECHOED = 65_536
"""Characters of a message that are said back. Whoever has a key may ask the mock, also in earnest, and for 128 copies: making
them must hold up nobody else's requests."""
MOST_CHOICES = 2048

LOREM = ("Lorem ", "ipsum ", "dolor ", "sit ", "amet ", "consectetur ", "adipiscing ", "elit ")
REASONING = "The user said something. I say it back."


class CannotAnswer(Exception):
    """The request makes no sense to any provider; the message says why."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for, whatever its format. `echoes` holds a text to say back for each answer that is wanted."""

    model: str
    echoes: list[str]
    input_tokens: int
    tool_result: str | None = None
    """What the tool answered, when that was the last thing said."""
    function: Mapping[str, Any] | None = None
    """The first function offered: `name` and `parameters`, a JSON schema."""
    limit: int | None = None
    """The most words an answer may have."""
    copies: int = 1
    """How many answers each echo is to get."""
    thinks: bool = False
    """The format has a place for reasoning."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer in pieces the size of a streamed event; its plain form joins them. `finish` is chat's word for how it ended."""

    echo: str
    reasoning: list[str]
    words: list[str]
    call: dict[str, str] | None
    finish: str

    @property
    def text(self) -> str:
        return "".join(self.words)

    @property
    def fragments(self) -> list[str]:
        """The arguments of the call, as they come in a stream."""
        return re.findall(r".{1,12}", self.call["arguments"], re.DOTALL) if self.call else []

    @property
    def pieces(self) -> int:
        """How many pieces its stream has, less what the format puts around them."""
        return len(self.reasoning) + len(self.words) + len(self.fragments)


@dataclass(frozen=True, slots=True)
class Used:
    """Tokens. Those of reasoning are among those of the output."""

    input: int
    output: int
    reasoning: int


@dataclass(frozen=True, slots=True)
class Answer:
    """All that an answer says. `digest` is 24 hexadecimal digits of the request's own; `used` is None where none is reported."""

    digest: str
    model: str
    choices: list[Choice]
    used: Used | None


def compose(behaviour: Behaviour, body: Mapping[str, Any], asked: Asked, default_text: str) -> Answer:
    """Everything the answer to `body`, which asks `asked`, says, before it is known in which form it leaves."""
    call = called(asked) if behaviour.tool else None
    reasoning = split(REASONING) if behaviour.reasoning and asked.thinks else []
    if len(asked.echoes) * asked.copies > MOST_CHOICES:
        raise CannotAnswer(f"At most {MOST_CHOICES} answers are given at a time.")
    choices: list[Choice] = []
    for echo in [whole[:MOST_ECHOED] for whole in asked.echoes]:
        words = [] if call else words_of(behaviour, asked, default_text or echo)
        cut_short = asked.limit is not None and len(words) > asked.limit
        finish = "tool_calls" if call else "length" if cut_short else "stop"
        choices += [Choice(echo, reasoning, words[: asked.limit] if cut_short else words, call, finish)] * asked.copies
    return Answer(
        digest=hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()[:24],
        model=asked.model,
        choices=choices,
        used=None if behaviour.nousage else used_by(asked, choices),
    )


def words_of(behaviour: Behaviour, asked: Asked, otherwise: str) -> list[str]:
    """The text of an answer: scripted, long, about the tool's result, or what would be said otherwise, in that order."""
    if behaviour.text is not None:
        return split(behaviour.text)
    if behaviour.long:
        return list(islice(cycle(LOREM), behaviour.long))
    if behaviour.tool and asked.tool_result is not None:
        return split(f"The tool answered: {asked.tool_result[:MOST_ECHOED]}")
    return split(otherwise)


def split(text: str) -> list[str]:
    """Words with the white space that follows them; joined, they are the text again."""
    return re.findall(r"\s*\S+\s*|\s+", text)


def called(asked: Asked) -> dict[str, str] | None:
    """A call of the first function offered. None without one, and once a tool's result is the last message."""
    if asked.function is None or asked.tool_result is not None:
        return None
    schema = asked.function.get("parameters")
    arguments = example(schema, schema) if isinstance(schema, dict) else {}
    return {"name": str(asked.function.get("name", "")), "arguments": orjson.dumps(arguments).decode()}


def used_by(asked: Asked, choices: list[Choice]) -> Used:
    thought = sum(tokens(*choice.reasoning) for choice in choices)
    said = sum(tokens("".join(choice.words), *(choice.call.values() if choice.call else ())) for choice in choices)
    return Used(asked.input_tokens, thought + said, thought)


def tokens(*texts: str) -> int:
    return math.ceil(sum(len(text.encode("utf-8", "replace")) for text in texts) / BYTES_PER_TOKEN)


# ── reading requests ──


def objects(values: Any) -> list[dict[str, Any]]:
    """The JSON objects in what should be an array of them."""
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def text_of(content: Any) -> str:
    """The text of a message's content, whether it is a string or a list of parts."""
    if isinstance(content, str):
        return content
    return "".join(str(part["text"]) for part in objects(content) if "text" in part)


def last_said(messages: list[dict[str, Any]]) -> str:
    """The text of the user's last message, or of the last one when none is the user's."""
    by_user = [message for message in messages if message.get("role") == "user"]
    return text_of((by_user or messages or [{}])[-1].get("content"))


def copies_of(body: Mapping[str, Any]) -> int:
    """`n`, within OpenAI's limit of 128."""
    return n if isinstance(n := body.get("n"), int) and 1 <= n <= 128 else 1


def tool_tokens(body: Mapping[str, Any]) -> int:
    return tokens(orjson.dumps(body["tools"]).decode()) if body.get("tools") else 0
