"""A client of one format before a provider of another, through a running gateway: what crosses, what is told, what is refused."""

from __future__ import annotations

import itertools
from typing import Any

import orjson
import pytest
from cache_kit import caching
from carrying_kit import both_transports, error_code, part_of, serving
from sdks_kit import sdks_of

from muxx import Chunk, hookimpl
from muxx.testing import RunningGateway, Said, Tool, error, event, letters, sse
from muxx.testing.answers import json
from muxx.wire.seals import is_sealed

ENDPOINTS = {
    "chat": "gpt-4o",
    "responses": "gpt-4o",
    "messages": "claude-3-5-haiku",
    "generate_content": "gemini-1.5-flash",
}
"""Each endpoint, and a model whose provider speaks it."""
CROSSINGS = [
    (endpoint, model)
    for endpoint, own in ENDPOINTS.items()
    for model in dict.fromkeys(ENDPOINTS.values())
    if model != own and not (endpoint == "responses" and model == "gpt-4o")
]
crossing = pytest.mark.parametrize(("endpoint", "model"), CROSSINGS)
SAID = Said("The sum is 3.", reasoning="One and two.", tools=(Tool("add", '{"a": 1, "b": 2}'),), finish_reason="tool_calls")


@both_transports
@crossing
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_an_answer_crosses_whole(endpoint: str, model: str, stream: bool, transport: str) -> None:
    async with serving(transport) as gateway:
        gateway.upstream.says(SAID)
        response = await gateway.ask(endpoint, model=model, stream=stream, headers={"x-want": "usage"})
        said = response.said(endpoint)
        assert (said.text, said.finish_reason) == (SAID.text, SAID.finish_reason)
        assert [(tool.name, orjson.loads(tool.arguments)) for tool in said.tools] == [("add", {"a": 1, "b": 2})]
        row = await gateway.get_row(response.request_id)
        expected = {
            "endpoint": endpoint,
            "status": 200,
            "input_tokens": SAID.input_tokens,
            "output_tokens": SAID.output_tokens,
            "usage_source": "provider",
            "finish_reasons": ["tool_calls"],
        }
        assert part_of(row, expected) == expected
        assert row["cost_usd"] not in (None, "0")


WITHOUT_HEAD = {
    "candidates": [{"content": {"role": "model", "parts": [{"text": "hello"}]}, "finishReason": "STOP"}],
    "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2},
}
"""An answer of Google's that tells no id and no model, as its format allows."""


async def check_head_is_kept(gateway: RunningGateway, endpoint: str, model: str, stream: bool) -> None:
    miss = await gateway.ask(endpoint, model=model, stream=stream)
    made = (await gateway.get_row(miss.request_id))["output"]
    hit = await gateway.ask(endpoint, model=model)
    assert hit.header("x-muxx-cache") == "HIT"
    names = {"id", "responseId", "model", "modelVersion", "created", "created_at"} & set(made)
    assert {name: hit.json()[name] for name in names} == {name: made[name] for name in names}


kept_in_either_form = pytest.mark.parametrize("stream", [False, True], ids=["kept plain", "kept streamed"])


@crossing
@kept_in_either_form
async def test_a_kept_answer_that_crosses_keeps_its_id_model_and_time(stream: bool, endpoint: str, model: str) -> None:
    async with caching() as gateway:
        gateway.upstream.says(SAID)
        await check_head_is_kept(gateway, endpoint, model, stream)


@pytest.mark.parametrize("endpoint", [name for name in ENDPOINTS if name != "generate_content"])
@kept_in_either_form
async def test_so_does_one_whose_provider_has_told_none_of_them(stream: bool, endpoint: str) -> None:
    async with caching() as gateway:
        gateway.upstream.script(sse(event(WITHOUT_HEAD)) if stream else json(WITHOUT_HEAD))
        await check_head_is_kept(gateway, endpoint, ENDPOINTS["generate_content"], stream)


