"""docs/translation.md says what is so: each row of its tables is tried."""

from __future__ import annotations

import re
import typing
from typing import Any

import orjson
import pytest
from anthropic.types import message_create_params as messages_params
from anthropic.types.beta import message_create_params as beta_params
from docs_kit import ROOT
from google.genai import types as google
from losses_examples import EXAMPLES
from losses_kit import BASES, MODELS, Crossing, at, cross
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import response_create_params as responses_params

from muxx.money import Usage
from muxx.reply import Chunk, ToolCall
from muxx.testing import RunningGateway, Said, Tool
from muxx.testing.speaking import plain
from muxx.translating import DROPPED_HEADER
from muxx.wire.wires import BY_NAME

PAGE = (ROOT / "docs/translation.md").read_text()

Row = list[str]


def table(section: str) -> tuple[Row, list[Row]]:
    """The head and rows of the first table under a heading, their cells as written."""
    under = re.split(r"^##", PAGE.split(f"# {section}\n", 1)[1], maxsplit=1, flags=re.M)[0]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*$", under, re.M)]
    return head, rows


def names(cell: str) -> list[str]:
    """What stands in code in a cell."""
    return re.findall(r"`([^`]+)`", cell)


def keys_of(source: str, cell: str) -> list[str]:
    """The examples a row is about: one, or several by commas."""
    whole = cell.replace("`", "")
    keys = [whole] if whole in EXAMPLES[source] else whole.split(", ")
    assert set(keys) <= EXAMPLES[source].keys(), f"no example of {set(keys) - EXAMPLES[source].keys()}"
    return keys


def losses(source: str) -> list[tuple[str, str, str]]:
    """(example, target, cell) of each cell of a format's table of losses."""
    head, rows = table(f"From {source}")
    targets = [title.removeprefix("to ") for title in head[1:]]
    return [
        (key, target, cell if " as " in cell or cell != "carried" else f"carried as `{names(row[0])[0]}`")
        for row in rows
        for key in keys_of(source, row[0])
        for target, cell in zip(targets, row[1:], strict=True)
    ]


CELLS = [(source, *cell) for source in EXAMPLES for cell in losses(source)]


def is_carried(path: str, crossed: Crossing, without: Crossing) -> bool:
    """Something is at the path that is not there for the same request without the field, and nothing is told to be lost."""
    found = at(crossed.written, path)
    return bool(found) and found != at(without.written, path) and not crossed.dropped


@pytest.mark.parametrize(("source", "key", "target", "cell"), CELLS)
def test_each_cell_of_the_table_of_losses_is_so(source: str, key: str, target: str, cell: str) -> None:
    example = EXAMPLES[source][key]
    crossed, without = (cross(source, target, given, example.model) for given in (example.given, example.without))
    assert not without.refused
    assert without.dropped == []
    if cell == "–":
        return
    assert bool(crossed.refused) == (cell == "refused"), crossed.refused or "it is not refused"
    if cell == "refused":
        assert at_place({"model": "asked", **BASES[source], **example.given}, named(crossed.refused)) is not None
    elif cell == "dropped":
        assert crossed.dropped != []
    elif cell == "not needed":
        assert crossed == without, "it is left out in silence, and it is not for nothing"
    else:
        [path] = names(cell.removeprefix("carried as "))
        assert is_carried(path, crossed, without), crossed


def named(refusal: str) -> str:
    """The first place a refusal names."""
    found = re.match(r"'([^']+)'", refusal)
    assert found is not None
    return found[1]


def at_place(body: Any, place: str) -> Any:
    """The value at a place as refusals name them; None where there is none."""
    for name, number in re.findall(r"(\w+)|\[(\d+)\]", place):
        try:
            body = body[name] if name else body[int(number)]
        except (KeyError, IndexError, TypeError):
            return None
    return body


@pytest.mark.parametrize("source", EXAMPLES)
def test_the_table_of_losses_has_a_column_for_each_other_format(source: str) -> None:
    head, _ = table(f"From {source}")
    assert [title.removeprefix("to ") for title in head[1:]] == [name for name in MODELS if name != source]


@pytest.mark.parametrize("source", EXAMPLES)
def test_every_example_is_of_a_row(source: str) -> None:
    shown = [key for row in table(f"From {source}")[1] for key in keys_of(source, row[0])]
    assert sorted(shown) == sorted(EXAMPLES[source])


def fields_of(source: str) -> set[str]:
    """What the vendor's own SDK can send."""
    if source == "chat":
        return set(typing.get_type_hints(chat_params.CompletionCreateParamsBase)) | {"stream"}
    if source == "responses":
        return set(typing.get_type_hints(responses_params.ResponseCreateParamsBase)) | {"stream"}
    if source == "messages":
        bases = (messages_params.MessageCreateParamsBase, beta_params.MessageCreateParamsBase)
        return {name for base in bases for name in typing.get_type_hints(base)} | {"stream"}
    settings = {member.alias or name for name, member in google.GenerationConfig.model_fields.items()}
    return {f"generationConfig.{name}" for name in settings}


