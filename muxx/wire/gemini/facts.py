"""What is learnt of Google's answers while they pass. Facts are read, never enforced, as in `openai.answer`."""

from __future__ import annotations

from typing import Any

from orjson import JSONDecodeError, dumps, loads

from ...errors import UpstreamProtocolError
from ...money import Usage
from .. import large
from ..failures import told_in_answer
from ..fragments import Fragments, utf8_length
from ..large import Data
from ..openai.answer import whole_answer
from ..sse import Event, is_done
from ..wire import DROP, ERROR_EVENT, FORWARD, Verdict
from .names import ANSWER_MEMBERS, candidates_of, index_of, parts_of
from .reasons import FAILED, block_reason, in_chat_words, stated
from .usage import read_gemini_usage

_OWN = frozenset({"candidates", "usageMetadata", "modelVersion", "responseId"})
_CANDIDATES_OWN = frozenset({"content", "finishReason", "index"})


class Candidate:
    """One candidate of an answer: its parts, piece by piece, and why it finished.

    In `parts` a str is a text without anything else to it, which nearly every part is. `extras` are the members that are neither
    its content nor its end, each as it said something last; log probabilities are those of each event's own tokens.
    """

    __slots__ = ("extras", "finish_reason", "index", "parts")

    def __init__(self, index: int) -> None:
        self.index = index
        self.finish_reason: str | None = None
        self.parts: list[str | dict[str, Any]] = []
        self.extras: dict[str, Any] = {}

    def take(self, candidate: dict[str, Any]) -> None:
        for part in parts_of(candidate):
            text = part.get("text")
            self.parts.append(text if len(part) == 1 and type(text) is str else part)
        for name, value in candidate.items():
            if name == "logprobsResult":
                self.extras[name] = _with_tokens(self.extras.get(name), value)
            elif name not in _CANDIDATES_OWN and (value or name not in self.extras):
                self.extras[name] = value
        self.finish_reason = stated(candidate.get("finishReason")) or self.finish_reason

    @property
    def called(self) -> bool:
        """It calls a function."""
        return any(not isinstance(part, str) and type(part.get("functionCall")) is dict for part in self.parts)

    def spoken(self) -> list[str]:
        """The pieces of its text."""
        return [text for part in self.parts if (text := part if isinstance(part, str) else _spoken(part))]

    def texts(self) -> list[str]:
        """Every piece of text the model wrote, for estimates."""
        return [text for part in self.parts for text in ([part] if isinstance(part, str) else _written(part)) if text]

    def as_candidate(self) -> dict[str, Any]:
        """The candidate as a plain answer has it."""
        candidate: dict[str, Any] = {"content": {"parts": joined(self.parts), "role": "model"}}
        if self.finish_reason is not None:
            candidate["finishReason"] = self.finish_reason
        return {**candidate, "index": self.index, **self.extras}


def _with_tokens(before: Any, told: Any) -> Any:
    """Log probabilities, and those of further tokens."""
    if type(before) is not dict or type(told) is not dict:
        return told or before
    lists = {name: [*before[name], *more] for name, more in told.items() if type(more) is list and type(before.get(name)) is list}
    return {**before, **told, **lists}


def joined(parts: list[str | dict[str, Any]]) -> list[dict[str, Any]]:
    """Parts as a plain answer has them: consecutive pieces of one text, or of one thought, are one part. A signature ends it."""
    whole: list[dict[str, Any]] = []
    for part in parts:
        entry: dict[str, Any] = {"text": part} if isinstance(part, str) else part
        before = whole[-1] if whole else {}
        goes_on = type(before.get("text")) is str and before.keys() <= {"text", "thought"}
        if goes_on and type(entry.get("text")) is str and entry.get("thought") == before.get("thought"):
            whole[-1] = {**entry, "text": before["text"] + entry["text"]}
        else:
            whole.append(entry)
    return [part for part in whole if part != {"text": ""}] or whole