class Shouts:
    """Changes all text, whatever formats are spoken."""

    @hookimpl
    def on_chunk(self, chunk: Chunk) -> list[Chunk] | None:
        return [Chunk("text", chunk.text.upper(), chunk.index)] if chunk.kind == "text" else None


@crossing
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_chunk_plugins_see_and_change_a_translated_answer(endpoint: str, model: str, stream: bool) -> None:
    async with serving(plugins={"shouts": Shouts}) as gateway:
        gateway.upstream.says(Said("Not so loud."))
        response = await gateway.ask(endpoint, model=model, stream=stream)
        assert response.said(endpoint).text == "NOT SO LOUD."
        row = await gateway.get_row(response.request_id)
        assert "NOT SO LOUD." in orjson.dumps(row["output"]).decode()


@crossing
async def test_a_hit_is_given_in_both_forms_whichever_was_stored(endpoint: str, model: str) -> None:
    async with serving(config={"plugins": {"cache": {"max_bytes": 1_000_000}}}) as gateway:
        gateway.upstream.says(SAID)
        for stored_streamed in (False, True):
            content = f"stored streamed: {stored_streamed}"
            first = await gateway.ask(endpoint, content, model=model, stream=stored_streamed)
            assert first.header("x-muxx-cache") == "MISS"
            for stream in (False, True):
                hit = await gateway.ask(endpoint, content, model=model, stream=stream)
                assert hit.header("x-muxx-cache") == "HIT"
                assert hit.header("x-muxx-cost") == "0"
                assert hit.said(endpoint).text == SAID.text
                assert [tool.name for tool in hit.said(endpoint).tools] == ["add"]
        assert len(gateway.upstream.requests) == 2


UNTOLD: tuple[dict[str, Any], ...] = ({"output_tokens": 0}, {"input_tokens": None, "output_tokens": None})
"""What some providers tell of a text's tokens: that there are none of the output, or nothing. In most formats that would be told as 0."""


@crossing
async def test_what_a_client_reads_as_its_usage_is_what_is_booked_whatever_the_provider_told(endpoint: str, model: str) -> None:
    asked = {"stream_options": {"include_usage": True}} if endpoint == "chat" else {}
    async with serving(config={"plugins": {"cache": {"max_bytes": 1_000_000}}}) as gateway:
        for told, stream in itertools.product(UNTOLD, (False, True)):
            gateway.upstream.says(Said("Once upon a time there was a gateway.", **told))
            for cache in ("MISS", "HIT"):
                response = await gateway.ask(endpoint, f"{told} {stream}", model=model, stream=stream, **asked)
                assert response.header("x-muxx-cache") == cache
                said, row = response.said(endpoint), await gateway.get_row(response.request_id)
                assert (said.input_tokens, said.output_tokens) == (row["input_tokens"], row["output_tokens"])
                assert row["output_tokens"] > 5


async def test_what_cannot_be_carried_is_refused_by_its_name_and_nothing_is_sent() -> None:
    async with serving() as gateway:
        response = await gateway.ask("chat", model="claude-3-5-haiku", seed=7, logit_bias={"1": 2})
        assert (response.status, error_code(response)) == (400, "unsupported_parameter")
        assert response.error["param"] in ("seed", "logit_bias")
        assert "'seed'" in response.error["message"]
        assert "'logit_bias'" in response.error["message"]
        assert gateway.upstream.requests == []
        row = await gateway.get_row(response.request_id)
        assert (row["status"], row["error_code"], row["cost_usd"]) == (400, "unsupported_parameter", "0")


