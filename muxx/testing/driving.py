"""One plugin, one exchange, one call: for tests that need no more than that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .outcome import Outcome
from .played import Answer, Broken
from .stage import Stage
from .waiting import completed


def drive(
    plugin: object,
    answer: Answer | Broken = "Hello there.",
    *,
    settings: Mapping[str, Any] | None = None,
    name: str | None = None,
    beside: Mapping[str, type] | None = None,
    config: Mapping[str, Any] | None = None,
    **request: Any,
) -> Outcome:
    """Take a plugin, class or instance, through a whole exchange, without a server: `drive(Shout, "Hello.").text == "HELLO."`.

    What happens is what happens in a gateway: `authenticate`, `pre_request`, `pre_attempt`, `on_chunk` for each chunk, `price`,
    `post_response`, and `record` into a real SQLite file with the plugin's migrations. `settings`, `name`, `beside` and `config`
    are those of `Stage`, the rest is what `Stage.drive` takes. Works in a plain test and in an `async def` alike.
    """

    async def run() -> Outcome:
        async with Stage(plugin, settings, name=name, beside=beside, config=config) as stage:
            return await stage.drive(answer, **request)

    return completed(run())
