"""The router in a running gateway: which model is asked, which one after it, and what the row says of the decision."""

from __future__ import annotations

import json
from typing import Any

import muxx
import pytest
from muxx import StartError
from muxx.testing import RawResponse, RunningGateway, answers, post_chat
from router_kit import FACTS, FLASH, LARGE, MINI, PLUGINS, ROUTE, asked, decision, gateway_for, limited_to, table, whole

LONG = "word " * 20_000
"""About 28,600 tokens."""


# ── by price ──


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_goes_to_the_cheapest_candidate_whatever_the_order_in_the_file(stream: bool) -> None:
    async with gateway_for() as gateway:
        response = await gateway.chat(model=ROUTE, stream=stream)
        row = await gateway.get_row(response.request_id)
        assert (response.status, asked(gateway)) == (200, ["gemini-1.5-flash"])
    assert (row["provider"], row["model_requested"]) == ("google", ROUTE)


async def test_the_row_says_what_was_decided_and_by_what_figures() -> None:
    async with gateway_for({"candidates": [LARGE, MINI, FLASH], "expected_output": 1000}) as gateway:
        found = await decision(gateway, await gateway.chat("x" * 3500, model=ROUTE))
    assert found == {
        "tier": 0,
        "input_tokens": 1000,
        "output_tokens": 1000,
        "needs": [],
        "order": [
            {"model": FLASH, "usd": "0.000375"},
            {"model": MINI, "usd": "0.00075"},
            {"model": LARGE, "usd": "0.0125"},
        ],
        "dropped": {},
    }


async def test_the_cheapest_depends_on_how_much_is_asked_and_how_much_is_to_be_answered() -> None:
    prices = [
        {"vendor": "openai", "model": "reader", "input": "0.10", "output": "9.00"},
        {"vendor": "openai", "model": "writer", "input": "1.00", "output": "1.00"},
    ]
    facts = {name: {"context": 100_000} for name in ("openai/reader", "openai/writer")}
    config = whole({"models": facts, "routes": {ROUTE: {"candidates": list(facts)}}})
    config["plugins"]["pricing"] = {"prices": prices}
    async with RunningGateway(config, plugins=PLUGINS) as gateway:
        await gateway.chat(LONG, model=ROUTE, max_tokens=10)
        await gateway.chat("Write a book", model=ROUTE, max_tokens=5000)
        assert asked(gateway) == ["reader", "writer"]


async def test_kernel_fallback_goes_through_the_candidates_in_order() -> None:
    async with gateway_for() as gateway:
        gateway.upstream.script(answers.error(500), answers.error(503), answers.chat("Here."))
        response = await gateway.chat(model=ROUTE)
        assert (response.status, asked(gateway)) == (200, ["gemini-1.5-flash", "gpt-4o-mini", "gpt-4o"])
        assert (await gateway.get_row(response.request_id))["attempts"] == 3


async def test_other_names_are_left_as_they_were_planned() -> None:
    async with gateway_for() as gateway:
        response = await gateway.chat(model="gpt-4o")
        assert asked(gateway) == ["gpt-4o"]
        assert (await gateway.get_row(response.request_id))["attributes"] == {}


async def test_a_candidate_keeps_its_own_targets_and_their_settings() -> None:
    config = whole(table({"candidates": ["house"]}, models={"house": {"context": 1000}}))
    config["models"].append({"name": "house", "targets": [{"target": MINI, "parameters": {"seed": 7}}, LARGE]})
    async with RunningGateway(config, plugins=PLUGINS) as gateway:
        gateway.upstream.script(answers.error(500), answers.chat())
        assert (await gateway.chat(model=ROUTE)).status == 200
        assert asked(gateway) == ["gpt-4o-mini", "gpt-4o"]
        assert [request.json().get("seed") for request in gateway.upstream.requests] == [7, None]


@pytest.mark.parametrize(("unpriced", "order"), [("last", [MINI, "openai/house"]), ("exclude", [MINI])])
async def test_a_candidate_without_a_price_comes_last_or_not_at_all(unpriced: str, order: list[str]) -> None:
    facts = FACTS | {"openai/house": {"context": 128_000}}
    route = {"candidates": ["openai/house", MINI], "unpriced": unpriced}
    async with gateway_for(route, models=facts) as gateway:
        found = await decision(gateway, await gateway.chat(model=ROUTE))
    assert [entry["model"] for entry in found["order"]] == order
    assert found["dropped"] == ({"openai/house": "unpriced"} if unpriced == "exclude" else {})
    assert found["order"][-1]["usd"] is None or unpriced == "exclude"


# ── by size and by needs ──