@pytest.mark.parametrize("on_unsupported", ["error", "drop"])
@pytest.mark.parametrize("model", ["claude-3-5-haiku", "gemini-1.5-flash"])
@pytest.mark.parametrize(
    "messages",
    [[{"role": "system", "content": "Be brief."}], [{"role": "user", "content": ""}], [{"role": "user", "content": []}]],
    ids=["instructions alone", "no word", "no part"],
)
async def test_a_request_of_which_no_turn_is_left_is_refused_and_not_sent(
    messages: list[dict[str, Any]], model: str, on_unsupported: str
) -> None:
    rows = {name: {"on_unsupported": on_unsupported} for name in ("anthropic", "google")}
    async with serving(config={"providers": rows}) as gateway:
        refused = await gateway.chat(model=model, messages=messages)
        assert (refused.status, refused.error["code"], refused.error["param"]) == (400, "unsupported_parameter", "messages")
        assert refused.error["message"].endswith("Give at least one user turn.")
        assert gateway.upstream.requests == []


async def test_the_refusal_of_a_request_without_a_turn_names_the_field_its_format_has() -> None:
    async with serving() as gateway:
        for endpoint, members in (("responses", {"input": []}), ("generate_content", {"contents": [{"role": "user", "parts": []}]})):
            refused = await gateway.ask(endpoint, model="claude-3-5-haiku", **members)
            [field] = members
            assert refused.status == 400
            assert refused.json()["error"]["message"].startswith(f"'{field}' cannot be sent")


