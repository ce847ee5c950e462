"""How often hooks run, in which order, and what they see of an answer."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise

from muxx.reply import Chunk

from ..watching import HookCall
from .cases import FIRST, SUBJECT, Case
from .evidence import Broken, Evidence
from .troupe import NUMBER


def every_case_ends_as_it_should(evidence: Evidence) -> Broken:
    """Its status, its error code, and how often the provider was asked, in the row and at the provider."""
    for result, case, _ in evidence.by_case:
        told = result.response.status if result.response is not None else 499
        if told not in case.statuses:
            body = result.response.body[-300:] if result.response is not None else b""
            yield f"{case}: status {told} instead of {sorted(case.statuses)}: {body!r}"
        if len(result.upstream) != case.calls:
            yield f"{case}: the provider was asked {len(result.upstream)} times, not {case.calls}"
    yield from (f"waited in vain for {what}" for what in evidence.unfinished)


def _count(calls: list[HookCall], plugin: str, hook: str) -> int:
    return sum(call.plugin == plugin and call.hook == hook for call in calls)


def authenticate_runs_once_per_request(evidence: Evidence) -> Broken:
    counted: Counter[str] = Counter()
    for call in evidence.calls:
        if call.hook == "authenticate" and call.plugin == FIRST and call.request is not None:
            counted[call.request.headers.get(NUMBER, "")] += 1
    for result in evidence.results:
        if counted[str(result.case.number)] != 1:
            yield f"{result.case}: authenticate ran {counted[str(result.case.number)]} times"


def pre_request_runs_once_for_an_accepted_request(evidence: Evidence) -> Broken:
    for _, case, calls in evidence.by_case:
        count, wanted = _count(calls, FIRST, "pre_request"), int(case.accepted and not _stopped_before(evidence, case))
        if count != wanted:
            yield f"{case}: pre_request ran {count} times, not {wanted}"


def _stopped_before(evidence: Evidence, case: Case) -> bool:
    """The case ends in `pre_request` of the plugin, and that stands before the first probe: the standard one for limits does."""
    order, act = evidence.chains["pre_request"], case.act
    stops = act is not None and (act.who, act.hook) == (SUBJECT, "pre_request") and act.what != "hangs"
    return stops and order.index(evidence.subject.name) < order.index(FIRST)


def pre_attempt_runs_once_per_upstream_call_and_never_on_a_hit(evidence: Evidence) -> Broken:
    for _, case, calls in evidence.by_case:
        count = _count(calls, FIRST, "pre_attempt")
        if count != case.tries:
            yield f"{case}: pre_attempt ran {count} times, not {case.tries}"


def post_response_runs_exactly_once_per_exchange(evidence: Evidence) -> Broken:
    plugins = evidence.chains["post_response"]
    for exchange_id, calls in evidence.by_exchange.items():
        for plugin in plugins:
            count = _count(calls, plugin, "post_response")
            if count != 1:
                yield f"{exchange_id}: post_response of {plugin} ran {count} times"
    for result, case, calls in evidence.by_case:
        if not calls:
            yield f"{case}: no hook saw the exchange, not even post_response"
        elif case.code != (error.code if (error := calls[-1].given["exchange"].error) is not None else None):
            yield f"{case}: it ended with {calls[-1].given['exchange'].error!r}, not with {result.case.code}"


def post_response_is_the_last_hook_of_its_exchange(evidence: Evidence) -> Broken:
    for exchange_id, calls in evidence.by_exchange.items():
        hooks = [call.hook for call in calls]
        if "post_response" in hooks and set(hooks[hooks.index("post_response") :]) != {"post_response"}:
            yield f"{exchange_id}: hooks ran after post_response: {hooks}"


def every_plugin_of_a_chain_has_its_turn(evidence: Evidence) -> Broken:
    """In order; a later one is left out only where an earlier one has answered, refused or crashed."""
    for exchange_id, calls in evidence.by_exchange.items():
        for hook in ("pre_request", "pre_attempt", "post_response"):
            ran = [call for call in calls if call.hook == hook]
            order = evidence.chains[hook]
            for turn in _turns(ran):
                names = [call.plugin for call in turn]
                if names != order[: len(names)]:
                    yield f"{exchange_id}: {hook} ran for {names}, the order is {order}"
                elif len(names) < len(order) and (hook == "post_response" or _goes_on(turn[-1])):
                    yield f"{exchange_id}: {hook} ran for {names}, and {order[len(names)]} was left out"
    yield from _authenticators(evidence)


def _authenticators(evidence: Evidence) -> Broken:
    order = evidence.chains["authenticate"]
    asked: defaultdict[str, list[HookCall]] = defaultdict(list)
    for call in evidence.calls:
        if call.hook == "authenticate" and call.request is not None:
            asked[call.request.headers.get(NUMBER, "")].append(call)
    for number, calls in asked.items():
        names = [call.plugin for call in calls]
        out_of_order = names != order[: len(names)] or (len(names) < len(order) and _goes_on(calls[-1]))
        if out_of_order and number not in ("", "0"):
            yield f"case {number}: authenticate ran for {names}, the order is {order}"


def _turns(calls: list[HookCall]) -> Iterator[list[HookCall]]:
    """The runs of one chain: a new one begins wherever its first plugin comes again."""
    turn: list[HookCall] = []
    for call in calls:
        if turn and call.plugin in {earlier.plugin for earlier in turn}:
            yield turn
            turn = []
        turn.append(call)
    if turn:
        yield turn


def _goes_on(call: HookCall) -> bool:
    """The chain does: nothing was decided, nobody was in the way."""
    return call.outcome == "nothing"


# ── chunks ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def the_end_is_the_last_chunk_and_comes_exactly_once(evidence: Evidence) -> Broken:
    for _, case, calls in evidence.by_case:
        for plugin in evidence.chains["on_chunk"]:
            mine = [call for call in calls if call.hook == "on_chunk" and call.plugin == plugin]
            kinds = [call.kind for call in mine]
            if "end" in kinds[:-1]:
                yield f"{case}: {plugin} saw chunks after the end: {kinds}"
            elif case.answered and _is_on(case, plugin, calls) and kinds[-1:] != ["end"]:
                yield f"{case}: {plugin} saw no end: {kinds}"
            returned = [chunk.kind for call in mine for chunk in _let_through(call)]
            if "end" in returned[:-1]:
                yield f"{case}: {plugin} returned chunks after the end: {returned}"


def _is_on(case: Case, plugin: str, calls: list[HookCall]) -> bool:
    """The plugin's `on_chunk` is part of this exchange, of which it may have been taken off."""
    exchange = next((call.exchange for call in calls if call.exchange is not None), None)
    return exchange is not None and plugin not in exchange.skipped


def _let_through(call: HookCall) -> list[Chunk]:
    if call.outcome == "nothing":
        return [call.given["chunk"]]
    return list(call.result) if call.outcome == "result" and isinstance(call.result, list) else []


def every_chunk_goes_through_every_plugin(evidence: Evidence) -> Broken:
    """What one lets through is what the next one sees, chunk for chunk."""
    for _, case, calls in evidence.by_case:
        if not case.answered:
            continue
        on = [plugin for plugin in evidence.chains["on_chunk"] if _is_on(case, plugin, calls)]
        seen = {plugin: [call for call in calls if call.hook == "on_chunk" and call.plugin == plugin] for plugin in on}
        for one, next_one in pairwise(on):
            through = [chunk for call in seen[one] for chunk in _let_through(call)]
            came = [call.given["chunk"] for call in seen[next_one]]
            if [id(chunk) for chunk in through] != [id(chunk) for chunk in came]:
                yield f"{case}: {one} let {len(through)} chunks through, {next_one} saw {len(came)}"