async def test_a_candidate_whose_window_is_too_small_is_not_asked() -> None:
    facts = FACTS | {FLASH: FACTS[FLASH] | {"context": 20_000}}
    async with gateway_for(models=facts) as gateway:
        await gateway.chat("short", model=ROUTE)
        found = await decision(gateway, await gateway.chat(LONG, model=ROUTE))
        assert asked(gateway) == ["gemini-1.5-flash", "gpt-4o-mini"]
    assert found["dropped"] == {FLASH: "context"}


async def test_a_candidate_that_cannot_answer_at_such_length_is_not_asked() -> None:
    async with gateway_for() as gateway:
        for name in ("max_tokens", "max_completion_tokens"):
            found = await decision(gateway, await gateway.chat(model=ROUTE, **{name: 10_000}))
            assert found["dropped"] == {FLASH: "output"}


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
SOUND = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("members", "model"),
    [
        ({"tools": [TOOL]}, "gpt-4o-mini"),
        ({"functions": [TOOL["function"]]}, "gpt-4o-mini"),
        ({"response_format": {"type": "json_object"}}, "gemini-1.5-flash"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "gemini-1.5-flash"),
        ({"messages": [{"role": "user", "content": [IMAGE, SOUND]}]}, "gpt-4o"),
        ({"response_format": {"type": "text"}, "tools": []}, "gemini-1.5-flash"),
    ],
)
async def test_a_candidate_that_lacks_what_is_needed_is_not_asked(members: dict[str, Any], model: str) -> None:
    async with gateway_for() as gateway:
        body = {"model": ROUTE, "messages": [{"role": "user", "content": "Hello"}]} | members
        assert (await post(gateway, "/v1/chat/completions", body)).status == 200
        assert asked(gateway) == [model]


TURNS = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"model": ROUTE, "input": "Hello"}),
        ("/v1/messages", {"model": ROUTE, "max_tokens": 50, "messages": TURNS}),
        (f"/v1beta/models/{ROUTE}:generateContent", {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}),
    ],
)
async def test_endpoints_that_are_translated_reach_a_model_that_chats(path: str, body: dict[str, Any]) -> None:
    async with gateway_for({"candidates": [LARGE, MINI]}) as gateway:
        assert (await post(gateway, path, body)).status == 200
        assert asked(gateway) == ["gpt-4o-mini"]


async def test_an_endpoint_that_is_not_translated_is_a_need_too() -> None:
    small = "openai/text-embedding-3-small"
    more = {small: {"context": 8192, "has": ["embeddings"]}}
    async with gateway_for({"candidates": [FLASH, LARGE, small]}, models=FACTS | more) as gateway:
        await post(gateway, "/v1/embeddings", {"model": ROUTE, "input": ["one"]})
        refused = await post(gateway, "/v1/completions", {"model": ROUTE, "prompt": "Hello"})
        assert asked(gateway) == ["text-embedding-3-small"]
    assert (refused.status, refused.error["code"]) == (400, "no_model_fits")
    assert "3 without text_completion" in refused.error["message"]


async def post(gateway: RunningGateway, path: str, body: dict[str, Any]) -> RawResponse:
    async with await gateway.connect() as client:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {gateway.key}"}
        await client.request("POST", path, headers, json.dumps(body).encode())
        return await client.read_response()


