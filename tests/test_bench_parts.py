"""What `muxx bench` is made of: what it lets lead out, how it judges answers, what it counts, and the words it finds."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest

from muxx.bench import machine, measuring, verdict
from muxx.bench.children import CannotMeasure, Child, last_words
from muxx.bench.gateway import PROVIDER, Order, under_test
from muxx.bench.load import Called, Load, heard, sent_words
from muxx.bench.machine import Moment, Process
from muxx.bench.measuring import Compared, Figures, Latency, Measuring, Taken, summed_up
from muxx.bench.running import Circumstances
from muxx.bench.said import CALL, MARK, TEXT, template, word_of, words
from muxx.bench.upstream import END, HEAD, Answering
from muxx.bench.upstream import PLAIN as PLAIN_ANSWER
from muxx.catalogue import Catalogue
from muxx.config import Config
from muxx.configfile import load_config
from muxx.discovery import config_classes, discover
from muxx.plugins import build
from muxx.routing import RoutingTable

# ── the gateway that is measured ──

ORDER = Order(config=None, plugins_dir=None, database="/elsewhere/muxx.db", upstream="http://127.0.0.1:4000/v1")

CAUTIOUS = """
[server]
host = "0.0.0.0"
workers = 8
max_headers = 77

[providers.openai]
api_key = "sk-canary"
proxy = "http://proxy.example:3128"

[providers.anthropic]
api_key = "sk-canary"

[providers.house]
base_url = "http://house.example/v1"
max_in_flight = 3

