"""What is learnt of an answer while it passes: who made it, how it ended, what it used, what it said.

Facts are read, never enforced: a provider's answer goes to the client as it came, so a member of an unexpected type is
passed over. Only what is no answer at all is an error.
"""

from __future__ import annotations

from typing import Any

from orjson import JSONDecodeError

from ...errors import UpstreamError, UpstreamProtocolError
from ...money import Usage
from ..failures import told_in_answer
from ..fragments import Fragments, utf8_length
from ..halves import loads
from .usage import read_usage, usage_object


class ToolText:
    """One tool call, put together from its fragments."""

    __slots__ = ("arguments", "id", "index", "name", "type")

    def __init__(self, index: int) -> None:
        self.index = index
        self.id: str | None = None
        self.name: str | None = None
        self.type = "function"
        self.arguments = Fragments()

    def add(self, fragment: dict[str, Any]) -> None:
        """Take a fragment of a `tool_calls` entry, or a whole one. A custom tool's `input` stands where arguments would."""
        if type(call_id := fragment.get("id")) is str and call_id:
            self.id = call_id
        if type(kind := fragment.get("type")) is str and kind:
            self.type = kind
        function = fragment.get("custom" if self.type == "custom" else "function")
        if type(function) is dict:
            self.add_function(function)

    def add_function(self, function: dict[str, Any]) -> None:
        if type(name := function.get("name")) is str and name:
            self.name = name
        text = function.get("arguments", function.get("input"))
        if type(text) is str and text:
            self.arguments.append(text)

    def function(self) -> dict[str, Any]:
        field = "input" if self.type == "custom" else "arguments"
        return {"name": self.name or "", field: "".join(self.arguments)}

    def as_call(self) -> dict[str, Any]:
        return {"id": self.id, "type": self.type, "custom" if self.type == "custom" else "function": self.function()}