async def test_when_no_candidate_fits_the_refusal_says_why_and_nothing_is_sent() -> None:
    async with gateway_for({"candidates": [MINI, LARGE]}) as gateway:
        too_long = await gateway.chat("word " * 100_000, model=ROUTE)
        lacking = await post(gateway, "/v1/chat/completions", {
            "model": ROUTE, "messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]})  # fmt: skip
        assert gateway.upstream.requests == []
        assert (await decision(gateway, lacking))["dropped"] == {MINI: "files", LARGE: "files"}
    assert (too_long.status, too_long.error["code"]) == (400, "context_length_exceeded")
    assert "2 too small for about 142858 tokens and an answer of 500" in too_long.error["message"]
    assert (lacking.status, lacking.error["type"], lacking.error["code"]) == (400, "invalid_request_error", "no_model_fits")
    assert "2 without files" in lacking.error["message"]
    assert "gpt" not in too_long.text + lacking.text


# ── tiers ──

TIERS = {
    "tiers": [
        {"up_to": 1000, "candidates": [FLASH]},
        {"up_to": 20_000, "candidates": [MINI]},
        {"candidates": [LARGE, FLASH]},
    ]
}


@pytest.mark.parametrize(
    ("text", "tier", "order"),
    [("short", 0, [FLASH, MINI, LARGE]), ("word " * 2000, 1, [MINI, FLASH, LARGE]), (LONG, 2, [FLASH, LARGE])],
)
async def test_the_size_of_a_prompt_chooses_the_tier_and_the_later_ones_follow(text: str, tier: int, order: list[str]) -> None:
    async with gateway_for(TIERS) as gateway:
        found = await decision(gateway, await gateway.chat(text, model=ROUTE))
    assert found["tier"] == tier
    assert [entry["model"] for entry in found["order"]] == order


async def test_a_need_a_tier_cannot_meet_leads_to_the_next() -> None:
    async with gateway_for(TIERS) as gateway:
        await post_chat(gateway.base_url, gateway.key, model=ROUTE, tools=[TOOL])
        assert asked(gateway) == ["gpt-4o-mini"]


# ── what a key may use ──


@pytest.mark.parametrize(
    ("models", "order"),
    [
        (("gpt-4o",), [LARGE]),
        (("openai/*",), [MINI, LARGE]),
        (("gpt-4o-mini", "gemini-*"), [FLASH, MINI]),
        ((ROUTE,), [FLASH, MINI, LARGE]),
        (("router/*",), [FLASH, MINI, LARGE]),
        (("*",), [FLASH, MINI, LARGE]),
        (("router/other", "gpt-4o"), [LARGE]),
        (("router.cheapest", "gpt-4o"), [LARGE]),
    ],
)
async def test_only_what_the_key_may_use_is_chosen_from(models: tuple[str, ...], order: list[str]) -> None:
    async with gateway_for(plugins={"limited": limited_to(*models)}) as gateway:
        response = await gateway.chat(model=ROUTE)
        found = await decision(gateway, response)
    assert [entry["model"] for entry in found["order"]] == order
    assert set(found["dropped"].values()) <= {"not_allowed"}
    assert len(found["order"]) + len(found["dropped"]) == 3


async def test_no_request_ever_reaches_a_target_its_key_may_not_use_not_even_when_the_others_fail() -> None:
    async with gateway_for(plugins={"limited": limited_to("gpt-4o-mini")}) as gateway:
        gateway.upstream.script(answers.error(500))
        assert (await gateway.chat(model=ROUTE)).status == 500
        assert asked(gateway) == ["gpt-4o-mini"]


async def test_a_key_that_may_use_no_candidate_is_told_so() -> None:
    config = whole(table({"candidates": [FLASH]}))
    async with RunningGateway(config, plugins={**PLUGINS, "limited": limited_to("gpt-4o")}) as gateway:
        response = await gateway.chat(model=ROUTE)
        assert gateway.upstream.requests == []
    assert (response.status, response.error["type"], response.error["code"]) == (403, "permission_error", "model_not_allowed")


async def test_a_candidates_targets_are_looked_at_one_by_one() -> None:
    config = whole(table({"candidates": ["house"]}, models={"house": {"context": 1000}}))
    config["models"].append({"name": "house", "targets": [MINI, LARGE]})
    async with RunningGateway(config, plugins={**PLUGINS, "limited": limited_to("gpt-4o")}) as gateway:
        assert (await gateway.chat(model=ROUTE)).status == 200
        assert asked(gateway) == ["gpt-4o"]


# ── starting ──


async def test_a_name_muxx_does_not_know_stops_the_start_with_the_line_to_add() -> None:
    config = {"plugins": {"router": table()}}
    with pytest.raises(StartError) as caught:
        async with RunningGateway(config, plugins=PLUGINS):
            pass
    line = f'[[models]] name = "{ROUTE}", targets = ["{LARGE}"]'
    assert str(caught.value) == f'plugins.router.routes."{ROUTE}": muxx does not know this name; add {line}'


async def test_a_candidate_nobody_serves_stops_the_start() -> None:
    config = whole(table({"candidates": [MINI, "nowhere/x"]}, models=FACTS | {"nowhere/x": {"context": 1}}))
    with pytest.raises(StartError, match=r"nobody serves nowhere/x; add it under \[\[models\]\], or take it out"):
        async with RunningGateway(config, plugins=PLUGINS):
            pass


async def test_what_another_plugin_asks_under_a_routed_name_is_routed_too() -> None:
    class Asks:
        @muxx.hookimpl(trylast=True)
        async def pre_request(self, gateway: muxx.Gateway, exchange: muxx.Exchange) -> None:
            if exchange.parent is None:
                body = {"model": ROUTE, "messages": [{"role": "user", "content": "Hm?"}]}
                await gateway.call("chat", body, parent=exchange)

    async with gateway_for(plugins={"asks": Asks}) as gateway:
        assert (await gateway.chat(model="gpt-4o")).status == 200
        assert asked(gateway) == ["gemini-1.5-flash", "gpt-4o"]
