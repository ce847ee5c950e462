"""What a row has to say of its case."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from muxx.exchange import Record

from .cases import Case

COUNTS = ("attempts", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")


def row_problems(case: Case, record: Record) -> Iterator[str]:
    """Each thing that is missing or wrong in the record of this case."""
    row: Mapping[str, Any] = record
    missing = Record.__annotations__.keys() - row.keys()
    if missing:
        yield f"the row lacks {sorted(missing)}"
        return
    wanted: dict[str, Any] = {"endpoint": case.endpoint, "error_code": case.code}
    if case.accepted:
        wanted |= {"project": "default", "stream": case.stream, "attempts": case.calls}
        looked_up = case.cached and (case.answered or (case.act is not None and case.act.hook == "on_chunk"))
        wanted |= {"cache": "hit" if looked_up else "miss", "model_requested": case.model}
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
    if case.answered and case.calls and ended != (None, None):
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
    if case.answered and case.calls and row["usage_source"] == "none":
        yield "an answer was delivered, and the row says nothing was used"
