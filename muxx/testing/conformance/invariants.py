"""What has to hold whatever becomes of an exchange: each a sentence, and a function from what was seen to where it was broken."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

from muxx.exchange import Chunk, Exchange

from ..reading import Unreadable, read_error
from ..said import Said
from ..watching import HookCall
from .cases import FIRST, Case
from .examining import Evidence, Result
from .provider import written
from .rows import row_problems
from .troupe import NUMBER, SECRET

Broken = Iterator[str]
Invariant = Callable[[Evidence], Broken]


def _exchange_of(evidence: Evidence, result: Result) -> Exchange | None:
    number = str(result.case.number)
    calls = (call.exchange for call in evidence.calls if call.exchange is not None)
    return next((exchange for exchange in calls if exchange.request.headers.get(NUMBER) == number), None)


def _by_exchange(evidence: Evidence) -> dict[str, list[HookCall]]:
    found: defaultdict[str, list[HookCall]] = defaultdict(list)
    for call in evidence.calls:
        if call.exchange is not None:
            found[call.exchange.id].append(call)
    return found


def _by_case(evidence: Evidence) -> Iterator[tuple[Result, Case, list[HookCall]]]:
    """Each case, how it has to end, and the hooks that ran for its exchange."""
    found: defaultdict[str, list[HookCall]] = defaultdict(list)
    for call in evidence.calls:
        if call.exchange is not None and call.exchange.parent is None:
            found[call.exchange.request.headers.get(NUMBER, "")].append(call)
    for result in evidence.results:
        yield result, evidence.expected(result), found[str(result.case.number)]


def _count(calls: list[HookCall], plugin: str, hook: str) -> int:
    return sum(call.plugin == plugin and call.hook == hook for call in calls)


# ── how often hooks run ─────────────────────────────────────────────────────────────────────────────────────────────────────


def every_case_ends_as_it_should(evidence: Evidence) -> Broken:
    """Its status, its error code, and how often the provider was asked, in the row and at the provider."""
    for result, case, _ in _by_case(evidence):
        told = result.response.status if result.response is not None else 499
        if told not in case.statuses:
            body = result.response.body[-300:] if result.response is not None else b""
            yield f"{case}: status {told} instead of {sorted(case.statuses)}: {body!r}"
        if len(result.upstream) != case.calls:
            yield f"{case}: the provider was asked {len(result.upstream)} times, not {case.calls}"
    if evidence.cached_calls:
        yield f"the provider was asked {evidence.cached_calls} times for what the cache had"
    yield from (f"waited in vain for {what}" for what in evidence.unfinished)


def authenticate_runs_once_per_request(evidence: Evidence) -> Broken:
    counted: Counter[str] = Counter()
    for call in evidence.calls:
        if call.hook == "authenticate" and call.plugin == FIRST and call.request is not None:
            counted[call.request.headers.get(NUMBER, "")] += 1
    for result in evidence.results:
        if counted[str(result.case.number)] != 1:
            yield f"{result.case}: authenticate ran {counted[str(result.case.number)]} times"


def pre_request_runs_once_for_an_accepted_request(evidence: Evidence) -> Broken:
    for _, case, calls in _by_case(evidence):
        count = _count(calls, FIRST, "pre_request")
        if count != int(case.accepted):
            yield f"{case}: pre_request ran {count} times, not {int(case.accepted)}"


def pre_attempt_runs_once_per_upstream_call_and_never_on_a_hit(evidence: Evidence) -> Broken:
    for _, case, calls in _by_case(evidence):
        count = _count(calls, FIRST, "pre_attempt")
        if count != case.tries:
            yield f"{case}: pre_attempt ran {count} times, not {case.tries}"


def post_response_runs_exactly_once_per_exchange(evidence: Evidence) -> Broken:
    plugins = evidence.chains["post_response"]
    for exchange_id, calls in _by_exchange(evidence).items():
        for plugin in plugins:
            count = _count(calls, plugin, "post_response")
            if count != 1:
                yield f"{exchange_id}: post_response of {plugin} ran {count} times"
    for result, case, calls in _by_case(evidence):
        if not calls:
            yield f"{case}: no hook saw the exchange, not even post_response"
        elif case.code != (error.code if (error := calls[-1].given["exchange"].error) is not None else None):
            yield f"{case}: it ended with {calls[-1].given['exchange'].error!r}, not with {result.case.code}"


def post_response_is_the_last_hook_of_its_exchange(evidence: Evidence) -> Broken:
    for exchange_id, calls in _by_exchange(evidence).items():
        hooks = [call.hook for call in calls]
        if "post_response" in hooks and set(hooks[hooks.index("post_response") :]) != {"post_response"}:
            yield f"{exchange_id}: hooks ran after post_response: {hooks}"


def every_plugin_of_a_chain_has_its_turn(evidence: Evidence) -> Broken:
    """In order; a later one is left out only where an earlier one has answered, refused or crashed."""
    for exchange_id, calls in _by_exchange(evidence).items():
        for hook in ("pre_request", "pre_attempt", "post_response"):
            ran = [call for call in calls if call.hook == hook]
            order = evidence.chains[hook]
            for turn in _turns(ran, order):
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


def _turns(calls: list[HookCall], order: list[str]) -> Iterator[list[HookCall]]:
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
    for _, case, calls in _by_case(evidence):
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
    for _, case, calls in _by_case(evidence):
        if not case.answered:
            continue
        on = [plugin for plugin in evidence.chains["on_chunk"] if _is_on(case, plugin, calls)]
        seen = {plugin: [call for call in calls if call.hook == "on_chunk" and call.plugin == plugin] for plugin in on}
        for one, next_one in pairwise(on):
            through = [chunk for call in seen[one] for chunk in _let_through(call)]
            came = [call.given["chunk"] for call in seen[next_one]]
            if [id(chunk) for chunk in through] != [id(chunk) for chunk in came]:
                yield f"{case}: {one} let {len(through)} chunks through, {next_one} saw {len(came)}"


# ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def an_answer_parses_in_its_format_and_ends_properly(evidence: Evidence) -> Broken:
    """A broken one ends with its error, and never looks like success."""
    for result, case, _ in _by_case(evidence):
        response = result.response
        if response is None:
            continue
        if not response.complete:
            yield f"{case}: the response breaks off"
            continue
        try:
            if case.answered:
                response.said(case.endpoint)
                continue
            told = read_error(response.body, streamed=response.streamed)
        except (Unreadable, KeyError, TypeError, ValueError) as error:
            yield f"{case}: {error}"
        else:
            if told.get("code") != case.code:
                yield f"{case}: the error told is {told!r}, not {case.code}"


def an_answer_the_plugin_does_not_change_stays_byte_identical(evidence: Evidence) -> Broken:
    if evidence.subject.changes_answers:
        return
    for result, case, _ in _by_case(evidence):
        if case.answered and result.response is not None and not (case.cached and case.stream):
            came, sent = _less_comment(result.response.body), b"".join(written(result.case, evidence.subject))
            if came != sent:
                yield f"{case}: {_difference(came, sent)}"


def _less_comment(body: bytes) -> bytes:
    """Without the comment with the cost, of which there is one at most."""
    before, mark, rest = body.partition(b": muxx {")
    return before + rest.partition(b"\n\n")[2] if mark else body


def _difference(came: bytes, sent: bytes) -> str:
    at = next((at for at, pair in enumerate(zip(came, sent, strict=False)) if pair[0] != pair[1]), min(len(came), len(sent)))
    return f"at byte {at}: {came[at : at + 60]!r} instead of {sent[at : at + 60]!r}"


def the_answer_says_the_same_in_every_form(evidence: Evidence) -> Broken:
    """Streamed, plain, cached, and however the provider's bytes and words are cut."""
    known: dict[str, tuple[Case, Said]] = {}
    for result, case, _ in _by_case(evidence):
        said = _said(result, case)
        if said is None:
            continue
        first, wanted = known.setdefault(case.endpoint, (case, said))
        if said != wanted:
            yield f"{case}: says {said}, but {first} says {wanted}"
        if not evidence.subject.changes_answers and said != _without_tokens(evidence.subject.said(case.endpoint)):
            yield f"{case}: says {said}, which is not what the provider said"


