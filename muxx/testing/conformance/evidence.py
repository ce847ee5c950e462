"""The plugin that is examined, and all that was seen of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from muxx.plugins import check_hooks
from muxx.row import Record

from ..client import RawResponse
from ..said import Said, Tool
from ..upstream import RecordedRequest
from ..waiting import eventually
from ..watching import HookCall
from .cases import SUBJECT, Case
from .troupe import NUMBER, Notes

PATIENCE = 30.0
"""Seconds to wait for what has to come; far more than it takes."""

Broken = Iterator[str]
"""Where an invariant was broken, in words; nothing where it holds."""


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
        """What the provider says at the endpoint at which it is asked."""
        if endpoint == "embeddings":
            return Said(vectors=((0.5, -0.25), (1.0, 0.0)), finish_reason=None, output_tokens=None)
        if endpoint == "text_completion":
            return Said(self.text)
        return Said(self.text, self.text, (Tool("note", '{"text":"' + self.text + '"}'),), finish_reason="tool_calls")


@dataclass
class Result:
    """What came of a case: what was asked, what the client got, and what the provider saw."""

    case: Case
    asked: dict[str, Any] = field(default_factory=dict)
    response: RawResponse | None = None
    upstream: list[RecordedRequest] = field(default_factory=list)
    left_at: float | None = None
    """When the client left, in monotonic seconds, if it did."""


@dataclass(repr=False)
class Evidence:
    """All that the invariants are judged by. It is much, and would be shown wherever the task is that gathers it."""

    subject: Subject
    notes: Notes
    chains: Mapping[str, list[str]] = field(default_factory=dict)
    """The plugins of each chain, in order."""
    ignores_crashes: bool = False
    caches: bool = True
    """The gateway has a cache, and the project uses it."""
    calls: list[HookCall] = field(default_factory=list)
    """Every hook that ran while the matrix did."""
    records: list[Record] = field(default_factory=list)
    """Every record that came meanwhile; a row may come more than once."""
    results: list[Result] = field(default_factory=list)
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
    patience: float = PATIENCE

    async def settle(self, what: str, condition: Callable[[], object]) -> None:
        """Wait for what has to come about; note it where it does not."""
        try:
            await eventually(condition, self.patience)
        except AssertionError:
            self.unfinished.append(what)

    def expected(self, result: Result) -> Case:
        """How the case has to end, given whether its act came about, and whether there is a cache."""
        case = self._acted_out(result.case)
        return case if self.caches else replace(case, cache="bypass")

    def _acted_out(self, case: Case) -> Case:
        act = case.act
        if act is None or act.what == "hangs" or case.leaves:
            return case
        ignored = self.ignores_crashes and act.what == "crashes" and act.who == SUBJECT and act.hook != "record"
        return case if case.number in self.notes.acted and not ignored else case.as_if_nobody_acted()

    def last_records(self) -> dict[str, Record]:
        """Each exchange's record as it came last, by the exchange's id."""
        return {record["request_id"]: record for record in self.records}

    # When all has been seen, many invariants are judged by one order of it.

    @cached_property
    def by_exchange(self) -> Mapping[str, list[HookCall]]:
        """The hooks that ran for each exchange, by its id, in order."""
        found: defaultdict[str, list[HookCall]] = defaultdict(list)
        for call in self.calls:
            if call.exchange is not None:
                found[call.exchange.id].append(call)
        return found

    @cached_property
    def by_case(self) -> Sequence[tuple[Result, Case, list[HookCall]]]:
        """Each case's result, how it has to end, and the hooks that ran for its exchange."""
        found: defaultdict[str, list[HookCall]] = defaultdict(list)
        for call in self.calls:
            if call.exchange is not None and call.exchange.parent is None:
                found[call.exchange.request.headers.get(NUMBER, "")].append(call)
        return [(result, self.expected(result), found[str(result.case.number)]) for result in self.results]