[project]
limits = { rpm = 2, tpm = 100, key_in_flight = 1 }
spend_caps = [{ window = "month", usd = "0.01", action = "alert" }]
alerts = [{ usd = "0.01" }, { limit = "rpm", share = 0.1 }]
store_content = false
"""


def measured_config(text: str, directory: Path, *, proxied: bool = False) -> tuple[Config, RoutingTable]:
    (directory / "muxx.toml").write_text(text)
    found = discover()
    config = load_config(directory / "muxx.toml", config_classes(found))
    plugins = build(found, config)
    under = under_test(config, Catalogue(config, plugins).providers, ORDER, 4001, proxied=proxied)
    return under, Catalogue(under, plugins).routing


def test_every_provider_is_led_to_the_upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://azure.example")
    _, routing = measured_config(CAUTIOUS, tmp_path)
    for provider in ("openai", "anthropic", "google", "azure", "groq", "ollama", "house", PROVIDER):
        [target] = routing.plan(f"{provider}/some-model")
        row = target.provider
        assert (row.base_url, row.proxy, row.ca_file, row.openai_url) == (ORDER.upstream, None, None, None), provider
    assert routing.plan("mock")[0].provider.transport == "mock"


def test_limits_caps_and_alerts_are_there_and_out_of_reach(tmp_path: Path) -> None:
    config, _ = measured_config(CAUTIOUS, tmp_path)
    limits = config.project.limits
    assert (limits.rpm, limits.tpm, limits.key_in_flight) == (4_000_000, 4_000_000_000, 1_000_000)
    assert (limits.rpd, limits.user_rpm) == (0, 0), "what the operator does not limit stays so"
    [cap] = config.project.spend_caps
    assert (cap.window, cap.action, cap.usd) == ("month", "alert", Decimal(4_000_000))
    assert [(alert.usd, alert.limit, alert.share) for alert in config.project.alerts] == [
        (Decimal(4_000_000), None, None),
        (None, "rpm", 1.0),
    ]
    assert Config.model_validate(config.model_dump(exclude={"plugins"})), "what it comes to is a valid configuration"


def test_all_else_is_the_operators(tmp_path: Path) -> None:
    config, _ = measured_config(CAUTIOUS, tmp_path)
    server = config.server
    assert (server.host, server.port, server.workers, server.max_headers) == ("127.0.0.1", 4001, 1, 77)
    assert config.database.path == Path("/elsewhere/muxx.db")
    assert config.project.store_content is False
    assert config.providers["house"].max_in_flight == 3
    assert config.plugin_settings["keys"].enabled


@pytest.mark.parametrize(
    ("text", "proxied", "transport"),
    [("", False, "auto"), ("", True, "aiohttp"), ('[server]\ntransport = "lean"', True, "lean")],
)
def test_a_proxy_decides_about_the_transport_as_it_does_in_service(
    text: str, proxied: bool, transport: str, tmp_path: Path
) -> None:
    config, _ = measured_config(text, tmp_path, proxied=proxied)
    assert config.server.transport == transport


def test_the_last_words_of_a_log_are_its_errors_or_else_its_end() -> None:
    lines = [{"level": "info", "message": "hello"}, {"level": "error", "message": "the cellar is locked"}, [], 7]
    log = "\n".join(orjson.dumps(line).decode() for line in lines)
    assert last_words(log + "\nnot JSON\n") == "the cellar is locked"
    assert last_words("Traceback\nValueError: no\n") == "Traceback ValueError: no"
    assert len(last_words("x" * 5000)) == 1000


def test_a_process_that_ends_is_no_riddle(tmp_path: Path) -> None:
    with pytest.raises(CannotMeasure, match=r"the gateway did not start\. .*is not valid TOML") as refused:
        (tmp_path / "broken.toml").write_text("[")
        order = {"config": str(tmp_path / "broken.toml"), "plugins_dir": None, "database": "x", "upstream": "http://127.0.0.1:1/v1"}
        Child("gateway", "muxx.bench.gateway", order, tmp_path).__enter__()
    assert refused.value.exit_code == 1


# ── load and upstream ──


@asynccontextmanager
async def upstream() -> AsyncIterator[Called]:
    """The real one, in this loop."""
    sent: dict[str, list[int]] = {}
    server = await asyncio.get_running_loop().create_server(lambda: Answering(sent), "127.0.0.1", 0)
    async with server:
        yield Called("upstream", server.sockets[0].getsockname()[1], "gpt-4o-mini", "sk-bench")


@asynccontextmanager
async def answering(answer: Callable[[bytes], bytes]) -> AsyncIterator[Called]:
    """Whoever answers each request with what `answer` makes of the number of its call, and then closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
            found = CALL.search(await reader.readexactly(length))
            assert found is not None
            writer.write(answer(found[0]))
            await writer.drain()
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield Called("gateway", server.sockets[0].getsockname()[1], "m", "k")


def test_no_number_is_said_in_digits() -> None:
    assert word_of(0) == b"callaaaaaaaaaaaa"
    assert word_of(0x1F) == b"callaaaaaaaaaabp"
    assert len({word_of(number) for number in range(5000)}) == 5000
    asked = template("h", "m", "k")
    assert asked.count(MARK) == 1
    assert len(orjson.loads(asked.partition(b"\r\n\r\n")[2])["messages"][0]["content"]) == 1024


async def test_every_call_is_another_one_and_the_one_question_is_the_same() -> None:
    async with upstream() as called:
        load = Load()
        first, second = await load.plain(called, 4, 0.05), await load.plain(called, 1, 0.0)
        assert first.answers >= 4
        assert second.answers == 1
        assert first.changed == second.changed == 0
        assert next(load._numbers) == first.answers + second.answers + 1
        assert (await load.plain(called, 2, 0.02, same=True)).answers >= 2
        assert next(load._numbers) == first.answers + second.answers + 2


async def test_it_is_known_of_each_word_when_it_was_sent_and_when_it_came() -> None:
    async with upstream() as called:
        stretch = await Load().streams(called, 3, 6)
        sent = await sent_words(called.port)
        assert await sent_words(called.port) == {}
    assert len(stretch.streamed) == len(sent) == 3
    for call, came in stretch.streamed:
        left = sent[call]
        assert len(left) == len(came) == 7, "the call's number, and six words"
        assert all(there > here for here, there in zip(left, came, strict=True))
        assert all(later - sooner >= 9_000_000 for sooner, later in pairwise(left)), "10 ms apart"


