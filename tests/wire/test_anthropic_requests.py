"""Requests of Messages: what is checked, what plugins may read and change."""

from __future__ import annotations

from typing import Any

import pytest

from muxx.errors import InvalidRequest
from muxx.wire.anthropic import input_bytes, request_parts, validate_count, validate_messages

ASKED: dict[str, Any] = {"model": "claude-opus-5", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}

# What is checked.


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"system": "be brief"},
        {"system": [{"type": "text", "text": "be brief"}]},
        {"temperature": 1},
        {"temperature": 0.0, "stream": True, "tools": [], "stop_sequences": ["x"]},
        {"temperature": None, "stream": None, "system": None},
        {"messages": [{"nonsense": 1}], "metadata": 3, "top_p": "x", "hologram": []},
    ],
)
def test_what_the_api_allows_or_only_the_provider_can_judge_passes(members: dict[str, Any]) -> None:
    validate_messages({**ASKED, **members})
    validate_count({name: value for name, value in {**ASKED, **members}.items() if name != "max_tokens"})


WRONG = [
    ("model", 3), ("model", ""), ("model", None), ("messages", []), ("messages", "Hi"), ("messages", {}), ("system", 3),
    ("system", {}), ("temperature", 1.1), ("temperature", -0.1), ("temperature", "1"), ("temperature", True), ("stream", "true"),
    ("stream", 1), ("tools", {}), ("stop_sequences", "x"),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), WRONG)
@pytest.mark.parametrize("validate", [validate_messages, validate_count])
def test_a_wrong_field_is_named(field: str, value: Any, validate: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        validate({**ASKED, field: value})
    assert (caught.value.code, caught.value.param) == ("invalid_type", field)


@pytest.mark.parametrize("value", [0, -1, 1.0, "100", True, None])
def test_the_most_of_tokens_is_a_positive_integer(value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        validate_messages({**ASKED, "max_tokens": value})
    assert (caught.value.code, caught.value.param) == ("invalid_type", "max_tokens")
    validate_count({**ASKED, "max_tokens": value})


@pytest.mark.parametrize("field", ["model", "messages", "max_tokens"])
def test_a_missing_field_is_named(field: str) -> None:
    body = {name: value for name, value in ASKED.items() if name != field}
    with pytest.raises(InvalidRequest) as caught:
        validate_messages(body)
    assert (caught.value.code, caught.value.param) == ("missing_field", field)


# What plugins see.

FULL: dict[str, Any] = {
    **ASKED,
    "system": [{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "user", "content": "What is here?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "sig"},
                {"type": "redacted_thinking", "data": "hidden"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "t1", "name": "look", "input": {"where": "here", "deep": [1, {"how": "far"}, "near"]}},
                {"type": "server_tool_use", "id": "t2", "name": "web_search", "input": {"query": "graz"}},
                {"type": "web_search_tool_result", "tool_use_id": "t2", "content": [{"title": "Graz", "encrypted_content": "e"}]},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "a house"},
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "a tree"}], "is_error": True},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
                {
                    "type": "document",
                    "title": "T",
                    "context": "C",
                    "source": {"type": "text", "media_type": "text/plain", "data": "words"},
                },
                {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "more"}]}},
                {"type": "search_result", "source": "https://x", "title": "S", "content": [{"type": "text", "text": "found"}]},
            ],
        },
    ],
    "tools": [{"name": "look", "input_schema": {"type": "object"}}],
}

PARTS = [
    ("system", "text", "system[0].text", "be brief"),
    ("user", "text", "messages[0].content", "What is here?"),
    ("assistant", "text", "messages[1].content[0].thinking", "hm"),
    ("assistant", "text", "messages[1].content[2].text", "I look."),
    ("assistant", "tool_arguments", "messages[1].content[3].input.where", "here"),
    ("assistant", "tool_arguments", "messages[1].content[3].input.deep[1].how", "far"),
    ("assistant", "tool_arguments", "messages[1].content[3].input.deep[2]", "near"),
    ("assistant", "tool_arguments", "messages[1].content[4].input.query", "graz"),
    ("tool", "tool_result", "messages[1].content[5].content[0].title", "Graz"),
    ("tool", "tool_result", "messages[2].content[0].content", "a house"),
    ("tool", "tool_result", "messages[2].content[1].content[0].text", "a tree"),
    ("user", "text", "messages[2].content[3].title", "T"),
    ("user", "text", "messages[2].content[3].context", "C"),
    ("user", "text", "messages[2].content[3].source.data", "words"),
    ("user", "text", "messages[2].content[4].source.content[0].text", "more"),
    ("user", "text", "messages[2].content[5].title", "S"),
    ("user", "text", "messages[2].content[5].content[0].text", "found"),
]


def test_every_text_of_a_request_is_a_part() -> None:
    assert [(part.role, part.kind, part.path, part.text) for part in request_parts(FULL)] == PARTS


def test_a_system_prompt_of_one_string_is_a_part() -> None:
    assert [part.path for part in request_parts({**ASKED, "system": "be brief"})] == ["system", "messages[0].content"]


def _at(value: Any, path: str) -> Any:
    """What stands at a path of the body."""
    for step in path.replace("[", ".[").split("."):
        value = value[int(step[1:-1])] if step.startswith("[") else value[step]
    return value


def test_a_changed_part_is_changed_where_its_path_says() -> None:
    import copy

    body = copy.deepcopy(FULL)
    for number, part in enumerate(request_parts(body)):
        part.text = f"<{number}>"
    assert [_at(body, path) for _, _, path, _ in PARTS] == [f"<{number}>" for number in range(len(PARTS))]
    assert body["messages"][2]["content"][2] == FULL["messages"][2]["content"][2]


def test_what_the_model_reads_counts_as_input_and_so_do_tools() -> None:
    texts = sum(len(text.encode()) for _, _, _, text in PARTS)
    assert input_bytes(FULL) == texts + len('[{"name":"look","input_schema":{"type":"object"}}]')
    assert input_bytes({**ASKED, "messages": [{"role": "user", "content": "Grüß"}]}) == 6


@pytest.mark.parametrize(
    "body", [{}, {"messages": 3}, {"messages": [3, {"content": [None, {"type": []}, {"type": "tool_use", "input": "x"}]}]}]
)
def test_a_request_of_a_strange_form_has_no_parts(body: dict[str, Any]) -> None:
    assert list(request_parts(body)) == []
    assert input_bytes(body) == 0
