"""The kit for testing muxx plugins, and muxx itself, over real sockets.

- `ScriptedUpstream`: a provider that answers byte for byte as scripted, breaks where told, and remembers what it saw.
- `RawClient`, `post_chat`, `get`: a client that does exactly what the test says.
- `RunningGateway`: a gateway in this process; `GatewayProcess`: one to be killed.
- `cuts`, `every_cut`: bytes cut as networks cut them; `leak.find`: secrets where they must not be; `eventually`: waiting.
- `muxx.testing.fixtures`: pytest fixtures `scripted_upstream` and `muxx_gateway`.

Names that need a server or pytest are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import answers, leak
from .answers import DONE, chat, error, event, events, head, json, sse
from .client import RawClient, RawResponse, chat_body, get, post_chat
from .cutting import cuts, every_cut
from .settings import PROVIDER_KEY, clean_environment
from .steps import Action, Chooser, Script, Step, fin, pause, rst, wait
from .upstream import Connection, RecordedRequest, ScriptedUpstream, unused_port
from .waiting import eventually

if TYPE_CHECKING:
    from .process import GatewayProcess
    from .running import RunningGateway

__all__ = [
    "DONE",
    "PROVIDER_KEY",
    "Action",
    "Chooser",
    "Connection",
    "GatewayProcess",
    "RawClient",
    "RawResponse",
    "RecordedRequest",
    "RunningGateway",
    "Script",
    "ScriptedUpstream",
    "Step",
    "answers",
    "chat",
    "chat_body",
    "clean_environment",
    "cuts",
    "error",
    "event",
    "events",
    "eventually",
    "every_cut",
    "fin",
    "get",
    "head",
    "json",
    "leak",
    "pause",
    "post_chat",
    "rst",
    "sse",
    "unused_port",
    "wait",
]

_LATER = {"GatewayProcess": "process", "RunningGateway": "running"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LATER[name]}", __name__), name)