@pytest.mark.parametrize("source", EXAMPLES)
def test_every_field_a_vendors_sdk_knows_is_in_the_table_of_losses(source: str) -> None:
    base = BASES[source].keys() | {"model"}
    depth = 2 if source == "generate_content" else 1
    shown = {".".join(key.split()[0].split(".")[:depth]) for key in EXAMPLES[source]}
    assert fields_of(source) - shown - base == set()


@pytest.mark.parametrize("source", EXAMPLES)
def test_a_field_that_no_table_names_is_refused(source: str) -> None:
    for target in MODELS:
        if target != source:
            assert "'house_option'" in cross(source, target, {"house_option": 1}).refused


# ── how losses are told ──


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_dropped_is_told_in_a_header_and_in_the_row_and_refused_otherwise(stream: bool) -> None:
    asked: dict[str, Any] = {"model": "anthropic/claude-sonnet-4-5", "seed": 7, "user": "ann", "metadata": {"a": "b"}}
    async with RunningGateway() as gateway:
        refused = await gateway.ask("chat", stream=stream, **asked)
        assert (refused.status, refused.error["code"], refused.error["param"]) == (400, "unsupported_parameter", "seed")
        assert "'seed' cannot be sent to anthropic/claude-sonnet-4-5" in refused.error["message"]
        assert gateway.upstream.requests == []
    async with RunningGateway({"providers": {"anthropic": {"on_unsupported": "drop"}}}) as gateway:
        answered = await gateway.ask("chat", stream=stream, **asked)
        assert answered.said().text == "Hello there."
        assert sorted((answered.header(DROPPED_HEADER) or "").split(", ")) == ["metadata", "seed"]
        row = await gateway.get_row(answered.request_id)
        assert sorted(row["attributes"]["dropped"]) == ["metadata", "seed"]


