"""`gateway.call`: a plugin's own call of a model goes through the same spine as anyone's."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from carrying_kit import error_code, serving
from http_kit import add_key

from muxx import Exchange, Gateway, InvalidRequest, MuxxError, PermissionDenied, hookimpl
from muxx.testing import RecordedRequest, Script, chat, error, eventually

QUESTION = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Is that allowed?"}]}


class Guard:
    """Asks another model about each request of a client; refuses when that one says no."""

    @hookimpl
    async def pre_request(self, gateway: Gateway, exchange: Exchange) -> None:
        if exchange.parent is None:
            answer = await gateway.call("chat", QUESTION, parent=exchange)
            if answer["choices"][0]["message"]["content"] == "no":
                raise PermissionDenied("The guard says no.", code="guarded")


def answering(verdict: str) -> Any:
    def choose(request: RecordedRequest) -> Script:
        return chat(verdict if request.json()["model"] == "gpt-4o-mini" else "Hello there.")(request)

    return choose


@pytest.mark.parametrize("stream", [False, True])
async def test_it_is_priced_and_has_a_row_of_its_own_that_names_the_parent(stream: bool) -> None:
    ended: list[Exchange] = []

    class Watching:
        @hookimpl
        def post_response(self, exchange: Exchange) -> None:
            ended.append(exchange)

    async with serving(plugins={"guard": Guard, "watching": Watching}) as gateway:
        gateway.upstream.script(answering("yes"))
        response = await gateway.chat(stream=stream)
        await eventually(lambda: len(ended) == 2)
        inner, outer = ended
        assert (inner.parent, outer.id) == (outer, response.request_id)
        row = await gateway.get_row(inner.id)
        assert row["attributes"]["parent"] == outer.id
        assert (row["model"], row["project"], row["cost_usd"], row["stream"]) == ("gpt-4o-mini", "default", "0.0000045", False)
        assert (await gateway.get_row(outer.id))["cost_usd"] == "0.000075"
        assert [request.json()["model"] for request in gateway.upstream.requests] == ["gpt-4o-mini", "gpt-4o"]
    assert Counter(exchange.id for exchange in ended) == {inner.id: 1, outer.id: 1}


async def test_its_answer_is_the_plugins_to_use() -> None:
    async with serving(plugins={"guard": Guard}) as gateway:
        gateway.upstream.script(answering("no"))
        response = await gateway.chat()
        assert (response.status, error_code(response)) == (403, "guarded")
        assert len(gateway.upstream.requests) == 1


async def test_what_it_ends_with_is_raised_where_it_was_asked() -> None:
    seen: list[tuple[int, str]] = []

    class Asks:
        @hookimpl
        async def pre_request(self, gateway: Gateway, exchange: Exchange) -> None:
            if exchange.parent is None:
                for body in (QUESTION, {**QUESTION, "model": "no-such-model"}, {"model": "gpt-4o"}):
                    try:
                        await gateway.call("chat", body, parent=exchange)
                    except MuxxError as raised:
                        seen.append((raised.status, raised.code))
                with pytest.raises(InvalidRequest, match="knows the operations chat, text_completion, embeddings, responses"):
                    await gateway.call("paintings", {}, parent=exchange)

    async with serving(plugins={"asks": Asks}) as gateway:
        gateway.upstream.script(error(429, code="slow_down"), chat())
        assert (await gateway.chat()).status == 200
    assert seen == [(429, "slow_down"), (404, "model_not_found"), (400, "missing_field")]


async def test_a_guard_that_guards_its_own_question_comes_to_an_end() -> None:
    class Endless:
        @hookimpl
        async def pre_request(self, gateway: Gateway, exchange: Exchange) -> None:
            await gateway.call("chat", QUESTION, parent=exchange)

    async with serving(plugins={"endless": Endless}) as gateway:
        response = await gateway.chat()
        assert (response.status, error_code(response)) == (500, "plugin_error")
        assert gateway.upstream.requests == []
        assert (await gateway.get_row(response.request_id))["error_code"] == "plugin_error"


async def test_it_may_use_no_model_its_parent_may_not() -> None:
    async with serving(plugins={"guard": Guard}) as gateway:
        key = await add_key(gateway, models=("gpt-4o",))
        response = await gateway.chat(headers={"Authorization": f"Bearer {key}"})
        assert (response.status, error_code(response)) == (403, "model_not_allowed")
        assert gateway.upstream.requests == []


async def test_calls_that_call_without_end_are_refused_and_the_log_says_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    class Asks:
        @hookimpl
        async def pre_request(self, gateway: Gateway, exchange: Exchange) -> None:
            await gateway.call("chat", QUESTION, parent=exchange)

    async with serving(plugins={"asks": Asks}) as gateway:
        refused = await gateway.chat()
        assert (refused.status, refused.error["code"]) == (500, "plugin_error")
    assert "a plugin calls a model for each of its own calls; let it leave an exchange alone that has a `parent`" in caplog.text
