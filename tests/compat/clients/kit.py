"""What the Python clients' scripts share: they make the calls, this judges what came back and prints one JSON line per case.

It runs in a client's environment, so it imports nothing but Python's own. A script runs as `python NAME.py ENDPOINT`, with COMPAT_URL
(scheme, host and port), COMPAT_KEY, COMPAT_MODELS (a JSON object: provider's format to model) and COMPAT_CASES in its environment.
After the line of an abort it waits for a line on stdin: only a client that is still there has closed its connection by itself.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, NamedTuple

URL = os.environ.get("COMPAT_URL", "")
EXPECTED = json.loads(Path(__file__).with_name("expected.json").read_text())
VALUE = {"place": EXPECTED["string"], "days": EXPECTED["integer"]}
"""What every schema of the scripts is answered with."""


def weather(city: str) -> str:
    """The weather in a city"""
    return str(EXPECTED["tool_result"])


class Answer(NamedTuple):
    """A text and its usage; the counts are None where the client does not show them."""

    text: str
    input_tokens: int | None = None
    output_tokens: int | None = None


class Stream(NamedTuple):
    """The pieces of a text, in order, and their usage."""

    pieces: list[str]
    input_tokens: int | None = None
    output_tokens: int | None = None


class Tools(NamedTuple):
    """A called tool with its parsed arguments, and what was said to its result."""

    name: str
    arguments: Any
    answer: str


class Face(ABC):
    """One client at one endpoint: how each case is written with it, from nothing but the gateway's address and a key."""

    NOT_FOUND = "NotFoundError"
    UNAUTHORIZED = "AuthenticationError"
    """The client's own errors, each among the `kinds` of what is raised."""

    def __init__(self, key: str) -> None:
        self.key = key

    @abstractmethod
    def plain(self, model: str, prompt: str) -> Answer: ...

    @abstractmethod
    def stream(self, model: str, prompt: str) -> Stream: ...

    @abstractmethod
    def abort(self, model: str, prompt: str) -> str:
        """Stop reading a stream after its first piece, as the client's manual says; that piece."""

    def tools(self, model: str, prompt: str) -> Tools:
        raise NotImplementedError

    def schema(self, model: str, prompt: str) -> list[Any]:
        """The values got in each of the client's ways to ask for a value of a schema."""
        raise NotImplementedError

    def kinds(self, error: Exception) -> list[str]:
        """What a caller can tell the error by: its class, or one it derives from."""
        return [kind.__name__ for kind in type(error).__mro__]


def same(what: str, got: Any, wanted: Any) -> None:
    if got != wanted:
        raise AssertionError(f"{what}: got {got!r}, wanted {wanted!r}")


def _usage(answer: Answer | Stream) -> None:
    for name in ("input_tokens", "output_tokens"):
        if getattr(answer, name) is not None:
            same(name, getattr(answer, name), EXPECTED[name])


def _plain(face: Face, model: str, prompt: str) -> Answer:
    answer = face.plain(model, prompt)
    same("text", answer.text, EXPECTED["sentence"])
    _usage(answer)
    return answer


def _stream(face: Face, model: str, prompt: str) -> Stream:
    stream = face.stream(model, prompt)
    same("text", "".join(stream.pieces), EXPECTED["sentence"])
    if sum(bool(piece) for piece in stream.pieces) < 2:
        raise AssertionError(f"came in one piece: {stream.pieces}")
    _usage(stream)
    return stream


def _tools(face: Face, model: str, prompt: str) -> Tools:
    tools = face.tools(model, prompt)
    same("tool", tools.name, EXPECTED["tool"])
    same("arguments", tools.arguments, {"city": EXPECTED["string"]})
    if EXPECTED["tool_result"] not in tools.answer:
        raise AssertionError(f"answer: {tools.answer!r}")
    return tools


def _schema(face: Face, model: str, prompt: str) -> list[Any]:
    values = face.schema(model, prompt)
    for value in values:
        same("value", value, VALUE)
    return values


def _error(face: Face, model: str, prompt: str) -> list[str]:
    """A model the provider does not know, one the gateway does not know, a key nobody has."""
    family = model.partition("-")[0]
    calls = [
        (face, f"{family}-missing", face.NOT_FOUND),
        (face, EXPECTED["unknown_model"], face.NOT_FOUND),
        (type(face)(EXPECTED["wrong_key"]), model, face.UNAUTHORIZED),
    ]
    seen = []
    for caller, name, wanted in calls:
        try:
            caller.plain(name, prompt)
        except Exception as error:
            if wanted not in caller.kinds(error):
                raise AssertionError(f"{name!r}: got {type(error).__name__}: {error}, wanted {wanted}") from error
            seen.append(f"{type(error).__name__}: {error}")
        else:
            raise AssertionError(f"no error for {name!r}")
    return seen


def _broken(face: Face, model: str, prompt: str) -> str:
    """A stream whose provider breaks off: its client says so, and gives no answer."""
    try:
        stream = face.stream(model, prompt)
    except Exception as error:
        if EXPECTED["broken"] not in str(error):
            raise
        return f"{type(error).__name__}: {error}"
    raise AssertionError(f"no error, but {stream.pieces}")


def _abort(face: Face, model: str, prompt: str) -> dict[str, str]:
    nonce = os.urandom(6).hex()
    piece = face.abort(model, prompt.format(nonce=nonce))
    if not piece or not EXPECTED["sentence"].startswith(piece):
        raise AssertionError(f"first piece: {piece!r}")
    return {"nonce": nonce, "piece": piece}


_CASES = {"plain": _plain, "stream": _stream, "tools": _tools, "schema": _schema, "error": _error, "broken": _broken, "abort": _abort}


def _outcome(face: Face, case: str, model: str) -> dict[str, Any]:
    started = time.monotonic()
    try:
        saw: Any = _CASES[case](face, model, EXPECTED["prompts"][case])
        ok = True
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        ok, saw = False, f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"
    return {"case": case, "ok": ok, "saw": saw, "seconds": round(time.monotonic() - started, 3)}


def main(faces: dict[str, type[Face]]) -> None:
    """Run every case of the endpoint named on the command line, against every model."""
    models: dict[str, str] = json.loads(os.environ["COMPAT_MODELS"])
    face = faces[sys.argv[1]](os.environ["COMPAT_KEY"])
    for format, model in models.items():
        for case in os.environ["COMPAT_CASES"].split():
            outcome = _outcome(face, case, model)
            print(json.dumps({"format": format, "model": model, **outcome}, default=str), flush=True)
            if case == "abort" and outcome["ok"]:
                sys.stdin.readline()
