"""The matrix: every endpoint, streamed and plain, cached, shared or neither, and all that can become of an exchange. Pure values.

A case says what is asked, what the provider, the client and the suite's own plugins do, and how it has to end. OpenAI's endpoints
go through all of it. What a hook or a client does is the same whatever format is spoken, so the other formats, and the
translations between them, go through what depends on the format: answers, errors, what breaks them, and hooks that see Chunks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import NamedTuple

FIRST, LAST, SUBJECT = "probe-first", "probe-last", "the plugin"
"""Who acts: the suite's plugin that is asked before all others, the one that is asked after them, or the one that is tested."""


class Form(NamedTuple):
    """A way to ask: an endpoint, streamed or plain, of a provider that may have to be asked at another endpoint."""

    endpoint: str
    stream: bool
    translated: str = ""
    """The endpoint at which the provider is asked, where that is not the client's."""
    whole: bool = False
    """It goes through all of the matrix, not only through what depends on the format."""

    @property
    def way(self) -> tuple[str, str]:
        return self.endpoint, self.translated


FORMS = (
    *(Form(endpoint, stream, whole=True) for endpoint in ("chat", "text_completion", "responses") for stream in (False, True)),
    Form("embeddings", False, whole=True),
    *(Form(endpoint, stream) for endpoint in ("messages", "generate_content") for stream in (False, True)),
    *(
        Form(endpoint, stream, at)
        for endpoint, at in (("chat", "messages"), ("messages", "chat"), ("generate_content", "chat"))
        for stream in (False, True)
    ),
)

FEW_WAYS = {("chat", ""), ("messages", "chat")}
"""A native endpoint with all of its cases, and a translated one: for a plugin that has little to do with what is said."""


class Models(NamedTuple):
    """Names of models whose provider speaks one format."""

    usual: str = "gpt-4o"
    pair: str = "conformance-pair"
    """Two targets, of which the first fails."""
    priceless: str = "gpt-4o-conformance"
    """One whose price somebody crashes over."""


MODELS = {
    "messages": Models("claude-3-5-haiku", "conformance-pair-of-claudes", "claude-conformance"),
    "generate_content": Models("gemini-1.5-flash", "conformance-pair-of-geminis", "gemini-conformance"),
}
"""By the endpoint at which their provider is asked; at all others: `Models()`."""
PAIRS = {
    Models().pair: ("openai/gpt-4o-first", "openai/gpt-4o"),
    MODELS["messages"].pair: ("anthropic/claude-first", "anthropic/claude-3-5-haiku-latest"),
    MODELS["generate_content"].pair: ("google/gemini-first", "google/gemini-1.5-flash"),
}
"""The targets of each pair."""
PRICELESS = frozenset(models.priceless for models in (Models(), *MODELS.values()))

KEPT_AS = {"plain": 0, "streamed": -1}
"""The seeds of the requests that fill the cache, by the form of the answer it keeps of them."""
DEFAULT, OTHER = "default", "conformance-other"
"""Projects."""
REFUSED = "conformance_refused"

