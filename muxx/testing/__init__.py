"""The kit for testing muxx plugins, and muxx itself.

Without a server:

- `exchange`, `attempt`, `http_request`, `identity`, `target`, `provider`, `chunks` and its like: ready-made values.
- `drive`, `Stage`: one plugin through a whole exchange, between a client and a provider that are plain objects.
- `check_plugin`: what a start would refuse, and what a reviewer would say.

Over real sockets:

- `ScriptedUpstream`: a provider of every format that answers byte for byte as scripted, breaks where told, and remembers what it
  saw.
- `RawClient`, `ask`, `post_chat`, `get`: a client that does exactly what the test says.
- `RunningGateway`: a gateway in this process; `GatewayProcess`: one to be killed.
- `muxx.testing.conformance`: the suite of invariants for any plugin, as a class to derive from.

And for both: `request_body` and `request_target`, what is asked, and where, at each of `ENDPOINTS`; `Said`, what an answer says,
to script it, and to read it by the book (`read_answer`, `read_error`, `read_comment`, `is_whole`); `cuts`, `every_cut`, bytes cut
as networks cut them; `leak.find`, secrets where they must not be; `eventually`, waiting; `aside`, a service in a thread beside
the test.
`muxx.testing.fixtures` has fixtures for pytest.

Names that need a server or pytest are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import answers, leak
from .answers import answer, chat, embeddings, error, events, head, json, refuses, sse
from .aside import aside
from .asking import ENDPOINTS, endpoint_at, model_for, request_body, request_target
from .client import RawClient, RawResponse, ask, chat_body, get, post_chat
from .cutting import cuts, every_cut
from .reading import Unreadable, is_whole, read_answer, read_comment, read_error
from .said import Said, Tool, letters, words
from .settings import PROVIDER_KEY, clean_environment
from .speaking import DONE, event
from .steps import Action, Chooser, Script, Step, fin, hold, pause, rst, wait
from .upstream import Connection, RecordedRequest, ScriptedUpstream, unused_port
from .values import (
    HeadOf,
    attempt,
    chunks,
    end,
    exchange,
    http_request,
    identity,
    provider,
    reasoning,
    target,
    text,
    tool_call,
)
from .waiting import eventually

if TYPE_CHECKING:
    from .advice import Finding
    from .checking import check_plugin
    from .driving import drive
    from .outcome import Outcome
    from .played import Played, broken, refusal
    from .process import GatewayProcess
    from .running import RunningGateway
    from .stage import Stage
    from .watching import HookCall, Watch

_HOME = {
    "advice": "Finding",
    "checking": "check_plugin",
    "driving": "drive",
    "outcome": "Outcome",
    "played": "Played broken refusal",
    "process": "GatewayProcess",
    "running": "RunningGateway",
    "stage": "Stage",
    "watching": "HookCall Watch",
}
_LATER = {name: module for module, names in _HOME.items() for name in names.split()}

__all__ = [
    "DONE",
    "ENDPOINTS",
    "PROVIDER_KEY",
    "Action",
    "Chooser",
    "Connection",
    "Finding",
    "GatewayProcess",
    "HeadOf",
    "HookCall",
    "Outcome",
    "Played",
    "RawClient",
    "RawResponse",
    "RecordedRequest",
    "RunningGateway",
    "Said",
    "Script",
    "ScriptedUpstream",
    "Stage",
    "Step",
    "Tool",
    "Unreadable",
    "Watch",
    "answer",
    "answers",
    "aside",
    "ask",
    "attempt",
    "broken",
    "chat",
    "chat_body",
    "check_plugin",
    "chunks",
    "clean_environment",
    "cuts",
    "drive",
    "embeddings",
    "end",
    "endpoint_at",
    "error",
    "event",
    "events",
    "eventually",
    "every_cut",
    "exchange",
    "fin",
    "get",
    "head",
    "hold",
    "http_request",
    "identity",
    "is_whole",
    "json",
    "leak",
    "letters",
    "model_for",
    "pause",
    "post_chat",
    "provider",
    "read_answer",
    "read_comment",
    "read_error",
    "reasoning",
    "refusal",
    "refuses",
    "request_body",
    "request_target",
    "rst",
    "sse",
    "target",
    "text",
    "tool_call",
    "unused_port",
    "wait",
    "words",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LATER[name]}", __name__), name)
