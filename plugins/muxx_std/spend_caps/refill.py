"""What rows and journal know of money: read after a reboot, when the shared file has forgotten, and for what the dead left open.

The shared file outlives every process of muxx, killed or not, so as a rule the first has nothing to do.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import date
from typing import TYPE_CHECKING, Any

import orjson

from muxx import Target, Usage, journalled

from .account import DAY_SECONDS

if TYPE_CHECKING:
    from muxx import Gateway

    from .ledger import SpendLedger

CEILING = "spend_ceiling_pico"
"""Attribute of a row without a cost: what it counts as, in pico-dollars."""
DAY = "spend_day"
"""Attribute of a row that counts in the windows of another day than the one it began on."""

_SPENT = (
    "SELECT project, CASE WHEN attributes LIKE '%\"spend_day\"%'"
    " THEN CAST(julianday(json_extract(attributes, '$.spend_day')) - 2440587.5 AS INTEGER)"
    " ELSE CAST(started_at / 86400 AS INTEGER) END AS day,"
    " sum(pico / 1000000) AS micro, sum(pico % 1000000) AS rest FROM"
    " (SELECT *, coalesce(cost_pico, json_extract(attributes, '$.spend_ceiling_pico'), 0) AS pico FROM generations"
    " WHERE started_at >= ? AND project IS NOT NULL AND request_id NOT IN (SELECT value FROM json_each(?)))"
    " WHERE pico > 0 GROUP BY project, day"
)
_LAST_ADJUSTMENT = "SELECT coalesce(max(id), 0) FROM price_adjustments"
_ADJUSTED = (
    "SELECT DISTINCT project, CAST(started_at / 86400 AS INTEGER) AS day FROM price_adjustments"
    " WHERE started_at >= ? AND project IS NOT NULL"
)
_ADJUSTMENTS = (
    "SELECT a.id, a.project, a.started_at, a.before_pico, a.after_pico, g.attributes FROM price_adjustments AS a"
    " LEFT JOIN generations AS g ON g.request_id = a.request_id WHERE a.id > ? AND a.started_at >= ? AND a.project IS NOT NULL"
    " ORDER BY a.id LIMIT ?"
)
_AT_FIRST = (
    "SELECT request_id, before_pico FROM price_adjustments WHERE id IN"
    " (SELECT min(id) FROM price_adjustments WHERE request_id IN (SELECT value FROM json_each(?)) GROUP BY request_id)"
)
_OPEN = "SELECT request_id, record FROM open_requests"
_ROWS = "SELECT request_id, cost_pico, attributes FROM generations WHERE request_id IN (SELECT value FROM json_each(?))"
_STILL_OPEN = "SELECT request_id FROM open_requests WHERE request_id IN (SELECT value FROM json_each(?))"
_REJECTED = "SELECT request_id, record FROM rejected_records WHERE request_id IN (SELECT value FROM json_each(?))"


DAYS_KEPT = 62
"""The month before this one too, for a clock that is wrong by a little."""
ADJUSTMENTS_AT_ONCE = 1_000


def _day_of(row: Mapping[str, Any]) -> int:
    """The day, since 1970, in whose windows a row counts."""
    told = (row.get("attributes") or {}).get(DAY)
    return int(row["started_at"] // DAY_SECONDS) if told is None else (date.fromisoformat(told) - date(1970, 1, 1)).days


def _pico_of(row: Mapping[str, Any]) -> int:
    """What a row counts as."""
    cost = row.get("cost_pico")
    return int((row.get("attributes") or {}).get(CEILING, 0) if cost is None else cost)


async def refill(ledger: SpendLedger, gateway: Gateway) -> None:
    """Add up what was spent in this month, if nobody has since the tables were empty."""
    if ledger.table.filled:
        return
    first = int(time.time() // DAY_SECONDS) - DAYS_KEPT
    while True:
        adjusted = await _last_adjustment(gateway)
        spent, left_open = await _read(gateway, first)
        if adjusted:
            for project, day in map(tuple, await gateway.db.read_logs(_ADJUSTED, (first * DAY_SECONDS,))):
                spent[project, day] += 0  # where corrections have left nothing to add, they are counted all the same
        if adjusted == await _last_adjustment(gateway):
            break
    with gateway.shared.holding([ledger.table.head]):
        if not ledger.table.filled:
            for (project, day), pico in sorted(spent.items(), key=lambda item: item[0][1]):
                ledger.add(project, day, pico)
                ledger.add(project, day, 0, adjusted)
            for row in left_open:
                ledger.leave_open(row["project"], _day_of(row), row["request_id"], _estimate(gateway, row))
            ledger.table.filled = True


async def _last_adjustment(gateway: Gateway) -> int:
    try:
        return int((await gateway.db.read_logs(_LAST_ADJUSTMENT))[0][0])
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise
        return 0


async def _read(gateway: Gateway, first: int) -> tuple[Counter[tuple[str, int]], list[Mapping[str, Any]]]:
    """Pico-dollars by project and day, and the requests without a row. The journal first, then what it is moved to, in that
    order: nothing is missed, and what is seen twice is told by its id."""
    known: dict[str, Mapping[str, Any]] = dict(await asyncio.to_thread(journalled, gateway.host.paths.journal))
    spent: Counter[tuple[str, int]] = Counter()
    try:
        for request_id, record in map(tuple, await gateway.db.read_logs(_OPEN)):
            known.setdefault(request_id, orjson.loads(record))
        ids = orjson.dumps(list(known)).decode()
        for project, day, micro, rest in map(tuple, await gateway.db.read_logs(_SPENT, (first * DAY_SECONDS, ids))):
            spent[project, day] += micro * 1_000_000 + rest
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise  # rather no start than money nobody has counted
    rows = [row for row in known.values() if row["project"] and row.get("status") is not None]
    for row in rows:
        spent[row["project"], _day_of(row)] += _pico_of(row)
    return spent, [row for row in known.values() if row["project"] and row.get("status") is None]


def _estimate(gateway: Gateway, trace: Mapping[str, Any]) -> int:
    """What the row of a request will say whose process has died."""
    provider = gateway.providers.get(trace["provider"])
    if provider is None:
        return 0
    usage = Usage(input_tokens=trace["input_tokens"], source="estimated")
    cost = gateway.price(Target(provider, trace["model"]), usage, trace["started_at"])
    return 0 if cost is None else cost.total_pico


class Adjustments:
    """Follows the corrections of prices (`muxx prices reprice`), so that what is spent is the sum of the rows again."""

    def __init__(self, ledger: SpendLedger, gateway: Gateway) -> None:
        self._ledger = ledger
        self._gateway = gateway
        self._last = 0

    async def follow(self) -> None:
        """Count those that came since the last time. The accounts know which they have counted.

        The table itself is asked, for whoever books a correction may die before telling of it.
        """
        last = await _last_adjustment(self._gateway)
        if last <= self._last:
            return
        await recover(self._ledger, self._gateway)  # what is taken off has to be there
        first = (int(time.time() // DAY_SECONDS) - DAYS_KEPT) * DAY_SECONDS
        while rows := await self._gateway.db.read_logs(_ADJUSTMENTS, (self._last, first, ADJUSTMENTS_AT_ONCE)):
            for number, project, started_at, before, after, text in map(tuple, rows):
                row = {"started_at": started_at, "cost_pico": before, "attributes": orjson.loads(text or "{}")}
                self._ledger.add(project, _day_of(row), after - _pico_of(row), number)
                self._last = number
        self._last = max(self._last, last)


async def recover(ledger: SpendLedger, gateway: Gateway) -> None:
    """Settle the holds of processes that have died, by the rows of their requests. What has no row yet is left for the next time,
    and held until then."""
    abandoned = ledger.abandoned()
    if not abandoned:
        return
    costs = await _costs(gateway, [hold.request_id for holds in abandoned.values() for hold in holds])
    for block in abandoned:
        ledger.settle_abandoned(block, costs)


async def _costs(gateway: Gateway, ids: Iterable[str]) -> dict[str, int]:
    """What those requests came to whose end is known. One that is neither in the journal nor in the database was never sent, for
    its trace is written before."""
    wanted = dict.fromkeys(ids)
    journal = await asyncio.to_thread(journalled, gateway.host.paths.journal)
    asked = (orjson.dumps(list(wanted)).decode(),)
    still_open = {row[0] for row in await gateway.db.read_logs(_STILL_OPEN, asked)}
    costs: dict[str, int] = {}
    for request_id, record in map(tuple, await gateway.db.read_logs(_REJECTED, asked)):
        costs[request_id] = _pico_of(orjson.loads(record))
    rows = [tuple(row) for row in await gateway.db.read_logs(_ROWS, asked)]
    at_first = await _costs_at_first(gateway, asked)
    for request_id, cost, attributes in rows:
        cost = at_first.get(request_id, cost)
        costs[request_id] = _pico_of({"cost_pico": cost, "attributes": orjson.loads(attributes or "{}")})
    for request_id in wanted:
        row: Mapping[str, Any] | None = journal.get(request_id)
        if row is not None and row.get("status") is not None:
            costs[request_id] = _pico_of(row)
        elif row is None and request_id not in still_open:
            costs.setdefault(request_id, 0)
    return {request_id: pico for request_id, pico in costs.items() if request_id in wanted}


async def _costs_at_first(gateway: Gateway, asked: tuple[str]) -> dict[str, int | None]:
    """What those of the requests cost whose price was corrected since: `Adjustments` counts the difference by itself."""
    if not await gateway.db.has_table("logs", "price_adjustments"):
        return {}
    return dict(map(tuple, await gateway.db.read_logs(_AT_FIRST, asked)))
