"""Rows: one for each exchange, with all that it has to say of its case, brought at least once, and the same whenever it comes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from muxx.row import Record

from ..reading import Unreadable, read_answer
from .answer_rules import said_in, without_tokens
from .cases import DEFAULT, Case
from .evidence import Broken, Evidence

COUNTS = ("attempts", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")


def every_exchange_has_exactly_one_row_with_all_its_fields(evidence: Evidence) -> Broken:
    ended = {call.exchange.id for call in evidence.calls if call.exchange is not None}
    stored = evidence.last_records()
    yield from (f"{request_id}: has no row" for request_id in sorted(ended - stored.keys()))
    yield from (f"{request_id}: has a row, but no exchange" for request_id in sorted(stored.keys() - ended))
    listed = Counter(row["request_id"] for row in evidence.rows)
    yield from (f"{request_id}: is listed {count} times" for request_id, count in listed.items() if count != 1)
    for row in evidence.rows:
        if (record := stored.get(row["request_id"])) is not None and row["status"] != record["status"]:
            yield f"{row['request_id']}: came with the status {record['status']}, and is listed with {row['status']}"
    for result, case, calls in evidence.by_case:
        if calls and (record := stored.get(calls[0].given["exchange"].id)) is not None:
            yield from (f"{case}: {problem}" for problem in row_problems(case, record))
            if result.response is not None and result.response.status != record["status"]:
                yield f"{case}: the client was told {result.response.status}, and the row says {record['status']}"
            if record["project"] == DEFAULT and record["request_id"] not in listed:
                yield f"{case}: its row is not listed"


def the_row_keeps_the_answer_as_it_was_delivered(evidence: Evidence) -> Broken:
    """Where the project keeps content."""
    stored = {record["request_id"]: record["output"] for record in evidence.records}
    for result, case, _ in evidence.by_case:
        said = said_in(result, case)
        output = stored.get(result.response.request_id or "") if result.response is not None else None
        if said is None or output is None:
            continue
        try:
            kept = without_tokens(read_answer(case.endpoint, output, streamed=False))
        except (Unreadable, KeyError, TypeError, ValueError) as error:
            yield f"{case}: the answer kept cannot be read: {error}"
        else:
            if kept != said:
                yield f"{case}: the client was told {said}, the row keeps {kept}"


def record_gets_every_row_at_least_once(evidence: Evidence) -> Broken:
    ended = {call.exchange.id for call in evidence.calls if call.exchange is not None}
    for plugin in evidence.chains["record"]:
        mine = [call for call in evidence.calls if call.hook == "record" and call.plugin == plugin]
        got = {request_id for call in mine if call.outcome in ("nothing", "result") for request_id in call.record_ids}
        if missing := ended - got:
            yield f"record of {plugin} never got {len(missing)} of {len(ended)} rows"


def a_row_that_comes_again_changes_nothing(evidence: Evidence) -> Broken:
    before, after = (Counter(lines) for lines in evidence.tables)
    yield from (f"gone: {line:.200}" for line in before - after)
    yield from (f"come: {line:.200}" for line in after - before)


def row_problems(case: Case, record: Record) -> Iterator[str]:
    """Each thing that is missing or wrong in the record of this case."""
    row: Mapping[str, Any] = record
    missing = Record.__annotations__.keys() - row.keys()
    if missing:
        yield f"the row lacks {sorted(missing)}"
        return
    wanted: dict[str, Any] = {"endpoint": case.endpoint, "error_code": case.code, "cache": case.cache}
    if case.accepted:
        wanted |= {"project": case.project, "stream": case.stream, "attempts": case.calls, "model_requested": case.model}
    wrong = {name: row[name] for name, value in wanted.items() if row[name] != value}
    if wrong:
        yield f"the row says {wrong}, not { {name: wanted[name] for name in wrong} }"
    if row["status"] not in case.statuses:
        yield f"the row's status is {row['status']}, not {sorted(case.statuses)}"
    if any(type(row[name]) is not int or row[name] < 0 for name in COUNTS):
        yield f"a count is none: { {name: row[name] for name in COUNTS} }"
    yield from _ending(case, row)
    yield from _booking(case, row)


def _ending(case: Case, row: Mapping[str, Any]) -> Iterator[str]:
    ended = (row["ended_by"], row["phase"])
    if case.answered and not case.cached and ended != (None, None):
        yield f"the row of a whole answer says it ended by {ended}"
    if not case.answered and None in ended:
        yield f"the row of a failed exchange does not say who ended it, or when: {ended}"
    if case.leaves and row["ended_by"] != "client":
        yield f"the client left, and the row says {row['ended_by']} ended it"


def _booking(case: Case, row: Mapping[str, Any]) -> Iterator[str]:
    costs = [row[name] for name in ("input_cost_pico", "output_cost_pico", "cost_pico")]
    if any(cost is not None and (type(cost) is not int or cost < 0) for cost in costs):
        yield f"a cost is no whole number of pico-dollars: {costs}"
    if None not in costs and costs[0] + costs[1] != costs[2]:
        yield f"the costs do not add up: {costs}"
    if not case.calls and row["cost_pico"] != 0:
        yield f"nothing was sent to the provider, and the row says it cost {row['cost_pico']}"
    if case.answered and row["usage_source"] == "none":
        yield "an answer was delivered, and the row says nothing was used"
    if case.answered and (row["usage_source"] == "cache") != (case.cache in ("hit", "joined")):
        yield f"the row says {case.cache}, and that its usage is known by {row['usage_source']}"
