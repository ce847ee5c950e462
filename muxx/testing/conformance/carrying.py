"""Carrying the cases of the matrix through one gateway, as a client, and in front of its provider."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from itertools import groupby
from typing import Any

import orjson

from muxx.exchange import Exchange
from muxx.row import Record

from ..asking import request_body, request_target, sent
from ..client import RawClient
from ..running import RunningGateway
from ..steps import Script
from ..tables import log_tables
from ..upstream import RecordedRequest, ScriptedUpstream
from .cases import DEFAULT, FORMS, OTHER, Case, mark_in, marked, priming
from .evidence import Evidence, Result
from .leftovers import more, open_tasks
from .provider import Gates, script_for, script_of_shared
from .troupe import NUMBER, PROJECT

AT_ONCE = 16
"""Cases that run side by side."""
AT_WORK = 0.03
"""Seconds that the gateway has for the bytes a provider has sent: a plugin may hold all of them back, so the client need not see
any."""
MOST_REDELIVERIES = 3
CLIENTS_OWN = {"Authorization": "Bearer sk-client-own-1", "X-Api-Key": "sk-client-own-2", "Cookie": "session=sk-client-own-3"}
"""Credentials of the client that are not muxx's, sent with every request: no plugin needs to see them either."""


class Examination:
    """The cases of one gateway."""

    def __init__(self, evidence: Evidence, gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
        self._evidence = evidence
        self._subject = evidence.subject
        self._notes = evidence.notes
        self._gateway = gateway
        self._results: dict[int, Result] = {}
        """By number. 0 stands for the requests that fill the cache."""
        self._gates: dict[int, Gates] = {}
        """What the providers of shared calls wait for, by the number of the case that begins the call."""
        self._turns = asyncio.Semaphore(AT_ONCE)
        own = [value.split("=")[-1].split(" ")[-1] for value in CLIENTS_OWN.values()]
        self._notes.canaries += [*own, gateway.key]
        upstream.script(self._choose)

    async def run(self, cases: Sequence[Case]) -> None:
        """All of the matrix, and everything that is to be seen of it afterwards."""
        evidence, plugins = self._evidence, self._gateway.gateway.plugins
        evidence.chains = {hook: [step.plugin for step in chain] for hook, chain in plugins.chains.items()}
        evidence.ignores_crashes = plugins.by_name[self._subject.name].config.on_error == "ignore"
        project = self._gateway.gateway.projects.resolve(DEFAULT)
        evidence.caches = "cache" in plugins.by_name and project.settings.cache_enabled
        cases = self._possible(cases)
        await self._prime(cases)
        at_rest = open_tasks()
        evidence.results = await self._all(cases)
        await evidence.settle("the gateway's rest after the last request", lambda: not more(open_tasks(), at_rest))
        await self._stored()
        evidence.left_behind += [f"{name} (while running)" for name in more(open_tasks(), at_rest)]
        evidence.calls, evidence.records = list(self._notes.watch.calls), await self._all_records()
        evidence.rows = await self._listed()
        evidence.tables = await self._tables_around_redelivery()

    async def answered(self, cases: Sequence[Case]) -> list[Result]:
        """The cases that nobody disturbs, once more."""
        quiet = [case for case in self._possible(cases) if case.outcome == "answered"]
        await self._prime(quiet)
        return await self._all(quiet)

    def _possible(self, cases: Iterable[Case]) -> list[Case]:
        """Those that can come about in this gateway."""
        return [case for case in cases if self._evidence.caches or not case.asks_the_cache]

    async def _prime(self, cases: Iterable[Case]) -> None:
        """Ask at each endpoint what the cached cases will ask again."""
        asked = {case.way for case in cases if case.asks_the_cache}
        for form in FORMS:
            if form.way in asked:
                await self._carry(priming(form))
        await self._gateway.gateway.finish_tasks("post_response")

    async def _all(self, cases: Iterable[Case]) -> list[Result]:
        """What comes of the cases, those of one seed together where they share a call."""
        chosen = list(cases)
        shared = groupby((case for case in chosen if case.part), lambda case: case.seed)
        carried = [self._carry(case) for case in chosen if not case.part]
        together = [self._carry_together(list(group)) for _, group in shared]
        alone, joined = await asyncio.gather(asyncio.gather(*carried), asyncio.gather(*together))
        return [*alone, *(result for results in joined for result in results)]

    # ── one case ──

    async def _carry(self, case: Case) -> Result:
        result = self._begin(case)
        async with self._turns:
            async with await self._connect() as client:
                await self._ask(client, result)
                if not case.leaves:
                    await self._read(result, client)
                    return result
                await self._wait_for(case)
                result.left_at = time.monotonic()
                client.reset() if case.hooked else client.close()  # RST or FIN: the gateway has to notice both
            await self._end_of(result)
        return result

    def _begin(self, case: Case) -> Result:
        result = self._results[case.number] = Result(case, self._body(case))
        return result

    async def _connect(self) -> RawClient:
        return await RawClient.connect(self._gateway.base_url, within=self._evidence.patience)

    async def _ask(self, client: RawClient, result: Result) -> None:
        case = result.case
        data = case.body if case.body is not None else orjson.dumps(sent(case.endpoint, result.asked))
        await client.request("POST", request_target(case.endpoint, case.model, stream=case.stream), self._headers(case), data)

    async def _read(self, result: Result, client: RawClient) -> None:
        try:
            result.response = await client.read_response()
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError) as error:
            self._evidence.unfinished.append(f"{result.case}: its response ({type(error).__name__})")

    def _headers(self, case: Case) -> dict[str, str]:
        headers = {"Content-Type": "application/json", NUMBER: str(case.number)}
        if case.anonymous:
            return headers
        if case.project == OTHER:
            headers[PROJECT] = OTHER
        return headers | {"X-Muxx-Api-Key": self._gateway.key, **CLIENTS_OWN, **self._subject.headers}

    def _body(self, case: Case) -> dict[str, Any]:
        """Every case asks for something of its own, but for those of one seed. A stream is asked for usage."""
        members: dict[str, Any] = {"stream": True} if case.stream else {}
        if case.stream and case.endpoint in ("chat", "text_completion"):
            members["stream_options"] = {"include_usage": True}
        return request_body(case.endpoint, marked(case.seed), model=case.model, **members)

    def _choose(self, request: RecordedRequest) -> Script:
        """What the provider does: as the case says that the call is made for, or, where nobody has said so, that began to ask."""
        named = request.header(NUMBER)
        number = int(named) if named else mark_in(request.body)
        result = self._results[number if number in self._results else 0]
        result.upstream.append(request)
        case = result.case
        if case.part:
            return script_of_shared(case, self._subject, self._gates[case.seed or 0])
        return script_for(case, len(result.upstream), self._subject)

    async def _wait_for(self, case: Case) -> None:
        """Return at the moment at which the client is to leave."""
        result = self._results[case.number]
        if case.leaves == "in pre_request":
            await self._evidence.settle(f"{case}: its moment", lambda: case.number in self._notes.acted)
            return
        await self._evidence.settle(f"{case}: its request to the provider", lambda: result.upstream)
        if case.leaves == "before the head" or not result.upstream:
            return
        await self._evidence.settle(f"{case}: the provider's bytes", lambda: result.upstream[0].produced > 0)
        await asyncio.sleep(AT_WORK)

    async def _end_of(self, result: Result) -> None:
        """Wait until an exchange whose client left has ended, and its provider's connection with it."""
        case = result.case
        await self._evidence.settle(f"{case}: post_response", lambda: case.number in self._notes.over)
        if case.part:
            return  # the call is the others' too
        open_ones = [request for request in result.upstream if request.left_at is None]
        await self._evidence.settle(f"{case}: its upstream connection's end", lambda: all(r.left_at for r in open_ones))

    # ── a call that several share ──

    async def _carry_together(self, cases: Sequence[Case]) -> list[Result]:
        """Ask the same at once. Their provider says nothing before all of them wait for it."""
        gates = self._gates[cases[0].number] = Gates()
        results = [self._begin(case) for case in cases]
        leaving = [result for result in results if result.case.leaves]
        async with self._turns:
            async with AsyncExitStack() as stack:
                clients = [await stack.enter_async_context(await self._connect()) for _ in cases]
                for client, result in zip(clients, results, strict=True):
                    await self._ask(client, result)
                    await self._evidence.settle(f"{result.case}: its place in the call", partial(self._is_aboard, result))
                await self._let_go(clients, results, "before the head")
                gates.begin.set()
                if any(result.case.leaves == "in the middle" for result in leaving):
                    asked = results[0].upstream
                    await self._evidence.settle(
                        f"{cases[0]}: the provider's bytes", lambda: all(request.produced > 0 for request in asked)
                    )
                    await asyncio.sleep(AT_WORK)
                    await self._let_go(clients, results, "in the middle")
                gates.rest.set()
                staying = [pair for pair in zip(results, clients, strict=True) if pair[0] not in leaving]
                await asyncio.gather(*(self._read(result, client) for result, client in staying))
            for result in leaving:
                await self._end_of(result)
        return results

    def _is_aboard(self, result: Result) -> bool:
        """The exchange waits for an answer: of its own call, or of another's; or it has come to nothing."""
        exchange = self._notes.exchanges.get(result.case.number)
        return bool(result.upstream) or (exchange is not None and (exchange.cache == "joined" or _is_over(exchange)))

    async def _let_go(self, clients: Sequence[RawClient], results: Sequence[Result], moment: str) -> None:
        """Have the clients leave whose moment it is, and wait until the gateway has seen it."""
        for client, result in zip(clients, results, strict=True):
            if result.case.leaves == moment:
                client.close()
                await self._evidence.settle(f"{result.case}: its client's leaving", partial(self._is_left, result))

    def _is_left(self, result: Result) -> bool:
        exchange = self._notes.exchanges.get(result.case.number)
        return exchange is None or _is_over(exchange)

    # ── afterwards ──

    async def _stored(self) -> None:
        """Wait until every exchange is stored; all have ended, for the gateway is at rest."""
        ended = self._ended()
        records = self._notes.records
        await self._evidence.settle("every row in the database", lambda: ended <= {row["request_id"] for row in records})

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

    async def _tables_around_redelivery(self) -> tuple[list[str], list[str]]:
        """The log database before and after every row was brought once more, as the journal may after a crash.

        What differs is looked at again: a plugin may sum up rows on a timer, and that may have come in between. What comes of
        the rows themselves comes every time.
        """
        last = list({record["request_id"]: record for record in self._notes.records}.values())
        for _ in range(MOST_REDELIVERIES):
            before = await log_tables(self._gateway.gateway)
            await self._deliver(last)
            await self._committed()
            after = await log_tables(self._gateway.gateway)
            if before == after:
                break
        return before, after

    async def _all_records(self) -> list[Record]:
        """All that the hooks were brought, also what was said of a row later, as what a shared call came to in the end."""
        records, came = self._notes.records, len(self._notes.records)
        await self._committed()
        return records[:came] + [record for record in records[came:] if record["request_id"] != records[0]["request_id"]]

    async def _committed(self) -> None:
        """Wait until all that the hooks were brought is in the database, and all that was noted before has been brought to them:
        one record is brought again behind it."""
        await self._deliver(self._notes.records[:1])

    async def _deliver(self, records: Sequence[Record]) -> None:
        """Put rows into the journal, and wait until the recorder has brought them to the hooks."""
        came, wanted = len(self._notes.records), {record["request_id"] for record in records}
        for record in records:
            row = {name: value for name, value in record.items() if name not in ("input", "output")}
            self._gateway.gateway.journal.amend(row, record["input"], record["output"])
        seen = self._notes.records
        await self._evidence.settle("a row's second coming", lambda: wanted <= {row["request_id"] for row in seen[came:]})


def _is_over(exchange: Exchange) -> bool:
    """It has ended, well or not; its shared call may go on."""
    return exchange.error is not None or exchange.timing.ended is not None