def _said(result: Result, case: Case) -> Said | None:
    if not case.answered or result.response is None or result.response.status != 200:
        return None
    try:
        return _without_tokens(result.response.said(case.endpoint))
    except (Unreadable, KeyError, TypeError, ValueError):
        return None  # another invariant's concern


def _without_tokens(said: Said) -> Said:
    return replace(said, input_tokens=None, output_tokens=None)


def a_request_the_plugin_does_not_change_is_sent_as_it_came(evidence: Evidence) -> Broken:
    if evidence.subject.changes_requests:
        return
    for result, case, _ in _by_case(evidence):
        for request in result.upstream:
            sent = {**request.json(), "model": result.asked["model"]}
            if sent != result.asked:
                yield f"{case}: sent up was {sent}, asked was {result.asked}"


# ── rows ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def every_exchange_has_exactly_one_row_with_all_its_fields(evidence: Evidence) -> Broken:
    ended = {call.exchange.id for call in evidence.calls if call.exchange is not None}
    stored = {record["request_id"]: record for record in evidence.records}
    yield from (f"{request_id}: has no row" for request_id in sorted(ended - stored.keys()))
    yield from (f"{request_id}: has a row, but no exchange" for request_id in sorted(stored.keys() - ended))
    listed = Counter(row["request_id"] for row in evidence.rows)
    yield from (f"{request_id}: is listed {count} times" for request_id, count in listed.items() if count != 1)
    for result, case, calls in _by_case(evidence):
        if calls and (record := stored.get(calls[0].given["exchange"].id)) is not None:
            yield from (f"{case}: {problem}" for problem in row_problems(case, record))
            if result.response is not None and result.response.status != record["status"]:
                yield f"{case}: the client was told {result.response.status}, and the row says {record['status']}"
            if record["project"] == "default" and record["request_id"] not in listed:
                yield f"{case}: its row is not listed"


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


