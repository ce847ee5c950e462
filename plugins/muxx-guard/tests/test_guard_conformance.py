"""The conformance suite of muxx, beside a service that allows everything, and beside one that replaces what it knows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest
from guard_kit import GuardService, Judging, allow, masking
from muxx.testing import aside
from muxx.testing.conformance import FEW_WAYS, Conformance, Subject

from muxx_guard import NAME, Guard


class Beside(Conformance):
    plugin = Guard
    name = NAME
    judge: ClassVar[Judging] = staticmethod(allow)
    settings: ClassVar = {"window_chars": 40, "overlap_chars": 10}
    config: ClassVar = {"server": {"chain_timeout_s": 6}}
    patient: ClassVar = {"service_timeout_s": 5.9}
    """The service runs in this process, which has a thousand other things to do; and the suite's own plugins hang for as long as
    the chain may take."""

    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls) -> Iterator[Subject]:
        with aside(GuardService(cls.judge)) as service:
            yield cls.described(settings={"url": service.url, **cls.patient, **cls.settings})


class TestGuardThatAllows(Beside):
    """What the service allows leaves as it came, in the provider's order too where nothing is held back."""

    settings: ClassVar = {"window_chars": 1, "overlap_chars": 0}
    ways = FEW_WAYS


@pytest.mark.soak
class TestGuardThatAllowsInWindows(Beside):
    """Text waits for its window, and what belongs to another channel does not wait for it: the order of events changes."""

    changes_answers = True
    ways = FEW_WAYS


class TestGuardThatReplaces(Beside):
    judge = staticmethod(masking)
    text = "The door opens with code-4711, and the gate with code-0815. Tell nobody. 👋"
    changes_answers = True
    ways = FEW_WAYS


@pytest.mark.soak
class TestGuardThatReplacesOnAllWays(TestGuardThatReplaces):
    ways = ()
