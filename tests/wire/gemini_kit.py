"""Small Gemini streams of our own making, a stream's way through the format, and Google's own SDK as the judge of what comes out."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

from muxx.reply import Chunk
from muxx.wire.gemini import GenerateCodec, GenerateReader, GenerateStream
from muxx.wire.sse import Event, EventSplitter
from muxx.wire.wire import Verdict

from .passing import Hook, hooked

HEAD = {"modelVersion": "gemini-3-pro", "responseId": "r1"}


def usage(prompt: int, candidates: int, **more: Any) -> dict[str, Any]:
    return {"promptTokenCount": prompt, "candidatesTokenCount": candidates, "totalTokenCount": prompt + candidates, **more}


def candidate(*parts: dict[str, Any], index: int | None = 0, **more: Any) -> dict[str, Any]:
    numbered = {} if index is None else {"index": index}
    return {"content": {"parts": list(parts), "role": "model"}, **numbered, **more}


def event(*candidates: dict[str, Any], **more: Any) -> bytes:
    value = {**({"candidates": list(candidates)} if candidates else {}), **HEAD, **more}
    return b"data: " + json.dumps(value).encode() + b"\r\n\r\n"


def said(text: str, tokens: int = 1, **more: Any) -> bytes:
    """A piece of the first candidate's text."""
    return event(candidate({"text": text}, **more), usageMetadata=usage(5, tokens))


CALL = {"functionCall": {"name": "weather", "args": {"city": "Graz", "days": 2}, "id": "f1"}}
UNNAMED_CALL = {"functionCall": {"name": "time", "args": {}}}

TEXT = said("Grüß ") + said("Gott ", 2) + said("👋", 3, finishReason="STOP")
MANY = b"".join(
    [
        event(candidate({"text": "Let me think. ", "thought": True})),
        event(candidate({"text": "Yes.", "thought": True}), usageMetadata=usage(5, 1, thoughtsTokenCount=9)),
        event(candidate({"text": "It is ", "thoughtSignature": "c2ln"})),
        said("warm."),
        event(candidate({**CALL, "thoughtSignature": "Y2FsbA=="}, UNNAMED_CALL)),
        event(candidate({"executableCode": {"language": "PYTHON", "code": "print(1)"}})),
        event(candidate({"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1\n"}})),
        event(candidate({"inlineData": {"mimeType": "image/png", "data": "aGk="}})),
        event(candidate({"text": ""}, finishReason="STOP"), usageMetadata=usage(5, 20, thoughtsTokenCount=9)),
    ]
)
"""Every kind of part there is."""

CITED = (
    said("The sky is ")
    + said("blue.")
    + said(
        " Mostly.",
        finishReason="STOP",
        groundingMetadata={
            "webSearchQueries": ["sky"],
            "groundingSupports": [{"segment": {"startIndex": 0, "endIndex": 16, "text": "The sky is blue."}}],
        },
        citationMetadata={"citationSources": [{"startIndex": 0, "endIndex": 5, "uri": "https://sky"}]},
        logprobsResult={"chosenCandidates": [{"token": " Mostly."}]},
    )
)
TWO = (
    event(candidate({"text": "a"}), candidate({"text": "b"}, index=1))
    + event(candidate({"text": "c"}, index=1, finishReason="MAX_TOKENS"))
    + event(candidate({"text": "d"}, finishReason="STOP"), usageMetadata=usage(5, 4))
)
OWN = {
    "text": TEXT,
    "many": MANY,
    "cited": CITED,
    "two": TWO,
    "blocked": event(promptFeedback={"blockReason": "SAFETY"}, usageMetadata=usage(5, 0)),
    "failed": said("Let me ")
    + event(candidate(finishReason="MALFORMED_FUNCTION_CALL", finishMessage="Malformed function call: weather(")),
    "unknown": event(candidate({"hologram": {"data": "?"}}), modelStatus={"stage": "STABLE"})
    + event(candidate({"text": "x"}, finishReason="STOP")),
    "usage_apart": said("a") + event(candidate(finishReason="STOP")) + event(usageMetadata=usage(5, 7)),
    "unnumbered": event(candidate({"text": "a"}, index=None)) + event(candidate({"text": "b"}, index=None, finishReason="STOP")),
    "lf": TEXT.replace(b"\r\n", b"\n"),
}


def events(data: bytes) -> list[Event]:
    return EventSplitter(1 << 24).feed(data)