NO_LUCK = "no_luck"
"""What a provider of OpenAI's format calls its failure."""
_KINDS = {
    "messages": {400: "invalid_request_error", 429: "rate_limit_error", 500: "api_error"},
    "generate_content": {400: "INVALID_ARGUMENT", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL"},
}
"""What the others call theirs, by its status."""


@dataclass(frozen=True, slots=True)
class Act:
    """What a plugin's hook does in this case instead of its work: refuse, crash or hang."""

    who: str
    hook: str
    what: str

    def __str__(self) -> str:
        return f"{self.what} in {self.hook} by {self.who}"


@dataclass(frozen=True, slots=True)
class Case:
    """One exchange of the matrix."""

    endpoint: str
    stream: bool
    outcome: str
    translated: str = ""
    """The endpoint at which the provider is asked, where that is not the client's."""
    number: int = 0
    cached: str = ""
    """The form in which the cache keeps the answer; empty where it keeps none."""
    part: str = ""
    """Of a call that identical requests share: `begins` or `joins`. Who joins follows who began it."""
    seed: int | None = None
    """Cases of one seed ask the same of the provider; None: this case asks for something of its own."""
    project: str = DEFAULT
    hooked: bool = False
    """The suite's own `on_chunk` hooks are on; without them, and a plugin that has one, answers are not decoded."""
    act: Act | None = None
    upstream: str = "answers"
    leaves: str = ""
    """The moment at which the client goes away."""
    model: str = "gpt-4o"
    body: bytes | None = None
    """Sent in place of a request."""
    anonymous: bool = False
    statuses: frozenset[int] = frozenset({200})
    code: str | None = None
    """The row's `error_code`."""
    accepted: bool = True
    """The caller is known, and the request comes as far as `pre_request`."""
    tries: int = 1
    """How often `pre_attempt` runs."""
    calls: int = 1
    """How often the provider is asked."""
    cache: str = "miss"
    """What the row says of it."""

    @property
    def answered(self) -> bool:
        return self.code is None

    @property
    def asked_at(self) -> str:
        """The endpoint at which the provider is asked."""
        return self.translated or self.endpoint

    @property
    def way(self) -> tuple[str, str]:
        """As `Form.way`."""
        return self.endpoint, self.translated

    @property
    def models(self) -> Models:
        return MODELS.get(self.asked_at, Models())

    def refusal(self, status: int) -> str:
        """The `error_code` of a provider's refusal with this status: its own code, or the name of its kind."""
        return _KINDS[self.asked_at][status] if self.asked_at in _KINDS else NO_LUCK

    def __str__(self) -> str:
        form = ("streamed" if self.stream else "plain") + (f" by {self.translated}" if self.translated else "")
        kept = f", cached {self.cached}" if self.cached else ""
        part = f", {self.part}" if self.part else ""
        return f"{self.endpoint} {form}{kept}{', hooked' if self.hooked else ''}{part}: {self.outcome}"

    @property
    def asks_the_cache(self) -> bool:
        """What comes of it depends on the cache: it is left out where the gateway has none."""
        return bool(self.cached or self.part or self.project == OTHER)

    def as_if_nobody_acted(self) -> Case:
        """How it has to end when the act did not come about, or is to be ignored."""
        cache = "hit" if self.cached else "joined" if self.part == "joins" else "miss"
        asked = int(cache == "miss")
        return replace(self, act=None, statuses=frozenset({200}), code=None, accepted=True, tries=asked, calls=asked, cache=cache)


Change = Callable[[Case], Case]


def matrix(subject_hooks: Iterable[str]) -> list[Case]:
    """Every case, numbered from 1, for a plugin with these hooks."""
    return list(_matrix(tuple(subject_hooks)))


@lru_cache(maxsize=16)
def _matrix(hooks: tuple[str, ...]) -> tuple[Case, ...]:
    """Most plugins have the same few hooks, and many runs are of some of its cases only."""
    found = [case for form in FORMS for case in (*_of_form(form, hooks), *_shared(form, hooks))]
    numbered: list[Case] = []
    for number, case in enumerate(found, 1):
        own = numbered[-1].seed if case.part == "joins" else number
        numbered.append(replace(case, number=number, seed=own if case.seed is None else case.seed))
    return tuple(numbered)


def _usual(form: Form, outcome: str, upstream: str = "answers") -> Case:
    case = Case(form.endpoint, form.stream, outcome, form.translated, upstream=upstream)
    return replace(case, model=case.models.usual)


def _of_form(form: Form, hooks: tuple[str, ...]) -> Iterator[Case]:
    plain, stream = _usual(form, "answered"), form.stream
    hit = _hit(plain, "plain")
    for case in (plain, hit):
        yield case
        yield replace(case, hooked=True)
        yield from _acts(case, (FIRST, LAST)) if form.whole else _acts_on_answers(case, (FIRST,))
    if any(other.stream and other.way == form.way for other in FORMS):
        yield _hit(plain, "streamed")
        yield replace(_hit(plain, "streamed"), hooked=True)
    if not stream:  # once per endpoint: what the other project has asked is its own to be given again
        yield replace(plain, outcome="another project asks for what is cached", project=OTHER, seed=KEPT_AS["plain"])
    for what in ("cut anywhere", "cut byte by byte", "said letter by letter", "said at once"):
        yield replace(plain, outcome=f"answered, {what}", upstream=what)
        yield replace(plain, outcome=f"answered, {what}", upstream=what, hooked=True)
    yield from _acts(plain, (SUBJECT,), hooks) if form.whole else _acts_on_answers(plain, (SUBJECT,), hooks)
    yield from _faults(plain)
    yield from _abandoned(plain)
    if form.whole:
        yield _leaving(hit, "in pre_request")


def priming(form: Form) -> Case:
    """Asks for what the cached cases of this form will ask again."""
    return replace(_usual(form, "answered"), seed=KEPT_AS["streamed" if form.stream else "plain"])


def marked(seed: int | None) -> str:
    """What the client says in a case of this seed: the one thing that any provider is told, whatever its format."""
    return f"Hello, in case {seed}."


def mark_in(body: bytes) -> int:
    """The seed that a request is marked with; 0 where it has none."""
    found = re.search(rb"Hello, in case (-?\d+)\.", body)
    return int(found[1]) if found is not None else 0


def _hit(case: Case, kept: str) -> Case:
    return replace(case, cached=kept, seed=KEPT_AS[kept], tries=0, calls=0, cache="hit")


# ── somebody refuses, crashes or hangs ──────────────────────────────────────────────────────────────────────────────────────

_DECIDING = ("authenticate", "pre_request", "pre_attempt", "on_chunk")


def _acts(case: Case, whose: Iterable[str], hooks: tuple[str, ...] = ()) -> Iterator[Case]:
    for who in whose:
        for hook in _DECIDING:
            if _reaches(case, who, hook, hooks):
                yield _acting(case, Act(who, hook, "refuses"))
                yield _acting(case, Act(who, hook, "crashes"))
        for hook in ("post_response", "record") if case.cached else ("price", "post_response", "record"):
            if who == FIRST or hook in hooks:
                yield _acting(case, Act(who, hook, "crashes"))
    if FIRST in whose and case.endpoint == "chat":
        for hook in _DECIDING[:3]:
            if _reaches(case, FIRST, hook, hooks):
                yield _acting(case, Act(FIRST, hook, "hangs"))


def _acts_on_answers(case: Case, whose: Iterable[str], hooks: tuple[str, ...] = ()) -> Iterator[Case]:
    """What somebody does to an answer, and one refusal before there is any: what the client is told depends on its format."""
    for who in whose:
        for hook in ("on_chunk", "pre_request") if who == FIRST and not case.cached else ("on_chunk",):
            if _reaches(case, who, hook, hooks):
                yield _acting(case, Act(who, hook, "refuses"))
                yield _acting(case, Act(who, hook, "crashes"))


def _reaches(case: Case, who: str, hook: str, hooks: tuple[str, ...]) -> bool:
    """Whether that hook is called at all: a hit has no attempt, and keys answers before the last plugin is asked."""
    if case.cached and hook == "pre_attempt":
        return False
    return hook in hooks if who == SUBJECT else not (who == LAST and hook == "authenticate")


def _acting(case: Case, act: Act) -> Case:
    """The case with somebody in the way: which hooks still run, and what the client is told."""
    case = replace(case, act=act, outcome=str(act), hooked=act.hook == "on_chunk" and act.who != SUBJECT)
    if act.hook == "price":
        return replace(case, model=case.models.priceless)
    if act.hook in ("post_response", "record"):
        return case
    status, code = (403, REFUSED) if act.what == "refuses" else (500, "plugin_error")
    told = {status, 200} if act.hook == "on_chunk" and case.stream else {status}
    case = replace(case, statuses=frozenset(told), code=code)
    if act.hook == "on_chunk":
        return case
    cache = case.cache if act.hook == "pre_attempt" else "bypass"
    case = replace(case, cache=cache)
    return replace(case, accepted=act.hook != "authenticate", tries=int(act.hook == "pre_attempt"), calls=0)


# ── the provider fails ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _faults(case: Case) -> Iterator[Case]:
    for status in (400, 429, 500):
        upstream = f"refuses with {status}"
        refused = replace(case, statuses=frozenset({status}), code=case.refusal(status))
        yield replace(refused, outcome=f"the provider {upstream}", upstream=upstream)
    yield replace(case, outcome="another target answers", upstream="fails once", model=case.models.pair, tries=2, calls=2)
    faults = (("resets", "upstream_disconnected"), ("sends garbage", "upstream_protocol_error"))
    more = (("ends early", "upstream_truncated"), ("tells of an error", case.refusal(500)))
    for upstream, code in (*faults, *more) if case.stream else faults:
        statuses = frozenset({200, 502} if case.stream else {502})  # a plugin may have held back all that came
        outcome = f"the provider {upstream} in the middle"
        yield replace(case, outcome=outcome, upstream=upstream, statuses=statuses, code=code)
    bad = replace(case, tries=0, calls=0, accepted=False, cache="bypass")
    yield replace(bad, outcome="no key", anonymous=True, statuses=frozenset({401}), code="missing_api_key")
    yield replace(bad, outcome="no JSON", body=b"{", statuses=frozenset({400}), code="invalid_json")
    yield replace(bad, outcome="unknown model", model="no-such-model", statuses=frozenset({404}), code="model_not_found")


# ── the client goes away ────────────────────────────────────────────────────────────────────────────────────────────────────


def _abandoned(case: Case) -> Iterator[Case]:
    yield _leaving(case, "in pre_request")
    yield replace(_leaving(case, "before the head"), upstream="waits before the head")
    yield replace(_leaving(case, "in the middle"), upstream="waits in the middle")
    yield replace(_leaving(case, "in the middle"), upstream="waits in the middle", hooked=True)
    if case.stream:
        yield replace(_leaving(case, "before the end"), upstream="waits before the end")


def _leaving(case: Case, moment: str) -> Case:
    act = Act(FIRST, "pre_request", "hangs") if moment == "in pre_request" else None
    asked = int(act is None)
    left = replace(case, outcome=f"the client leaves {moment}", leaves=moment, act=act, code="client_disconnected")
    return replace(left, statuses=frozenset({499}), tries=asked, calls=asked, cache="miss" if asked else "bypass")


# ── identical requests at once ──────────────────────────────────────────────────────────────────────────────────────────────

TOGETHER = 3
"""Exchanges that share a call: the one that begins it, one that somebody may disturb, and one that is to notice nothing."""


def _shared(form: Form, hooks: tuple[str, ...]) -> Iterator[Case]:
    """Calls that are shared, each as the exchanges that share it."""
    case = _usual(form, "answered to all", "pauses in the middle")
    yield from _sharing(case)
    yield from _sharing(replace(case, hooked=True))
    broken = replace(case, outcome="the provider resets in the middle", upstream="resets", code="upstream_disconnected")
    yield from _sharing(replace(broken, statuses=frozenset({200, 502} if form.stream else {502})))
    if form.whole:
        yield from _shared_and_disturbed(case, hooks)
    else:
        moment = "in the middle"
        yield from _sharing(replace(case, outcome=f"who began it leaves {moment}"), begins=partial(_leaves_the_others, moment))


def _shared_and_disturbed(case: Case, hooks: tuple[str, ...]) -> Iterator[Case]:
    for moment in ("before the head", "in the middle"):
        yield from _sharing(replace(case, outcome=f"who began it leaves {moment}"), begins=partial(_leaves_the_others, moment))
    for moment in ("before the head", "in the middle"):
        yield from _sharing(replace(case, outcome=f"who joined it leaves {moment}"), joins=partial(_leaves_the_others, moment))
    for who in (FIRST, SUBJECT):
        if who == FIRST or "on_chunk" in hooks:
            for what in ("refuses", "crashes"):
                act = Act(who, "on_chunk", what)
                yield from _sharing(replace(case, outcome=f"{act}, for who began it"), begins=partial(_disturbed, act))
                yield from _sharing(replace(case, outcome=f"{act}, for who joined it"), joins=partial(_disturbed, act))
    refused = replace(case, statuses=frozenset({500}), code=case.refusal(500))
    yield from _sharing(replace(refused, outcome="the provider fails", upstream="refuses with 500"))
    other = replace(case, outcome="another project asks the same", part="begins")
    yield other
    yield replace(other, part="joins", project=OTHER)


def _sharing(case: Case, begins: Change | None = None, joins: Change | None = None) -> Iterator[Case]:
    """One call's exchanges; something may be different for the one that begins it, or for one of those that join."""
    begun = replace(case, part="begins")
    joined = replace(case, part="joins", tries=0, calls=0, cache="joined")
    yield begins(begun) if begins is not None else begun
    yield joins(joined) if joins is not None else joined
    yield from (joined for _ in range(TOGETHER - 2))


def _leaves_the_others(moment: str, case: Case) -> Case:
    return replace(case, leaves=moment, code="client_disconnected", statuses=frozenset({499}))


def _disturbed(act: Act, case: Case) -> Case:
    return replace(_acting(case, act), outcome=case.outcome)