def _spoken(part: dict[str, Any]) -> str:
    text = part.get("text")
    return text if type(text) is str and not part.get("thought") else ""


def _written(part: dict[str, Any]) -> list[str]:
    """What the model wrote in a part: text, thoughts, code, and what it calls functions with."""
    code, call = part.get("executableCode"), part.get("functionCall")
    texts = [part.get("text"), code.get("code") if type(code) is dict else None]
    if type(call) is dict:
        texts += [call.get("name"), dumps(call["args"]).decode() if call.get("args") else None]
    return [text for text in texts if type(text) is str]


class GenerateFacts:
    """What is known of an answer, streamed or plain.

    `usage` is the last the provider reported, for its counts are cumulative; `usage_invalid` says that it cannot be true.
    `blocked` is why the prompt was not answered at all. `error` is set once the answer says that it failed.
    """

    __slots__ = ("_read", "_reported", "blocked", "candidates", "created", "error", "extras", "id", "model")

    def __init__(self) -> None:
        self.id: str | None = None
        self.model: str | None = None
        self.created: int | None = None
        self.blocked: str | None = None
        self.error: Any = None
        self.candidates: dict[int, Candidate] = {}
        self.extras: dict[str, Any] = {}
        """Members of the answer that nothing here is learnt from, each as it came last."""
        self._reported: Any = None
        self._read: tuple[Any, tuple[Usage | None, bool]] = (None, (None, False))
        """A report, and what was read of it: mostly nobody asks before the last."""

    @property
    def usage(self) -> Usage | None:
        return self._usage()[0]

    @property
    def usage_invalid(self) -> bool:
        return self._usage()[1]

    def _usage(self) -> tuple[Usage | None, bool]:
        if self._read[0] is not self._reported:
            self._read = self._reported, read_gemini_usage(self._reported)
        return self._read[1]

    @property
    def finish_reasons(self) -> dict[int, str]:
        """Why each candidate finished, in the words of chat completions."""
        if not self.candidates:
            return {0: "content_filter"} if self.blocked else {}
        return {
            index: in_chat_words(candidate.finish_reason, called=candidate.called)
            for index, candidate in sorted(self.candidates.items())
            if candidate.finish_reason is not None
        }

    @property
    def text(self) -> str:
        """The text of all candidates, one after the other; thoughts are none."""
        return "".join(piece for _, candidate in sorted(self.candidates.items()) for piece in candidate.spoken())

    @property
    def output_bytes(self) -> int:
        """UTF-8 bytes of all the model wrote."""
        return sum(utf8_length(text) for candidate in self.candidates.values() for text in candidate.texts())

    @property
    def text_since_usage(self) -> bool:
        """Text has come that the reported usage does not count yet. A plain answer's usage counts all of it."""
        return False

    def learn(self, answer: dict[str, Any]) -> None:
        """Take a plain answer, or an event of a stream, which is an answer in itself."""
        if not self.id and type(answer_id := answer.get("responseId")) is str:
            self.id = answer_id
        if not self.model and type(model := answer.get("modelVersion")) is str:
            self.model = model
        for found in candidates_of(answer):
            index = index_of(found)
            candidate = self.candidates.get(index) or self.candidates.setdefault(index, Candidate(index))
            candidate.take(found)
            self._note_failure(candidate, found)
        self.blocked = block_reason(answer) or self.blocked
        for name, value in answer.items():
            if name not in _OWN:
                self.extras[name] = value
        if (reported := answer.get("usageMetadata")) is not None:
            self._reported = reported

    def _note_failure(self, candidate: Candidate, found: dict[str, Any]) -> None:
        reason = candidate.finish_reason
        if reason is not None and in_chat_words(reason, called=False) == FAILED:
            message = found.get("finishMessage")
            self.error = {"code": reason, "message": message if type(message) is str else ""}

    def as_answer(self) -> dict[str, Any]:
        """The answer as one object, whatever way it came."""
        answer: dict[str, Any] = {}
        if self.candidates:
            answer["candidates"] = [candidate.as_candidate() for _, candidate in sorted(self.candidates.items())]
        answer |= self.extras
        if self._reported is not None:
            answer["usageMetadata"] = self._reported
        if self.model is not None:
            answer["modelVersion"] = self.model
        if self.id is not None:
            answer["responseId"] = self.id
        return answer


