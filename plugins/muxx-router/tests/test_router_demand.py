"""What a request is taken to ask for, without a gateway."""

from __future__ import annotations

import random
from typing import Any

import pytest
from muxx import Cost, Provider, Target, Usage
from router_kit import FACTS, FLASH, LARGE, MINI, ROUTE, config

from muxx_router.choice import choose, fits, misfit
from muxx_router.demand import Demand, demand_of
from muxx_router.settings import ModelFacts


def demand(body: dict[str, Any], *texts: str, operation: str = "chat") -> Demand:
    return demand_of(operation, body, texts, expected_output=500, bytes_per_token=4, media_tokens=1000)


@pytest.mark.parametrize(
    ("body", "texts", "tokens"),
    [
        ({}, (), 0),
        ({}, ("a",), 1),
        ({}, ("abcd", "efgh"), 2),
        ({}, ("\u00e9" * 4,), 2),
        ({}, ("\ud800" * 4,), 3),
        ({"tools": [{"name": "x"}]}, (), 4),
        ({"response_format": {"type": "json_object"}}, ("a" * 8,), 8),
        ({"messages": [{"content": [{"type": "image_url"}, {"type": "input_audio"}]}]}, ("abcd",), 2001),
        ({"input": [{"type": "input_image"}]}, (), 1000),
        ({"input": [1, 2, 3]}, (), 3),
        ({"prompt": [[1, 2], [3]]}, (), 3),
        ({"text": "ignored in chat"}, (), 0),
    ],
)
def test_tokens_are_estimated_from_all_the_model_reads(body: dict[str, Any], texts: tuple[str, ...], tokens: int) -> None:
    assert demand(body, *texts).input_tokens == tokens


def test_the_answer_is_as_long_as_the_request_allows_or_as_expected() -> None:
    assert demand({"max_tokens": 7}).output_tokens == 7
    assert demand({"max_completion_tokens": 9, "max_tokens": 7}).output_tokens == 9
    assert demand({"max_output_tokens": 8}, operation="responses").output_tokens == 8
    assert (demand({}).output_tokens, demand({}).limit) == (500, None)
    assert demand({"max_tokens": 7, "n": 3}).usage[:2] == (0, 21)
    assert demand({}, operation="embeddings").output_tokens == 0


@pytest.mark.parametrize("odd", [None, 0, -1, True, 1.5, "7", [7]])
def test_an_odd_number_is_the_providers_to_refuse(odd: Any) -> None:
    found = demand({"max_completion_tokens": odd, "n": odd})
    assert (found.output_tokens, found.choices) == (500, 1)


@pytest.mark.parametrize(
    ("body", "operation", "needs"),
    [
        ({"text": {"format": {"type": "json_schema"}}}, "responses", {"json"}),
        ({"input": [{"content": [{"type": "input_file"}]}]}, "responses", {"files"}),
        ({"messages": [{"content": "plain"}, "odd", {"content": [1, {"type": ["x"]}]}]}, "chat", set()),
        ({"messages": {"content": 1}, "tools": None, "response_format": "json_object"}, "chat", set()),
    ],
)
def test_needs_are_read_from_any_body_without_stumbling(body: dict[str, Any], operation: str, needs: set[str]) -> None:
    assert demand(body, operation=operation).needs == needs


PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "aGk="}}
PICTURE = {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}
RESULT = {"type": "tool_result", "tool_use_id": "t"}
SCHEMA = {"type": "json_schema", "schema": {"type": "object"}}


@pytest.mark.parametrize(
    ("content", "needs"),
    [
        ([PICTURE], {"vision"}),
        ([PDF], {"files"}),
        ([{"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Hi"}}], set()),
        ([RESULT | {"content": [{"type": "text", "text": "Here"}, PICTURE]}], {"vision"}),
        ([RESULT | {"content": [{"type": "document", "source": {"type": "content", "content": [PICTURE]}}]}], {"vision"}),
        ("Hello", set()),
    ],
)
def test_what_messages_hold_is_needed_wherever_it_stands(content: Any, needs: set[str]) -> None:
    found = demand({"messages": [{"role": "user", "content": content}]}, operation="messages")
    assert found.needs == needs
    assert found.input_tokens == 1000 * len(needs)