def error_of(status: str, body: bytes) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda call: error_of("429 Too Many", b'{"error":{"message":"Slow down."}}'), "was answered 429: Slow down."),
        (lambda call: error_of("502 Bad", b"<html>"), "was answered 502: <html>"),
        (lambda call: PLAIN_ANSWER.replace(MARK, word_of(4711)), "was answered with the answer of another call"),
        (lambda call: PLAIN_ANSWER[:-1].replace(MARK, call), "a connection ended before its answer had come"),
        (lambda call: b"", "a connection ended before its answer had come"),
    ],
    ids=["refused", "no JSON", "another's", "cut off", "nothing"],
)
async def test_a_wrong_answer_ends_the_measurement_with_what_it_was(answer: Callable[[bytes], bytes], words: str) -> None:
    async with answering(answer) as called:
        with pytest.raises(CannotMeasure) as refused:
            await Load().plain(called, 2, 0.05)
    assert str(refused.value) == f"a call of the gateway {words}"


async def test_a_stream_without_its_end_ends_the_measurement() -> None:
    def broken(call: bytes) -> bytes:
        return HEAD + b'15\r\ndata: {"error":"cut"}\n\n\r\n0\r\n\r\n'.replace(b"15", b"17")

    async with answering(broken) as called:
        with pytest.raises(CannotMeasure, match="was answered by a stream that broke off"):
            await Load().streams(called, 1, 5)


async def test_an_answer_that_never_comes_ends_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muxx.bench.load.PATIENCE_SECONDS", 0.1)
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
    async with server:
        called = Called("gateway", server.sockets[0].getsockname()[1], "m", "k")
        with pytest.raises(CannotMeasure, match=r"a call of the gateway was not answered within 0\.1 s"):
            await Load().plain(called, 1, 0.0)


async def test_nobody_there_is_said() -> None:
    async with upstream() as called:
        pass
    with pytest.raises(CannotMeasure, match="a call of the upstream failed: "):
        await Load().plain(called, 1, 0.0)


async def test_answers_with_another_text_are_counted() -> None:
    def shouted(call: bytes) -> bytes:
        return PLAIN_ANSWER.replace(MARK, call).replace(TEXT.encode(), TEXT.upper().encode())

    async with answering(shouted) as called:
        stretch = await Load().plain(called, 3, 0.0)
    assert (stretch.answers, stretch.changed) == (3, 3)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(text: str) -> bytes:
    return b"data: " + orjson.dumps({"choices": [{"delta": {"content": text}}]}) + b"\n\n"


@pytest.mark.parametrize(
    ("pieces", "came"),
    [
        ([chunk(event("one")), chunk(event(" two")), END], [1, 2]),
        ([chunk(event("one")) + chunk(event(" two")), END], [1, 1]),
        ([chunk(event("one")[:9]), chunk(event("one")[9:] + event(" two")), END], [2, 2]),
        ([chunk(event("one"))[:5], chunk(event("one"))[5:], chunk(event(" two")), END], [2, 3]),
        ([chunk(b": muxx {}\n\n" + event("o")), chunk(event("ne two") + b'data: {"choices":[]}\n\n'), END], [1, 2]),
        ([END], []),
    ],
    ids=["each alone", "two in a read", "an event over two chunks", "a chunk over two reads", "a word over two events", "none"],
)
def test_a_word_has_come_with_the_read_that_ends_its_event(pieces: list[bytes], came: list[int]) -> None:
    arrivals, length = [], 0
    for number, piece in enumerate(pieces, start=1):
        length += len(piece)
        arrivals.append((length, number))
    assert heard(b"".join(pieces), arrivals) == came


