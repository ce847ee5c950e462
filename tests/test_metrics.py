"""`GET /metrics`: what Prometheus' own parser reads there is what was asked, and the same in every worker."""

from __future__ import annotations

import asyncio
import re
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from analytics_kit import Row, keep, log_of, row, run
from carrying_kit import serving
from http_kit import add_key
from hypothesis import given, settings
from hypothesis import strategies as st
from process_kit import Upstream, gateway_process, open_stream
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text
from thoroughness import examples

from muxx.db import Database
from muxx.testing import chat, get
from muxx_std.metrics import schema
from muxx_std.metrics.exposition import Gauges, exposition
from muxx_std.metrics.running import Running

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

NOTHING = Gauges("1.0", Running(0, 0), {}, {})


def samples(text: str, read: Callable[[str], Any] = read_text) -> Samples:
    families = read(text)
    return {(sample.name, frozenset(sample.labels.items())): sample.value for family in families for sample in family.samples}


def total(found: Samples, name: str, **labels: str) -> float:
    """Of all samples of that name with these labels."""
    return sum(value for (known, its), value in found.items() if known == name and labels.items() <= dict(its).items())


async def told_by(base_url: str) -> Samples:
    response = await get(base_url, "/metrics")
    assert response.status == 200, response.text
    return samples(response.text)


async def once(true: Callable[[], Awaitable[Any]], within: float = 20.0) -> None:
    async with asyncio.timeout(within):
        while not await true():
            await asyncio.sleep(0.1)


async def test_requests_tokens_cost_and_time_are_told_by_endpoint_provider_and_model() -> None:
    async with serving(config={"project": {"cache": {"enabled": False}}}) as gateway:
        gateway.upstream.choose = chat()
        await gateway.chat("Hello", model="gpt-4o-mini", stream=True)
        await gateway.chat("Hello", model="openai/nobodys-model")
        assert [(await gateway.chat("Hello")).status for _ in range(2)] == [200, 200]
        assert (await gateway.chat("Hello", model="nobody/knows")).status == 404
        found: Samples = {}

        async def all_told() -> bool:
            found.update(await told_by(gateway.base_url))
            return total(found, "muxx_requests_total") == 5

        await once(all_told)
        rows = (await gateway.get("/v1/logs")).json()["data"]
    openai = {"endpoint": "chat", "provider": "openai"}
    assert total(found, "muxx_requests_total", **openai, model="gpt-4o", status="200", cache="bypass") == 2
    assert total(found, "muxx_requests_total", status="404", ended_by="muxx") == 1
    for kind in ("input", "output"):
        assert total(found, "muxx_tokens_total", **openai, type=kind) == sum(each[f"{kind}_tokens"] for each in rows) > 0
    assert [total(found, "muxx_unpriced_requests_total", **labels) for labels in ({}, {**openai, "model": "gpt-4o"})] == [1, 0]
    cost = float(sum(Decimal(each["cost_usd"] or 0) for each in rows))
    assert total(found, "muxx_cost_usd_total", **openai) == pytest.approx(cost, rel=1e-9)
    for le, name in (("+Inf", "bucket"), ("81.92", "bucket"), ("", "count")):
        labels = {"le": le} if le else {}
        assert total(found, f"muxx_request_duration_seconds_{name}", model="gpt-4o", **labels) == 2
    assert total(found, "muxx_request_duration_seconds_sum", model="gpt-4o") > 0
    assert total(found, "muxx_time_to_first_token_seconds_count") == 1
    assert (total(found, "muxx_workers"), total(found, "muxx_build_info")) == (1, 1)
    assert total(found, "muxx_file_bytes", file="logs") > 0