@pytest.mark.parametrize(
    ("part", "needs"),
    [
        ({"inlineData": {"mimeType": "image/png", "data": "aGk="}}, {"vision"}),
        ({"inline_data": {"mime_type": "audio/wav", "data": "aGk="}}, {"audio"}),
        ({"fileData": {"mimeType": "application/pdf", "fileUri": "https://example.org/a"}}, {"files"}),
        ({"fileData": {"fileUri": "https://example.org/a"}}, {"files"}),
        ({"functionResponse": {"name": "f", "parts": [{"inlineData": {"mimeType": "image/png"}}]}}, {"vision"}),
        ({"text": "Hello"}, set()),
    ],
)
def test_what_googles_contents_hold_is_needed_wherever_it_stands(part: Any, needs: set[str]) -> None:
    found = demand({"contents": [{"role": "user", "parts": [part]}]}, operation="generate_content")
    assert found.needs == needs


@pytest.mark.parametrize(
    "body",
    [
        {"output_config": {"format": SCHEMA}},
        {"output_format": SCHEMA},
        {"generationConfig": {"responseMimeType": "application/json"}},
        {"generation_config": {"response_json_schema": {"type": "object"}}},
    ],
)
def test_every_formats_word_for_json_needs_it(body: dict[str, Any]) -> None:
    assert "json" in demand(body).needs


def test_googles_limits_are_limits_and_counting_writes_nothing() -> None:
    found = demand({"generationConfig": {"maxOutputTokens": 7, "candidateCount": 3}}, operation="generate_content")
    assert (found.limit, found.output_tokens, found.choices) == (7, 7, 3)
    assert demand({"max_tokens": 7}, operation="count_tokens").output_tokens == 0


def test_the_picture_that_a_tool_returned_is_needed_too() -> None:
    output = {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": "data:,"}]}
    assert demand({"input": [output]}, operation="responses").needs == {"vision"}


def test_a_window_holds_prompt_and_answer_and_not_a_token_more() -> None:
    facts = ModelFacts(context=100, max_output=50, has=("tools",))

    def of(size: int, output: int, limit: int | None = None, *needs: str) -> str | None:
        return misfit(facts, Demand(size, output, 1, limit, frozenset(needs)))

    assert (of(60, 40, 40), of(61, 40, 40)) == (None, "context")
    assert (of(1, 50, 50), of(1, 51, 51)) == (None, "output")
    assert (of(50, 500), of(51, 500)) == (None, "context")
    assert (of(1, 1, 1, "tools"), of(1, 1, 1, "tools", "vision")) == (None, "vision")


@pytest.mark.parametrize(
    ("patterns", "name", "fit"),
    [
        (["router/*"], "router/cheapest", True),
        (["router"], "router/cheapest", False),
        (["*"], "a/b", True),
        (["r*r/*t"], "router/cheapest", True),
        (["router.cheapest", "[r]outer/cheapest", "router/cheapes?"], "router/cheapest", False),
        ([], "x", False),
    ],
)
def test_a_star_stands_for_anything_and_nothing_else_does(patterns: list[str], name: str, fit: bool) -> None:
    assert fits(patterns, name) is fit


@pytest.mark.parametrize("seed", range(20))
def test_costs_never_fall_along_a_tier_and_every_candidate_is_kept_or_accounted_for(seed: int) -> None:
    draw = random.Random(seed)
    settings = config({"tiers": [{"up_to": 100, "candidates": [LARGE, MINI]}, {"candidates": [FLASH, MINI, LARGE]}]})
    row = Provider("p", "http://127.0.0.1/")
    costs = {name: draw.choice([None, draw.randrange(1000)]) for name in FACTS}

    def price(target: Target, usage: Usage) -> Cost | None:
        found = costs[target.model]
        return None if found is None else Cost(found, 0, "t")

    def allowed(name: str) -> tuple[Target, ...]:
        return (Target(row, name),) if draw.random() < 0.7 else ()

    asked = Demand(draw.randrange(200), 10, 1, None, frozenset(draw.sample(["tools", "audio"], draw.randrange(3))))
    choice = choose(settings, settings.routes[ROUTE], asked, allowed=allowed, price=price)
    names = [candidate.name for candidate in choice.order]
    assert sorted([*names, *choice.dropped]) == sorted(FACTS)
    first_tier = {LARGE, MINI} if choice.tier == 0 else set(FACTS)
    split = sum(name in first_tier for name in names)
    assert set(names[:split]) <= first_tier
    for part in (choice.order[:split], choice.order[split:]):
        known = [float("inf") if candidate.pico is None else candidate.pico for candidate in part]
        assert known == sorted(known)
