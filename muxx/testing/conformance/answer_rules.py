"""What answers say, and requests: in every form the same, and unchanged but by whoever says that it changes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..asking import asks_for_stream, sent
from ..client import RawResponse
from ..reading import Unreadable, read_comment, read_error
from ..said import Said
from ..speaking import anthropic
from .cases import Case, marked
from .evidence import Broken, Evidence, Result
from .provider import written


def an_answer_parses_in_its_format_and_ends_properly(evidence: Evidence) -> Broken:
    """A broken one ends with its error, and never looks like success. A comment stands only where a client can bear it."""
    for result, case, _ in evidence.by_case:
        response = result.response
        if response is None:
            continue
        if not response.complete:
            yield f"{case}: the response breaks off"
            continue
        try:
            if case.answered:
                response.said(case.endpoint)
                if response.streamed:
                    read_comment(case.endpoint, response.body)
                continue
            told = read_error(response.body, streamed=response.streamed, endpoint=case.endpoint)
        except (Unreadable, KeyError, TypeError, ValueError) as error:
            yield f"{case}: {error}"
        else:
            if not _tells(told, case, response):
                yield f"{case}: the error told is {told!r}, not {case.code}"


def _tells(told: dict[str, Any], case: Case, response: RawResponse) -> bool:
    """The error is the one that the case ends with. Only OpenAI's format tells its code; the others tell of its status."""
    status = max(case.statuses) if response.status == 200 else response.status
    if case.endpoint == "messages":
        return bool(told["type"] == anthropic.type_of(status))
    if case.endpoint == "generate_content":
        return bool(told["code"] >= 400 if response.streamed else told["code"] == status)
    return told.get("code") == case.code


def an_answer_the_plugin_does_not_change_stays_byte_identical(evidence: Evidence) -> Broken:
    if evidence.subject.changes_answers:
        return
    for result, case, _ in evidence.by_case:
        as_it_came = not case.cached or case.stream == (case.cached == "streamed")
        if case.answered and result.response is not None and as_it_came and not case.translated:
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
    for result, case, _ in evidence.by_case:
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
    for result, case, _ in evidence.by_case:
        for request in result.upstream:
            if case.translated:
                if marked(case.seed).encode() not in request.body:
                    yield f"{case}: sent up was {request.body!r}, without what the client said"
                continue
            came = sent(case.endpoint, {**request.json(), "model": result.asked["model"]})
            if came != sent(case.endpoint, result.asked):
                yield f"{case}: sent up was {came}, asked was {result.asked}"
            if asks_for_stream(request.target, came) != case.stream:
                yield f"{case}: it was sent up to {request.target}"