async def test_a_text_is_given_again_for_a_second_and_openmetrics_is_told_to_who_prefers_it() -> None:
    async with serving() as gateway:
        first = [await get(gateway.base_url, "/metrics") for _ in range(2)]
        assert first[0].body == first[1].body
        assert (first[0].header("content-type") or "").startswith("text/plain")
        response = await get(gateway.base_url, "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
        assert (response.header("content-type") or "").startswith("application/openmetrics-text")
        assert total(samples(response.text, read_openmetrics), "muxx_workers") == 1


async def test_where_it_is_not_public_it_takes_an_admin_key() -> None:
    async with serving(config={"plugins": {"metrics": {"public": False}}}) as gateway:
        admin = await add_key(gateway, "admin", None)
        answers = [await get(gateway.base_url, "/metrics", key) for key in (None, gateway.key, admin)]
        assert [answer.status for answer in answers] == [401, 403, 200]


async def test_every_worker_tells_the_same_of_the_host_and_a_refused_reload_is_counted(tmp_path: Path) -> None:
    async with Upstream() as upstream, gateway_process(tmp_path, upstream, workers=2) as gateway:
        async with open_stream(gateway), open_stream(gateway), open_stream(gateway):

            async def all_run() -> bool:
                found = [await told_by(gateway.base_url) for _ in range(8)]  # each on a connection of its own
                return all(total(one, "muxx_running_requests") == 3 and total(one, "muxx_workers") == 2 for one in found)

            await once(all_run)
        (tmp_path / "muxx.toml").write_text("[server]\nport = 'none'\n")
        gateway.process.send_signal(signal.SIGHUP)

        async def is_refused() -> bool:
            found = [await told_by(gateway.base_url) for _ in range(8)]
            return all(total(one, "muxx_config_reloads_total", result="refused") == 1 for one in found)

        await once(is_refused)
        assert total(await told_by(gateway.base_url), "muxx_config_reloads_total", result="done") == 0


# ── the sums ──


@asynccontextmanager
async def counted_log_of(directory: Path) -> AsyncIterator[Database]:
    """A log with the tables of the metrics."""
    async with log_of(directory) as db:
        await db.migrate("metrics", schema.MIGRATIONS)
        yield db


async def told(db: Database, most_models: int = 200) -> Samples:
    await schema.catch_up(db, most_models)
    text, _ = exposition([dict(each) for each in await db.read_logs(schema.READ)], NOTHING, "")
    return samples(text.decode())


ROWS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "model": st.sampled_from(["gpt-4o", "o3", 'a "b"\n', None]),
            "provider": st.sampled_from(["openai", "azure", None]),
            "status": st.sampled_from([200, 429, None]),
            "ended_by": st.sampled_from(["client", None]),
            "cache": st.sampled_from(["hit", "miss", None]),
            "usage_source": st.sampled_from(["provider", "cache"]),
            "input_tokens": st.one_of(st.none(), st.integers(-5, 2**63 - 1)),
            "cost_pico": st.one_of(st.none(), st.integers(0, 2**63 - 1)),
            "duration_ms": st.one_of(st.none(), st.floats(0, 200_000)),
            "first_token_ms": st.one_of(st.none(), st.floats(0, 200_000)),
        },
    ),
    max_size=12,
)


@settings(max_examples=examples(40), deadline=None)
@given(ROWS, ROWS)
def test_whatever_rows_there_are_the_sums_are_those_of_plain_addition(before: list[Row], after: list[Row]) -> None:
    rows = [row(number, **members) for number, members in enumerate(before + after)]
    parts = [part for part in (rows[: len(before)], rows[len(before) :]) if part]

    async def summed() -> Samples:
        with tempfile.TemporaryDirectory(prefix="muxx-") as directory:
            async with counted_log_of(Path(directory)) as db:
                for part in parts:
                    await keep(db, *part)
                    await told(db)
                return await told(db)

    found = asyncio.run(summed())
    labels = Counter(tuple(str(each[name] or "") for name in ("provider", "model", "ended_by", "cache")) for each in rows)
    for (provider, model, ended_by, cache), count in labels.items():
        its = {"provider": provider, "model": model, "ended_by": ended_by, "cache": cache}
        assert total(found, "muxx_requests_total", **its) == count
    assert total(found, "muxx_requests_total") == len(rows)
    tokens = sum(min(max(each["input_tokens"] or 0, 0), 10**12) for each in rows if each["usage_source"] != "cache")
    assert total(found, "muxx_tokens_total", type="input") == pytest.approx(tokens)
    assert total(found, "muxx_cost_usd_total") == pytest.approx(sum(each["cost_pico"] or 0 for each in rows) / 10**12)
    for name, column in (("request_duration", "duration_ms"), ("time_to_first_token", "first_token_ms")):
        seconds = [each[column] / 1000 for each in rows if each[column] is not None]
        for bound in (*schema.BOUNDS, float("inf")):
            le = "+Inf" if bound == float("inf") else str(bound)
            assert total(found, f"muxx_{name}_seconds_bucket", le=le) == sum(each <= bound for each in seconds)
        assert total(found, f"muxx_{name}_seconds_sum") == pytest.approx(sum(seconds))


