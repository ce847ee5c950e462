"""`TextWindow`: however a text is cut, what leaves is the whole text with its edits made, and every chunk leaves once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire.recordings import GOLDENS

import muxx
from muxx import Chunk, Exchange, StateKey, TextWindow, ToolCall, Usage, hookimpl
from muxx.testing import DONE, RunningGateway, Said, Tool, chat, event, sse
from muxx.textwindow import CONTEXT, Edit, substitution
from muxx.wire.openai import ChatStream, ChunkEncoder
from muxx.wire.responses import ResponseCodec, stream_of
from muxx.wire.sse import EventSplitter
from muxx.wire.wire import AnswerHead

WORD = re.compile(r"(?<![ab])ab{1,3}c(?!d)")
"""With a look behind and a look ahead: at most 6 characters to look at."""
HOLD = 6

texts = st.text(alphabet="abcd é👋", max_size=60)
cuttings = st.lists(st.integers(0, 60), max_size=20)


def cut(text: str, places: Iterable[int]) -> list[str]:
    ends = sorted({place for place in places if 0 < place < len(text)})
    return [text[begin:end] for begin, end in zip([0, *ends], [*ends, len(text)], strict=True) if begin < end]


def window() -> TextWindow:
    return TextWindow.sub(WORD, "<x>", hold=HOLD)


def fed(to: TextWindow, chunks: Iterable[Chunk]) -> list[Chunk]:
    """What leaves, in order."""
    out = []
    for chunk in chunks:
        result = to.feed(chunk)
        out += [chunk] if result is None else result
    return out


def said(chunks: Iterable[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks if chunk.kind == "text")


def of_text(pieces: Iterable[str], **members: Any) -> list[Chunk]:
    return [Chunk("text", piece, raw=f"data: {piece}\n\n".encode(), **members) for piece in pieces]


def arguments(text: str, index: int = 0, id: str | None = None, name: str | None = None, index_of_choice: int = 0) -> Chunk:
    return Chunk("tool_call", index=index_of_choice, tool_call=ToolCall(index, id, name, text))


END = Chunk("end", finish_reason="stop")


@given(texts, cuttings)
def test_however_a_text_is_cut_the_same_leaves_as_from_the_whole(text: str, places: list[int]) -> None:
    assert said(fed(window(), [*of_text(cut(text, places)), END])) == WORD.sub("<x>", text)


@given(texts, cuttings, st.sampled_from(["text", "reasoning", "other"]))
def test_every_chunk_leaves_once_in_its_order_with_all_it_carries(text: str, places: list[int], kind: Any) -> None:
    chunks = [
        Chunk(kind, piece, usage=Usage(number), raw=b"data: %d\n\n" % number) for number, piece in enumerate(cut(text, places))
    ]
    out = fed(window(), [*chunks, END])
    assert [replace(chunk, text="") for chunk in out] == [replace(chunk, text="") for chunk in [*chunks, END]]
    originals = {id(chunk): chunk.text for chunk in chunks}
    for before, after in zip(chunks, out, strict=False):
        assert originals[id(before)] == before.text, "what came is never changed in place"
        assert (after is before) == (after.text == before.text)


@given(texts, cuttings)
def test_what_has_left_is_never_taken_back(text: str, places: list[int]) -> None:
    whole, to, left = WORD.sub("<x>", text), window(), ""
    for chunk in of_text(cut(text, places)):
        left += said(fed(to, [chunk]))
        assert whole.startswith(left)


@given(texts, cuttings)
def test_no_more_than_hold_and_one_chunk_wait(text: str, places: list[int]) -> None:
    pieces = cut(text, places)
    to = TextWindow(lambda text, start, due: ((), due), hold=HOLD)
    came = left = 0
    for chunk in of_text(pieces):
        came += len(chunk.text)
        left += len(said(fed(to, [chunk])))
        assert came - left < HOLD + max(map(len, pieces))


def test_a_function_is_shown_what_waits_and_a_little_before_it_so_the_work_is_linear() -> None:
    shown = []

    def look(text: str, start: int, due: int) -> tuple[Iterable[Edit], int]:
        shown.append((len(text), start))
        return (), due

    fed(TextWindow(look, hold=HOLD), [*of_text("x" * 1000), END])
    assert all(length - start <= HOLD + 1 and start <= CONTEXT for length, start in shown)


def test_a_match_stands_in_its_first_chunk_and_the_others_lose_their_part() -> None:
    assert [chunk.text for chunk in fed(window(), [*of_text(["1 a", "b", "bc 2", " 3"]), END])] == ["1 <x>", "", " 2", " 3", ""]


def test_a_text_that_does_not_change_is_only_late() -> None:
    to, chunks = window(), of_text(["1", "2345", "6", "78"])
    assert [to.feed(chunk) for chunk in chunks] == [[], [], [], chunks[:1]]
    assert to.feed(END) == [*chunks[1:], END]


def test_a_decided_text_leaves_at_once_and_nothing_is_made_of_it() -> None:
    to = TextWindow(lambda text, start, due: ((), len(text)), hold=HOLD)
    assert [to.feed(chunk) for chunk in [*of_text("abc"), END]] == [None] * 4


def test_the_finish_of_a_choice_comes_after_its_text_and_before_nobody_elses() -> None:
    first, second = Chunk("text", "a", 0), Chunk("text", "b", 1)
    thought = Chunk("reasoning", "t", 0)
    finish, usage = Chunk("other", finish_reason="stop"), Chunk("other", usage=Usage(1, 2))
    to = window()
    assert [to.feed(chunk) for chunk in (thought, first, second)] == [[], [thought], []]
    assert to.feed(finish) == [first, finish]
    assert to.feed(usage) is None
    assert to.feed(END) == [second, END]


def test_a_finish_reason_on_the_text_itself_comes_last_too() -> None:
    last = Chunk("text", "b", finish_reason="stop")
    to = window()
    to.feed(first := Chunk("text", "a"))
    assert to.feed(last) == [first, last]


def test_text_after_a_finish_is_a_text_of_its_own() -> None:
    to = window()
    out = fed(to, [Chunk("text", "a"), Chunk("other", finish_reason="stop"), Chunk("text", "bc"), END])
    assert said(out) == "abc"


def test_channels_do_not_mix() -> None:
    """Two choices, and two calls whose arguments take turns, all cut in the middle."""
    halves = [
        [Chunk("text", half, 0), Chunk("reasoning", half, 1), Chunk("other", half, 2), arguments(half, 0, index_of_choice=3),
         arguments(half, 1, index_of_choice=3)]
        for half in ("a", "bbc")
    ]  # fmt: skip
    out = fed(window(), [*halves[0], *halves[1], END])
    assert [chunk.text or (chunk.tool_call.arguments if chunk.tool_call else "") for chunk in out] == ["<x>", ""] * 5 + [""]


def test_the_parts_of_a_choice_leave_in_the_order_in_which_they_were_said() -> None:
    """Also what is said of a part beside its words: its signature, and that a call begins."""
    chunks = [
        Chunk("reasoning", "Let me a"),
        Chunk("reasoning", signature="s"),
        Chunk("text", "I will look a"),
        arguments("", 0, id="1", name="f"),
        arguments("1a", 0),
        arguments("", 1, id="2", name="f"),
        arguments("2a", 1),
        Chunk("text", "And a"),
        Chunk("reasoning", "Hm a"),
        END,
    ]
    assert fed(window(), chunks) == chunks


def test_an_empty_text_beside_a_reasoning_ends_nothing() -> None:
    """Some providers send an empty content with every piece of reasoning."""
    out = fed(window(), [Chunk("reasoning", "a"), Chunk("text"), Chunk("reasoning", "bc"), Chunk("text"), END])
    assert "".join(chunk.text for chunk in out) == "<x>"


def test_calls_that_share_an_index_are_told_apart_by_id_and_name() -> None:
    calls = [arguments("", id="1", name="f"), arguments("1a"), arguments("", id="2", name="f"), arguments("bc")]
    out = fed(window(), [*calls, END])
    assert out == [*calls, END]


def test_a_new_id_with_every_fragment_makes_no_new_call() -> None:
    out = fed(window(), [arguments("1a", id="x", name="f"), arguments("bc", id="y"), END])
    assert [chunk.tool_call.arguments for chunk in out if chunk.tool_call] == ["1<x>", ""]
    assert [chunk.tool_call.id for chunk in out if chunk.tool_call] == ["x", "y"]


def test_a_chunk_without_text_waits_for_nothing() -> None:
    to = window()
    to.feed(arguments("a", id="x", name="f"))
    for chunk in (arguments(""), Chunk("other"), Chunk("text"), Chunk("other", usage=Usage(1))):
        assert to.feed(chunk) is None


def test_each_piece_of_a_plain_answer_is_all_of_its_channel() -> None:
    body = b'{"choices": []}'
    to = window()
    plain = [Chunk("reasoning", "ab", raw=body), Chunk("text", "abc", raw=body), Chunk("other", finish_reason="stop", raw=body)]
    assert to.feed(plain[0]) is None
    assert to.feed(plain[1]) == [replace(plain[1], text="<x>")]
    assert to.feed(plain[2]) is None
    assert to.feed(Chunk("end", raw=body)) is None


def test_the_end_of_text_is_seen_only_at_the_end() -> None:
    last = re.compile(r"b\Z")
    assert said(fed(TextWindow.sub(last, "!", hold=2), [*of_text("bbb"), END])) == "bb!"


def test_a_template_and_a_function_replace_as_they_do_in_sub() -> None:
    pair = re.compile(r"(\d)-(\d)")
    for replacement in (r"\2+\1", lambda match: match[2] + "+" + match[1]):
        assert said(fed(TextWindow.sub(pair, replacement, hold=3), [*of_text("1-2 3"), *of_text("-4"), END])) == "2+1 4+3"


def test_an_empty_match_replaces_nothing() -> None:
    assert said(fed(TextWindow.sub(re.compile("a*"), "-", hold=3), [*of_text("baab"), END])) == "b-b"


def test_a_function_that_knows_more_holds_less_and_one_that_settles_too_little_is_overruled() -> None:
    def until_blank(text: str, start: int, due: int) -> tuple[Iterable[Edit], int]:
        edits, _ = substitution(WORD, "<x>")(text, start, len(text))
        return edits, text.rfind(" ") + 1

    to = TextWindow(until_blank, hold=HOLD)
    chunks = of_text(["so ", "abb", "bc ", "then"])
    assert said(fed(to, chunks[:1])) == "so "
    assert said(fed(to, chunks[1:3])) == "<x> "
    assert to.feed(chunks[3]) == []
    [long] = of_text(["z" * 3 * HOLD])
    assert to.feed(long) == [chunks[3]], "it is due, though no blank has come"
    assert to.feed(END) == [long, END]


def test_functions_may_remember_and_channels_may_be_left_alone() -> None:
    class Numbered:
        def __init__(self) -> None:
            self.count = 0

        def __call__(self, text: str, start: int, due: int) -> tuple[Iterable[Edit], int]:
            edits = []
            for match in WORD.finditer(text, start):
                if match.start() < due:
                    self.count += 1
                    edits.append((*match.span(), str(self.count)))
            return edits, due

    to = TextWindow.per_channel(lambda chunk: Numbered() if chunk.kind == "text" else None, hold=HOLD)
    assert to.feed(Chunk("reasoning", "abc")) is None
    assert said(fed(to, [*of_text("abc abbc"), *of_text(["abc"], index=1), END])) == "1 21"


@pytest.mark.parametrize("edits", [[(0, 9, "")], [(2, 1, "")], [(1, 3, ""), (2, 4, "")], [(-1, 1, "")]])
def test_edits_that_cannot_be_are_an_error(edits: list[Edit]) -> None:
    with pytest.raises(ValueError, match="edits"):
        TextWindow(lambda text, start, due: (edits, len(text)), hold=9).feed(Chunk("text", "abcde"))


def test_hold_is_at_least_one() -> None:
    with pytest.raises(ValueError, match="hold"):
        TextWindow.sub(WORD, "", hold=0)


# ── with the bytes ──


def through(data: bytes, hook: Callable[[Chunk], Iterable[Chunk] | None]) -> list[bytes]:
    """A stream through a chunk hook, the way a relay does it; its events."""
    stream = ChatStream(client_asked_usage=True)
    encoder = ChunkEncoder(stream)
    out = b""
    for item in EventSplitter(1 << 24).feed(data):
        stream.observe(item)
        results: list[Chunk] = []
        for chunk in encoder.decode(item):
            replaced = hook(chunk)
            results += [chunk] if replaced is None else replaced
        out += encoder.encode(results)
    return [raw for raw, _ in EventSplitter(1 << 24).feed(out)]


@pytest.mark.parametrize("name", [name for name in GOLDENS if name not in ("error", "cut", "two_choices")])
def test_a_stream_in_which_nothing_is_found_keeps_every_event_as_its_own_bytes(name: str) -> None:
    expected = through(GOLDENS[name], lambda chunk: None)
    assert sorted(through(GOLDENS[name], window().feed)) == sorted(expected)


def test_an_event_of_two_choices_leaves_in_two_parts_when_one_choice_has_to_wait() -> None:
    def answer(events: list[bytes]) -> ChatStream:
        stream = ChatStream(client_asked_usage=True)
        for item in EventSplitter(1 << 24).feed(b"".join(events)):
            stream.observe(item)
        return stream

    before = answer(through(GOLDENS["two_choices"], lambda chunk: None))
    after = answer(through(GOLDENS["two_choices"], window().feed))
    assert after.finish_reasons == before.finish_reasons
    assert (after.text, after.usage, after.id) == (before.text, before.usage, before.id)


def test_what_stands_on_an_event_beside_its_text_leaves_with_it() -> None:
    def piece(content: str, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": {"role": "assistant", "content": content}, "finish_reason": finish, "logprobs": {"t": content}}
        return event({"id": "c", "system_fingerprint": "f" + content, "choices": [choice]})

    events = through(piece("1 a") + piece("bc") + piece(" 2", "stop") + DONE, window().feed)
    assert events == [
        event({"id": "c", "system_fingerprint": "f1 a", "choices": [
            {"index": 0, "delta": {"role": "assistant", "content": "1 <x>"}, "finish_reason": None, "logprobs": None}]}),
        event({"id": "c", "system_fingerprint": "fbc", "choices": [
            {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None, "logprobs": None}]}),
        piece(" 2", "stop"),
    ]  # fmt: skip


def test_responses_repeat_what_the_window_let_through() -> None:
    text = {"type": "output_text", "text": "1 abc 2", "annotations": []}
    answer = {"id": "r", "status": "completed", "output": [{"id": "m", "type": "message", "role": "assistant", "content": [text]}]}
    codec, to, out = ResponseCodec(AnswerHead(None, None, None)), window(), b""
    for raw, data in EventSplitter(1 << 24).feed(stream_of(orjson.dumps(answer))):
        value = orjson.loads(data or b"")
        pieces = list(value["delta"]) if value["type"] == "response.output_text.delta" else [None]
        for piece in pieces:
            cut = raw if piece is None else event(value | {"delta": piece})
            out += codec.encode(fed(to, codec.decode((cut, cut[6:-2] if piece is not None else data))))
    out += codec.last()
    events = [orjson.loads(data or b"") for _, data in EventSplitter(1 << 24).feed(out)]
    assert "".join(item["delta"] for item in events if item["type"].endswith(".delta")) == "1 <x> 2"
    kinds = [item["type"] for item in events]
    assert kinds.index("response.output_text.done") > max(n for n, kind in enumerate(kinds) if kind.endswith(".delta"))
    assert b"abc" not in out


# ── as a plugin uses it ──


class Masks:
    window = StateKey[TextWindow]("masks.window")

    @hookimpl
    def on_chunk(self, exchange: Exchange, chunk: Chunk) -> Iterable[Chunk] | None:
        if self.window not in exchange.state:
            exchange.state[self.window] = muxx.TextWindow.sub(re.compile(r"[\w.]{1,20}@[\w.]{1,20}"), "[e-mail]", hold=41)
        return exchange.state[self.window].feed(chunk)


async def test_a_plugin_masks_streams_and_plain_answers_with_it() -> None:
    text = "Write to ada@example.org, or to bob@example.org."
    async with RunningGateway(plugins={"masks": Masks}) as gateway:
        for stream in (False, True):
            gateway.upstream.script(chat(text))
            response = await gateway.chat(stream=stream)
            assert "@" not in response.text
            assert "[e-mail], or to [e-mail]" in response.text or stream
            assert response.done or not stream


@pytest.mark.parametrize("endpoint", ["chat", "responses", "messages", "generate_content"])
@pytest.mark.parametrize("model", ["gpt-4o", "claude-3-5-haiku", "gemini-1.5-pro"])
async def test_a_held_back_text_tears_no_part_of_a_stream_whatever_format_it_is_in(endpoint: Any, model: str) -> None:
    tools = (Tool("look", '{"where": "in the town"}', "call_1"), Tool("ask", '{"whom": "everybody there"}', "call_2"))
    answer = Said("I will look it up for you.", "Let me think about it.", tools)
    async with RunningGateway(plugins={"masks": Masks}) as gateway:
        gateway.upstream.says(answer)
        said = (await gateway.ask(endpoint, model=model, stream=True)).said(endpoint)
    assert (said.text, said.reasoning) == (answer.text, answer.reasoning)
    assert [(tool.name, orjson.loads(tool.arguments)) for tool in said.tools] == [
        (tool.name, orjson.loads(tool.arguments)) for tool in tools
    ]


async def test_what_a_broken_answer_still_held_never_leaves() -> None:
    pieces = ["Long ago. ", "It is ever so long ago that you should ask ada@exam"]
    events = [event({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]}) for piece in pieces]
    async with RunningGateway(plugins={"masks": Masks}) as gateway:
        gateway.upstream.script(sse(b"".join(events)))
        response = await gateway.chat(stream=True)
    assert "ada@" not in response.text
    assert pieces[0] in response.text
    assert response.events[-1]["error"]["code"] == "upstream_truncated"
