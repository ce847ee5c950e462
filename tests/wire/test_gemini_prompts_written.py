"""Prompts as requests of Google's format, and what it cannot say."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest

from muxx.wire.gemini import request_parts
from muxx.wire.prompt import Call, Media, Output, Prompt, Reasoning, Refusal, Result, Text, Thought, Tool, Turn
from muxx.wire.seals import sealed

from .gemini_prompts_kit import asking, refused, written


def test_instructions_turns_and_results_stand_where_google_wants_them() -> None:
    prompt = Prompt(
        "gemini-2.5-pro",
        stream=True,
        system=[Text("Be brief.")],
        turns=[
            Turn("user", [Text("a")]),
            Turn("user", [Text("b")]),
            Turn("assistant", [Refusal("no"), Call("c1", "f", "")]),
            Turn("user", [Result("c1", [Text("x"), Text("y"), Media("image", "image/png", data="aGk=")], is_error=True)]),
        ],
    )
    body, losses = written(prompt)
    assert body == {
        "model": "gemini-2.5-pro",
        "stream": True,
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "a"}, {"text": "b"}]},
            {"role": "model", "parts": [{"text": "no"}, {"functionCall": {"id": "c1", "name": "f", "args": {}}}]},
            {
                "role": "user",
                "parts": [
                    {
                        "functionResponse": {
                            "id": "c1",
                            "name": "f",
                            "response": {"error": "x\ny"},
                            "parts": [{"inlineData": {"mimeType": "image/png", "data": "aGk="}}],
                        }
                    }
                ],
            },
        ],
    }
    assert refused(losses) is None


def test_googles_own_signatures_go_back_and_others_do_not() -> None:
    own, other = sealed("gemini", "c2ln"), sealed("anthropic", "x")
    blocks = [
        Thought("mine", own, path="t0"),
        Thought("theirs", other, path="t1"),
        Thought("", redacted="r", path="t2"),
        Text("a", signature=own),
        Text("b", signature=other, path="t4"),
        Call("c", "f", "{}", signature=own),
    ]
    body, losses = written(Prompt("gemini-2.5-pro", turns=[Turn("assistant", blocks)]))
    assert body["contents"][0]["parts"] == [
        {"text": "mine", "thought": True, "thoughtSignature": "c2ln"},
        {"text": "a", "thoughtSignature": "c2ln"},
        {"text": "b"},
        {"functionCall": {"id": "c", "name": "f", "args": {}}, "thoughtSignature": "c2ln"},
    ]
    assert losses.dropped == ["t1", "t2", "t4.signature"]
    assert refused(losses) is None


def test_an_empty_text_which_google_refuses_is_left_out_unless_it_carries_a_signature_of_googles() -> None:
    turns = [
        Turn("user", [Text(""), Text("a")]),
        Turn("assistant", [Text(""), Refusal("")]),
        Turn("user", [Text(" ")]),
        Turn("assistant", [Text("", signature=sealed("gemini", "c2ln")), Text("", signature=sealed("anthropic", "x"))]),
    ]
    body, losses = written(Prompt("gemini-2.5-pro", system=[Text("")], turns=turns))
    assert body["contents"] == [
        {"role": "user", "parts": [{"text": "a"}, {"text": " "}]},
        {"role": "model", "parts": [{"text": "", "thoughtSignature": "c2ln"}]},
    ]
    assert "systemInstruction" not in body
    assert refused(losses) is None


def test_models_that_want_their_calls_signed_are_told_that_another_made_them() -> None:
    calls = [Call("c1", "f", "{}"), Call("c2", "f", "{}")]
    signed, _ = written(Prompt("gemini-3-pro", turns=[Turn("assistant", [*calls])]))
    first, second = signed["contents"][0]["parts"]
    assert first["thoughtSignature"] == "skip_thought_signature_validator"
    assert "thoughtSignature" not in second
    own = Call("c1", "f", "{}", signature=sealed("gemini", "c2ln"))
    kept, _ = written(Prompt("gemini-3-pro", turns=[Turn("assistant", [own, calls[1]])]))
    assert [part.get("thoughtSignature") for part in kept["contents"][0]["parts"]] == ["c2ln", None]
    older, _ = written(Prompt("gemini-2.5-pro", turns=[Turn("assistant", [*calls])]))
    assert "thoughtSignature" not in json.dumps(older)


@pytest.mark.parametrize(
    ("model", "reasoning", "config"),
    [
        ("gemini-3-pro", Reasoning("low", show=True), {"thinkingLevel": "LOW", "includeThoughts": True}),
        ("gemini-2.5-flash", Reasoning("low"), {"thinkingBudget": 1024}),
        ("gemini-2.5-pro", Reasoning("xhigh"), {"thinkingBudget": 24576}),
        ("gemini-2.5-pro", Reasoning("none"), {"thinkingBudget": 0}),
        ("gemini-2.5-flash", Reasoning(budget=31999), {"thinkingBudget": 24576}),
        ("gemini-2.5-pro", Reasoning(budget=40000), {"thinkingBudget": 32768}),
        ("gemini-3-pro", Reasoning(budget=700), {"thinkingBudget": 700}),
        ("gemini-3-pro", Reasoning(show=False), {"includeThoughts": False}),
    ],
)
def test_efforts_are_levels_or_tokens_as_the_model_knows_them(model: str, reasoning: Reasoning, config: dict[str, Any]) -> None:
    body, losses = written(Prompt(model, reasoning=reasoning))
    assert body["generationConfig"]["thinkingConfig"] == config
    assert losses.dropped == []


def test_a_budget_is_more_exact_than_an_effort() -> None:
    body, losses = written(Prompt("m", reasoning=Reasoning("high", 700), places={"reasoning": "thinking"}))
    assert body["generationConfig"]["thinkingConfig"] == {"thinkingBudget": 700}
    assert losses.dropped == ["thinking"]


def test_what_a_schema_is_called_is_said_in_the_schema() -> None:
    body, _ = written(asking(output=Output("schema", {"type": "object"}, "Answer", "What it is.", strict=True)))
    assert body["generationConfig"] == {
        "responseMimeType": "application/json",
        "responseJsonSchema": {"title": "Answer", "description": "What it is.", "type": "object"},
    }
    titled, _ = written(asking(output=Output("schema", {"title": "Own"}, "Answer")))
    assert titled["generationConfig"]["responseJsonSchema"] == {"title": "Own"}


def test_a_documents_text_is_a_file() -> None:
    body, _ = written(asking(Media("document", text="Grüß Gott")))
    data = b64encode("Grüß Gott".encode()).decode()
    assert body["contents"][0]["parts"] == [{"inlineData": {"mimeType": "text/plain", "data": data}}]


def test_googles_own_files_are_named_by_their_uri() -> None:
    uri = "https://generativelanguage.googleapis.com/v1beta/files/x"
    body, losses = written(asking(Media("image", "image/png", url=uri), Media("video", url="https://youtu.be/x")))
    assert body["contents"][0]["parts"] == [
        {"fileData": {"mimeType": "image/png", "fileUri": uri}},
        {"fileData": {"fileUri": "https://youtu.be/x"}},
    ]
    assert refused(losses) is None


CACHE = {"type": "ephemeral"}


@pytest.mark.parametrize(
    ("prompt", "place"),
    [
        (asking(logprobs=True), "logprobs"),
        (asking(top_logprobs=3, places={"top_logprobs": "t"}), "t"),
        (asking(verbosity="low"), "verbosity"),
        (asking(reasoning=Reasoning("max")), "reasoning"),
        (asking(Media("image", "image/png", url="https://example.com/a.png", path="m")), "m"),
        (asking(Media("image", file_id="file-1", path="m")), "m"),
        (asking(Media("image", data="aGk=", path="m")), "m"),
        (asking(Result("c9", [], path="r")), "r"),
        (Prompt("m", turns=[Turn("assistant", [Call("c", "f", "[1]", path="c")])]), "c"),
        (Prompt("m", turns=[Turn("system", [Text("x")], path="messages[1]")]), "messages[1]"),
    ],
)
def test_what_this_format_cannot_say_is_told_by_its_place(prompt: Prompt, place: str) -> None:
    assert refused(written(prompt)[1]) == place


@pytest.mark.parametrize(
    ("prompt", "dropped"),
    [
        (asking(user="u", service_tier="scale", places={"user": "metadata.user_id"}), ["metadata.user_id", "service_tier"]),
        (asking(Text("a", CACHE, "t")), ["t.cache_control"]),
        (asking(parallel_tool_calls=False, places={"parallel_tool_calls": "p"}), ["p"]),
        (asking(Media("image", "image/png", data="aGk=", name="n", detail="low", cache=CACHE, path="m")), ["m.cache_control", "m.filename", "m.detail"]),
        (asking(tools=[Tool("f", strict=True, cache=CACHE, path="tools[0]")]), ["tools[0].strict", "tools[0].cache_control"]),
        (Prompt("m", turns=[Turn("user", [Text("a")], name="Ada", path="messages[0]")]), ["messages[0].name"]),
        (asking(parallel_tool_calls=True, logprobs=False, top_logprobs=0, verbosity="medium", service_tier="auto", n=1), []),
        (asking(Media("image", "image/png", data="aGk=", detail="auto")), []),
        (asking(tools=[Tool("f", strict=False)]), []),
    ],
)  # fmt: skip
def test_what_changes_no_answer_is_dropped_and_told(prompt: Prompt, dropped: list[str]) -> None:
    _, losses = written(prompt)
    assert refused(losses) is None
    assert losses.dropped == dropped


def test_a_result_that_names_its_function_needs_no_call_before_it() -> None:
    body, losses = written(asking(Result("c9", [Text("x")], name="f")))
    assert body["contents"][0]["parts"][0]["functionResponse"]["name"] == "f"
    assert refused(losses) is None


def test_what_is_written_has_the_same_texts_as_the_prompt() -> None:
    prompt = asking(Text("question"), system=[Text("sys")])
    assert [part.text for part in request_parts(written(prompt)[0])] == ["sys", "question"]
