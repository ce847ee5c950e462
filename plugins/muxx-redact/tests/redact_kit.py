"""What the tests share: things to hide, ways to cut a text, and ways through the plugin with a gateway and without one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from typing import Any

from muxx import Chunk, TextWindow, ToolCall
from muxx.testing import DONE, RawResponse, RunningGateway, event, leak

from muxx_redact import NAME, Redact, Side
from muxx_redact.settings import RedactConfig

_LINES = ["MIIEpAIBAAKCAQEA" + letter * 48 for letter in "Qx7+/z"]
PEM = "\n".join(["-----BEGIN RSA PRIVATE KEY-----", *_LINES, "abc=", "-----END RSA PRIVATE KEY-----"])
LOCKED_PEM = PEM.replace("KEY-----\nM", "KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,0A1B2C\n\nM", 1)
PGP_BODY = "Version: GnuPG v2\n\n" + "lQOYBF" * 10 + "\n=aB3x"
PGP = f"-----BEGIN PGP PRIVATE KEY BLOCK-----\n{PGP_BODY}\n-----END PGP PRIVATE KEY BLOCK-----"

SECRETS: dict[str, tuple[str, ...]] = {
    "api_key": (
        "muxx_sk_live_" + "a1B2" * 9 + "ab",
        "sk-" + "T3BlbkFJ" * 6,
        "sk-proj-" + "aB3_-" * 30,
        "sk-ant-api03-" + "aB3_-" * 18 + "AA",
        "AIzaSy" + "aB3_-" * 6 + "xyz",
        "ghp_" + "aB3" * 12,
        "github_pat_" + "11ABCDEFG0" + "_" + "aB3" * 12,
        "AKIAIOSFODNN7EXAMPLE",
        "xoxb-123456789012-aBcDeFgHiJkL",
        "glpat-" + "aB3_-" * 4,
        "sk_live_" + "aB3" * 8,
        "hf_" + "aBc" * 12,
    ),
    "jwt": ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",),
    "private_key": (PEM, PEM.replace("RSA ", ""), LOCKED_PEM, PGP, PEM.replace("\n", " "),
                    PEM.partition("\nabc=")[0]),
    "email": ("ada@example.org", "ada.l+news@mail.example.co.uk", "jürgen_m@bücher.de", "x@xn--bcher-kva.xn--p1ai"),
    "card": (
        "4111111111111111", "4111 1111 1111 1111", "4111-1111-1111-1111", "5555555555554444", "2223003122003222",
        "378282246310005", "3782 822463 10005", "30569309025904", "6011111111111117", "3530111333300000",
    ),
    "iban": ("DE89370400440532013000", "DE89 3704 0044 0532 0130 00", "GB82 WEST 1234 5698 7654 32", "NO9386011117947",
             "fr14 2004 1010 0505 0001 3m02 606"),
    "ssn": ("078-05-1120", "123 45 6789"),
    "phone": ("+49 30 1234567", "+44 (0)20 7946 0958", "+14155550132", "(415) 555-0132", "415-555-0132", "415.555.0132"),
    "ip": ("192.168.1.20", "2001:db8::8a2e:370:7334", "fe80::1", "::ffff:10.0.0.1"),
}  # fmt: skip
EVERY = [(name, secret) for name, secrets in SECRETS.items() for secret in secrets]

ALL_ON = RedactConfig(ip=True)

IS_INSTALLED = any(entry.name == NAME for entry in metadata.entry_points(group="muxx"))
PLUGINS = {} if IS_INSTALLED else {NAME: Redact}
"""What a gateway under test has to be given: nothing, where the distribution is installed and found by itself."""


class FakeExchange:
    """As much of an exchange as masking needs."""

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}


def side_of(config: RedactConfig = ALL_ON, exchange: Any = None) -> Side:
    return Side(Redact(config), exchange or FakeExchange())


def masked(text: str, config: RedactConfig = ALL_ON, *, arguments: bool = False) -> str:
    """A text that comes in one piece."""
    return streamed([text], config, arguments=arguments)


def streamed(pieces: Iterable[str], config: RedactConfig = ALL_ON, *, arguments: bool = False) -> str:
    """A text that comes in these pieces; what leaves, joined."""
    side = side_of(config)
    window = TextWindow.per_channel(lambda chunk: side.function_for(arguments), hold=Redact(config).scanner.hold)
    left: list[Chunk] = []
    for piece in pieces:
        chunk = Chunk("tool_call", tool_call=ToolCall(0, arguments=piece)) if arguments else Chunk("text", piece)
        result = window.feed(chunk)
        left += [chunk] if result is None else result
    left += window.feed(Chunk("end")) or []
    return "".join(chunk.tool_call.arguments if chunk.tool_call else chunk.text for chunk in left)


def cut(text: str, places: Iterable[int]) -> list[str]:
    ends = sorted({place for place in places if 0 < place < len(text)})
    return [text[begin:end] for begin, end in zip([0, *ends], [*ends, len(text)], strict=True)]


def cuttings(text: str) -> Iterator[list[str]]:
    """Single characters, then every way to cut once, or some two hundred of them."""
    yield list(text)
    yield from (cut(text, [place]) for place in range(1, len(text), 1 + len(text) // 200))


# ── answers of a provider ──


def delta(finish: str | None = None, index: int = 0, **members: Any) -> bytes:
    """An event that adds to one choice: `delta(content="Hi")`."""
    choice = {"index": index, "delta": members, "finish_reason": finish}
    return event({"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o", "choices": [choice]})


def call(arguments: str, index: int = 0, **members: Any) -> dict[str, Any]:
    """A fragment of a tool call: `delta(tool_calls=[call("{")])`."""
    return {"index": index, "function": {"arguments": arguments} | members}


def texts(pieces: Iterable[str]) -> bytes:
    """A whole streamed answer whose content comes in these pieces."""
    return b"".join(delta(content=piece) for piece in pieces) + delta("stop") + DONE


def said(response: RawResponse, choice: int = 0) -> dict[str, str]:
    """What a streamed answer said in one choice, each field joined; the arguments of a tool call under its index."""
    found: dict[str, str] = {}
    for item in response.events:
        for entry in item["choices"]:
            if entry["index"] == choice:
                for name, text in _fields(entry["delta"]):
                    found[name] = found.get(name, "") + text
    return found


def _fields(members: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in ("content", "reasoning_content", "refusal"):
        if isinstance(members.get(name), str):
            yield name, members[name]
    for entry in members.get("tool_calls") or ():
        yield str(entry["index"]), entry["function"].get("arguments", "")


# ── a gateway ──


async def post(gateway: RunningGateway, path: str, **body: Any) -> RawResponse:
    """One request to an endpoint, read to its end."""
    data = json.dumps({"model": "gpt-4o", **body}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {gateway.key}"}
    async with await gateway.connect() as client:
        await client.request("POST", f"/v1/{path}", headers, data)
        return await client.read_response()


def spellings(secret: str) -> set[str]:
    """As it is, as JSON spells it, and as JSON in JSON does."""
    found = {secret}
    for ascii_only in (True, False):
        once = json.dumps(secret, ensure_ascii=ascii_only)[1:-1]
        found |= {once, json.dumps(once, ensure_ascii=ascii_only)[1:-1]}
    return found


def left_in(secret: str, *where: Any) -> list[leak.Leak]:
    """Where a secret stands, in whichever spelling. What is not bytes is searched as JSON."""
    return leak.find(spellings(secret), *(place if isinstance(place, bytes) else json.dumps(place) for place in where))