def answer(data: bytes) -> bytes:
    """The same answer, not streamed."""
    facts = GenerateStream()
    for found in events(data):
        facts.observe(found)
    return json.dumps(facts.as_answer(), indent=2, ensure_ascii=False).encode()


def damaged(value: Any, dice: random.Random) -> Any:
    """A JSON value with something else in the place of one of its values."""
    places = list(_places(value))
    holder, key = dice.choice(places)
    holder[key] = dice.choice([None, True, 7, -1, 1.5, "", "x", [], ["x"], [None], [[]], {}, {"x": 1}, {"parts": 3}])
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def passed(data: bytes, hook: Hook) -> bytes:
    """A stream through a chunk hook, as the relay takes it there: to the end of its body, which is the end of the answer."""
    facts = GenerateStream()
    codec = GenerateCodec(facts)
    out = []
    for found in events(data):
        verdict = facts.observe(found)
        if verdict is Verdict.ERROR_EVENT:
            return b"".join([*out, found[0]])
        if verdict is not Verdict.FORWARD:
            continue
        results = hooked(codec.decode(found), hook)
        out.append(codec.encode(results))
        if any(chunk.kind == "end" for chunk in results):
            return b"".join([*out, codec.last()])
    if not facts.finished:
        return b"".join(out)
    out.append(codec.encode(hooked([codec.end()], hook)))
    return b"".join([*out, codec.last()])


def translated(data: bytes) -> tuple[list[Chunk], GenerateReader]:
    """A stream as Chunks without bytes, an `end` last."""
    facts, reader, chunks = GenerateStream(), GenerateReader(), []
    for found in events(data):
        facts.observe(found)
        if facts.value is not None:
            chunks += reader.read(facts.value)
    return [*chunks, reader.end()], reader


class Reply:
    """What Google's SDK reads of an answer."""

    def __init__(self) -> None:
        self.text: dict[int, str] = {}
        self.thoughts: dict[int, str] = {}
        self.calls: dict[int, list[tuple[str, Any]]] = {}
        self.ids: list[str | None] = []
        self.finish: dict[int, str] = {}
        self.usage: tuple[int, int, int] | None = None
        self.signatures: list[bytes] = []

    def take(self, response: Any) -> None:
        for found in response.candidates or ():
            index = found.index or 0
            for part in (found.content.parts if found.content is not None else None) or ():
                if part.thought_signature:
                    self.signatures.append(part.thought_signature)
                if part.function_call is not None:
                    self.calls.setdefault(index, []).append((part.function_call.name, part.function_call.args or {}))
                    self.ids.append(part.function_call.id)
                elif part.text:
                    texts = self.thoughts if part.thought else self.text
                    texts[index] = texts.get(index, "") + part.text
            if found.finish_reason is not None:
                self.finish[index] = found.finish_reason.value
        if (told := response.usage_metadata) is not None:
            written = (told.candidates_token_count or 0) + (told.thoughts_token_count or 0)
            self.usage = (told.total_token_count, told.total_token_count - written, written)

    def same_as(self, other: Reply) -> bool:
        names = ("text", "thoughts", "calls", "finish", "usage", "signatures")
        return all(getattr(self, name) == getattr(other, name) for name in names)


_serving: list[tuple[int, str, bytes]] = []


@cache
def _client() -> Any:
    """Google's client, which gets whatever was put into `_serving` last."""
    import httpx2
    from google import genai
    from google.genai import types

    def serve(request: httpx2.Request) -> httpx2.Response:
        status, content_type, data = _serving.pop()
        return httpx2.Response(status, headers={"content-type": content_type}, content=data)

    transport = httpx2.Client(transport=httpx2.MockTransport(serve))
    return genai.Client(api_key="x", http_options=types.HttpOptions(base_url="http://x", httpx_client=transport))


def accepted(data: bytes) -> Reply:
    """What Google's own SDK reads of a stream."""
    reply = Reply()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of parts it cannot show as text
        _serving.append((200, "text/event-stream", data))
        for response in _client().models.generate_content_stream(model="m", contents="hi"):
            reply.take(response)
    return reply


def accepted_plain(body: bytes, status: int = 200) -> Reply:
    """What it reads of a plain answer."""
    reply = Reply()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _serving.append((status, "application/json", body))
        reply.take(_client().models.generate_content(model="m", contents="hi"))
    return reply
