"""Events known by their likeness: what is taken of them is what parsing them would have brought, and nothing else is taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thoroughness import examples

from muxx.testing import event
from muxx.wire.alike import MOST_BYTES, Alike
from muxx.wire.anthropic.facts import MessageStream
from muxx.wire.sse import EventSplitter
from muxx.wire.wires import BY_NAME

from .recordings import cuts, recordings

HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o"}


def chat(text: Any, **more: Any) -> dict[str, Any]:
    return {**HEAD, "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}], "usage": None, **more}


def completion(text: Any) -> dict[str, Any]:
    return {**HEAD, "object": "text_completion", "choices": [{"index": 0, "text": text, "finish_reason": None}]}


def delta(**members: Any) -> dict[str, Any]:
    return {**HEAD, "choices": [{"index": 0, "delta": members, "finish_reason": None}]}


def message(text: Any, kind: str = "text_delta", member: str = "text") -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": kind, member: text}}


def named(value: dict[str, Any], spaces: int = 0) -> bytes:
    return b"event: content_block_delta\n" + event(value).replace(b"}}\n\n", b"}%b}\n\n" % (b" " * spaces))


def begin(kind: str) -> bytes:
    return event({"type": "content_block_start", "index": 0, "content_block": {"type": kind}})

FORMS: dict[str, tuple[str, bytes, Callable[[Any], bytes]]] = {
    "chat": ("chat", event(chat("a")), lambda text: event(chat(text))),
    "padded chat": ("chat", event(chat("a")), lambda text: event(chat(text, obfuscation="x" * len(str(text))))),
    "chat with spaces": ("chat", event(chat("a")), lambda text: f"data: {json.dumps(chat(text))}\n\n".encode()),
    "completion": ("text_completion", event(completion("a")), lambda text: event(completion(text))),
    "reasoning": ("chat", event(chat(None)), lambda text: event(delta(content=None, reasoning_content=text))),
    "message": ("messages", begin("text"), lambda text: named(message(text))),
    "padded message": ("messages", begin("text"), lambda text: named(message(text), spaces=len(str(text)))),
    "thinking": ("messages", begin("thinking"), lambda text: named(message(text, "thinking_delta", "thinking"))),
}
forms = pytest.mark.parametrize("form", FORMS)


def observer(name: str) -> Any:
    return BY_NAME[name].stream({}, True)


def learnt(form: str) -> tuple[Any, Alike]:
    """An observer that has seen the beginning of a stream, and what it has learnt of that for the rest."""
    name, begin, say = FORMS[form]
    stream, splitter = observer(name), EventSplitter(2**20)
    for raw in (begin, say("b")):
        for one in splitter.feed(raw):
            stream.observe(one)
    alike = stream.likeness(say("b"))
    assert alike is not None
    return stream, alike


def said(stream: Any) -> Any:
    return saying(stream), stream.text, stream.output_bytes, stream.finish_reasons, stream.usage, stream.id, stream.model


def saying(stream: Any) -> list[str]:
    """All that was said, each text by itself."""
    if isinstance(stream, MessageStream):
        parts = [part for _, block in sorted(stream._blocks.items()) for part in (block.text, block.thinking, block.partial_json)]
    else:
        choices = [choice for _, choice in sorted(stream.choices.items())]
        parts = [part for choice in choices for part in (choice.text, choice.reasoning, *(call.arguments for call in choice.tool_calls))]
    return ["".join(part) for part in parts]


@forms
def test_no_more_is_taken_at_once_than_an_event_may_have_bytes(form: str) -> None:
    say = FORMS[form][2]
    for most, data in ((len(say("c")) - 1, say("c")), (2 * len(say("c")) - 1, say("c") * 2)):
        stream, alike = learnt(form)
        before = said(stream)
        alike.bound(most)
        assert not alike.take(data)
        assert alike.events(data) is None
        assert said(stream) == before
        stream, alike = learnt(form)
        alike.bound(most + 1)
        assert alike.events(data) is not None
        assert alike.take(data)


@forms
def test_events_that_differ_in_their_text_are_taken_alone_and_together(form: str) -> None:
    stream, alike = learnt(form)
    say, before = FORMS[form][2], "".join(alike.said)
    for text in ("c", " d", "", 'quote " and \\ back', "né", "日本", "\x00\n", "}", '"},{'):
        assert alike.take(say(text))
        before += text
        assert "".join(alike.said) == before
    assert alike.take(say("e") + say("ü") + say("\t"))
    assert alike.take(say("f") + say("g"))
    assert "".join(alike.said) == before + "eü\tfg"
    assert before + "eü\tfg" in saying(stream)


@forms
def test_whatever_is_not_whole_and_alike_is_left_to_the_parser(form: str) -> None:
    stream, alike = learnt(form)
    say, before = FORMS[form][2], said(stream)
    event_c = say("c")
    for other in (
        b"",
        event_c[:-1],
        event_c[1:],
        event_c + event_c[:-1],
        event_c + b"\n",
        event_c + b": hm\n\n" + event_c,
        say(None),
        say(1),
        say(["c"]),
        event_c.replace(b'"c"', b'"c'),
        event_c.replace(b'"c"', b'c"'),
        event_c.replace(b'"c"', b'"'),
        event_c.replace(b'"c"', b'"c","x":"d"'),
        event_c.replace(b'"c"', b'"c\n"'),
        event_c.replace(b'"c"', b'"c\n\ndata: d"'),
        event_c.replace(b'"c"', b'"c\\"'),
        event_c.replace(b'"c"', b'"\\x"'),
        event_c.replace(b'"c"', b'"\xff"'),
        event_c.replace(b'"c"', b'"\\ud800"'),
        event_c.replace(b"null", b'"stop"'),
        event_c.replace(b'"index":0', b'"index":1').replace(b'"index": 0', b'"index": 1'),
    ):
        if other != event_c:
            assert not alike.take(other), other
    assert said(stream) == before


def test_the_text_of_blocks_that_all_have_one_number_is_all_there() -> None:
    """Some translators give every block the number 0."""
    stream, alike = learnt("message")
    [again] = EventSplitter(2**20).feed(begin("text"))
    stream.observe(again)
    assert alike.take(named(message("c")))
    assert stream.text == "bc"
    assert stream.whole()["content"] == [{"type": "text", "text": "bc"}]


@pytest.mark.parametrize("padding", ['x"', "é", "x\\", "\n", 'x","y":"z'])
def test_a_padding_of_anything_but_letters_and_digits_is_left_to_the_parser(padding: str) -> None:
    _, alike = learnt("padded chat")
    assert alike.take(event(chat("c", obfuscation="Az09")))
    assert not alike.take(event(chat("c", obfuscation=padding)))
    assert not alike.take(event(chat("c", obfuscation="")).replace(b'"obfuscation":""', b'"obfuscation":"%b"' % padding.encode()))


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("chat", event(chat("b", content="of another place")).replace(b'"id"', b'"content":"here","id"')),
        ("chat", event({'a"content': "b", **chat("b")})),
        ("chat", event(chat("b")).replace(b'"content":"b"', b'"content":"b","content":"c"')),
        ("chat", event(chat("b")).replace(b"\n\n", b"\r\n\r\n")),
        ("chat", event(chat("b"))[:-2] + b"\nid: 7\n\n"),
        ("chat", event(chat("b", usage={"prompt_tokens": 1, "completion_tokens": 1}))),
        ("chat", event({**HEAD, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})),
        ("chat", b": hm\n\n"),
        ("chat", b"data: [DONE]\n\n"),
        ("responses", event({"type": "response.output_text.delta", "sequence_number": 1, "delta": "b"})),
        ("generate_content", event({"candidates": [{"content": {"parts": [{"text": "b"}]}, "index": 0}]})),
    ],
)
def test_nothing_is_learnt_from_an_event_whose_text_is_not_where_it_seems_or_that_says_more(name: str, raw: bytes) -> None:
    stream, splitter = observer(name), EventSplitter(2**20)
    for one in splitter.feed(FORMS["chat"][1] + raw if name == "chat" else raw):
        stream.observe(one)
    assert stream.likeness(raw) is None


@forms
def test_nothing_is_learnt_from_an_event_that_says_much(form: str) -> None:
    """To look for the end of such a text would take long, with the event loop held up meanwhile."""
    stream, _ = learnt(form)
    large = FORMS[form][2]("x" * MOST_BYTES)
    for one in EventSplitter(2**20).feed(large):
        stream.observe(one)
    assert stream.likeness(large) is None


@forms
def test_nothing_is_learnt_from_an_event_that_says_nothing(form: str) -> None:
    """Others like it, before the model has said anything, are no more than pings: they give it no more time."""
    stream, _ = learnt(form)
    empty = FORMS[form][2]("")
    for one in EventSplitter(2**20).feed(empty):
        stream.observe(one)
    assert stream.likeness(empty) is None


PIECES = st.sampled_from([b"c", b" ", b'"', b"\\", b"\\n", b"\\u00e9", b"\n", b"\xc3", b"\xa9", b"}", b'":', b',"obfuscation":"', b"x"])


@forms
@settings(max_examples=examples(200), deadline=None)
@given(st.lists(PIECES, max_size=6), st.lists(PIECES, max_size=3))
def test_what_is_taken_is_what_the_parser_would_have_read(form: str, first: list[bytes], second: list[bytes]) -> None:
    """Whatever stands where the text was."""
    fast, alike = learnt(form)
    slow, _ = learnt(form)
    say = FORMS[form][2]
    data = b"".join(say("(here)").replace(b"(here)", b"".join(pieces)) for pieces in (first, second))
    if alike.take(data):
        splitter = EventSplitter(2**20)
        values = []
        for one in splitter.feed(data):
            slow.observe(one)
            values.append(orjson.loads(one[1] or b""))
        assert (len(values), splitter.tail) == (2, b"")
        assert said(fast) == said(slow)


@pytest.mark.parametrize(("kind", "name"), [("openai-chat", "chat"), ("anthropic-messages", "messages")])
def test_recorded_streams_come_to_the_same_and_most_of_their_text_is_taken(kind: str, name: str) -> None:
    taken = texts = 0
    for number, path in enumerate(recordings(kind)):
        stream = path.read_bytes()
        slow, fast = observer(name), observer(name)
        for one in EventSplitter(2**24).feed(stream):
            slow.observe(one)
            texts += slow.likeness(one[0]) is not None
        splitter, alike = EventSplitter(2**24), None
        for data in cuts(stream, number) if number % 2 else [raw for raw, _ in EventSplitter(2**24).feed(stream)]:
            if alike is not None and splitter.between_events and alike.take(data):
                taken += 1
                continue
            for one in splitter.feed(data):
                fast.observe(one)
                alike = fast.likeness(one[0]) or alike
        assert said(fast) == said(slow), path.name
    assert taken > texts / 4