AUTO: dict[str, Any] = {
    "chat": {"tool_choice": "auto"},
    "responses": {"tool_choice": "auto"},
    "messages": {"tool_choice": {"type": "auto"}},
    "generate_content": {"toolConfig": {"functionCallingConfig": {"mode": "AUTO"}}},
}
FORCED: dict[str, Any] = {
    "chat": {"tool_choice": {"type": "function", "function": {"name": "search"}}},
    "responses": {"tool_choice": {"type": "function", "name": "search"}},
    "messages": {"tool_choice": {"type": "tool", "name": "search"}},
    "generate_content": {"toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["search"]}}},
}
"""What asks for a call of a tool, in each format."""
OF_ITS_VENDOR: dict[str, Any] = {
    "chat": {"type": "web_search"},
    "responses": {"type": "web_search"},
    "messages": {"type": "web_search_20250305", "name": "search"},
    "generate_content": {"googleSearch": {}},
}
"""A tool that others do not have."""


@crossing
async def test_a_choice_without_tools_is_not_sent_for_providers_refuse_it(endpoint: str, model: str) -> None:
    async with serving() as gateway:
        gateway.upstream.says(Said("Yes."))
        answered = await gateway.ask(endpoint, model=model, **AUTO[endpoint])
        assert answered.status == 200
        assert not {"tool_choice", "toolConfig"} & orjson.loads(gateway.upstream.requests[-1].body).keys()
        refused = await gateway.ask(endpoint, model=model, **FORCED[endpoint])
        assert refused.status == 400
        assert "Give the tools it is to choose from." in refused.json()["error"]["message"]


@crossing
async def test_with_the_last_tool_its_choice_is_dropped_and_told(endpoint: str, model: str) -> None:
    rows = {name: {"on_unsupported": "drop"} for name in ("openai", "anthropic", "google")}
    async with serving(config={"providers": rows}) as gateway:
        gateway.upstream.says(Said("Yes."))
        answered = await gateway.ask(endpoint, model=model, tools=[OF_ITS_VENDOR[endpoint]], **FORCED[endpoint])
        assert answered.status == 200
        assert not {"tools", "tool_choice", "toolConfig"} & orjson.loads(gateway.upstream.requests[-1].body).keys()
        [choice] = FORCED[endpoint]
        row = await gateway.get_row(answered.request_id)
        assert [place.partition("[")[0].partition(".")[0] for place in row["attributes"]["dropped"]] == ["tools", choice]


@pytest.mark.parametrize("on_unsupported", ["error", "drop"])
async def test_a_tool_runner_of_anthropics_goes_on_without_the_thread_that_others_do_not_have(on_unsupported: str) -> None:
    """It asks for a thread of its own accord, and takes a refusal of that in Anthropic's words. Were the thread dropped, it would
    from then on send only what is new."""
    from anthropic import AsyncAnthropic, beta_async_tool

    @beta_async_tool
    async def add(a: int, b: int) -> str:
        """Add two numbers."""
        return str(a + b)

    tool = {"name": "runner", "targets": [{"target": "mock/tool", "on_unsupported": on_unsupported}]}
    async with serving(config={"models": [tool]}) as gateway:
        async with AsyncAnthropic(base_url=gateway.base_url, api_key=gateway.key, max_retries=0) as client:
            runner = client.beta.messages.tool_runner(
                model="runner", max_tokens=50, messages=[{"role": "user", "content": "1 + 1?"}], tools=[add]
            )
            message = await runner.until_done()
        assert "".join(block.text for block in message.content if block.type == "text") == "The tool answered: 2"
        row = await gateway.get_row(message._request_id)
        assert [sent["role"] for sent in row["input"]["messages"]] == ["user", "assistant", "tool"]


DROPPING = {"providers": {"anthropic": {"on_unsupported": "drop"}}}


async def test_what_is_dropped_is_told_in_a_header_and_in_the_row() -> None:
    async with serving(config=DROPPING) as gateway:
        response = await gateway.ask("chat", model="claude-3-5-haiku", seed=7, user="u-1", logit_bias={"1": 2})
        assert response.status == 200
        dropped = response.header("x-muxx-dropped")
        assert dropped is not None
        assert {"seed", "logit_bias"} <= set(dropped.split(", "))
        row = await gateway.get_row(response.request_id)
        assert row["attributes"]["dropped"] == dropped.split(", ")
        sent = gateway.upstream.requests[0].json()
        assert not {"seed", "logit_bias"} & set(sent)


LONG = {"x" * 5000: 1, "two\nlines": 1} | {f"member-{number}": 1 for number in range(30_000)}
"""Members that nobody knows, most of them short."""


async def test_of_members_nobody_knows_a_refusal_names_some_and_none_at_any_length() -> None:
    async with serving() as gateway:
        refused = await gateway.ask("chat", model="claude-3-5-haiku", **LONG)
        assert (refused.status, error_code(refused)) == (400, "unsupported_parameter")
        assert refused.error["param"] == "x" * 97 + "..."
        assert f"'{'x' * 97}...', 'two?lines', 'member-0', " in refused.error["message"]
        assert f", and {len(LONG) - 20} more cannot be sent" in refused.error["message"]


async def test_of_many_dropped_members_the_row_has_all_and_the_header_some() -> None:
    async with serving(config=DROPPING) as gateway:
        gateway.upstream.says(SAID)
        response = await gateway.ask("chat", model="claude-3-5-haiku", **LONG)
        dropped = (response.header("x-muxx-dropped") or "").split(", ")
        assert (response.status, len(dropped)) == (200, 21)
        assert dropped[:3] == ["x" * 97 + "...", "two?lines", "member-0"]
        row = await gateway.get_row(response.request_id)
        assert len(row["attributes"]["dropped"]) == len(LONG)


async def test_a_fallback_that_carries_everything_drops_nothing() -> None:
    models = [{"name": "either", "targets": ["anthropic/claude-3-5-haiku", "openai/gpt-4o"]}]
    async with serving(config={**DROPPING, "models": models}) as gateway:
        gateway.upstream.says("fine")
        answers = gateway.upstream.choose
        gateway.upstream.script(error(503), answers)
        response = await gateway.ask("chat", model="either", seed=7)
        assert response.said("chat").text == "fine"
        assert response.header("x-muxx-dropped") is None
        assert gateway.upstream.requests[1].json()["seed"] == 7
        assert "dropped" not in (await gateway.get_row(response.request_id))["attributes"]


@pytest.mark.parametrize(("endpoint", "field"), [("count_tokens", "input_tokens"), ("count_content", "totalTokens")])
async def test_a_prompt_is_counted_by_its_provider_or_else_estimated(endpoint: str, field: str) -> None:
    async with serving() as gateway:
        for model, asked in (("claude-3-5-haiku", 1), ("gemini-1.5-flash", 1), ("gpt-4o", 0)):
            gateway.upstream.requests.clear()
            response = await gateway.ask(endpoint, "How many tokens are in this?", model=model)
            assert response.status == 200
            assert response.json()[field] > 0
            assert len(gateway.upstream.requests) == asked
            row = await gateway.get_row(response.request_id)
            assert (row["cost_usd"], row["input_tokens"], row["usage_source"]) == ("0", 0, "none")
            assert row["attributes"].get("estimated", False) is (asked == 0)


def native_messages(thinking: dict[str, Any]) -> dict[str, Any]:
    """A second turn of a client of Anthropic's, with the first answer's reasoning in it."""
    turns = [
        {"role": "user", "content": "Add."},
        {"role": "assistant", "content": [thinking, {"type": "text", "text": "3"}]},
        {"role": "user", "content": "And now?"},
    ]
    return {"messages": turns}


@pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")  # Google's client
@pytest.mark.parametrize("model", ["claude-3-5-haiku", "gpt-4o", "gpt-5"])
async def test_what_googles_sdk_kept_of_a_streamed_answer_goes_back_as_the_text_it_was(model: str) -> None:
    """It keeps every event of a stream as a content of its own, those with nothing but blanks too."""
    endpoints = ["responses"] if model == "gpt-5" else ["chat"]
    async with serving(config={"providers": {"openai": {"endpoints": endpoints}}}) as gateway, sdks_of(gateway) as sdks:
        gateway.upstream.says(Said("One.\n\nTwo."), pieces=letters)
        chat = sdks.google.aio.chats.create(model=model)
        for asked in ("Count.", "Go on."):
            async for _ in await chat.send_message_stream(asked):
                pass
        body = gateway.upstream.last.json()
        said = [turn for turn in body.get("messages") or body["input"] if turn["role"] == "assistant"]
        assert [turn["content"] for turn in said] == ["One.\n\nTwo."]


async def test_reasoning_of_one_provider_is_not_sent_to_another_natively() -> None:
    """A conversation goes on at another provider: by fallback, or because its user changes the model."""
    async with serving() as gateway:
        gateway.upstream.says(Said("3", reasoning="One and two."))
        first = await gateway.ask("messages", "Add.", model="gpt-4o")
        [thinking] = [block for block in first.json()["content"] if block["type"] == "thinking"]
        assert is_sealed(thinking["signature"])
        gateway.upstream.requests.clear()
        back = await gateway.ask("messages", model="gpt-4o", **native_messages(thinking))
        assert back.status == 200
        assert gateway.upstream.requests[0].json()["messages"][1]["reasoning_content"] == "One and two."
        gateway.upstream.requests.clear()
        elsewhere = await gateway.ask("messages", model="claude-3-5-haiku", **native_messages(thinking))
        assert elsewhere.status == 200
        assert gateway.upstream.requests[0].json()["messages"][1]["content"] == [{"type": "text", "text": "3"}]
        assert elsewhere.header("x-muxx-dropped") == "messages[1].content[0]"


async def test_a_target_that_cannot_be_asked_is_passed_over_for_one_that_can() -> None:
    models = [{"name": "either", "targets": ["anthropic/claude-3-5-haiku", "openai/gpt-4o"]}]
    async with serving(config={"models": models}) as gateway:
        response = await gateway.ask("chat", model="either", seed=7)
        assert response.status == 200
        row = await gateway.get_row(response.request_id)
        assert row["provider"] == "openai"
        assert row["attributes"]["attempts"][0] == {"target": "anthropic/claude-3-5-haiku", "skipped": "unsupported"}
