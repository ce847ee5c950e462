"""Running the matrix: a real gateway with the plugin, its cases, and what came of each."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import orjson

from muxx.exchange import Record
from muxx.plugins import check_hooks, discover

from .. import leak
from ..client import RawClient, RawResponse
from ..installing import installed
from ..running import RunningGateway
from ..said import ENDPOINTS, Said, Tool, endpoint_at
from ..settings import PROVIDER_KEY, clean_environment, merged
from ..speaking import plain
from ..state import changed, shared_state
from ..tables import log_tables
from ..upstream import CONNECTION, RecordedRequest, ScriptedUpstream
from ..values import request_body
from ..waiting import eventually
from ..watching import HookCall
from .cases import PAIR, SUBJECT, Case, matrix
from .provider import script_for
from .troupe import NUMBER, SECRET, Notes, caching, probes

AT_ONCE = 16
"""Cases that run side by side."""
PATIENCE = 30.0
"""Seconds to wait for what has to come; far more than it takes."""
AT_WORK = 0.03
"""Seconds that the gateway has for the bytes a provider has sent: a plugin may hold all of them back, so the client need not see
any."""
CLIENTS_OWN = {"Authorization": "Bearer sk-client-own-1", "X-Api-Key": "sk-client-own-2", "Cookie": "session=sk-client-own-3"}
"""Credentials of the client that are not muxx's, sent with every request: no plugin needs to see them either."""


@dataclass(frozen=True)
class Subject:
    """The plugin that is tested, and what is known of it. See `muxx.testing.conformance.Conformance`."""

    plugin: type
    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    changes_answers: bool = False
    changes_requests: bool = False
    text: str = "Grüß Gott, wie geht es dir? 👋"

    @property
    def hooks(self) -> tuple[str, ...]:
        return check_hooks(self.name, object.__new__(self.plugin))

    def said(self, endpoint: str) -> Said:
        """What the provider says at each endpoint."""
        if endpoint == "embeddings":
            return Said(vectors=((0.5, -0.25), (1.0, 0.0)), finish_reason=None, output_tokens=None)
        if endpoint == "text_completion":
            return Said(self.text)
        return Said(self.text, self.text, (Tool("note", '{"text":"' + self.text + '"}'),), finish_reason="tool_calls")


@dataclass
class Result:
    """What came of a case: what was asked, what the client got, and what the provider saw. `row` is as `/v1/logs` tells it."""

    case: Case
    asked: dict[str, Any] = field(default_factory=dict)
    response: RawResponse | None = None
    upstream: list[RecordedRequest] = field(default_factory=list)
    left_at: float | None = None


@dataclass
class Evidence:
    """All that the invariants are judged by."""

    subject: Subject
    notes: Notes
    chains: Mapping[str, list[str]] = field(default_factory=dict)
    """The plugins of each chain, in order."""
    ignores_crashes: bool = False
    calls: list[HookCall] = field(default_factory=list)
    """Every hook that ran while the matrix did."""
    records: list[Record] = field(default_factory=list)
    """Every record that came meanwhile; a row may come more than once."""
    results: list[Result] = field(default_factory=list)
    cached_calls: int = 0
    """Requests to the provider for what the cache had."""
    again: list[Result] = field(default_factory=list)
    """The answered cases once more, through a second gateway of the same process."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """The project's rows in the log, as `GET /v1/logs` lists them."""
    tables: tuple[list[str], list[str]] = ([], [])
    """The log database before and after every row was delivered again."""
    log: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    left_behind: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    """What the event loop complained of."""
    unfinished: list[str] = field(default_factory=list)
    """What was waited for in vain."""

    def expected(self, result: Result) -> Case:
        """How the case has to end, given whether its act came about."""
        case, act = result.case, result.case.act
        if act is None or act.what == "hangs" or case.leaves:
            return case
        ignored = self.ignores_crashes and act.what == "crashes" and act.who == SUBJECT and act.hook != "record"
        return case if case.number in self.notes.acted and not ignored else case.as_if_nobody_acted()


class _Log(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.DEBUG)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))


