"""Carrying the cases of the matrix through one gateway, as a client, and in front of its provider."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import orjson

from muxx.row import Record

from ..client import RawClient
from ..running import RunningGateway
from ..said import ENDPOINTS, endpoint_at
from ..tables import log_tables
from ..upstream import RecordedRequest, ScriptedUpstream
from ..values import request_body
from .cases import Case
from .evidence import Evidence, Result
from .leftovers import more, open_tasks
from .provider import script_for
from .troupe import NUMBER

AT_ONCE = 16
"""Cases that run side by side."""
AT_WORK = 0.03
"""Seconds that the gateway has for the bytes a provider has sent: a plugin may hold all of them back, so the client need not see
any."""
CLIENTS_OWN = {"Authorization": "Bearer sk-client-own-1", "X-Api-Key": "sk-client-own-2", "Cookie": "session=sk-client-own-3"}
"""Credentials of the client that are not muxx's, sent with every request: no plugin needs to see them either."""


class Examination:
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
        at_rest = open_tasks()
        evidence.results = list(await asyncio.gather(*(self._carry(case) for case in cases)))
        await self._stored()
        await evidence.settle("the gateway's rest after the last request", lambda: not more(open_tasks(), at_rest))
        evidence.left_behind += [f"{name} (while running)" for name in more(open_tasks(), at_rest)]
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
            async with await RawClient.connect(self._gateway.base_url, within=self._evidence.patience) as client:
                await client.request("POST", ENDPOINTS[case.endpoint], self._headers(case), data)
                if not case.leaves:
                    await self._read(result, client)
                    return result
                await self._wait_for(case)
                result.left_at = time.monotonic()
                client.reset() if case.hooked else client.close()  # RST or FIN: the gateway has to notice both
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
            await self._evidence.settle(f"{case}: its moment", lambda: case.number in self._notes.acted)
            return
        await self._evidence.settle(f"{case}: its request to the provider", lambda: result.upstream)
        if case.leaves == "before the head" or not result.upstream:
            return
        await self._evidence.settle(f"{case}: the provider's bytes", lambda: result.upstream[0].produced > 0)
        await asyncio.sleep(AT_WORK)

    async def _end_of(self, result: Result) -> None:
        """Wait until an exchange whose client left has ended, and its provider's connection with it."""
        case, calls = result.case, self._notes.watch.calls
        number = str(case.number)

        def ended() -> bool:
            last = (call.exchange for call in calls if call.hook == "post_response" and call.exchange is not None)
            return any(exchange.request.headers.get(NUMBER) == number for exchange in last)

        await self._evidence.settle(f"{case}: post_response", ended)
        open_ones = [request for request in result.upstream if request.left_at is None]
        await self._evidence.settle(f"{case}: its upstream connection's end", lambda: all(r.left_at for r in open_ones))

    # ── afterwards ──

    async def _stored(self) -> None:
        """Wait until every exchange that has ended is stored."""
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
        await self._evidence.settle("a row's second coming", lambda: wanted <= {row["request_id"] for row in seen[came:]})