class Choice:
    """One choice of an answer: its texts, fragment by fragment, and why it finished."""

    __slots__ = (
        "_latest", "finish_reason", "function_call", "index", "reasoning", "refusal", "text", "tool_calls", "transcript",
    )  # fmt: skip

    tool = ToolText
    """What its calls are put together with."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.finish_reason: str | None = None
        self.text = Fragments()
        self.reasoning = Fragments()
        self.refusal = Fragments()
        self.transcript = Fragments()
        self.tool_calls: list[ToolText] = []
        self._latest: dict[int, ToolText] = {}
        """The last call of each number: to look for it among thousands, for each, could take minutes."""
        self.function_call: ToolText | None = None

    def add(self, delta: dict[str, Any]) -> None:
        """Take a `delta`, or a whole `message`."""
        if content := text_of(delta.get("content")):
            self.text.append(content)
        # Some providers send the same reasoning under both names.
        if reasoning := text_of(delta.get("reasoning_content")) or text_of(delta.get("reasoning")):
            self.reasoning.append(reasoning)
        if refusal := text_of(delta.get("refusal")):
            self.refusal.append(refusal)
        if type(calls := delta.get("tool_calls")) is list:
            for position, call in enumerate(calls):
                if type(call) is dict:
                    self._tool_call(call, position).add(call)
        if type(function := delta.get("function_call")) is dict:
            self.function_call = self.function_call or ToolText(0)
            self.function_call.add_function(function)
        if type(audio := delta.get("audio")) is dict and (transcript := text_of(audio.get("transcript"))):
            self.transcript.append(transcript)

    def take_reasoning(self, delta: dict[str, Any]) -> bool:
        """Take a delta without content that is one more piece of the reasoning, at a fifth of the cost; False for any other,
        which is not taken. Raises what looking into another shape raises."""
        reasoning = delta["reasoning_content"]
        if type(reasoning) is not str or not reasoning or len(delta) > 1 + ("content" in delta) + ("role" in delta):
            return False
        self.reasoning.append(reasoning)
        return True

    def take_arguments(self, delta: dict[str, Any]) -> bool:
        """As `take_reasoning`, a delta that is one more piece of what the last call is called with."""
        [entry] = delta["tool_calls"]
        call, function = self.tool_calls[-1], entry["function"]
        arguments = function["arguments"]
        if (
            type(arguments) is not str
            or not arguments
            or entry["index"] != call.index
            or type(entry["index"]) is not int
            or entry.get("id")
            or function.get("name")
            or entry.get("type", "function") != "function"
            or call.type != "function"
            or len(delta) > (2 if "content" in delta else 1)
        ):
            return False
        call.arguments.append(arguments)
        return True

    def _tool_call(self, fragment: dict[str, Any], position: int) -> ToolText:
        """The call a fragment belongs to. A new id under a known index is a new call: some providers number every call 0."""
        index = fragment.get("index")
        index = index if type(index) is int else position
        call_id = fragment.get("id")
        known = self._latest.get(index)
        if known is not None and not (call_id and known.id and call_id != known.id):
            return known
        call = self._latest[index] = self.tool(index)
        self.tool_calls.append(call)
        return call

    def size(self) -> int:
        """UTF-8 bytes of all the model wrote, for estimates."""
        texts = (call.name or "" for call in self._calls())
        pieces = (self.text, self.reasoning, self.refusal, self.transcript, *(call.arguments for call in self._calls()))
        return sum(map(utf8_length, texts)) + sum(map(len, pieces))

    def fragments(self) -> int:
        """A number that grows with every piece of text."""
        tools = sum(1 + len(call.arguments) for call in self._calls())
        return len(self.text) + len(self.reasoning) + len(self.refusal) + len(self.transcript) + tools

    def _calls(self) -> list[ToolText]:
        return [*self.tool_calls, self.function_call] if self.function_call else self.tool_calls

    def beside(self) -> dict[str, Any]:
        """Members of the choice beside those that are learnt from, as it has them itself."""
        return {}

    def as_choice(self) -> dict[str, Any]:
        """The choice as a plain answer would have it."""
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self.text) if self.text else None}
        message["refusal"] = "".join(self.refusal) if self.refusal else None
        if self.reasoning:
            message["reasoning_content"] = "".join(self.reasoning)
        if self.transcript:
            message["audio"] = {"transcript": "".join(self.transcript)}
        if self.tool_calls:
            message["tool_calls"] = [call.as_call() for call in self.tool_calls]
        if self.function_call:
            message["function_call"] = self.function_call.function()
        return {"index": self.index, "message": message, "finish_reason": self.finish_reason, **self.beside()}


class ChatFacts:
    """What is known of an answer, streamed or plain.

    `usage` is the last the provider reported, for its counts are cumulative; None when it never did. `usage_invalid` is True
    once it reported counts that cannot be true; those are not in `usage`.
    """

    __slots__ = ("_choices", "created", "id", "model", "service_tier", "usage", "usage_invalid")

    kind = Choice
    """What its choices are put together with."""

    def __init__(self) -> None:
        self.id: str | None = None
        self.model: str | None = None
        self.created: int | None = None
        self.service_tier: str | None = None
        self.usage: Usage | None = None
        self.usage_invalid = False
        self._choices: dict[int, Choice] = {}

    @property
    def choices(self) -> dict[int, Choice]:
        """The choices of the answer by their index."""
        return self._choices

    @property
    def finish_reasons(self) -> dict[int, str]:
        """Why each choice finished, by its index; choices without a reason are not in it."""
        return {index: choice.finish_reason for index, choice in sorted(self.choices.items()) if choice.finish_reason}

    @property
    def text(self) -> str:
        """The content of all choices, one after the other."""
        return "".join(piece for _, choice in sorted(self.choices.items()) for piece in choice.text)

    @property
    def output_bytes(self) -> int:
        """UTF-8 bytes of all the model wrote: content, reasoning, refusals, tool calls. Never 0 when text was delivered."""
        return sum(choice.size() for choice in self.choices.values())

    @property
    def text_since_usage(self) -> bool:
        """Text has come that the reported usage does not count yet. A plain answer's usage counts all of it."""
        return False

    def choice(self, index: Any) -> Choice:
        """The choice at an index, made at its first mention; what names no index belongs to the first."""
        index = index if type(index) is int else 0
        return self._choices.get(index) or self._choices.setdefault(index, self.kind(index))

    def beside(self) -> dict[str, Any]:
        """Members of the answer beside those that are learnt from, as it has them itself."""
        return {}

    def learn(self, answer: dict[str, Any], field: str) -> None:
        """Take a whole answer, whose texts are in `message`, or one event of a stream, whose texts are in `delta`."""
        self._identify(answer)
        if type(choices := answer.get("choices")) is list:
            for choice in choices:
                self._take_choice(choice, field)
        if (usage := answer.get("usage")) is not None:
            self._take_usage(answer, usage)

    def _identify(self, chunk: dict[str, Any]) -> None:
        """Keep the first id, model and time that say something: some streams begin with empty ones, some change their id."""
        if not self.id and type(answer_id := chunk.get("id")) is str:
            self.id = answer_id
        if not self.model and type(model := chunk.get("model")) is str:
            self.model = model
        if not self.created and type(created := chunk.get("created")) is int:
            self.created = created
        self._take_tier(chunk)

    def _take_tier(self, chunk: dict[str, Any]) -> None:
        if type(tier := chunk.get("service_tier")) is str:
            self.service_tier = tier

    def _take_usage(self, chunk: dict[str, Any], value: Any) -> None:
        self._take_tier(chunk)
        usage, invalid = read_usage(value, self.service_tier)
        self.usage = usage or self.usage
        self.usage_invalid = self.usage_invalid or invalid

    def _take_choice(self, choice: Any, field: str) -> None:
        """Take one entry of `choices`, whose text is in `field`."""
        if type(choice) is not dict:
            return
        known = self.choice(choice.get("index"))
        if type(delta := choice.get(field)) is dict:
            known.add(delta)
        if type(reason := choice.get("finish_reason")) is str and reason:
            known.finish_reason = reason


