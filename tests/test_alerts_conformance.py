"""The conformance suite of muxx for the plugin `alerts`, with alerts of every measure."""

from __future__ import annotations

from typing import ClassVar

from muxx.testing.conformance import FEW_WAYS, Conformance
from muxx_std.alerts import Alerts


class TestAlerts(Conformance):
    plugin = Alerts
    name = "alerts"
    ways = FEW_WAYS
    config: ClassVar = {
        "project": {
            "limits": {"rpm": 1_000_000, "rpd": 1_000_000, "user_rpd": 1_000_000},
            "alerts": [{"usd": "0.000001"}, {"limit": "rpd", "share": 0.000001}, {"limit": "user_rpd"}, {"limit": "rpm"}],
        }
    }
    headers: ClassVar = {"X-Muxx-User-Id": "ann"}