async def test_the_upstream_answers_nothing_else() -> None:
    async with upstream() as called:
        reader, writer = await asyncio.open_connection("127.0.0.1", called.port)
        writer.write(b"POST /v1/embeddings HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}")
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 404")
        writer.close()
    assert words(0) == []


# ── rows ──


def measuring_on(logs: Path) -> Measuring:
    child = cast(Child, SimpleNamespace(said={"port": 1, "model": "m", "key": "k"}))
    return Measuring(child, child, logs, "", lambda text, part: None)


def stored(logs: Path, *ids: str) -> None:
    with sqlite3.connect(logs) as db:
        db.execute("CREATE TABLE generations (request_id TEXT)")
        db.executemany("INSERT INTO generations VALUES (?)", [(request_id,) for request_id in ids])
    db.close()


async def test_a_request_without_a_row_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "STORE_SECONDS", 0.2)
    stored(tmp_path / "logs.db", "a", "of-a-plugin", "of-another")
    measured = measuring_on(tmp_path / "logs.db")
    measured._taken.ids = ["a", "b"]
    with pytest.raises(CannotMeasure, match="1 of 2 answered requests have no row after"):
        await measured._count_stored()
    measured._taken.ids = ["a"]
    assert await measured._count_stored() == 1


# ── the machine ──


def test_cpu_is_counted_by_process_group_and_the_rest_is_others() -> None:
    start = Moment({10: Process(10, 1.0, "muxx"), 20: Process(20, 5.0, "cron"), os.getpid(): Process(1, 2.0, "me")}, 100.0, 50.0)
    ended = {
        10: Process(10, 1.5, "muxx"),
        11: Process(10, 0.25, "muxx"),
        20: Process(20, 6.0, "cron"),
        os.getpid(): Process(1, 3.0, "me"),
    }
    use = machine.between(start, Moment(ended, 104.0, 52.0), (10, 30))
    assert use is not None
    assert (use.of(10), use.of(30), use.of(99)) == (0.75, 0.0, 0.0)
    assert use.others == pytest.approx(4.0 - 0.75 - 1.0)
    assert (use.busiest, use.seconds) == ("cron", 2.0)


def test_without_proc_nothing_is_known(tmp_path: Path) -> None:
    nothing = machine.now(tmp_path / "none")
    assert not nothing.known
    assert machine.between(nothing, machine.now(), ()) is None


def test_this_process_is_found_with_what_it_has_used() -> None:
    here = machine.now().processes[os.getpid()]
    assert here.group == os.getpgrp()
    assert here.seconds > 0


def test_a_sync_takes_its_time(tmp_path: Path) -> None:
    assert 0 < machine.sync_ms(tmp_path) < 60_000


def test_what_is_for_developers_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in machine.DEBUG_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    quiet = machine.debugging()
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    assert machine.debugging() == ["$PYTHONASYNCIODEBUG", *quiet]


# ── the figures and their words ──

MS = 1_000_000


