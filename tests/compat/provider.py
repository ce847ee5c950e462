"""One scripted upstream that is all three vendors at once, and answers by simple rules from the request alone."""

from __future__ import annotations

import json
from typing import Any

from muxx.testing import RecordedRequest, Said, ScriptedUpstream, Step, Tool, answers, hold, rst, words
from muxx.testing.speaking import plain, refused, streamed

from .asked import Asked, Refused, asked, endpoint_of
from .schemas import EXPECTED, value_of

SENTENCE: str = EXPECTED["sentence"]
ABORT = "abort"
"""A prompt with this word gets the beginning of an answer that never ends."""
BREAK = "break off"
"""A prompt with these words gets the beginning of an answer, and then the connection is reset."""
TOOL = "tool"
"""A prompt with this word has the first tool called."""
MISSING = "-missing"
"""A model whose name ends so does not exist."""
FAMILIES = {"messages": "claude-", "generate_content": "gemini-"}
"""What the names of a vendor's models begin with; OpenAI's with `gpt-`."""


class Providers(ScriptedUpstream):
    """OpenAI under `/v1`, Anthropic under `/v1`, Google under `/v1beta`, at one port."""

    def __init__(self) -> None:
        super().__init__()
        self.choose = _script

    def with_text(self, text: str) -> RecordedRequest | None:
        """The last request whose body holds this text."""
        wanted = text.encode()
        return next((request for request in reversed(self.requests) if wanted in request.body), None)


def _script(request: RecordedRequest) -> list[Step]:
    try:
        question = asked(request)
        if question.model.endswith(MISSING) or not question.model.startswith(FAMILIES.get(question.endpoint, "gpt-")):
            raise Refused(404, f"The model '{question.model}' does not exist")
        return _answered(question)
    except Refused as refusal:
        return _refusal(request, refusal.status, str(refusal))
    except Exception as error:
        return _refusal(request, 400, f"This request cannot be read: {error!r}")


def _answered(question: Asked) -> list[Step]:
    said = said_to(question)
    if not question.stream:
        return answers.json(plain(question.endpoint, said, question.model))
    events = streamed(question.endpoint, said, question.model, usage=question.usage, pieces=words)
    if BREAK in question.text:
        return answers.sse(chunks=_beginning(events), end=rst())
    if ABORT in question.text:
        return answers.sse(chunks=_beginning(events), end=hold())
    return answers.sse(chunks=events)


def said_to(question: Asked) -> Said:
    """Results of tools are said back; a tool is called where one has to be, or where the prompt speaks of it; a value of the schema;
    else always the same sentence."""
    if question.results:
        return _said(f"The tool said: {' '.join(question.results)}")
    if question.tools and (question.forced is not None or TOOL in question.text):
        name, schema = next(tool for tool in question.tools if not question.forced or tool[0] == question.forced)
        arguments = json.dumps(value_of(schema, schema), ensure_ascii=False)
        return _said("", tools=(Tool(name, arguments, _call_id(question)),), finish_reason="tool_calls")
    if question.schema is not None:
        return _said(json.dumps(value_of(question.schema, question.schema), ensure_ascii=False))
    return _said(SENTENCE)


def _said(text: str, **members: Any) -> Said:
    return Said(text, input_tokens=EXPECTED["input_tokens"], output_tokens=EXPECTED["output_tokens"], **members)


def _call_id(question: Asked) -> str:
    return "toolu_1" if question.endpoint == "messages" else "call_1"


def _beginning(events: list[bytes]) -> list[bytes]:
    """The events up to the one that tells the second word."""
    second = words(SENTENCE)[1].encode()
    return events[: 1 + next(at for at, event in enumerate(events) if second in event)]


def _refusal(request: RecordedRequest, status: int, message: str) -> list[Step]:
    return answers.json(refused(endpoint_of(request.target) or "chat", status, message), status)
