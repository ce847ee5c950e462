"""Where a Responses answer says a text whole: in several parts, in the place of a repeat, in items of the provider's tools."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from muxx.testing import RunningGateway, answers, sse
from redact_answers import HEAD, KINDS, Kind, as_stream, item_events, of_item, spoken, told
from redact_kit import PLUGINS, left_in, post
from test_redact_endpoints import one_loop

CARD = "4111111111111111"
"""Nothing to hide among more digits, so it matters which texts are read as one."""

Item = dict[str, Any]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway() -> AsyncIterator[RunningGateway]:
    async with RunningGateway(plugins=PLUGINS) as running:
        yield running


def answered(*items: Item) -> dict[str, Any]:
    return {**HEAD, "status": "completed", "output": list(items)}


def streams_of(item: Item, begun: Item) -> dict[str, bytes]:
    """The item at its end, which `begun` begins; and in the last event only."""
    first, last = ("response.created", {"response": HEAD}), ("response.completed", {"response": answered(item)})
    events = [("response.output_item.added", {"output_index": 0, "item": begun})]
    events.append(("response.output_item.done", {"output_index": 0, "item": item}))
    return {"at its end": as_stream([first, *events, last]), "at the very end": as_stream([first, last])}


async def check_item(gateway: RunningGateway, item: Item, begun: Item, expected: Item) -> None:
    """Streamed in either way and plain, the client gets the expected item, and so does the row."""
    for stream in streams_of(item, begun).values():
        gateway.upstream.script(sse(stream))
        answer = await post(gateway, "responses", input="x", stream=True)
        assert b"event: response.completed" in answer.body
        assert not left_in(CARD, answer.body)
        row = await gateway.get_row(answer.request_id)
        assert row["output"]["output"] == [expected]
    gateway.upstream.script(answers.json(answered(item)))
    answer = await post(gateway, "responses", input="x")
    assert answer.json()["output"] == [expected]
    row = await gateway.get_row(answer.request_id)
    assert row["output"]["output"] == [expected]


# ── several parts ──


@one_loop
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.list_name], ids=lambda kind: kind.name)
async def test_each_part_of_an_item_is_a_text_by_itself(gateway: RunningGateway, kind: Kind) -> None:
    def with_parts(*texts: str) -> Item:
        return {**kind.whole(0, ""), kind.list_name: [kind.part_of(text) for text in texts]}

    item, expected = with_parts("order 12", CARD, "34 items"), with_parts("order 12", "[CARD]", "34 items")
    await check_item(gateway, item, {**item, kind.list_name: []}, expected)


@one_loop
async def test_each_command_of_a_call_is_a_text_by_itself(gateway: RunningGateway) -> None:
    def with_commands(*commands: str) -> Item:
        return {"id": "i", "type": "shell_call", "call_id": "c", "action": {"commands": list(commands)}}

    expected = with_commands("echo 12", "[CARD]", "34")
    await check_item(gateway, with_commands("echo 12", CARD, "34"), with_commands(), expected)


# ── what contradicts ──

REPEATS = {
    "the text": "{stem}.done",
    "its part": "{part}.done",
    "its item": "response.output_item.done",
    "the answer": "response.completed",
}

PLACES = [(kind, where) for kind in KINDS for where in REPEATS if kind.list_name or where != "its part"]


@one_loop
@pytest.mark.parametrize(("kind", "where"), PLACES, ids=lambda value: value if isinstance(value, str) else value.name)
async def test_what_is_said_in_the_place_of_a_repeat_is_masked_and_nothing_else_is(
    gateway: RunningGateway, kind: Kind, where: str
) -> None:
    """A provider that says something else at the end than it said before."""
    said, odd, masked = (spoken(kind, text) for text in ("Hello there", f"Pay {CARD}", "Pay [CARD]"))
    changed = REPEATS[where].format(stem=kind.stem, part=kind.part_stem)
    events = [*item_events(kind, 0, [said[:9], said[9:]]), ("response.completed", {"response": answered(kind.whole(0, said))})]
    quoted = (json.dumps(said), json.dumps(odd))
    told_odd = [
        (name, json.loads(json.dumps(members).replace(*quoted)) if name == changed else members) for name, members in events
    ]
    gateway.upstream.script(sse(as_stream([("response.created", {"response": HEAD}), *told_odd])))
    answer = await post(gateway, "responses", input="x", stream=True)
    assert not left_in(CARD, answer.body)
    by_teller = {teller: text for _, teller, text in told(answer.body)}
    assert by_teller[changed] == masked
    assert by_teller["pieces"] == said
    row = await gateway.get_row(answer.request_id)
    assert [text for item in row["output"]["output"] for text in of_item(item)] == [masked if where == "the answer" else said]


# ── the provider's own tools ──


def tool_items(text: str) -> list[Item]:
    """Items of tools that the provider has, each with the text in every place where such an item has one."""
    arguments = json.dumps({"to": text})
    return [
        {"id": "i", "type": "mcp_call", "name": "n", "arguments": arguments, "output": f"for {text}.", "error": None},
        {"id": "i", "type": "mcp_call", "name": "n", "arguments": "{}", "output": None, "error": text},
        {"id": "i", "type": "mcp_approval_request", "name": "n", "arguments": arguments},
        {"id": "i", "type": "code_interpreter_call", "code": f"print('{text}')", "outputs": [
            {"type": "logs", "logs": "12"}, {"type": "logs", "logs": text}, {"type": "logs", "logs": "34"}]},
        {"id": "i", "type": "shell_call_output", "call_id": "c", "output": [{"stdout": text, "stderr": f"no {text}"}]},
        {"id": "i", "type": "web_search_call", "action": {"type": "search", "query": text, "queries": ["12", text]}},
        {"id": "i", "type": "file_search_call", "queries": [text], "results": [{"file_id": "f", "text": text}, {"text": "34"}]},
        {"id": "i", "type": "computer_call", "call_id": "c", "action": {"type": "type", "text": text}},
        {"id": "i", "type": "local_shell_call", "call_id": "c", "action": {"type": "exec", "command": ["echo", text]}},
        {"id": "i", "type": "apply_patch_call", "call_id": "c", "operation": {"type": "update_file", "diff": f"+{text}"}},
        {"id": "i", "type": "hologram_call", "arguments": text, "result": text},
    ]  # fmt: skip


@one_loop
@pytest.mark.parametrize("half", ["", CARD[:9]], ids=["empty", "half"])
@pytest.mark.parametrize("number", range(len(tool_items(""))), ids=lambda number: tool_items("")[number]["type"])
async def test_what_the_providers_own_tools_are_asked_and_return_is_masked(
    gateway: RunningGateway, number: int, half: str
) -> None:
    """Also where the item begins with half of it: what it says in the end is looked at as a whole."""
    item, expected = tool_items(CARD)[number], tool_items("[CARD]")[number]
    begun = json.loads(json.dumps(item).replace(CARD, half))
    await check_item(gateway, item, begun, expected)
