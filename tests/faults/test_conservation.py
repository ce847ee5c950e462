"""FAULTS M08: the sum of the rows = per key = per user = per project = what is counted = what the provider charged, exactly."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from pathlib import Path

import orjson
from money_kit import check_money, check_sums, counts_as, rows_of
from process_kit import Upstream, gateway_process

from muxx.testing import DONE, RecordedRequest, Script, answers, chat, chat_body, event, pause, sse
from muxx.testing.process import GatewayProcess

PRICES = {"gpt-4o": (2_500_000, 10_000_000), "gpt-4o-mini": (150_000, 600_000)}
"""Pico-dollars per token, read and written."""
REQUESTS = 240
CLIENTS = 12


class Charging(Upstream):
    """Charges for every answer it gives whole, by the user and model it is asked for; refuses some."""

    def __init__(self) -> None:
        super().__init__(gap=0.0)
        self.charged: Counter[str] = Counter()
        self.choose = self._charge
        self._random = random.Random(20)

    def _charge(self, request: RecordedRequest) -> Script:
        asked = request.json()
        if self._random.random() < 0.1:
            return answers.error(500)
        read, written = self._random.randrange(1, 5_000), self._random.randrange(1, 5_000)
        input_price, output_price = PRICES[asked["model"]]
        self.charged[asked["messages"][0]["content"].split()[0]] += read * input_price + written * output_price
        if not asked.get("stream"):
            return [pause(0.002), *chat(input_tokens=read, output_tokens=written)(request)]
        usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        words = [event({"choices": [{"index": 0, "delta": {"content": word}}]}) for word in ("one", "two")]
        finish = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        return sse(chunks=[*words, finish, event({"choices": [], "usage": usage}), DONE], gap=0.001)


async def test_M08_every_pico_dollar_is_in_a_row_a_key_a_user_a_project_and_a_counter(tmp_path: Path) -> None:
    async with Charging() as upstream, gateway_process(tmp_path, upstream, workers=2) as gateway:
        keys = {"default": gateway.key}
        for project in ("blue", "green"):
            await gateway.run("projects", "create", project)
            keys[project] = orjson.loads(await gateway.run("keys", "create", "--project", project, "--json"))["key"]
        await spend(gateway, keys)
        deadline = time.monotonic() + 10
        while len(rows := rows_of(tmp_path)) < REQUESTS:
            assert time.monotonic() < deadline, len(rows)
            await asyncio.sleep(0.1)
        gateway.process.terminate()
        await gateway.wait()
        rows = rows_of(tmp_path)
        assert len(rows) == REQUESTS
        by_user: Counter[str] = Counter()
        by_project: Counter[str] = Counter()
        for row in rows:
            by_user[row["user_id"]] += counts_as(row)
            by_project[row["project"]] += counts_as(row)
        assert +by_user == +upstream.charged
        assert sum(by_project.values()) == sum(upstream.charged.values()) > 0
        assert set(by_project) == set(keys)
        check_money(tmp_path)
        check_sums(tmp_path)


async def spend(gateway: GatewayProcess, keys: dict[str, str]) -> None:
    """Streams and plain answers, repeated ones among them, of every project, user and model, many at a time."""
    source = random.Random(21)
    todo = list(range(REQUESTS))

    async def client() -> None:
        while todo:
            number = todo.pop()
            user, project = source.choice(["ann", "ben", "eve"]), source.choice(list(keys))
            model, again = source.choice(list(PRICES)), source.random() < 0.3
            body = chat_body(f"{user} asks {0 if again else number}", model=model, stream=source.random() < 0.5)
            async with await gateway.connect() as connection:
                await connection.post_chat(keys[project], body, {"X-Muxx-User-Id": user})
                answer = await connection.read_response()
            assert answer.status in (200, 500), answer.text

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
