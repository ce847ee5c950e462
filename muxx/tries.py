"""The tries of one exchange at its targets: who may be called just now, with which key, and what comes after a failure.

Invariants: what was taken of a target for a try, a place among those in flight and the breaker's leave, is given back when the
try has ended, however it did; each key is refused at most once to an exchange; what repeats a try is paid for from the target's
budget.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from . import routing
from .breaker import Admission, Outcome
from .errors import InvalidRequest, MuxxError, ProviderRefusal, Unavailable, UpstreamAuth, UpstreamError, UpstreamTimeout
from .health import FAILED_SECONDS
from .outages import is_outage
from .providers import not_usable
from .targets import Attempt, Target
from .unreachable import why_unreached

if TYPE_CHECKING:
    from .call import Call

Reason = Literal["no_key", "at_limit", "breaker_open", "unsupported"]


class PassedOver(NamedTuple):
    """A target that was not tried."""

    before: int
    """How many attempts had been made by then."""
    target: Target
    reason: Reason
    refusal: InvalidRequest | None = None
    """What of the request it has no word for, where that is the reason."""


def attempts_told(attempts: list[Attempt], passed_over: Sequence[PassedOver]) -> list[dict[str, Any]]:
    """Every target that was tried or passed over, in order, for the row."""
    lines: list[dict[str, Any]] = []
    for number, attempt in enumerate([*attempts, None]):
        lines += [{"target": str(over.target), "skipped": over.reason} for over in passed_over if over.before == number]
        if attempt is not None:
            milliseconds = round(((attempt.ended or time.monotonic()) - attempt.started) * 1000, 1)
            code = attempt.error.code if attempt.error is not None else None
            lines.append({"target": str(attempt.target), "status": attempt.status, "error": code, "ms": milliseconds})
    return lines


class Tries:
    """The tries of one exchange at one target, one after the other."""

    attempt: Attempt | None = None
    """The one that is made, or was made last."""
    credential: str | None
    """The key of the next one."""
    failure: UpstreamError | None = None
    """What the client is told if no other target answers."""
    replays = 0
    _admission: Admission | None = None
    _answered = False
    _retried = 0

    def __init__(self, call: Call, target: Target) -> None:
        self.target = target
        self._call = call
        self._health = call.gateway.health
        self._state = self._health.of(target)
        self._refused: list[str] = []
        """Keys."""
        provider = target.provider
        client = call.head.client_credential if provider.forward_client_credentials else None
        given = client or call.provider_keys.get(provider.name)
        self._pool = self._health.pool(provider) if provider.api_keys and given is None else None
        self.credential = given or (provider.api_key if self._pool is None else self._pool.first(time.monotonic()))

    def begin(self) -> bool:
        """Whether the target may be tried now. If so, `end` has to be called; if not, it has been passed over."""
        provider, first = self.target.provider, self.attempt is None
        reason: Reason | None = None
        if provider.missing_for(self.credential is not None) is not None:
            reason = "no_key"
        elif not self._health.take_seat(provider):
            reason = "at_limit"
        else:
            self._admission = self._state.breaker.enter(time.monotonic())
            if self._admission is None:
                self._health.leave_seat(provider)
                reason = "breaker_open"
        if reason is None and first:
            self._state.budget.first()
        if reason is not None and first:
            self.pass_over(reason)
        return reason is None

    def pass_over(self, reason: Reason, refusal: InvalidRequest | None = None) -> None:
        call = self._call
        call.passed_over = [*call.passed_over, PassedOver(len(call.exchange.attempts), self.target, reason, refusal)]

    @property
    def on_first_token(self) -> Callable[[], None] | None:
        """What is to be called once the model speaks, for the others need not wait until it has said everything."""
        return self._proven if self._admission == "probe" else None

    def _proven(self) -> None:
        if self._admission == "probe":
            self._state.breaker.leave("probe", "answered", time.monotonic())
            self._admission = "call"

    def answered(self) -> None:
        """The attempt has brought an answer to its end."""
        self._answered = True

    def failed(self, error: UpstreamError) -> None:
        """The attempt has come to nothing. That one key is over its limit says more than that another is not known."""
        assert self.attempt is not None
        self.attempt.error = error
        provider = self.target.provider
        why = why_unreached(provider, error)
        if why is not None and self._health.unreached(provider, why, time.monotonic()):
            self._call.gateway.log.warning("provider %s: %s", provider.name, why)
        if not (isinstance(error, UpstreamAuth) and isinstance(self.failure, ProviderRefusal) and self._refused):
            self.failure = error

    def end(self) -> None:
        """The try has ended, be it with an answer, a failure, or because the client has gone."""
        admission, self._admission = self._admission, None
        if admission is None:
            return
        self._health.leave_seat(self.target.provider)
        now, attempt = time.monotonic(), self.attempt
        outcome: Outcome = "neither"
        if attempt is not None:
            outcome = self._outcome(attempt)
            attempt.ended = attempt.ended or now
            self._measure(attempt, outcome, now)
        self._state.breaker.leave(admission, outcome, now)

    def _outcome(self, attempt: Attempt) -> Outcome:
        call = self._call
        error = attempt.error or (call.exchange.error if self._answered else None)
        if error is None and not self._answered and not call.committed and isinstance(call.reason, UpstreamTimeout):
            error = call.reason  # the whole request's limit has passed before there was any answer
        if is_outage(error, attempt.status):
            return "failed"
        refused_the_request = error is not None and attempt.status is not None and 400 <= attempt.status < 500
        return "answered" if refused_the_request or (self._answered and error is None) else "neither"

    def _measure(self, attempt: Attempt, outcome: Outcome, now: float) -> None:
        if outcome == "failed":
            self._state.measured(max(FAILED_SECONDS, now - attempt.started))
        elif attempt.head_at is not None and attempt.status == 200:
            self._state.measured(attempt.head_at - attempt.started)
        if outcome == "answered" and attempt.replays > 0:
            self._state.budget.give_back()

    def pause(self) -> float | None:
        """Seconds after which the target is to be tried once more after this failure; None: not any more."""
        attempt = self.attempt
        if attempt is None or not isinstance(error := attempt.error, UpstreamError):
            return None
        now = time.monotonic()
        wait: float | None = None
        if routing.may_replay(attempt, error):
            self.replays += 1
            wait = 0.0
        elif self._next_key(attempt, error, now):
            wait = 0.0
        elif routing.may_retry(attempt, self._retried + 1):
            self._retried += 1
            wait = routing.backoff(self._retried, error.retry_after)
        if wait is None or now + wait >= self._call.whole_due or not self._state.budget.spend():
            return None
        return wait

    def _next_key(self, attempt: Attempt, error: UpstreamError, now: float) -> bool:
        """Whether the provider may be asked with another key, which is the next one then."""
        if self._pool is None or self.credential is None or not routing.may_ask_with_another_key(attempt):
            return False
        assert attempt.status is not None
        self._pool.refused(self.credential, attempt.status, error.retry_after, now)
        self._refused.append(self.credential)
        another = self._pool.another(now, self._refused)
        self.credential = another or self.credential
        return another is not None


def nobody_tried(call: Call) -> MuxxError:
    """What the client is told when every target was passed over: what passes by itself before what it has to change itself, and
    that before what the operator has to."""
    over = {one.reason: one for one in reversed(call.passed_over)}
    if "breaker_open" in over:
        health, now = call.gateway.health, time.monotonic()
        waits = [health.of(one.target).breaker.wait(now) for one in call.passed_over if one.reason == "breaker_open"]
        message = "The providers of this model keep failing, so they are left alone for a moment. Try again shortly."
        return Unavailable(message, code="upstream_unavailable", retry_after=max(min(waits), 0.001))
    if "at_limit" in over:
        return Unavailable("The providers of this model have as many requests as they may have. Try again shortly.")
    if "unsupported" in over and (refusal := over["unsupported"].refusal) is not None:
        return refusal
    return UpstreamAuth(not_usable(over["no_key"].target.provider)) if over else UpstreamError()
