"""The conformance suite fails when the kernel breaks what holds of one format, or of a translation: one broken kernel for each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from broken_kernels import Breaks

import muxx.attempts as attempts
from muxx import Chunk
from muxx.answer import Answer
from muxx.translating import Translator
from muxx.wire.gemini import GenerateStream
from muxx.wire.wires import BY_NAME, WIRES

BREAKS = breaks = Breaks()
MESSAGES, GOOGLE = ("messages", ""), ("generate_content", "")
PARSES = "an_answer_parses_in_its_format_and_ends_properly"


@breaks(PARSES, "refuses in pre_request", way=MESSAGES)
def an_error_is_told_in_openais_words(patch: pytest.MonkeyPatch) -> None:
    wire = BY_NAME["messages"]
    patch.setitem(WIRES, wire.path, replace(wire, error_body=BY_NAME["chat"].error_body))


@breaks(PARSES, "the provider", way=MESSAGES)
def a_broken_message_ends_as_if_it_were_whole(patch: pytest.MonkeyPatch) -> None:
    break_off, stop = Answer.break_off, b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    patch.setattr(Answer, "break_off", lambda self, data: break_off(self, data + stop))


@breaks(PARSES, way=GOOGLE)
def a_comment_is_sent_to_googles_clients(patch: pytest.MonkeyPatch) -> None:
    end = Answer.end
    patch.setattr(Answer, "end", lambda self, data=b"", *rest: end(self, data + b": muxx {}\r\n\r\n", *rest))


@breaks(PARSES, "the provider ends early", way=GOOGLE)
def any_end_of_a_body_is_taken_for_the_end_of_an_answer(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(GenerateStream, "finished", property(lambda self: True))


@breaks("the_answer_says_the_same_in_every_form", way=("chat", "messages"))
def calls_are_lost_in_translation(patch: pytest.MonkeyPatch) -> None:
    read = Translator.read

    def speechless(self: Translator, value: Any) -> list[Chunk]:
        return [chunk for chunk in read(self, value) if chunk.kind != "tool_call"]

    patch.setattr(Translator, "read", speechless)


@breaks("the_answer_says_the_same_in_every_form", way=("generate_content", "chat"))
def reasoning_becomes_text_in_translation(patch: pytest.MonkeyPatch) -> None:
    read = Translator.read

    def thinking_aloud(self: Translator, value: Any) -> list[Chunk]:
        return [replace(chunk, kind="text") if chunk.kind == "reasoning" else chunk for chunk in read(self, value)]

    patch.setattr(Translator, "read", thinking_aloud)


@breaks("a_request_the_plugin_does_not_change_is_sent_as_it_came", way=("messages", "chat"))
def what_the_client_said_is_lost_in_translation(patch: pytest.MonkeyPatch) -> None:
    translated = attempts.translated

    def forgetful(*args: Any) -> Any:
        body, dropped = translated(*args)
        return {**body, "messages": [{"role": "user", "content": "Hello?"}]}, dropped

    patch.setattr(attempts, "translated", forgetful)


@pytest.mark.parametrize("what", BREAKS)
async def test_a_kernel_that_breaks_a_format_is_seen(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert BREAKS[what].invariant in await BREAKS[what].found(monkeypatch)
