"""A stream of chat completions put together with all it holds, for where it is given again as a plain answer.

What a relay learns of a stream while it passes is what rows and hooks need. Here every member counts, those included that nobody
here knows: log probabilities, annotations, audio, what a provider wants back with a call. A text or a list comes in pieces; what
stands beside the choices and their deltas was said whole, and counts as it was said last.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from itertools import zip_longest
from typing import Any

from .answer import Choice, ToolText
from .completions import as_chat
from .stream import ChatStream

_SAID_ONCE = ("type", "id", "index", "format")
"""Members that come again with each piece of what they belong to."""

_ANSWERS_OWN = ("id", "object", "created", "model", "choices", "usage", "obfuscation")
_CHOICES_OWN = ("index", "delta", "logprobs", "finish_reason")
_MESSAGES_OWN = ("role", "content", "reasoning_content", "reasoning", "refusal", "tool_calls", "function_call", "audio")
_CALLS_OWN = ("index", "id", "type", "function", "custom")


class GatheredTool(ToolText):
    __slots__ = ("_more",)

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self._more: list[dict[str, Any]] = []

    def add(self, fragment: dict[str, Any]) -> None:
        super().add(fragment)
        _take(self._more, fragment, _CALLS_OWN)

    def as_call(self) -> dict[str, Any]:
        return {**super().as_call(), **_whole(self._more)}


class GatheredChoice(Choice):
    __slots__ = ("_audio", "_audio_data", "_logprobs", "_message", "_more", "_names", "_parts")

    tool = GatheredTool

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self._more: dict[str, Any] = {}
        self._logprobs: list[dict[str, Any]] = []
        self._message: list[dict[str, Any]] = []
        self._audio: list[dict[str, Any]] = []
        self._audio_data: list[str] = []
        self._names: set[str] = set()
        """Under which its reasoning came."""
        self._parts: list[Any] = []
        """Its content, where that comes in parts: those, and texts between them."""

    def add(self, delta: dict[str, Any]) -> None:
        super().add(delta)
        _take(self._message, delta, _MESSAGES_OWN)
        self._names |= {name for name in ("reasoning_content", "reasoning") if delta.get(name)}
        if (content := delta.get("content")) and type(content) in (str, list):
            self._parts += content if type(content) is list else [{"type": "text", "text": content}]
        if type(audio := delta.get("audio")) is dict:
            _take(self._audio, audio, ("data",))
            if type(data := audio.get("data")) is str:
                self._audio_data.append(data)

    def take_members(self, choice: dict[str, Any]) -> None:
        """What a choice has beside its delta."""
        if type(logprobs := choice.get("logprobs")) is dict:
            self._logprobs.append(logprobs)
        _take_last(self._more, choice, _CHOICES_OWN)

    def beside(self) -> dict[str, Any]:
        return {"logprobs": _whole(self._logprobs) or None, **self._more}

    def as_choice(self) -> dict[str, Any]:
        choice = super().as_choice()
        message = choice["message"]
        if "reasoning" in self._names:
            message["reasoning"] = message["reasoning_content"]
            if "reasoning_content" not in self._names:
                del message["reasoning_content"]
        if any(type(part) is not dict or part.get("type") != "text" for part in self._parts):
            message["content"] = _joined(self._parts)
        if self._audio or self._audio_data:
            message["audio"] = {**_whole(self._audio), "data": _joined_base64(self._audio_data)}
        return {**choice, "message": message | _whole(self._message)}


class GatheredStream(ChatStream):
    """Observes a whole stream, for `assembled`."""

    __slots__ = ("_more",)

    kind = GatheredChoice

    def __init__(self) -> None:
        super().__init__(client_asked_usage=True)
        self._more: dict[str, Any] = {}

    def _takes_piece(self, chunk: Any) -> bool:
        return False

    def learn(self, answer: dict[str, Any], field: str) -> None:
        super().learn(answer, field)
        _take_last(self._more, answer, _ANSWERS_OWN)

    def _take_usage(self, chunk: dict[str, Any], value: Any) -> None:
        super()._take_usage(chunk, value)
        if self.usage is not None and type(value) is dict:
            self._more["usage"] = value

    def _take_choice(self, choice: Any, field: str) -> None:
        super()._take_choice(choice, field)
        if type(choice) is dict and isinstance(known := self.choice(choice.get("index")), GatheredChoice):
            known.take_members(choice)

    def beside(self) -> dict[str, Any]:
        return self._more


class GatheredCompletion(GatheredStream):
    """The same of completions."""

    __slots__ = ()

    def _take_choice(self, choice: Any, field: str) -> None:
        super()._take_choice(as_chat(choice, field), field)


def merged(before: Any, piece: Any) -> Any:
    """What came of a member and one more piece of it. Null says nothing."""
    if before is None or piece is None or type(before) is not type(piece):
        return before if piece is None else piece
    if type(piece) is str:
        return before + piece
    if type(piece) is dict:
        return before | {name: value if name in _SAID_ONCE else merged(before.get(name), value) for name, value in piece.items()}
    if type(piece) is list:
        whole = list(before)
        for entry in piece:
            place = _place_of(entry, whole)
            if place is None:
                whole.append(entry)
            else:
                whole[place] = merged(whole[place], entry)
        return whole
    return piece


def _place_of(entry: Any, entries: list[Any]) -> int | None:
    """Where the entry stands that this is one more piece of: the one of its type and number."""
    if type(entry) is not dict or type(entry.get("index")) is not int:
        return None
    told = entry["index"], entry.get("type")
    known = (type(other) is dict and (other.get("index"), other.get("type")) == told for other in entries)
    return next((place for place, is_it in enumerate(known) if is_it), None)


def _take(pieces: list[dict[str, Any]], told: dict[str, Any], own: tuple[str, ...]) -> None:
    """Keep what is told of members that are not among these."""
    if piece := {name: value for name, value in told.items() if name not in own}:
        pieces.append(piece)


def _whole(pieces: list[dict[str, Any]]) -> dict[str, Any]:
    """The pieces as one. Neighbours are merged until one is left: one after the other would copy the beginning each time."""
    while len(pieces) > 1:
        pairs = zip_longest(pieces[::2], pieces[1::2])
        pieces = [merged(first, second) for first, second in pairs]
    return pieces[0] if pieces else {}


def _take_last(known: dict[str, Any], told: dict[str, Any], own: tuple[str, ...]) -> None:
    """Take members that are not among these, each as it says something last."""
    known |= {name: value for name, value in told.items() if name not in own and (value or name not in known)}


def _joined(parts: list[Any]) -> list[Any]:
    """Parts as a plain answer has them: consecutive ones of one type, which come in pieces, are one part."""
    whole: list[Any] = []
    for part in parts:
        before = whole[-1] if whole else None
        if type(part) is not dict or type(before) is not dict or part.get("type") != before.get("type"):
            whole.append(part)
        elif (member := part.get("type")) in _PIECEWISE:
            said, piece = before.get(member), part.get(member)
            text = _joined([*said, *piece]) if type(said) is type(piece) is list else merged(said, piece)
            whole[-1] = {**before, **part, member: text}
        else:
            whole.append(part)
    return whole


_PIECEWISE = ("text", "thinking")
"""Types of parts that come in pieces, each in the member of that name."""


def _joined_base64(pieces: list[str]) -> str:
    try:
        return b64encode(b"".join([b64decode(piece, validate=True) for piece in pieces])).decode()
    except ValueError:
        return "".join(pieces)