def read_completion(body: bytes) -> ChatFacts:
    """The facts of a plain answer.

    Raises `UpstreamError` when it is an error or a web page, `UpstreamProtocolError` when it is no JSON object, or one that says
    nothing an answer says.
    """
    return PlainFacts(whole_answer(body, "choices"))


def whole_answer(body: bytes, *members: str) -> dict[str, Any]:
    """A plain answer's JSON, which has one of these members. Raises as `read_completion` does."""
    answer = parse_answer(body)
    if answer.get("error"):
        raise UpstreamError
    return with_one_of(answer, *members)


def with_one_of(answer: dict[str, Any], *members: str) -> dict[str, Any]:
    """An answer that has one of these members: without, it is none. Raises as `read_completion` does."""
    for member in members:
        if member in answer:
            return answer
    raise UpstreamError if told_in_answer(answer) else UpstreamProtocolError


def parse_answer(body: bytes) -> dict[str, Any]:
    """A plain answer's JSON, which may be an error."""
    try:
        answer = loads(body)
    except JSONDecodeError:
        if body.lstrip().startswith(b"<"):
            raise UpstreamError from None
        raise UpstreamProtocolError from None
    if type(answer) is not dict:
        raise UpstreamProtocolError
    return answer


class PlainFacts(ChatFacts):
    """The facts of a plain answer. What it says is taken apart only when somebody asks: mostly, nobody does."""

    __slots__ = ("_answer",)

    def __init__(self, answer: dict[str, Any]) -> None:
        self._choices = {}
        self._answer: dict[str, Any] | None = answer
        get = answer.get
        answer_id, model, created, tier, usage = get("id"), get("model"), get("created"), get("service_tier"), get("usage")
        self.id = answer_id if type(answer_id) is str else None
        self.model = model if type(model) is str else None
        self.created = created if type(created) is int else None
        self.service_tier = tier if type(tier) is str else None
        self.usage, self.usage_invalid = (None, False) if usage is None else read_usage(usage, self.service_tier)

    @property
    def choices(self) -> dict[int, Choice]:
        if self._answer is not None:
            choices, self._answer = self._answer.get("choices"), None
            for choice in choices if type(choices) is list else ():
                self._take_choice(choice, "message")
        return self._choices

    @property
    def finish_reasons(self) -> dict[int, str]:
        if self._answer is not None:
            try:
                [choice] = self._answer["choices"]
                index, reason = choice["index"], choice["finish_reason"]
            except (KeyError, TypeError, ValueError):
                pass
            else:
                if type(index) is int and type(reason) is str and reason:
                    return {index: reason}
        return super().finish_reasons


def assembled(facts: ChatFacts) -> dict[str, Any]:
    """An answer as one `chat.completion` object, whatever way it came; what never came is null or absent."""
    answer: dict[str, Any] = {
        "id": facts.id,
        "object": "chat.completion",
        "created": facts.created,
        "model": facts.model,
        "choices": [choice.as_choice() for _, choice in sorted(facts.choices.items())],
    }
    if facts.usage is not None:
        answer["usage"] = usage_object(facts.usage)
    if facts.service_tier is not None:
        answer["service_tier"] = facts.service_tier
    return answer | facts.beside()


def text_of(content: Any, levels: int = 3) -> str:
    """The text of a `content`: a string, or a list of parts, which may hold lists themselves (Mistral's thinking)."""
    if type(content) is str:
        return content
    if type(content) is not list or levels == 0:
        return ""
    parts = [part.get("text") or part.get("thinking") for part in content if type(part) is dict]
    return "".join(text_of(part, levels - 1) for part in parts)
