"""What no plugin may do to others: give away secrets, hold them up, leave things behind, share state; and how its crashes end."""

from __future__ import annotations

from collections import Counter

from .answer_rules import said_in
from .evidence import Broken, Evidence, Result
from .troupe import NUMBER, SECRET


def no_credential_is_visible_after_authenticate(evidence: Evidence) -> Broken:
    yield from sorted(set(evidence.notes.seen_secrets))
    yield from sorted({found for found in evidence.leaks if SECRET not in found})


def a_crash_names_the_plugin_in_the_log_and_tells_nobody_its_text(evidence: Evidence) -> Broken:
    crashed = [call for call in evidence.calls if not call.own and call.outcome == "crashed"]
    for plugin, count in Counter(call.plugin for call in crashed if call.hook != "record").items():
        named = sum(f"plugin {plugin} failed" in line and "failed in record" not in line for line in evidence.log)
        if named < count:
            yield f"{plugin} crashed {count} times, and the log names it {named} times"
    in_record = {call.plugin for call in crashed if call.hook == "record"}  # the recorder speaks once per trouble, not per crash
    if in_record and not any(f"plugin {plugin} failed in record" in line for plugin in in_record for line in evidence.log):
        yield f"{sorted(in_record)} crashed in record, and the log names none of them"
    yield from sorted({found for found in evidence.leaks if SECRET in found})


def the_plugin_does_not_crash_by_itself(evidence: Evidence) -> Broken:
    for call in evidence.calls:
        if call.plugin == evidence.subject.name and call.outcome == "crashed" and call.own:
            number = call.exchange.request.headers.get(NUMBER) if call.exchange is not None else None
            case = evidence.notes.cases.get(int(number)) if number else None
            yield f"{case or 'some exchange'}: {call.hook} raised {type(call.error).__name__}: {call.error}"


def the_plugin_holds_up_nobody(evidence: Evidence) -> Broken:
    """Said of it once, or once in a hundred exchanges, it may have been the machine that was busy: who blocks does so in each."""
    said = [line for line in evidence.log if f"plugin {evidence.subject.name} held the event loop" in line]
    yield from said if len(said) > 1 + len(evidence.results) // 100 else ()


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
    return result.response.status, names, said_in(result, result.case)
