"""When a target that keeps failing is left alone. Pure: the time, in monotonic seconds, is passed in."""

from __future__ import annotations

from typing import Literal

Admission = Literal["call", "probe"]
Outcome = Literal["answered", "failed", "neither"]
"""How a call ended: as a provider that is up ends it, as an outage does, or in a way that says nothing of either."""


class Breaker:
    """Closed until so many failures in a row; then open for so long; then half open, which admits one call, the probe.

    Invariants: whoever was admitted leaves; while it is not closed, at most one call is under way that was admitted since it
    opened; only the probe's outcome closes it or opens it again, and a probe that says nothing lets the next caller be the probe;
    with `failures` 0 everybody is admitted, always.
    """

    __slots__ = ("_failures", "_in_a_row", "_open_until", "_probing", "_seconds")

    def __init__(self, failures: int, seconds: float) -> None:
        self._failures = failures
        self._seconds = seconds
        self._in_a_row = 0
        self._open_until: float | None = None
        """None while it is closed."""
        self._probing = False

    @property
    def closed(self) -> bool:
        return self._open_until is None

    def enter(self, now: float) -> Admission | None:
        """Whether a call may be made; None: it may not. Whoever may, has to `leave`."""
        if self._open_until is None:
            return "call"
        if self._probing or now < self._open_until:
            return None
        self._probing = True
        return "probe"

    def leave(self, admission: Admission, outcome: Outcome, now: float) -> None:
        """The call is over. What was admitted before it opened has no say in whether it closes."""
        if admission == "probe":
            self._probing = False
            if outcome == "answered":
                self._open_until, self._in_a_row = None, 0
            elif outcome == "failed":
                self._open_until = now + self._seconds
        elif self._open_until is None and outcome == "answered":
            self._in_a_row = 0
        elif self._open_until is None and outcome == "failed":
            self._in_a_row += 1
            if self._in_a_row == self._failures:
                self._open_until = now + self._seconds

    def wait(self, now: float) -> float:
        """Seconds after which a call may be admitted; at least one while the probe is under way."""
        if self._open_until is None:
            return 0.0
        return max(1.0 if self._probing else 0.0, self._open_until - now)
