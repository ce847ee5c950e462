"""What answers say, and requests: in every form the same, and unchanged but by whoever says that it changes them."""

from __future__ import annotations

from dataclasses import replace

from ..reading import Unreadable, read_error
from ..said import Said
from .cases import Case
from .evidence import Broken, Evidence, Result
from .provider import written


def an_answer_parses_in_its_format_and_ends_properly(evidence: Evidence) -> Broken:
    """A broken one ends with its error, and never looks like success."""
    for result, case, _ in evidence.by_case():
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
    for result, case, _ in evidence.by_case():
        as_it_came = not case.cached or case.stream == (case.cached == "streamed")
        if case.answered and result.response is not None and as_it_came:
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
    for result, case, _ in evidence.by_case():
        said = said_in(result, case)
        if said is None:
            continue
        first, wanted = known.setdefault(case.endpoint, (case, said))
        if said != wanted:
            yield f"{case}: says {said}, but {first} says {wanted}"
        if not evidence.subject.changes_answers and said != without_tokens(evidence.subject.said(case.endpoint)):
            yield f"{case}: says {said}, which is not what the provider said"


def said_in(result: Result, case: Case) -> Said | None:
    if not case.answered or result.response is None or result.response.status != 200:
        return None
    try:
        return without_tokens(result.response.said(case.endpoint))
    except (Unreadable, KeyError, TypeError, ValueError):
        return None  # another invariant's concern


def without_tokens(said: Said) -> Said:
    return replace(said, input_tokens=None, output_tokens=None)


def a_request_the_plugin_does_not_change_is_sent_as_it_came(evidence: Evidence) -> Broken:
    if evidence.subject.changes_requests:
        return
    for result, case, _ in evidence.by_case():
        for request in result.upstream:
            sent = {**request.json(), "model": result.asked["model"]}
            if sent != result.asked:
                yield f"{case}: sent up was {sent}, asked was {result.asked}"
