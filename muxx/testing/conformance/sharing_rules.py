"""What the cache means for answers and bills: where an answer came from, and who pays for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from muxx.row import Record

from .cases import Case
from .evidence import Broken, Evidence

BILL = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens", "usage_source")


def an_answer_says_whether_it_came_from_the_cache(evidence: Evidence) -> Broken:
    """In its head, with its age; and that it costs nothing then."""
    for result, case, _ in evidence.by_case:
        response = result.response
        if response is None or response.status != 200:
            continue
        shared = case.cache in ("hit", "joined")
        told = response.header("x-muxx-cache")
        if told != ("HIT" if shared else "MISS"):
            yield f"{case}: its head says {told}"
        if (response.header("age") is not None) != shared:
            yield f"{case}: its head says Age: {response.header('age')}"
        if shared and response.header("x-muxx-cost") != "0":
            yield f"{case}: its head says that it cost {response.header('x-muxx-cost')}"


def who_began_a_shared_call_pays_for_all_of_it(evidence: Evidence) -> Broken:
    """As much as for a call of its own, whatever becomes of it; and the others have saved as much."""
    alone = {(case.way, case.stream): row for case, row in _rows(evidence) if _is_undisturbed(case)}
    for case, row in _rows(evidence):
        usual = alone.get((case.way, case.stream))
        if usual is None or not case.part or case.upstream != "pauses in the middle":
            continue
        if case.cache == "miss" and _bill(row) != _bill(usual):
            yield f"{case}: it is billed {_bill(row)}, a call of its own comes to {_bill(usual)}"
        if case.cache == "joined" and case.answered and row["saved_pico"] != usual["cost_pico"]:
            yield f"{case}: its row says that {row['saved_pico']} pico-dollars are saved, not {usual['cost_pico']}"


def post_response_comes_after_the_bill(evidence: Evidence) -> Broken:
    """What it sees of usage and cost is what the row says in the end."""
    records = evidence.last_records()
    for exchange_id, (usage, cost) in evidence.notes.billed.items():
        row = records.get(exchange_id)
        seen = (usage.source, usage.input_tokens, usage.output_tokens, None if cost is None else cost.total_pico)
        if row is not None:
            said = (row["usage_source"], row["input_tokens"], row["output_tokens"], row["cost_pico"])
            if said != seen:
                yield f"{exchange_id}: post_response saw {seen}, the row says {said}"


def _rows(evidence: Evidence) -> Iterator[tuple[Case, Record]]:
    records = evidence.last_records()
    for _, case, calls in evidence.by_case:
        if calls and (row := records.get(calls[0].given["exchange"].id)) is not None:
            yield case, row


def _is_undisturbed(case: Case) -> bool:
    return case.outcome == "answered" and not case.cached and not case.hooked


def _bill(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return (*(row[name] for name in BILL), row["cost_pico"])