async def examine(subject: Subject, cases: Iterable[Case] | None = None) -> Evidence:
    """Take the plugin through the matrix, or through some of its cases."""
    chosen = list(matrix(subject.hooks) if cases is None else cases)
    notes = Notes(chosen, subject.name)
    evidence = Evidence(subject, notes)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: evidence.complaints.append(str(context.get("message"))))
    logger, handler = logging.getLogger("muxx"), _Log(evidence.log)
    logger.addHandler(handler)
    before = shared_state(subject.plugin)
    try:
        with (
            mock.patch.dict(os.environ, clean_environment(), clear=True),
            tempfile.TemporaryDirectory(prefix="muxx-") as made,
            installed(_plugins(subject, notes), Path(made)),
        ):
            await _run(evidence, chosen, Path(made))
    finally:
        logger.removeHandler(handler)
    evidence.shared += [f"{name} changed" for name in changed(before, shared_state(subject.plugin))]
    return evidence


def _plugins(subject: Subject, notes: Notes) -> dict[str, type]:
    """What has to be installed for the run: the plugin too, unless it is."""
    known = {found.name: found.cls for found in discover()}
    if subject.name in known and known[subject.name] is not subject.plugin:
        raise ValueError(f"another plugin named {subject.name!r} is installed: give yours another name")
    own = {} if subject.name in known else {subject.name: subject.plugin}
    return own | probes(notes) | caching(lambda endpoint: plain(endpoint, subject.said(endpoint), "gpt-4o"))


async def _run(evidence: Evidence, cases: Sequence[Case], directory: Path) -> None:
    before = _open_things()
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(ScriptedUpstream())
        places = [directory / name for name in ("one", "two")]
        for place in places:
            place.mkdir()
        async with (
            _gateway(evidence.subject, upstream, places[0]) as one,
            _gateway(evidence.subject, upstream, places[1]) as two,
        ):
            evidence.shared += _shared_objects(evidence.subject.name, one, two)
            await _Examination(evidence, one, upstream).run(cases)
            evidence.again = await _Examination(evidence, two, upstream).answered(cases)
        await _settle(evidence, "the end of all tasks and threads", lambda: not _more(_open_things(), before))
        evidence.left_behind += _more(_open_things(), before)
        await _settle(evidence, "connections to the provider", lambda: upstream.open_connections == 0)
        evidence.leaks += _leaks(evidence, places)


@asynccontextmanager
async def _gateway(subject: Subject, upstream: ScriptedUpstream, directory: Path) -> AsyncIterator[RunningGateway]:
    pair = {"name": PAIR, "targets": ["openai/gpt-4o-first", "openai/gpt-4o"]}
    config = {"models": [pair], "plugins": {subject.name: dict(subject.settings)}}
    async with RunningGateway(merged(config, subject.config), upstream=upstream, directory=directory) as gateway:
        yield gateway


def _open_things() -> Counter[str]:
    """Tasks and threads by name, but for this task, the provider's, and the threads event loops share."""
    threads = [thread.name for thread in threading.enumerate() if not thread.name.startswith("asyncio_")]
    return _tasks() + Counter(threads)


