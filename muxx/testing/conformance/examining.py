"""Running the matrix: two real gateways with the plugin, one after the other, and what is left of them."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from muxx.discovery import discover
from muxx.journal import BALLAST
from muxx.request import CREDENTIAL_HEADERS

from .. import leak
from ..installing import installed
from ..running import RunningGateway
from ..settings import PROVIDER_KEY, clean_environment, merged
from ..state import CONTAINERS, changed, shared_state
from ..upstream import ScriptedUpstream
from .carrying import Examination
from .cases import FIRST, LAST, PAIRS, Case, matrix
from .evidence import PATIENCE, Evidence, Subject
from .leftovers import more, open_things
from .troupe import SECRET, Notes, probes

CACHE_BYTES = 2**26


class _Log(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.DEBUG)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))


async def examine(subject: Subject, cases: Iterable[Case] | None = None, *, patience: float = PATIENCE) -> Evidence:
    """Take the plugin through the matrix, or through some of its cases. `patience`: seconds to wait for what has to come."""
    chosen = list(matrix(subject.hooks) if cases is None else cases)
    notes = Notes(chosen, subject.name)
    evidence = Evidence(subject, notes, patience=patience)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: evidence.complaints.append(str(context.get("message"))))
    logger, handler = logging.getLogger("muxx"), _Log(evidence.log)
    logger.addHandler(handler)
    before = shared_state(subject.plugin)
    try:
        with (
            mock.patch.dict(os.environ, clean_environment(), clear=True),
            tempfile.TemporaryDirectory(prefix="muxx-") as made,
            installed(_plugins(subject, notes), Path(made)),
        ):
            await _run(evidence, chosen, Path(made))
    finally:
        logger.removeHandler(handler)
    evidence.shared += [f"{name} changed" for name in changed(before, shared_state(subject.plugin))]
    return evidence


def _plugins(subject: Subject, notes: Notes) -> dict[str, type]:
    """What has to be installed for the run: the plugin too, unless it is."""
    known = {found.name: found.cls for found in discover()}
    if subject.name in known and known[subject.name] is not subject.plugin:
        raise ValueError(f"another plugin named {subject.name!r} is installed: give yours another name")
    own = {} if subject.name in known else {subject.name: subject.plugin}
    return own | probes(notes)


async def _run(evidence: Evidence, cases: Sequence[Case], directory: Path) -> None:
    before = open_things()
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(ScriptedUpstream())
        places = [directory / name for name in ("one", "two")]
        for place in places:
            place.mkdir()
        async with (
            _gateway(evidence.subject, upstream, places[0]) as one,
            _gateway(evidence.subject, upstream, places[1]) as two,
        ):
            evidence.shared += _shared_objects(evidence.subject.name, one, two)
            await Examination(evidence, one, upstream).run(cases)
            evidence.again = await Examination(evidence, two, upstream).answered(cases)
        await evidence.settle("the end of all tasks and threads", lambda: not more(open_things(), before))
        evidence.left_behind += more(open_things(), before)
        await evidence.settle("connections to the provider", lambda: upstream.open_connections == 0)
        evidence.leaks += _leaks(evidence, places)


@asynccontextmanager
async def _gateway(subject: Subject, upstream: ScriptedUpstream, directory: Path) -> AsyncIterator[RunningGateway]:
    async with RunningGateway(_config(subject), upstream=upstream, directory=directory) as gateway:
        yield gateway


def _config(subject: Subject) -> dict[str, Any]:
    """A gateway with a cache, in which nobody stands before the first probe or behind the last; and what the subject wants."""
    config = merged({"plugins": {"cache": {"max_bytes": CACHE_BYTES}}}, {"plugins": {subject.name: dict(subject.settings)}})
    config = merged(config, subject.config)
    names = dict.fromkeys([*config["plugins"].get("order", ()), *sorted(found.name for found in discover())])
    between = [name for name in names if name not in (FIRST, LAST)]
    config["plugins"] = {**config["plugins"], "order": [FIRST, *between, LAST]}
    pairs = [{"name": name, "targets": list(targets)} for name, targets in PAIRS.items()]
    return {**config, "models": [*pairs, *config.get("models", ())]}


def _shared_objects(name: str, one: RunningGateway, two: RunningGateway) -> list[str]:
    """Attributes of the two instances that are one and the same object, and could change."""
    first, second = (_vars_of(running.gateway.plugins.by_name[name].instance) for running in (one, two))
    return [
        f"attribute {attribute} of the two instances is one object"
        for attribute, value in first.items()
        if isinstance(value, CONTAINERS) and second.get(attribute) is value
    ]


def _vars_of(instance: object) -> Mapping[str, Any]:
    return getattr(instance, "__dict__", {})


def _leaks(evidence: Evidence, places: Iterable[Path]) -> list[str]:
    """Canaries where they must not be: the disk, the log, what clients and providers got."""
    notes = evidence.notes
    theirs = [value.split(" ")[-1] for name, value in evidence.subject.headers.items() if name.lower() in CREDENTIAL_HEADERS]
    client = [*notes.canaries, *theirs, SECRET]
    passed_over = ("muxx.toml", BALLAST)  # where the provider's key belongs, and room in which nothing is ever written
    files = [file for place in places for file in place.rglob("*") if file.is_file() and file.name not in passed_over]
    texts = ["\n".join(evidence.log)]
    for result in (*evidence.results, *evidence.again):
        if result.response is not None:
            texts.append(f"{result.response.headers}{result.response.body!r}")
    found = leak.find([*client, PROVIDER_KEY], *files, *texts)
    sent = [f"{request.headers}{request.body!r}" for result in evidence.results for request in result.upstream]
    found += leak.find(client, *sent)
    return [f"{item.canary} at {Path(item.place).name}" for item in found]