def taken(**changes: Any) -> Taken:
    rounds = {
        "direct": [[MS, 1 * MS, 3 * MS], [2 * MS]],
        "muxx": [[2 * MS, 2 * MS, 9 * MS], [4 * MS]],
        "direct_events": [[MS // 10]] * 2,
        "muxx_events": [[MS // 2]] * 2,
        "direct_rates": [20_000.0, 22_000.0],
        "muxx_rates": [5_000.0, 6_000.0],
        "cpu": [(0.5, 3000), (0.25, 2000)],
        "hits": [[MS], [MS]],
        "hit_cpu": [(0.1, 1000)],
        "ids": ["a", "b"],
    }
    return Taken(**{**rounds, **changes})


def test_a_figure_is_the_median_over_the_rounds_and_what_is_added_is_of_the_same_round() -> None:
    found = summed_up(taken(), machine.Use({}, 1.5, "cron", 3.0), 2, 30.0)
    assert found.request.direct.p50_ms == 1.5
    assert found.request.muxx.p50_ms == 3.0
    assert found.request.added == Latency(1.5, 9.0 - 3.0)
    assert found.event is not None
    assert found.event.added.p50_ms == pytest.approx(0.4)
    assert (found.direct_per_s, found.muxx_per_s) == (21_000.0, 5_500.0)
    assert found.cpu_us == pytest.approx(150.0)
    assert found.per_core == pytest.approx(1e6 / 150)
    assert found.hit == Latency(1.0, 1.0)
    assert (found.requests, found.rows, found.seconds) == (2, 2, 30.0)
    assert found.spread == pytest.approx(2 / 3), "the medians 2 and 4 ms, of which the median is 3"
    assert (found.others_cores, found.busiest) == (0.5, "cron")


def test_what_could_not_be_measured_is_none_and_not_zero() -> None:
    found = summed_up(taken(hits=[], hit_cpu=[], cpu=[], muxx_events=[[], []]), None, None, 3.0)
    assert (found.event, found.hit, found.cpu_us, found.hit_cpu_us, found.rows, found.others_cores) == (None,) * 6
    assert found.per_core == found.muxx_per_s


FIGURES = Figures(
    request=Compared(Latency(0.1, 0.3), Latency(0.5, 1.6), Latency(0.4, 1.3)),
    event=Compared(Latency(0.05, 0.2), Latency(0.15, 0.7), Latency(0.1, 0.5)),
    direct_per_s=21_000.0,
    muxx_per_s=7_000.0,
    cpu_us=196.0,
    hit=Latency(0.25, 0.9),
    hit_cpu_us=80.0,
    requests=45_678,
    rows=45_678,
    changed=0,
    spread=0.1,
    others_cores=0.05,
    busiest="cron",
    seconds=30.0,
)
QUIET = Circumstances(
    version="1.0",
    python="CPython 3.13.1",
    config="muxx.toml",
    plugins=["keys", "logs"],
    uvloop=True,
    durability="crash",
    sync_ms=0.3,
    elsewhere=None,
    most_calls=9500,
    files=65536,
    cores=4,
    quota=None,
    throttled_s=0.0,
    workers=4,
    debugging=[],
    proxied=False,
)


def test_the_verdict_in_plain_words() -> None:
    assert list(verdict.verdict(replace(FIGURES, cpu_us=1e6 / 4600), 9500)) == [
        "muxx adds 0.40 ms to a request, and 1.30 ms to the slowest in a hundred.",
        "One core serves 4,600 requests/s: at 2 s per answer that is 9,200 calls in flight.",
        "A token of a stream is delayed by 0.10 ms.",
        "An answer from the cache takes 0.25 ms.",
        "All 45,678 requests have their row in the log.",
    ]
    assert verdict.setting(QUIET) == (
        "One worker of muxx 1.0 on CPython 3.13.1 and uvloop, with muxx.toml, durability 'crash', and the plugins keys, logs.\n"
    )


def test_the_verdict_says_what_one_worker_takes() -> None:
    said = list(verdict.verdict(FIGURES, 384))
    assert said[1] == "One core serves 5,100 requests/s: at 2 s per answer that is 10,000 calls in flight, of which a worker takes 384."


def test_the_table_has_a_row_for_every_figure_there_is() -> None:
    shown = {row[0]: row[1:] for row in verdict.rows(FIGURES)}
    assert shown["a request, 1 connection, p50 ms"] == ("0.10", "0.50", "0.40")
    assert shown["a token of a stream, p99 ms"] == ("0.20", "0.70", "0.50")
    assert shown["requests/s, 64 connections"] == ("21,000", "7,000", "")
    assert shown["CPU of a request, µs"] == ("", "196", "")
    assert shown["requests/s that one core serves"] == ("", "5,102", "")
    assert shown["rows in the log"] == ("", "45,678", "")
    least = replace(FIGURES, event=None, cpu_us=None, hit=None, hit_cpu_us=None, rows=None)
    assert [row[0] for row in verdict.rows(least)] == [
        "a request, 1 connection, p50 ms",
        "a request, 1 connection, p99 ms",
        "requests/s, 64 connections",
        "requests",
    ]


def test_a_quiet_machine_gives_no_warning() -> None:
    assert verdict.warnings(FIGURES, QUIET) == []


@pytest.mark.parametrize(
    ("name", "figures", "about", "words"),
    [
        ("busy", {"others_cores": 0.5}, {}, "Other processes kept 0.5 of 4 cores busy, most of it by 'cron'. Measure again"),
        ("busy", {"others_cores": 0.5, "busiest": None}, {}, "Other processes kept 0.5 of 4 cores busy. Measure again"),
        ("noise", {"spread": 0.45}, {}, "The rounds are 45% apart"),
        ("cores", {}, {"cores": 1, "workers": 1}, "There is one core"),
        ("proc", {"cpu_us": None}, {}, "Without /proc nobody can say"),
        ("changed", {"changed": 1204}, {}, "1,204 answers had another text"),
        ("folder", {}, {"elsewhere": "/tmp"}, "the disk of /tmp was used. Run this as muxx's user"),
        ("debug", {}, {"debugging": ["$PYTHONDEVMODE"]}, "Debugging is on, which makes Python slow: $PYTHONDEVMODE."),
        ("uvloop", {}, {"uvloop": False}, "Install it: pip install uvloop."),
        ("disk", {}, {"durability": "power", "sync_ms": 4.25}, "an answer waits for the disk, and a sync takes 4.25 ms here"),
        ("disk", {}, {"sync_ms": 31.0}, "The disk is slow: a sync takes 31 ms."),
        ("files", {}, {"most_calls": 384, "files": 1024}, "A worker takes 384 calls at a time, for a process may open 1,024 files"),
        ("files", {}, {"most_calls": -96, "files": 64}, "A worker takes 0 calls at a time"),
        ("throttled", {}, {"throttled_s": 1.25}, "held muxx and the load back for 1.2 s"),
        ("quota", {}, {"quota": 1.5, "workers": 1}, "the time of 1.5 of 4 cores"),
        ("workers", {}, {"workers": 9}, '[server] workers is 9, which share the time of 4 cores. Set it to "auto".'),
        ("proxy", {}, {"proxied": True}, "A proxy stands between muxx and providers"),
    ],
)
def test_what_is_wrong_on_this_machine_is_said_with_advice(
    name: str, figures: dict[str, Any], about: dict[str, Any], words: str
) -> None:
    [warning] = verdict.warnings(replace(FIGURES, **figures), replace(QUIET, **about))
    assert warning.name == name
    assert words in warning.text


def test_a_quota_below_the_workers_is_two_warnings() -> None:
    found = verdict.warnings(FIGURES, replace(QUIET, quota=1.5, workers=4))
    assert [warning.name for warning in found] == ["quota", "workers"]
    assert "the time of 1.5 cores" in found[1].text


@pytest.mark.parametrize("about", [{"durability": "power", "sync_ms": 0.4}, {"sync_ms": 12.0}, {"quota": 4.0}, {"throttled_s": 0.1}])
def test_what_is_good_enough_is_not_warned_of(about: dict[str, Any]) -> None:
    assert verdict.warnings(FIGURES, replace(QUIET, **about)) == []


def test_json_holds_everything_with_no_more_digits_than_mean_something() -> None:
    found = verdict.as_json(replace(FIGURES, cpu_us=196.123456), replace(QUIET, uvloop=False))
    assert found["cpu_us"] == 196.123
    assert found["requests_per_s_per_core"] == pytest.approx(5098.8, abs=0.1)
    assert found["connections"] == 64
    assert found["machine"]["plugins"] == ["keys", "logs"]
    assert found["verdict"][0].startswith("muxx adds")
    assert [warning["name"] for warning in found["warnings"]] == ["uvloop"]
    assert orjson.loads(orjson.dumps(found)) == found