async def test_rows_are_added_once_and_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "SLICE", 7)
    async with counted_log_of(tmp_path) as db:
        await keep(db, *(row(number) for number in range(40)))
        assert total(await told(db), "muxx_requests_total") == 40
        await keep(db, *(row(number, status=500) for number in range(3)))  # amended: counted as it was
        assert total(await told(db), "muxx_requests_total") == total(await told(db), "muxx_requests_total", status="200") == 40
        await run(db, "DELETE FROM generations WHERE position > 30")
        await told(db)
        await keep(db, row(100), row(101))
        assert total(await told(db), "muxx_requests_total") == 42


async def test_models_beyond_as_many_as_are_told_apart_are_other(tmp_path: Path) -> None:
    async with counted_log_of(tmp_path) as db:
        await keep(db, row(1, model="a"), row(2, model="b"))
        await told(db, most_models=3)
        await keep(db, *(row(number, model=f"m{number}") for number in range(3, 20)), row(20, model="a"), row(21, model=None))
        found = await told(db, most_models=3)
        models = {dict(labels)["model"] for name, labels in found if name == "muxx_requests_total"}
        assert {"a", "b", "other", ""} < models
        assert len(models) == 5
        assert total(found, "muxx_requests_total", model="a") == 2
        assert total(found, "muxx_requests_total", model="other") == 16
        assert total(found, "muxx_requests_total", model="") == 1


async def test_without_a_log_there_are_the_figures_of_now() -> None:
    off = {name: {"enabled": False} for name in ("logs", "analytics", "alerts", "spend_caps")}
    async with serving(config={"plugins": off}) as gateway:
        await gateway.chat("Hello")
        found = await told_by(gateway.base_url)
        assert total(found, "muxx_workers") == 1
        assert total(found, "muxx_requests_total") == 0


_SERIES = re.compile(r"muxx_[a-z_]+")
_LABELS = re.compile(r"(?:by ?\(([a-z_, ]+)\)|([a-z_]+)(?:=~|!=|=))")
_PROMETHEUS_OWN = {"instance", "le"}
_DOCS = Path(__file__).parents[1] / "docs"


def _asked_for(expression: str) -> tuple[set[str], set[str]]:
    """The series and labels that a PromQL expression names."""
    labels = {label.strip() for pair in _LABELS.findall(expression) for label in ",".join(pair).split(",")} - {""}
    return set(_SERIES.findall(expression)), labels - _PROMETHEUS_OWN


async def test_the_dashboard_and_the_page_ask_for_series_and_labels_that_there_are() -> None:
    board = orjson.loads((_DOCS / "grafana.json").read_bytes())
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked += re.findall(r"^\| [^|]+ \| `(.*)` \|$", (_DOCS / "metrics.md").read_text(), re.MULTILINE)
    asked += [f"{variable['query']['query']} {variable['name']}=" for variable in board["templating"]["list"][1:]]
    async with serving() as gateway:
        gateway.upstream.choose = chat()
        for model in ("gpt-4o", "gpt-4o", "openai/nobodys-model"):  # asked, answered by the cache, and without a price
            await gateway.chat("Hello", model=model, stream=True)
        await once(lambda: _three_requests(gateway.base_url))
        found = await told_by(gateway.base_url)
    labels = {label for _, its in found for label, _ in its}
    for expression in asked:
        series, by = _asked_for(expression)
        assert set() < series <= {name for name, _ in found}, expression
        assert by <= labels, expression


async def _three_requests(base_url: str) -> bool:
    return total(await told_by(base_url), "muxx_requests_total") == 3


def test_panels_of_the_dashboard_lie_side_by_side() -> None:
    panels = orjson.loads((_DOCS / "grafana.json").read_bytes())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 15
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