def _tasks() -> Counter[str]:
    """Tasks by name, but for this one, the provider's, and those that own the database's writing connections."""
    names = [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    return Counter(name for name in names if name != CONNECTION and not name.startswith("write "))


def _more(now: Counter[str], before: Counter[str]) -> list[str]:
    return [name for name, count in now.items() if count > before[name]] if now.total() > before.total() else []


async def _settle(evidence: Evidence, what: str, condition: Any) -> None:
    try:
        await eventually(condition, PATIENCE)
    except AssertionError:
        evidence.unfinished.append(what)


def _shared_objects(name: str, one: RunningGateway, two: RunningGateway) -> list[str]:
    """Attributes of the two instances that are one and the same object, and could change."""
    first, second = (vars_of(running.gateway.plugins.by_name[name].instance) for running in (one, two))
    containers = (dict, list, set, bytearray)
    return [
        f"attribute {attribute} of the two instances is one object"
        for attribute, value in first.items()
        if isinstance(value, containers) and second.get(attribute) is value
    ]


def vars_of(instance: object) -> Mapping[str, Any]:
    return getattr(instance, "__dict__", {})


def _leaks(evidence: Evidence, places: Iterable[Path]) -> list[str]:
    """Canaries where they must not be: the disk, the log, what clients and providers got."""
    notes = evidence.notes
    client = [*notes.canaries, SECRET]
    files = [file for place in places for file in place.rglob("*") if file.is_file() and file.name != "muxx.toml"]
    texts = ["\n".join(evidence.log)]
    for result in (*evidence.results, *evidence.again):
        if result.response is not None:
            texts.append(f"{result.response.headers}{result.response.body!r}")
    found = leak.find([*client, PROVIDER_KEY], *files, *texts)
    sent = [f"{request.headers}{request.body!r}" for result in evidence.results for request in result.upstream]
    found += leak.find(client, *sent)
    return [f"{item.canary} at {Path(item.place).name}" for item in found]


class _Examination:
    """The cases of one gateway."""

    def __init__(self, evidence: Evidence, gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
        self._evidence = evidence
        self._subject = evidence.subject
        self._notes = evidence.notes
        self._gateway = gateway
        self._upstream = upstream
        self._results = {0: Result(Case("chat", False, "answered", cached=True))}
        """By number. 0 stands for the requests that fill the cache."""
        self._turns = asyncio.Semaphore(AT_ONCE)
        own = [value.split("=")[-1].split(" ")[-1] for value in CLIENTS_OWN.values()]
        self._notes.canaries += [*own, gateway.key]
        upstream.script(self._choose)

    async def run(self, cases: Sequence[Case]) -> None:
        """All of the matrix, and everything that is to be seen of it afterwards."""
        evidence, plugins = self._evidence, self._gateway.gateway.plugins
        evidence.chains = {hook: [step.plugin for step in chain] for hook, chain in plugins.chains.items()}
        evidence.ignores_crashes = plugins.by_name[self._subject.name].config.on_error == "ignore"
        await self._prime({case.endpoint for case in cases})
        at_rest = _tasks()
        evidence.results = list(await asyncio.gather(*(self._carry(case) for case in cases)))
        await self._stored()
        await _settle(evidence, "the gateway's rest after the last request", lambda: not _more(_tasks(), at_rest))
        evidence.left_behind += [f"{name} (while running)" for name in _more(_tasks(), at_rest)]
        evidence.calls, evidence.records = list(self._notes.watch.calls), list(self._notes.records)
        evidence.cached_calls = len(self._results[0].upstream) - len({case.endpoint for case in cases})
        await self._committed()
        evidence.rows = await self._listed()
        evidence.tables = await log_tables(self._gateway.gateway), await self._tables_after_redelivery()

    async def answered(self, cases: Sequence[Case]) -> list[Result]:
        """The cases that nobody disturbs, once more."""
        quiet = [case for case in cases if case.outcome == "answered"]
        await self._prime({case.endpoint for case in quiet})
        return list(await asyncio.gather(*(self._carry(case) for case in quiet)))

    async def _prime(self, endpoints: Iterable[str]) -> None:
        """Ask at each endpoint what the cached cases will ask again."""
        for endpoint in sorted(endpoints):
            case = Case(endpoint, False, "answered", cached=True)
            await self._ask(Result(case, self._body(case)))
        await self._gateway.gateway.finish_tasks("post_response")

    # ── one case ──

    async def _carry(self, case: Case) -> Result:
        result = self._results[case.number] = Result(case, self._body(case))
        return await self._ask(result)

    async def _ask(self, result: Result) -> Result:
        case = result.case
        data = case.body if case.body is not None else orjson.dumps(result.asked)
        async with self._turns:
            async with await RawClient.connect(self._gateway.base_url, within=PATIENCE) as client:
                await client.request("POST", ENDPOINTS[case.endpoint], self._headers(case), data)
                if not case.leaves:
                    await self._read(result, client)
                    return result
                await self._wait_for(case)
                result.left_at = time.monotonic()
                client.reset() if case.hooked else client.close()
            await self._end_of(result)
        return result

    async def _read(self, result: Result, client: RawClient) -> None:
        try:
            result.response = await client.read_response()
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError) as error:
            self._evidence.unfinished.append(f"{result.case}: its response ({type(error).__name__})")

    def _headers(self, case: Case) -> dict[str, str]:
        headers = {"Content-Type": "application/json", NUMBER: str(case.number)}
        if case.anonymous:
            return headers
        return headers | {"X-Muxx-Api-Key": self._gateway.key, **CLIENTS_OWN, **self._subject.headers}

    def _body(self, case: Case) -> dict[str, Any]:
        """Every case asks for something of its own, but for those to be answered from the cache. A stream is asked for usage."""
        members: dict[str, Any] = {"seed": 0 if case.cached else case.number}
        if case.stream:
            members["stream"] = True
            if case.endpoint != "responses":
                members["stream_options"] = {"include_usage": True}
        return request_body(case.endpoint, "Hello", model=case.model, **members)

    def _choose(self, request: RecordedRequest) -> Any:
        asked = request.json()
        number = asked.get("seed")
        result = self._results.get(number if isinstance(number, int) else 0, self._results[0])
        result.upstream.append(request)
        case = result.case if number else replace(result.case, endpoint=endpoint_at(request.target))
        return script_for(case, len(result.upstream), self._subject)

    async def _wait_for(self, case: Case) -> None:
        """Return at the moment at which the client is to leave."""
        result = self._results[case.number]
        if case.leaves == "in pre_request":
            await _settle(self._evidence, f"{case}: its moment", lambda: case.number in self._notes.acted)
            return
        await _settle(self._evidence, f"{case}: its request to the provider", lambda: result.upstream)
        if case.leaves == "before the head" or not result.upstream:
            return
        await _settle(self._evidence, f"{case}: the provider's bytes", lambda: result.upstream[0].produced > 0)
        await asyncio.sleep(AT_WORK)

    async def _end_of(self, result: Result) -> None:
        """Wait until an exchange whose client left has ended, and its provider's connection with it."""
        case, calls = result.case, self._notes.watch.calls
        number = str(case.number)

        def ended() -> bool:
            last = (call.exchange for call in calls if call.hook == "post_response" and call.exchange is not None)
            return any(exchange.request.headers.get(NUMBER) == number for exchange in last)

        await _settle(self._evidence, f"{case}: post_response", ended)
        open_ones = [request for request in result.upstream if request.left_at is None]
        await _settle(self._evidence, f"{case}: its upstream connection's end", lambda: all(r.left_at for r in open_ones))

    # ── afterwards ──

    async def _stored(self) -> None:
        """Wait until every exchange that has ended is stored."""
        ended = self._ended()
        records = self._notes.records
        await _settle(self._evidence, "every row in the database", lambda: ended <= {row["request_id"] for row in records})

    def _ended(self) -> set[str]:
        calls = self._notes.watch.calls
        return {call.exchange.id for call in calls if call.hook == "post_response" and call.exchange is not None}

    async def _listed(self) -> list[dict[str, Any]]:
        """Every row of the project, page by page."""
        rows: list[dict[str, Any]] = []
        after = ""
        while True:
            async with await self._gateway.connect() as client:
                headers = {"X-Muxx-Api-Key": self._gateway.key, **self._subject.headers}
                await client.request("GET", f"/v1/logs?limit=100{after}", headers)
                page = (await client.read_response()).json()
            rows += page["data"]
            if not page["has_more"]:
                return rows
            after = f"&after={rows[-1]['request_id']}"

    async def _tables_after_redelivery(self) -> list[str]:
        """Bring every row once more, as the journal may after a crash."""
        last = list({record["request_id"]: record for record in self._notes.records}.values())
        await self._deliver(last)
        await self._committed()
        return await log_tables(self._gateway.gateway)

    async def _committed(self) -> None:
        """Wait until all that the hooks were brought is in the database: the next batch begins only then."""
        await self._deliver(self._notes.records[:1])

    async def _deliver(self, records: Sequence[Record]) -> None:
        """Put rows into the journal, and wait until the recorder has brought them to the hooks."""
        came, wanted = len(self._notes.records), {record["request_id"] for record in records}
        for record in records:
            row = {name: value for name, value in record.items() if name not in ("input", "output")}
            self._gateway.gateway.journal.amend(row, {}, record["input"], record["output"])
        seen = self._notes.records
        await _settle(self._evidence, "a row's second coming", lambda: wanted <= {row["request_id"] for row in seen[came:]})


def without_numbers(cases: Iterable[Case]) -> list[Case]:
    """The cases, numbered anew: for a part of the matrix."""
    return [replace(case, number=number) for number, case in enumerate(cases, 1)]
