"""The conformance suite of muxx for the plugin `limits`, with every limit set and none of them reached."""

from __future__ import annotations

from typing import ClassVar

from muxx.testing.conformance import FEW_WAYS, Conformance
from muxx_std.limits import RateLimits


class TestLimits(Conformance):
    plugin = RateLimits
    name = "limits"
    ways = FEW_WAYS
    config: ClassVar = {
        "project": {
            "limits": {
                "rpm": 1_000_000, "tpm": 1_000_000_000, "rpd": 1_000_000, "user_rpm": 1_000_000, "user_tpm": 1_000_000_000,
                "user_rpd": 1_000_000, "key_in_flight": 10_000,
            }
        }
    }  # fmt: skip
    headers: ClassVar = {"X-Muxx-User-Id": "ann"}