LOST: dict[str, dict[str, Any]] = {
    "chat": {
        "citations": {"annotations": [{"type": "url_citation"}]}, "images": {"images": [{"type": "image_url"}]},
        "audio": {"audio": {"id": "a"}}, "parts": {"content": [{"type": "house"}]},
        "custom_tool_call": {"tool_calls": [{"type": "custom", "custom": {"name": "x"}}]}, "function_call": {"function_call": {"name": "f"}},
    },
    "responses": {
        "citations": {"type": "message", "content": [{"type": "output_text", "text": "x", "annotations": [{"type": "url_citation"}]}]},
        "audio": None, "web_search_call": {"type": "web_search_call"},
    },
    "messages": {
        "citations": {"type": "text", "text": "x", "citations": [{"type": "char_location"}]}, "pause_turn": None,
        "server_tool_use": {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
    },
    "generate_content": {
        **{name: {name: {"a": 1}} for name in ("groundingMetadata", "citationMetadata", "urlContextMetadata", "logprobsResult")},
        **{
            name: {"content": {"parts": [{name: {"a": 1}}]}}
            for name in ("inlineData", "fileData", "executableCode", "codeExecutionResult", "toolCall", "toolResponse")
        },
    },
}  # fmt: skip
"""What of an answer tells each of the names; None where an event of its own does."""

EVENTS: dict[str, dict[str, Any]] = {
    "audio": {"type": "response.audio.delta", "delta": "x"},
    "pause_turn": {"type": "message_delta", "delta": {"stop_reason": "pause_turn"}, "usage": {"output_tokens": 1}},
}


def answer_with(source: str, more: dict[str, Any]) -> bytes:
    """A plain answer that holds this besides its text."""
    answer = orjson.loads(plain(source, Said("Hi"), "m"))
    if source == "chat":
        answer["choices"][0]["message"] |= more
    elif source == "generate_content":
        answer["candidates"][0] |= more
    else:
        answer["output" if source == "responses" else "content"].append(more)
    return orjson.dumps(answer)


@pytest.mark.parametrize(
    ("source", "name"), [(row[0], name) for row in table("What of an answer is lost")[1] for name in names(row[1])]
)
def test_what_of_an_answer_is_lost_is_named_so(source: str, name: str) -> None:
    translation = BY_NAME[source].translation
    assert translation is not None
    more = LOST[source][name]
    if more is None:
        reader = translation.reader()
        reader.read(EVENTS[name])
        lost = reader.lost
    else:
        _, lost = translation.read_answer(answer_with(source, more))
    assert lost == {name}


# ── answers ──


def reason_read(source: str, answer: dict[str, Any]) -> str | None:
    translation = BY_NAME[source].translation
    assert translation is not None
    chunks, _ = translation.read_answer(orjson.dumps(answer))
    return next(reason for chunk in chunks if (reason := chunk.finish_reason))


def finished(source: str, cell: str) -> list[dict[str, Any]]:
    """An answer for each word of a cell."""
    calls = "with a call" in cell
    said = plain(source, Said("Hi", finish_reason="tool_calls" if calls else "stop", tools=(Tool("f"),) if calls else ()), "m")
    answers = []
    first, *more = names(cell)
    for word in [first, *more] if source != "responses" else [first]:
        answer = orjson.loads(said)
        if source == "messages":
            answer["stop_reason"] = word
        elif source == "generate_content":
            answer["candidates"][0]["finishReason"] = word
        else:
            answer |= {"status": word, "incomplete_details": {"reason": more[0]} if more else None}
        answers.append(answer)
    return answers


def written_reason(target: str, word: str) -> list[str]:
    """The words of an answer that finished so, in this format."""
    call = [Chunk("tool_call", tool_call=ToolCall(0, "c", "f", "{}"))] if word == "tool_calls" else []
    chunks = [Chunk("text", "Hi"), *call, Chunk("end", finish_reason=word, usage=Usage(1, 1))]
    head = BY_NAME[target].read_plain(plain(target, Said("Hi"), "m"))
    answer = orjson.loads(BY_NAME[target].encode_answer(chunks, head))
    if target == "messages":
        return [answer["stop_reason"]]
    if target == "generate_content":
        return [answer["candidates"][0]["finishReason"]]
    details = answer["incomplete_details"]
    return [answer["status"], *([details["reason"]] if details else [])]


FINISHES = [
    (row[0].strip("`"), target, cell)
    for head, rows in [table("Finish reasons")]
    for row in rows
    for target, cell in zip(head[1:], row[1:], strict=True)
]


@pytest.mark.parametrize(("word", "wire", "cell"), FINISHES)
def test_finish_reasons_are_read_and_written_as_shown(word: str, wire: str, cell: str) -> None:
    assert {reason_read(wire, answer) for answer in finished(wire, cell)} == {word}
    shown = names(cell)
    assert written_reason(wire, word) == (shown if wire == "responses" else shown[:1])


def put(body: dict[str, Any], path: str, value: int) -> None:
    *steps, last = path.split(".")
    for step in steps:
        body = body.setdefault(step, {})
    body[last] = value


@pytest.mark.parametrize("column", [1, 2, 3, 4])
def test_usage_is_counted_as_shown(column: int) -> None:
    head, rows = table("Usage")
    source = head[column]
    cells = {row[0].strip("`"): names(row[column]) for row in rows}
    counts = {path: 10_000 for paths in cells.values() for path in paths}
    for number, (member, paths) in enumerate(cells.items()):
        if "_tokens" in member and member not in ("input_tokens", "output_tokens"):
            counts |= dict.fromkeys(paths, 11 * (number + 1))
    answer = orjson.loads(plain(source, Said("Hi"), "m"))
    usage: dict[str, Any] = {}
    for path, count in counts.items():
        put(usage, path, count)
    answer["usageMetadata" if source == "generate_content" else "usage"] = usage
    translation = BY_NAME[source].translation
    assert translation is not None
    chunks, _ = translation.read_answer(orjson.dumps(answer))
    told = chunks[-1].usage
    assert told is not None
    assert {member: getattr(told, member) for member in cells} == {
        member: sum(counts[path] for path in paths) for member, paths in cells.items()
    }


# ── how much a model thinks ──


def told_to(target: str, model: str, members: dict[str, Any], source: str = "chat") -> dict[str, Any]:
    crossed = cross(source, target, members, model)
    assert not crossed.refused
    return crossed.written


def effort_at(model: str, effort: str) -> str:
    """What a model is told for an effort, in the words of the table."""
    if model.startswith("gemini"):
        config = told_to("generate_content", model, {"reasoning_effort": effort})["generationConfig"]["thinkingConfig"]
        [told] = config.values()
        return str(told)
    written = told_to("messages", model, {"reasoning_effort": effort, "max_tokens": 64_000})
    thinking = written["thinking"]
    if thinking["type"] == "disabled":
        return "disabled"
    return str(thinking.get("budget_tokens") or written["output_config"]["effort"])


def effort_of_budget(budget: int) -> str:
    settings = {"generationConfig": {"thinkingConfig": {"thinkingBudget": budget}}}
    told: str = told_to("chat", "gpt-5.1", settings, "generate_content")["reasoning_effort"]
    return told


THINKERS = ("claude-sonnet-4-5", "claude-opus-4-7", "gemini-2.5-pro", "gemini-3-pro")
EFFORTS = table("How much a model thinks")[1]


@pytest.mark.parametrize("row", EFFORTS, ids=lambda row: row[0])
def test_an_effort_becomes_a_budget_or_a_level_as_shown(row: Row) -> None:
    effort = row[0].strip("`")
    assert [effort_at(model, effort) for model in THINKERS] == row[1:5]
    bounds = [int(bound) for bound in re.findall(r"\d+", row[5])]
    assert {effort_of_budget(bound) for bound in bounds} == ({effort} if bounds else set())


def test_the_bounds_of_budgets_leave_no_gap() -> None:
    bounds = sorted(int(bound) for row in EFFORTS for bound in re.findall(r"\d+", row[5]))
    assert bounds == [0, 1, 2047, 2048, 8191, 8192]
