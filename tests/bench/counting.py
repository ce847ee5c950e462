"""What limits and spend caps cost a request: counted, held and settled by one process alone, in a shared file of its own.

Nothing is sent anywhere. Short rounds of all of them alternate, and the least of each counts: what is slower than that was
disturbed. Each figure is of a whole request, from its admission to its settlement, with a system call for each lock and unlock.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from muxx import Limits, Shared, SpendCap
from muxx_std.limits.ledger import Ledger
from muxx_std.spend_caps.ledger import SpendLedger
from muxx_std.spend_caps.tally import Held

from .machine import cores, on_core
from .part import Claim, Stage, Table, say

NAME = "counting"
TITLE = "Limits and spend caps"
WORDS = """What a project has set costs its requests so many µs of CPU more, from their admission to their settlement, exact across the workers of a host; where nothing is set,
only spend is counted."""

REQUESTS = 250
"""Of a round: few, so that some are undisturbed."""
MANY = 1_000_000
REQUEST_ID = "req_" + "0f" * 16
COST = 5_000_000_000
CAPS = (SpendCap("day", MANY * COST), SpendCap("month", MANY * COST))
LIMITS = {
    "rpm": Limits(rpm=MANY),
    "rpm, tpm, rpd": Limits(rpm=MANY, tpm=MANY * 1000, rpd=MANY * 1000),
    "rpm, tpm, rpd, the same of a user": Limits(MANY, MANY * 1000, MANY * 1000, MANY, MANY * 1000, MANY * 1000),
}


def _limited(ledger: Ledger, limits: Limits) -> Callable[[], None]:
    subject = ledger.subject(limits, "default", "ann", None)
    assert subject is not None

    def requests() -> None:
        for _ in range(REQUESTS):
            ticket = ledger.admit(subject, 100).ticket
            assert ticket is not None
            if subject.most_tokens:
                ticket = ledger.reserve(ticket, 100).ticket
                assert ticket is not None
            ledger.settle(ticket, 50)

    return requests


def _capped(ledger: SpendLedger) -> Callable[[], None]:
    today = int(time.time() // 86_400)

    def requests() -> None:
        for _ in range(REQUESTS):
            held = ledger.hold("default", CAPS, ledger.day_for("default", today), REQUEST_ID, COST)
            assert isinstance(held, Held)
            ledger.settle(held, COST // 5)

    return requests


def _uncapped(ledger: SpendLedger) -> Callable[[], None]:
    tally = ledger.tally("default", int(time.time() // 86_400))

    def requests() -> None:
        for _ in range(REQUESTS):
            tally.settle_soon(ledger.holds.take(tally, REQUEST_ID), COST // 5)
        ledger.flush()

    return requests


def measured(stage: Stage) -> dict[str, float]:
    """Microseconds per request: `{"rpm": 9.8}`."""
    say(f"{NAME}: limits and spend caps")
    with tempfile.TemporaryDirectory(prefix="muxx-bench-") as name, on_core(cores()[0]):
        shared = Shared(Path(name) / "shared")
        ledger, money = Ledger(shared), SpendLedger(shared)
        money.open()
        work = {f"limits: {title}": _limited(ledger, limits) for title, limits in LIMITS.items()}
        work |= {"a spend cap of the day and of the month": _capped(money), "spend counted without a cap": _uncapped(money)}
        least = dict.fromkeys(work, float("inf"))
        for _ in range(1 if stage.quick else 40):
            for title, requests in work.items():
                begun = time.perf_counter()
                requests()
                least[title] = min(least[title], time.perf_counter() - begun)
        shared.close()
    return {title: round(took / REQUESTS * 1e6, 1) for title, took in least.items()}


def claims(result: dict[str, Any]) -> list[Claim]:
    return []


def tables(result: dict[str, Any]) -> list[Table]:
    return [Table("One process, µs per request:", ("", "µs"), [(title, f"{took:.1f}") for title, took in result.items()])]


def remarks(result: dict[str, Any]) -> list[str]:
    return []
