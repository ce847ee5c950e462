"""`muxx prices reprice`: what rows cost is corrected exactly, its history is kept, and what is spent follows."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
from carrying_kit import serving
from click.testing import CliRunner

from muxx import Database, Shared
from muxx.cli import cli
from muxx.testing import answers, chat, eventually
from muxx.testing.settings import merged
from muxx_std.pricing.adjustments import Correction, book
from muxx_std.spend_caps.ledger import SpendLedger
from muxx_std.spend_caps.plugin import ADJUST_SECONDS, RECOVER_SECONDS

NO_CACHE = {"project": {"cache": {"enabled": False}}}
WRONG = {"plugins": {"pricing": {"prices": [{"model": "gpt-4o", "input": "100", "output": "100"}]}}}
OLD = 15 * 100_000_000
RIGHT = 10 * 2_500_000 + 5 * 10_000_000
YESTERDAY = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 86_400))


def today() -> int:
    return int(time.time() // 86_400)


def reprice(directory: Path, *arguments: str, since: str = YESTERDAY) -> Any:
    result = CliRunner().invoke(
        cli, ["prices", "reprice", "--config", str(directory / "muxx.toml"), "--from", since, "--json", *arguments]
    )
    assert result.exit_code == 0, result.output
    return orjson.loads(result.stdout)


def costs(directory: Path) -> list[int | None]:
    with closing(sqlite3.connect(f"file:{directory}/muxx-logs.db?mode=ro", uri=True)) as db:
        return [cost for (cost,) in db.execute("SELECT cost_pico FROM generations WHERE attempts ORDER BY position")]


async def test_the_time_is_given_as_to_any_other_command(mispriced: Path) -> None:
    at = time.time()
    for since, rows in ((str(int(at - 3600)), 3), (f"{YESTERDAY}T00:00:00+02:00", 3), (str(int(at + 3600)), 0)):
        until = ("--to", str(int(at + 7200)))
        assert (await asyncio.to_thread(reprice, mispriced, "--dry-run", *until, since=since))["rows"] == rows


@pytest.fixture
async def mispriced(tmp_path: Path) -> Path:
    """Three answers that were charged by a wrong price, and the file in which it is right."""
    async with serving(config=merged(NO_CACHE, WRONG), directory=tmp_path) as gateway:
        gateway.upstream.script(chat())
        for _ in range(3):
            assert (await gateway.chat()).status == 200
    assert costs(tmp_path) == [OLD] * 3
    async with serving(config=NO_CACHE, directory=tmp_path):
        pass
    return tmp_path


async def test_a_dry_run_shows_the_difference_and_books_nothing(mispriced: Path) -> None:
    said = await run(reprice, mispriced, "--dry-run")
    assert (said["booked"], said["rows"], said["difference_usd"]) == (False, 3, "-0.004275")
    (model,) = said["models"]
    assert (model["model"], model["rows"], model["before_usd"], model["after_usd"]) == ("gpt-4o", 3, "0.0045", "0.000225")
    assert costs(mispriced) == [OLD] * 3


async def test_the_difference_is_booked_once_its_history_kept_and_what_is_spent_follows(mispriced: Path) -> None:
    async with serving(config=NO_CACHE, directory=mispriced) as gateway:
        ledger = SpendLedger(gateway.gateway.shared)
        assert ledger.figures("default", today())["day"] == (3 * OLD, 0)
        assert (await run(reprice, mispriced))["difference_usd"] == "-0.004275"
        assert costs(mispriced) == [RIGHT] * 3
        await eventually(lambda: ledger.figures("default", today())["day"] == (3 * RIGHT, 0))
        again = await run(reprice, mispriced)
        assert (again["models"], again["difference_usd"]) == ([], "0")
    with closing(sqlite3.connect(f"file:{mispriced}/muxx-logs.db?mode=ro", uri=True)) as db:
        kept = db.execute("SELECT before_pico, after_pico, before_version <> after_version FROM price_adjustments").fetchall()
    assert kept == [(OLD, RIGHT, 1)] * 3
    (mispriced / "muxx.db.shared").unlink()
    async with serving(config=NO_CACHE, directory=mispriced) as gateway:
        figures = SpendLedger(gateway.gateway.shared).figures("default", today())
        assert figures["day"] == (3 * RIGHT, 0), "a reboot counts no correction twice"


async def run(function: Any, *arguments: Any) -> Any:
    """In a thread: the command has an event loop of its own."""
    return await asyncio.to_thread(function, *arguments)


@pytest.mark.parametrize(
    ("arguments", "rows"),
    [
        (["--model", "gpt-4o-mini"], 0),
        (["--project", "default"], 3),
        (["--project", "other"], 0),
        (["--to", YESTERDAY + "T12:00:00"], 0),
    ],
)
async def test_only_what_is_asked_for_is_priced_anew(mispriced: Path, arguments: list[str], rows: int) -> None:
    said = await run(reprice, mispriced, "--dry-run", *arguments)
    assert sum(model["rows"] for model in said["models"]) == rows


async def test_what_is_booked_is_counted_though_the_command_dies_in_the_midst_of_it(
    mispriced: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def die_after(db: Database, corrections: Sequence[Correction]) -> int:
        await book(db, corrections)
        raise OSError("killed")

    monkeypatch.setattr("muxx_std.pricing.adjustments.ROWS_AT_ONCE", 1)
    monkeypatch.setattr("muxx_std.pricing.reprice.book", die_after)
    async with serving(config=NO_CACHE, directory=mispriced) as gateway:
        ledger = SpendLedger(gateway.gateway.shared)
        for right in (1, 2, 3):
            with pytest.raises(AssertionError):
                await run(reprice, mispriced)
            assert costs(mispriced).count(RIGHT) == right
            expected = right * RIGHT + (3 - right) * OLD
            await eventually(lambda: ledger.figures("default", today())["day"] == (expected, 0))  # noqa: B023


async def test_after_a_reboot_no_correction_is_taken_off_what_is_spent_next(mispriced: Path) -> None:
    """Where the rows come to nothing once they are corrected."""
    free = merged(NO_CACHE, {"plugins": {"pricing": {"prices": [{"model": "gpt-4o", "input": "0", "output": "0"}]}}})
    async with serving(config=free, directory=mispriced) as gateway:
        await run(reprice, mispriced)
        assert costs(mispriced) == [0] * 3
        await eventually(lambda: SpendLedger(gateway.gateway.shared).figures("default", today())["day"] == (0, 0))
    (mispriced / "muxx.db.shared").unlink()
    async with serving(config=free, directory=mispriced) as gateway:
        ledger = SpendLedger(gateway.gateway.shared)
        ledger.add("default", today(), RIGHT)
        await asyncio.sleep(2 * ADJUST_SECONDS)
        assert ledger.figures("default", today())["day"] == (RIGHT, 0)
        ledger.add("default", today(), -RIGHT)  # no row says so


@pytest.mark.parametrize("unsettled", [1, 3])
async def test_what_a_dead_process_had_not_added_up_is_counted_once_with_its_correction(mispriced: Path, unsettled: int) -> None:
    """However early the prices are corrected, and though what is spent cannot be below nothing meanwhile."""
    await run(reprice, mispriced)
    with closing(sqlite3.connect(f"file:{mispriced}/muxx-logs.db?mode=ro", uri=True)) as db:
        ids = [request_id for (request_id,) in db.execute("SELECT request_id FROM generations WHERE attempts")]
    shared = Shared(mispriced / "muxx.db.shared")
    ledger = SpendLedger(shared)
    for request_id in ids[:unsettled]:  # as if it had been killed before that
        ledger.add("default", today(), -OLD)
        ledger.leave_open("default", today(), request_id, 0)
    shared.close()
    async with serving(config=NO_CACHE, directory=mispriced) as gateway:
        ledger = SpendLedger(gateway.gateway.shared)
        assert ledger.figures("default", today())["day"] == ((3 - unsettled) * OLD, 0)
        await asyncio.sleep(max(ADJUST_SECONDS, RECOVER_SECONDS) + 0.5)
        assert (ledger.figures("default", today())["day"], ledger.abandoned()) == ((3 * RIGHT, 0), {})


SPOKEN = {
    "id": "c", "object": "chat.completion", "created": 1, "model": "gpt-4o-audio-preview", "service_tier": "priority",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
    "usage": {
        "prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30,
        "prompt_tokens_details": {"audio_tokens": 5}, "completion_tokens_details": {"audio_tokens": 3},
    },
}  # fmt: skip
PICTURE = {
    "candidates": [{"content": {"role": "model", "parts": [{"inlineData": {"mimeType": "image/png", "data": "AA=="}}]}, "finishReason": "STOP"}],
    "usageMetadata": {
        "promptTokenCount": 10, "candidatesTokenCount": 1290, "totalTokenCount": 1300,
        "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1290}],
    },
}  # fmt: skip
CACHED = {
    "id": "m", "type": "message", "role": "assistant", "model": "claude-3-5-haiku-latest", "stop_reason": "end_turn",
    "stop_sequence": None, "content": [{"type": "text", "text": "Hi"}],
    "usage": {"input_tokens": 10, "output_tokens": 5, "cache_creation": {"ephemeral_1h_input_tokens": 100}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "model", "details"),
    [
        (SPOKEN, "gpt-4o-audio-preview", {"input_audio_tokens": 5, "output_audio_tokens": 3, "service_tier": "priority"}),
        (CACHED, "claude-3-5-haiku", {"cache_write_1h_tokens": 100}),
        (PICTURE, "gemini-2.5-flash-image", {"output_image_tokens": 1290}),
    ],
)
async def test_what_a_price_depends_on_beside_the_fields_of_a_row_is_in_it(
    answer: dict[str, Any], model: str, details: dict[str, Any], tmp_path: Path
) -> None:
    async with serving(config=NO_CACHE, directory=tmp_path) as gateway:
        gateway.upstream.script(answers.json(answer))
        response = await gateway.chat(model=model)
        row = await gateway.get_row(response.request_id)
        assert row["attributes"]["usage_details"] == details
    assert (await run(reprice, tmp_path))["models"] == [], "the same prices come to the same"


async def test_an_answer_that_names_another_model_is_priced_again_as_it_was_priced_at_first(tmp_path: Path) -> None:
    ours = {"model": "our-model", "input": "1", "output": "1"}
    async with serving(config=merged(NO_CACHE, {"plugins": {"pricing": {"prices": [ours]}}}), directory=tmp_path) as gateway:
        for asked, answered in (("our-model", "gpt-4o"), ("gpt-4o", "gpt-4o-2024-05-13"), ("gpt-4o", "gpt-4o")):
            gateway.upstream.script(chat(model=answered))
            row = await gateway.get_row((await gateway.chat(model=f"openai/{asked}")).request_id)
            assert (row["model"], row["attributes"].get("priced_as", row["model"])) == (answered, asked)
    assert (await run(reprice, tmp_path))["models"] == [], "no price has changed"
    dearer = merged(NO_CACHE, {"plugins": {"pricing": {"prices": [ours | {"input": "2"}]}}})
    async with serving(config=dearer, directory=tmp_path):
        pass
    assert (await run(reprice, tmp_path, "--model", "our-*"))["difference_usd"] == "+0.00001"
    assert costs(tmp_path) == [25_000_000, RIGHT, RIGHT]
