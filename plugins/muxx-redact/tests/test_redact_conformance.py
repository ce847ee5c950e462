"""The conformance suite of muxx, over answers that give the plugin something to do."""

from __future__ import annotations

from typing import ClassVar

import pytest
from muxx.testing.conformance import FEW_WAYS, Conformance

from muxx_redact import NAME, Redact


class TestRedact(Conformance):
    plugin = Redact
    name = NAME
    settings: ClassVar = {"ip": True}
    text = "Write to ada@example.org, or call (415) 555-0132 from 192.168.1.20. 👋"
    changes_answers = True
    ways = FEW_WAYS


@pytest.mark.soak
class TestRedactOnAllWays(TestRedact):
    ways = ()


class TestRedactWithNothingToHide(Conformance):
    """What holds no secret leaves as it came."""

    plugin = Redact
    name = NAME
    ways = FEW_WAYS
