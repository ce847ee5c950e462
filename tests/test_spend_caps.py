"""The standard plugin `spend_caps` in a gateway: what callers see of it, what a request holds, and that every cost is counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest
from cache_kit import ROOM
from carrying_kit import hang, serving
from click.testing import CliRunner
from wires_kit import FORMS, Endpoint, ask

from muxx import Attempt, Cost, Usage, hookimpl, pico_of, usd
from muxx.cli import cli
from muxx.testing import RunningGateway, answers, chat, chat_body, eventually, provider, sse, target
from muxx.testing.settings import merged
from muxx_std.pricing.rates import Period, Rates, Tariff
from muxx_std.spend_caps.ledger import SpendLedger
from muxx_std.spend_caps.present import dollars
from muxx_std.spend_caps.sizes import UNKNOWN, sizes_of
from muxx_std.spend_caps.worst import Most, most_of, worst_case

ANSWER = 10 * 2_500_000 + 5 * 10_000_000
"""Of `chat()`'s 10 and 5 tokens at gpt-4o's price, in pico-dollars."""

NO_CACHE = {"project": {"cache": {"enabled": False}}}


def capped(usd: str, config: dict[str, Any] | None = None, /, window: str = "day", action: str = "block", **options: Any) -> Any:
    caps = {"project": {"spend_caps": [{"window": window, "usd": usd, "action": action}]}}
    return serving(config=merged(caps, config or {}), **options)


def today() -> int:
    return int(time.time() // 86_400)


def figures(gateway: RunningGateway, project: str = "default") -> tuple[int, int]:
    """What is spent and held today, beside the gateway, as another process would see it."""
    found = SpendLedger(gateway.gateway.shared).figures(project, today())
    assert found["day"] == found["month"]
    return found["day"]


async def settled(gateway: RunningGateway) -> int:
    await eventually(lambda: figures(gateway)[1] == 0)
    return figures(gateway)[0]


@contextmanager
def already_spent(gateway: RunningGateway, usd: str) -> Iterator[None]:
    """As if so much had been spent today, and then as it was: no row says it."""
    ledger, pico = SpendLedger(gateway.gateway.shared), pico_of(Decimal(usd))
    ledger.add("default", today(), pico)
    yield
    ledger.add("default", today(), -pico)


async def rows_of(gateway: RunningGateway) -> list[dict[str, Any]]:
    """The rows, once they have followed into the list."""
    await asyncio.sleep(0.2)
    rows: list[dict[str, Any]] = (await gateway.get("/v1/logs?limit=100")).json()["data"]
    return rows


# ── what callers see ──


async def test_a_request_that_might_go_beyond_the_cap_is_refused_and_not_retried() -> None:
    async with capped("0.01") as gateway:
        gateway.upstream.script(chat())
        assert (await gateway.chat(max_tokens=100)).status == 200
        refused = await gateway.chat("Another one.", max_tokens=1_000)
        assert refused.status == 402
        error = refused.json()["error"]
        assert (error["type"], error["code"], error["param"]) == ("spend_cap_error", "spend_cap_exceeded", None)
        assert error["message"].startswith("Spend cap exceeded. Daily limit: $0.01, Current: $0.000075. This request may cost up to $0.01")
        assert refused.header("x-should-retry") == "false"
        assert len(gateway.upstream.requests) == 1
        row = await gateway.get_row(refused.request_id)
        assert (row["status"], row["error_code"], row["cost_usd"]) == (402, "spend_cap_exceeded", "0")
        assert await settled(gateway) == ANSWER


async def test_at_a_spent_cap_the_words_are_the_contracts() -> None:
    async with capped("100.00", window="month") as gateway:
        with already_spent(gateway, "100.23"):
            refused = await gateway.chat()
        assert refused.json()["error"]["message"] == "Spend cap exceeded. Monthly limit: $100.00, Current: $100.23"


@pytest.mark.parametrize("form", FORMS, ids=str)
async def test_R04_caps_bind_every_endpoint_and_form(form: tuple[Endpoint, bool]) -> None:
    endpoint, stream = form
    async with capped("0.000000000001") as gateway:
        response = await ask(gateway, endpoint, stream)
        assert response.status == 402, response.text
        assert not gateway.upstream.requests


async def test_R04_a_sdk_asks_once() -> None:
    async with capped("0.000000000001") as gateway, openai.AsyncOpenAI(base_url=gateway.base_url + "/v1", api_key=gateway.key) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}])
        assert caught.value.status_code == 402
        assert len(await rows_of(gateway)) == 1


async def test_a_cap_that_only_alerts_refuses_nothing() -> None:
    async with capped("0.000000000001", action="alert") as gateway:
        gateway.upstream.script(chat())
        assert (await gateway.chat()).status == 200
        await eventually(lambda: figures(gateway) == (ANSWER, 0))


async def test_a_hit_holds_nothing_and_is_served_at_a_spent_cap() -> None:
    async with capped("0.20", ROOM) as gateway:
        gateway.upstream.script(chat())
        assert (await gateway.chat()).status == 200
        with already_spent(gateway, "0.20"):
            again = await gateway.chat()
            assert (again.status, again.header("x-muxx-cache")) == (200, "HIT")
            assert (await gateway.chat("Something else.")).status == 402
        assert await settled(gateway) == ANSWER


async def test_without_a_cap_everything_is_counted_all_the_same() -> None:
    async with serving(config=NO_CACHE) as gateway:
        gateway.upstream.script(chat())
        for number in range(3):
            await gateway.chat(str(number), stream=number == 2)
        await eventually(lambda: figures(gateway) == (3 * ANSWER, 0))


async def test_without_a_cap_a_clock_that_is_set_back_opens_no_window_either(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(config=NO_CACHE) as gateway:
        gateway.upstream.script(chat())
        ledger, real, tomorrow = SpendLedger(gateway.gateway.shared), time.time, today() + 1
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: real() + 86_400)
            await gateway.chat("Tomorrow.")
            await eventually(lambda: ledger.figures("default", tomorrow)["day"] == (ANSWER, 0))
        rows = [await gateway.get_row((await gateway.chat(text)).request_id) for text in ("Back.", "Again.")]
        assert {row["attributes"]["spend_day"] for row in rows} == {time.strftime("%Y-%m-%d", time.gmtime(tomorrow * 86_400))}
        await eventually(lambda: ledger.figures("default", tomorrow)["day"] == (3 * ANSWER, 0))


async def test_a_further_attempt_without_a_cap_is_counted_once() -> None:
    models = [{"name": "both", "targets": ["openai/gpt-4o-mini", "openai/gpt-4o"]}]
    async with serving(config=merged(NO_CACHE, {"models": models})) as gateway:
        gateway.upstream.script(answers.error(500), chat())
        assert (await gateway.chat(model="both")).status == 200
        await eventually(lambda: figures(gateway) == (ANSWER, 0))
        assert not any(holds for _, _, holds in SpendLedger(gateway.gateway.shared).holds.blocks())


async def test_a_cap_that_is_set_later_knows_what_was_spent_before() -> None:
    async with serving(config=NO_CACHE) as gateway:
        gateway.upstream.script(chat())
        await gateway.chat("Before.")
        caps = [{"window": "day", "usd": str(Decimal(ANSWER).scaleb(-12)), "action": "block"}]
        await gateway.gateway.host.projects.change("default", {"spend_caps": caps})
        refused = await gateway.chat("After.")
        assert refused.status == 402
        assert f"Current: {dollars(ANSWER)}" in refused.json()["error"]["message"]


# ── how holds end ──


async def test_a_hold_is_given_back_however_a_request_ends() -> None:
    async with capped("0.50", NO_CACHE) as gateway:
        gateway.upstream.script(answers.error(500))
        assert (await gateway.chat()).status == 500
        assert await settled(gateway) == 0
        gateway.upstream.script([hang()])
        async with await gateway.connect() as client:
            await client.post_chat(gateway.key, chat_body("Hold on."))
            await eventually(lambda: figures(gateway)[1] > 0)
        left = await settled(gateway)
        rows = await rows_of(gateway)
        assert left == sum(pico_of(Decimal(row["cost_usd"])) for row in rows) > 0
        gateway.upstream.script(sse(chunks=[b"data: {]}\n\n"]))
        broken = await gateway.chat(stream=True)
        row = await gateway.get_row(broken.request_id)
        assert await settled(gateway) == left + pico_of(Decimal(row["cost_usd"] or "0"))


async def test_the_hold_is_there_while_the_answer_runs_and_is_its_worst_case() -> None:
    async with capped("0.50", NO_CACHE) as gateway:
        gateway.upstream.script([hang()])
        async with await gateway.connect() as client:
            body = chat_body("Hold on.", max_tokens=10)
            await client.post_chat(gateway.key, body)
            await eventually(lambda: len(gateway.upstream.requests) == 1)
            sent = len(gateway.upstream.requests[0].body)
            assert figures(gateway) == (0, sent * 2_500_000 + 10 * 10_000_000)


async def test_an_answer_that_costs_more_than_anybody_could_foresee_is_booked_and_flagged() -> None:
    async with capped("0.50", NO_CACHE) as gateway:
        gateway.upstream.script(chat(input_tokens=1_000_000, output_tokens=1))
        answer = await gateway.chat(max_tokens=1)
        assert answer.status == 200
        row = await gateway.get_row(answer.request_id)
        cost = pico_of(Decimal(row["cost_usd"]))
        assert await settled(gateway) == cost == 1_000_000 * 2_500_000 + 10_000_000
        held = len(gateway.upstream.requests[0].body) * 2_500_000 + 10_000_000
        assert row["attributes"]["beyond_held_usd"] == usd(cost - held)
        assert (await gateway.chat("Another.", max_tokens=1)).status == 402


async def test_a_request_at_another_target_holds_what_the_dearer_one_may_cost() -> None:
    models = [{"name": "both", "targets": ["openai/gpt-4o-mini", "openai/gpt-4o"]}]
    async with capped("0.50", merged(NO_CACHE, {"models": models})) as gateway:
        gateway.upstream.script(answers.error(500), [hang()])
        async with await gateway.connect() as client:
            await client.post_chat(gateway.key, chat_body("Hold on.", model="both", max_tokens=10))
            await eventually(lambda: len(gateway.upstream.requests) == 2)
            sent = len(gateway.upstream.requests[1].body)
            assert figures(gateway) == (0, sent * 2_500_000 + 10 * 10_000_000)


async def test_joined_calls_are_paid_for_once() -> None:
    async with capped("0.50", ROOM) as gateway:
        gateway.upstream.script(chat())
        await asyncio.gather(*(gateway.chat() for _ in range(10)))
        rows = await rows_of(gateway)
        assert sum(pico_of(Decimal(row["cost_usd"])) for row in rows) == await settled(gateway)


# ── what has no price ──


async def test_an_answer_that_is_made_in_the_background_is_refused_under_a_cap() -> None:
    """What it comes to is told to whoever fetches it, and that is nobody here."""
    queued = {"id": "resp_1", "object": "response", "status": "queued", "background": True, "model": "gpt-4o", "output": [], "usage": None}
    async with capped("100", NO_CACHE) as gateway:
        gateway.upstream.script(answers.json(queued))
        refused = await gateway.ask("responses", model="gpt-4o", background=True, max_output_tokens=9_000)
        assert (refused.status, refused.json()["error"]["param"]) == (402, "background")
        assert not gateway.upstream.requests
        assert (await gateway.ask("responses", model="gpt-4o", background=False)).status == 200
    async with capped("100", NO_CACHE, action="alert") as gateway:
        gateway.upstream.script(answers.json(queued))
        assert (await gateway.ask("responses", model="gpt-4o", background=True)).status == 200

async def test_M06_a_model_of_unknown_price_needs_a_ceiling() -> None:
    body = {"model": "openai/unheard-of"}
    async with capped("0.50", NO_CACHE) as gateway:
        gateway.upstream.script(chat())
        refused = await gateway.chat(**body)
        assert (refused.status, refused.json()["error"]["param"]) == (402, "model")
        assert "unpriced_request_usd" in refused.json()["error"]["message"]
        assert await settled(gateway) == 0
    async with capped("0.50", merged(NO_CACHE, {"plugins": {"spend_caps": {"unpriced_request_usd": "0.20"}}})) as gateway:
        gateway.upstream.script(chat())
        assert [(await gateway.chat(str(number), **body)).status for number in range(3)] == [200, 200, 402]
        assert await settled(gateway) == pico_of(Decimal("0.40"))
        rows = await rows_of(gateway)
        assert {row["cost_usd"] for row in rows if row["status"] == 200} == {None}


@pytest.mark.parametrize("name", ["aaa", "zzz"])
async def test_what_another_plugin_makes_of_an_attempt_is_what_is_held(name: str) -> None:
    """Whichever of the two is asked first."""

    class Dearer:
        @hookimpl
        def pre_attempt(self, attempt: Attempt) -> None:
            attempt.body |= {"model": "gpt-4o", "max_tokens": 1000}

    async with capped("0.009", NO_CACHE, plugins={name: Dearer}) as gateway:
        refused = await gateway.chat(model="gpt-4o-mini", max_tokens=10)
        assert refused.status == 402
        assert gateway.upstream.requests == []
        assert await settled(gateway) == 0


# ── the worst case ──


def asked(body: dict[str, Any], model: str = "gpt-4o") -> Attempt:
    return Attempt(target(model, provider=provider("openai")), 1, "http://provider", {}, {"model": model, **body})


TEXT = {"messages": [{"role": "user", "content": "Hi"}]}


def pictured(url: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}


LINKED = pictured("https://example.com/a.png")
INLINE = pictured("data:image/png;base64,AAAA")
QUOTED = {"messages": [{"role": "user", "content": '{"url":"https://example.com/a.png"}'}]}


class TestTheMost:
    def test_input_is_the_bytes_of_the_body_and_no_more_than_the_context(self) -> None:
        assert most_of(asked(TEXT), "chat").input == len('{"model":"gpt-4o","messages":[{"role":"user","content":"Hi"}]}')
        assert most_of(asked({"messages": [{"role": "user", "content": "x" * 500_000}]}), "chat").input == 128_000

    @pytest.mark.parametrize(
        "body",
        [
            LINKED,
            pictured("HTTPS://example.com/a.png"),
            pictured("Http://example.com/a.png"),
            pictured(" https://example.com/a.png"),
            pictured("GS://bucket/a.png"),
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "HTTP://example.com/a.png"}]}]},
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}]},
            {"input": "Hi", "previous_response_id": "resp_1"},
            {**TEXT, "thread": {"type": "continue", "previous_message_id": "msg_1"}},
            {**TEXT, "tools": [{"type": "web_search"}]},
            {**TEXT, "web_search_options": {}},
            {**TEXT, "tools": [{"googleSearch": {}}]},
            {**TEXT, "tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        ],
    )  # fmt: skip
    def test_what_the_provider_adds_may_fill_the_context(self, body: dict[str, Any]) -> None:
        assert most_of(asked(body), "chat").input == 128_000

    @pytest.mark.parametrize(
        "body",
        [
            INLINE,
            QUOTED,
            {**TEXT, "tools": [{"type": "function", "function": {"name": "f"}}]},
            {**TEXT, "tools": [{"name": "f", "input_schema": {"type": "object"}}]},
            {**TEXT, "thread": {"type": "create"}},
            {**TEXT, "tools": [{"functionDeclarations": [{"name": "f"}]}]},
        ],
    )
    def test_what_stands_in_the_body_does_not(self, body: dict[str, Any]) -> None:
        assert most_of(asked(body), "chat").input < 1_000

    @pytest.mark.parametrize(
        ("members", "output"),
        [
            ({}, 16_384),
            ({"max_tokens": 7}, 7),
            ({"max_completion_tokens": 8, "n": 3}, 24),
            ({"max_completion_tokens": -1}, 16_384),
            ({"max_tokens": 7, "max_completion_tokens": -(10**9)}, 16_384),
            ({"max_output_tokens": 0, "n": -2}, 16_384),
            ({"max_completion_tokens": 8.0, "n": 3.0}, 24),
            ({"max_tokens": 1, "max_completion_tokens": "8", "n": " 3 "}, 24),
            ({"max_tokens": 1, "max_completion_tokens": "8e1", "n": 2.5}, 240),
            ({"max_tokens": 7, "max_completion_tokens": "-1"}, 16_384),
            ({"max_tokens": 7, "max_completion_tokens": "nan", "n": "many"}, 7),
            ({"max_tokens": 7, "max_completion_tokens": [9], "n": True}, 7),
            ({"max_tokens": 1, "max_completion_tokens": 1e300}, 2**53),
            ({"max_output_tokens": 9}, 9),
            ({"generationConfig": {"maxOutputTokens": 5, "candidateCount": 2}}, 10),
            ({"n": 2}, 32_768),
            ({"max_tokens": 10, "best_of": 4}, 40),
            ({"max_tokens": 10, "n": 1_000}, 10_000),
            ({"max_tokens": 10, "n": 1e300}, 10 * 2**53),
        ],
    )
    def test_output_is_what_the_request_allows_else_what_the_model_can(self, members: dict[str, Any], output: int) -> None:
        assert most_of(asked({**TEXT, **members}), "chat").output == output

    @pytest.mark.parametrize("junk", [[], {}, [None], {"type": "function"}, 5])
    def test_a_tool_of_no_type_there_is_may_be_one_the_provider_runs(self, junk: Any) -> None:
        assert most_of(asked({**TEXT, "tools": [{"type": junk, "function": {"name": "f"}}]}), "chat").input == 128_000

    def test_deep_research_reads_and_thinks_as_much_as_it_likes(self) -> None:
        attempt = Attempt(target("sonar-deep-research", provider=provider("perplexity")), 1, "http://provider", {}, {**TEXT, "max_tokens": 10})
        assert most_of(attempt, "chat") == Most(128_000, 128_000)

    def test_counting_and_embedding(self) -> None:
        assert most_of(asked(TEXT), "count_tokens") == Most(0, 0)
        assert most_of(asked({"input": "Hi"}, "text-embedding-3-small"), "embeddings").output == 0

    @pytest.mark.parametrize(
        ("texts", "contexts"), [("x" * 50_000, 1), (["x" * 50_000], 1), (["x" * 20_000] * 4, 4), ([1_000] * 20_000, 1), ([[1_000] * 9_000] * 2, 2)]
    )
    @pytest.mark.parametrize(
        ("operation", "member", "model"), [("embeddings", "input", "text-embedding-3-small"), ("text_completion", "prompt", "gpt-4")]
    )
    def test_each_of_several_texts_may_fill_a_context(self, operation: str, member: str, model: str, texts: Any, contexts: int) -> None:
        assert most_of(asked({member: texts}, model), operation).input == contexts * sizes_of("openai", model).context
        assert most_of(asked({member: "Hi"}, model), operation).input < 100

    def test_each_token_is_the_dearest_it_could_be(self) -> None:
        seen: list[Usage] = []

        def price(_: Any, usage: Usage) -> None:
            seen.append(usage)

        assert worst_case(price, asked({**TEXT, "max_tokens": 5, "service_tier": "priority", "modalities": ["audio"]}), "chat") is None
        assert {usage.service_tier for usage in seen} == {None, "priority"}
        assert any(usage.cache_write_tokens == usage.input_tokens for usage in seen)
        assert any(usage.reasoning_tokens == usage.output_tokens == 5 for usage in seen)
        assert any(usage.output_audio_tokens == 5 for usage in seen)

    def test_input_and_output_are_each_the_dearest_they_could_be(self) -> None:
        """What is written to a cache need not be answered with thoughts."""
        rates = Rates.of({"input": 10, "output": 100, "cache_write": 12, "cache_read": 11, "reasoning": 50, "input_audio": 30})
        tariff = Tariff("m", "v", (Period(0.0, rates),))
        body = {**TEXT, "max_tokens": 5}
        most_input = most_of(asked(body), "chat").input
        assert worst_case(lambda _, usage: tariff.cost(usage, 0.0), asked(body), "chat") == 12 * most_input + 100 * 5

    @pytest.mark.parametrize(
        ("asked_for", "told", "tier"),
        [
            ("service_tier", "priority", "priority"),
            ("service_tier", "auto", "priority"),
            ("serviceTier", "PRIORITY", "priority"),
            ("speed", "fast", "fast"),
        ],
    )
    def test_a_dearer_service_tier_is_held_in_whatever_words_it_is_asked_for(self, asked_for: str, told: str, tier: str) -> None:
        seen: list[Usage] = []
        worst_case(lambda _, usage: seen.append(usage), asked({**TEXT, asked_for: told}), "chat")
        assert {usage.service_tier for usage in seen} == {None, tier}

    @pytest.mark.parametrize(
        ("body", "is_sound"),
        [
            (TEXT, False),
            ({"messages": [{"role": "user", "content": "An audio book of \"audio/mp3\" and input_audio"}]}, False),
            (INLINE, False),
            (LINKED, True),
            ({**TEXT, "modalities": ["text", "audio"]}, True),
            ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA", "format": "mp3"}}]}]}, True),
            ({"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AA"}}]}]}, True),
            ({"contents": [{"parts": [{"inlineData": {"mimeType": "audio/mp3", "data": "AA"}}]}]}, True),
            ({"contents": [{"parts": [{"fileData": {"mimeType": "video/mp4", "fileUri": "files/1"}}]}]}, True),
            ({"contents": [{"parts": [{"fileData": {"mimeType": "image/png", "fileUri": "files/1"}}]}]}, False),
            ({"contents": [{"parts": [{"text": "Say it"}]}], "generationConfig": {"responseModalities": ["AUDIO"]}}, True),
        ],
    )  # fmt: skip
    def test_where_there_may_be_sound_each_token_may_be_spoken(self, body: dict[str, Any], is_sound: bool) -> None:
        def price(_: Any, usage: Usage) -> Cost:
            return Cost(5 if usage.input_audio_tokens else 1, 0, "v")

        assert worst_case(price, asked(body), "chat") == (5 if is_sound else 1)

    @pytest.mark.parametrize(
        ("body", "pico"),
        [
            (TEXT, 7),
            (INLINE, 30 + 7),
            ({**TEXT, "modalities": ["image"]}, 30 + 7),
            ({"contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": "AA"}}]}]}, 30 + 7),
            ({"contents": [{"parts": [{"inlineData": {"mimeType": "audio/mp3", "data": "AA"}}]}]}, 7),
        ],
    )  # fmt: skip
    def test_a_model_that_makes_pictures_makes_them_unasked_and_sees_only_what_it_is_given(self, body: dict[str, Any], pico: int) -> None:
        def price(_: Any, usage: Usage) -> Cost:
            return Cost(30 if usage.input_image_tokens else 0, 7 if usage.output_image_tokens else 1, "v")

        assert worst_case(price, asked(body), "chat") == pico

    def test_a_videos_sound_is_held_as_sound_and_its_pictures_as_a_video(self) -> None:
        def price(_: Any, usage: Usage) -> Cost:
            return Cost(3 if usage.input_audio_tokens else 2 if usage.input_video_tokens else 1, 0, "v")

        part = {"inlineData": {"mimeType": "video/mp4", "data": "AA"}}
        assert worst_case(price, asked({"contents": [{"parts": [part]}]}), "chat") == 3

    @pytest.mark.parametrize(("said", "is_kept"), [({"cache_control": {"type": "ephemeral", "ttl": "1h"}}, True), ({}, False)])
    def test_what_is_to_be_cached_for_an_hour_may_be_written_there(self, said: dict[str, Any], is_kept: bool) -> None:
        message = {"role": "user", "content": [{"type": "text", "text": '"ttl":"1h"', **said}]}
        seen: list[Usage] = []
        worst_case(lambda _, usage: seen.append(usage), asked({"messages": [message], "max_tokens": 5}), "messages")
        assert any(usage.cache_write_1h_tokens == usage.input_tokens for usage in seen) == is_kept

    def test_sizes_are_known_by_name_with_its_date_and_without(self) -> None:
        assert sizes_of("openai", "GPT-4o") == sizes_of("openai", "gpt-4o-2024-08-06") == (128_000, 16_384)
        assert sizes_of("anthropic", "claude-3-5-sonnet-latest") == (200_000, 8_192)
        assert sizes_of("anthropic", "claude-sonnet-4-5-20250929") == sizes_of("anthropic", "claude-sonnet-4-5") == (1_000_000, 64_000)
        assert sizes_of("openai", "gpt-4o-next") == sizes_of("nobody", "gpt-4o") == sizes_of("openai", "x" * 300) == UNKNOWN


@pytest.mark.parametrize(
    ("pico", "shown"), [(0, "$0.00"), (10**14, "$100.00"), (10**14 + 23 * 10**10, "$100.23"), (123_000_000, "$0.000123"), (1, "$0.000000000001")]
)
def test_money_is_shown_exactly(pico: int, shown: str) -> None:
    assert dollars(pico) == shown


# ── /v1/caps ──


async def test_a_project_sees_how_its_caps_stand(tmp_path: Path) -> None:
    async with capped("0.50", NO_CACHE) as gateway:
        gateway.upstream.script(chat())
        await gateway.chat()
        spent = await settled(gateway)
        (shown,) = (await gateway.get("/v1/caps")).json()["data"]
        assert shown["project"] == "default"
        assert [(row["window"], row["spent_usd"], row["held_usd"]) for row in shown["spend"]] == [
            ("day", usd(spent), "0"),
            ("month", usd(spent), "0"),
        ]
        left = usd(pico_of(Decimal("0.50")) - spent)
        assert shown["caps"] == [{"window": "day", "usd": "0.5", "action": "block", "remaining_usd": left}]
        assert (await gateway.get("/v1/caps?project=other")).status == 400


@pytest.mark.parametrize(("written", "shown"), [("1e-7", "0.0000001"), ("1E+3", "1000"), ("100.00", "100.00")])
def test_a_command_shows_a_cap_as_plain_dollars_however_they_were_written(tmp_path: Path, written: str, shown: str) -> None:
    (tmp_path / "muxx.toml").touch()

    def ran(*arguments: str) -> str:
        return CliRunner().invoke(cli, [*arguments, "--config", str(tmp_path / "muxx.toml")]).stdout

    assert orjson.loads(ran("caps", "set", "day", written, "--json"))["caps"][0]["usd"] == shown
    assert ran("caps", "list").splitlines()[1].split()[1] == shown
    assert f'"usd":"{shown}"' in ran("projects", "show", "default")


async def test_a_command_says_that_what_was_spent_is_not_added_up_before_muxx_has_started_again(tmp_path: Path) -> None:
    async def told() -> str:
        arguments = ["caps", "list", "--config", str(tmp_path / "muxx.toml")]
        return (await asyncio.to_thread(CliRunner().invoke, cli, arguments)).stderr

    async with serving(config=NO_CACHE, directory=tmp_path) as gateway:
        gateway.upstream.script(chat())
        await gateway.chat()
        assert await told() == ""
    (tmp_path / "muxx.db.shared").unlink()  # as after a boot
    assert "Nothing is added up" in await told()
    async with serving(config=NO_CACHE, directory=tmp_path):
        assert await told() == ""


async def test_R03_every_prompt_of_a_completion_is_answered_and_counts() -> None:
    """Fifty prompts are fifty answers: what each may cost is held for all of them."""
    async with capped("0.02") as gateway:
        refused = await gateway.ask("text_completion", model="gpt-3.5-turbo-instruct", prompt=["Hello"] * 50, max_tokens=1_000)
        assert refused.status == 402
        assert not gateway.upstream.requests


async def test_R03_every_text_to_be_embedded_counts_though_all_are_more_than_one_context() -> None:
    async with capped("0.001") as gateway:
        refused = await gateway.ask("embeddings", model="openai/text-embedding-3-small", input=["word " * 8_000] * 50)
        assert refused.status == 402
        assert not gateway.upstream.requests


async def test_R03_what_a_model_that_makes_pictures_answers_is_held_as_pictures() -> None:
    """Eight thousand tokens of pictures come to a quarter of a dollar, of words to two cents."""
    async with capped("0.20") as gateway:
        contents = [{"role": "user", "parts": [{"text": "Draw a cat."}]}]
        refused = await gateway.ask(
            "generate_content", model="gemini-2.5-flash-image", contents=contents, generationConfig={"maxOutputTokens": 8192}
        )
        assert refused.status == 402
        assert not gateway.upstream.requests


async def test_R03_what_google_hears_of_a_file_is_held_as_sound() -> None:
    """An hour of it costs three times what as much text does."""
    parts = [{"text": "Write it down."}, {"fileData": {"mimeType": "audio/mp3", "fileUri": "https://example.com/v1beta/files/talk"}}]
    async with capped("0.50") as gateway:
        contents, few = [{"role": "user", "parts": parts}], {"maxOutputTokens": 10}
        refused = await gateway.ask("generate_content", model="gemini-2.5-flash", contents=contents, generationConfig=few)
        assert refused.status == 402
        assert not gateway.upstream.requests