class GenerateStream(GenerateFacts):
    """Observes an upstream stream, each event exactly once, and says what is to be done with it. `candidates` is how many the
    request asked for.

    No event says that it is the last: `finished` says that the stream may end. `done` is for whoever sees it end. `value` is the
    JSON of the event observed last.
    """

    __slots__ = ("_counted", "_expected", "done", "value")

    ends_with_body = True
    saying: Fragments | None = None

    def __init__(self, candidates: int = 1) -> None:
        super().__init__()
        self._expected = candidates
        self.done = False
        self.value: Any = None
        self._counted = True
        """The last event that had text said how many tokens there are so far."""

    @property
    def finished(self) -> bool:
        """All candidates, no fewer than were asked for, have their reason, or there is none to come: the answer may end here."""
        known = self.candidates.values()
        if self.blocked is not None:
            return True
        return len(known) >= self._expected and all(candidate.finish_reason is not None for candidate in known)

    @property
    def text_since_usage(self) -> bool:
        usage = self.usage
        return not self._counted or usage is None or (usage.output_tokens == 0 and self.output_bytes > 0)

    def observe(self, event: Event, value: Any = None) -> Verdict:
        """Learn from one event. Raises `UpstreamProtocolError` when its data is neither a JSON object nor `[DONE]`.

        Events without data are dropped, comments among them, and so is a `[DONE]`: this format has none, and its SDK takes
        each for broken JSON.
        """
        data = event[1]
        if not data:
            self.value = None
            return DROP
        try:
            if value is None:
                value = loads(data) if type(data) is bytes else large.loads(data)
            self.value = value
        except JSONDecodeError:
            return self._not_json(data)
        # The short way for what nearly every event is: a piece of text of a known candidate, and nothing else to learn.
        try:
            [candidate] = value["candidates"]
            [part] = candidate["content"]["parts"]
            text = part["text"]
            if (
                type(text) is str
                and len(part) == 1
                and (len(candidate) == 1 or (len(candidate) == 2 and "index" in candidate))
                and "error" not in value
                and "promptFeedback" not in value
            ):
                self.candidates[candidate.get("index", 0)].parts.append(text)
                reported = value.get("usageMetadata")
                self._counted = reported is not None
                if reported is not None:
                    self._reported = reported
                return FORWARD
        except (AttributeError, KeyError, TypeError, ValueError):
            pass  # another shape, or a candidate's first event
        return self._observe_any(value)

    def likeness(self, raw: bytes) -> None:
        """No two of these events are alike: each counts the tokens."""

    def _observe_any(self, value: Any) -> Verdict:
        if type(value) is not dict:
            raise UpstreamProtocolError(_GARBAGE)
        if error := told_in_answer(value):
            self.error = error
            return ERROR_EVENT
        self.learn(value)
        self._counted = value.get("usageMetadata") is not None
        return FORWARD

    def _not_json(self, data: Data) -> Verdict:
        self.value = None
        if not is_done(data):
            raise UpstreamProtocolError(_GARBAGE)
        return DROP


_GARBAGE = "The model provider sent data that is no JSON object. Try again."


def read_generated(body: bytes) -> GenerateFacts:
    """The facts of a plain answer.

    Raises `UpstreamError` when it is an error or a web page, `UpstreamProtocolError` when it is no JSON object.
    """
    facts = GenerateFacts()
    facts.learn(whole_answer(body, *ANSWER_MEMBERS))
    return facts


def assembled(facts: GenerateFacts) -> dict[str, Any]:
    """An answer as one `GenerateContentResponse`, whatever way it came."""
    return facts.as_answer()