# ── what a plugin must never do ─────────────────────────────────────────────────────────────────────────────────────────────


def no_credential_is_visible_after_authenticate(evidence: Evidence) -> Broken:
    yield from sorted(set(evidence.notes.seen_secrets))
    yield from sorted({found for found in evidence.leaks if SECRET not in found})


def a_crash_names_the_plugin_in_the_log_and_tells_nobody_its_text(evidence: Evidence) -> Broken:
    crashed = [call for call in evidence.calls if not call.own and call.outcome == "crashed"]
    for plugin, count in Counter(call.plugin for call in crashed if call.hook != "record").items():
        named = sum(f"plugin {plugin} failed" in line and "failed in record" not in line for line in evidence.log)
        if named < count:
            yield f"{plugin} crashed {count} times, and the log names it {named} times"
    for plugin in {call.plugin for call in crashed if call.hook == "record"}:
        if not any(f"plugin {plugin} failed in record" in line for line in evidence.log):
            yield f"{plugin} crashed in record, and the log does not say so"
    yield from sorted({found for found in evidence.leaks if SECRET in found})


def the_plugin_does_not_crash_by_itself(evidence: Evidence) -> Broken:
    for call in evidence.calls:
        if call.plugin == evidence.subject.name and call.outcome == "crashed" and call.own:
            number = call.exchange.request.headers.get(NUMBER) if call.exchange is not None else None
            case = evidence.notes.cases.get(int(number)) if number else None
            yield f"{case or 'some exchange'}: {call.hook} raised {type(call.error).__name__}: {call.error}"


def the_plugin_holds_up_nobody(evidence: Evidence) -> Broken:
    """Said of it once, it may have been the machine that was busy."""
    said = [line for line in evidence.log if f"plugin {evidence.subject.name} held the event loop" in line]
    yield from said if len(said) > 1 else ()


def nothing_is_left_behind(evidence: Evidence) -> Broken:
    """No task, no thread, no connection to the provider; and the event loop has nothing to complain of."""
    yield from evidence.left_behind
    yield from (f"the event loop complained: {complaint}" for complaint in evidence.complaints)
    for result in evidence.results:
        if result.left_at is not None:
            late = [request for request in result.upstream if request.left_at is None or request.left_at - result.left_at > 5.0]
            yield from (f"{result.case}: the provider's connection stayed open" for _ in late)


def two_gateways_of_it_share_no_state(evidence: Evidence) -> Broken:
    yield from evidence.shared
    first = {result.case.number: result for result in evidence.results}
    for result in evidence.again:
        one, two = _look(first[result.case.number]), _look(result)
        if one != two:
            yield f"{result.case}: the first gateway answered {one}, the second {two}"


def _look(result: Result) -> tuple[object, ...]:
    """What of a response is the same whenever it is asked for."""
    if result.response is None:
        return ()
    names = sorted(name.lower() for name, _ in result.response.headers)
    return result.response.status, names, _said(result, result.case)


INVARIANTS: tuple[Invariant, ...] = (
    every_case_ends_as_it_should,
    authenticate_runs_once_per_request,
    pre_request_runs_once_for_an_accepted_request,
    pre_attempt_runs_once_per_upstream_call_and_never_on_a_hit,
    post_response_runs_exactly_once_per_exchange,
    post_response_is_the_last_hook_of_its_exchange,
    every_plugin_of_a_chain_has_its_turn,
    the_end_is_the_last_chunk_and_comes_exactly_once,
    every_chunk_goes_through_every_plugin,
    an_answer_parses_in_its_format_and_ends_properly,
    an_answer_the_plugin_does_not_change_stays_byte_identical,
    the_answer_says_the_same_in_every_form,
    a_request_the_plugin_does_not_change_is_sent_as_it_came,
    every_exchange_has_exactly_one_row_with_all_its_fields,
    record_gets_every_row_at_least_once,
    a_row_that_comes_again_changes_nothing,
    no_credential_is_visible_after_authenticate,
    a_crash_names_the_plugin_in_the_log_and_tells_nobody_its_text,
    the_plugin_does_not_crash_by_itself,
    the_plugin_holds_up_nobody,
    nothing_is_left_behind,
    two_gateways_of_it_share_no_state,
)


def broken(evidence: Evidence) -> dict[str, list[str]]:
    """The invariants that do not hold, by name, and where each was broken."""
    found = {invariant.__name__: list(invariant(evidence)) for invariant in INVARIANTS}
    return {name: places for name, places in found.items() if places}
