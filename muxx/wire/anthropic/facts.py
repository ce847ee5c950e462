"""What is learnt of an Anthropic answer while it passes. Facts are read, never enforced, as in `openai.answer`."""

from __future__ import annotations

from typing import Any

from orjson import JSONDecodeError, dumps, loads

from ...errors import UpstreamProtocolError
from ...money import Usage
from .. import large
from ..alike import PROBE, Alike, Padding, likeness
from ..failures import GARBAGE, told_in_answer
from ..fragments import Fragments, utf8_length
from ..openai.answer import whole_answer
from ..sse import Event, is_comment, is_done
from ..wire import DONE, DROP, ERROR_EVENT, FORWARD, Verdict
from .blocks import TEXT_DELTAS, dicts, index_of, parsed, type_of
from .envelope import finish_reason
from .usage import compacted, merged, read_message_usage


class BlockFacts:
    """A content block: as it began, and what came after."""

    __slots__ = ("begun", "citations", "compaction", "partial_json", "signature", "text", "thinking")

    def __init__(self, begun: dict[str, Any]) -> None:
        self.begun = begun
        self.text = Fragments()
        self.thinking = Fragments()
        self.partial_json = Fragments()
        self.citations: list[Any] = []
        self.signature: str | None = None
        self.compaction: dict[str, Any] = {}

    @property
    def words(self) -> str:
        """The text of a text block."""
        return _string(self.begun.get("text")) + "".join(self.text) if self.begun.get("type") == "text" or self.text else ""

    def add(self, delta: dict[str, Any]) -> None:
        kind = type_of(delta)
        if (member := TEXT_DELTAS.get(kind)) is not None:
            if type(piece := delta.get(member)) is str:
                getattr(self, member).append(piece)
        elif kind == "signature_delta" and type(signature := delta.get("signature")) is str:
            self.signature = signature
        elif kind == "citations_delta":
            self.citations.append(delta.get("citation"))
        elif kind == "compaction_delta":
            self.compaction = {name: value for name, value in delta.items() if name != "type"}

    def written(self) -> list[str]:
        """Every piece of text the model wrote, for estimates."""
        begun = [_string(self.begun.get(member)) for member in ("thinking", "name")]
        called_with = self.begun.get("input")
        whole = [dumps(called_with).decode()] if called_with and not self.partial_json else []
        return [self.words, *begun, *whole, *self.thinking, *self.partial_json, _string(self.compaction.get("content"))]

    def whole(self) -> dict[str, Any]:
        """The block as a plain answer would have it."""
        block = dict(self.begun)
        for member in ("text", "thinking"):
            if pieces := getattr(self, member):
                block[member] = _string(block.get(member)) + "".join(pieces)
        if text := "".join(self.partial_json):
            block["input"] = parsed(text)
        if self.citations:
            known = block.get("citations")
            block["citations"] = [*(known if type(known) is list else ()), *self.citations]
        if self.signature is not None:
            block["signature"] = self.signature
        return block | self.compaction


class MessageFacts:
    """What is known of an answer, streamed or plain.

    `message` is the message object as it began, or whole; `stop_reason` is in the provider's own words. `usage` and
    `usage_invalid` are what it says of tokens, as in `ChatFacts`.
    """

    __slots__ = ("_blocks", "_told", "created", "id", "message", "model", "service_tier", "stop_reason", "usage", "usage_invalid")

    def __init__(self) -> None:
        self.id: str | None = None
        self.model: str | None = None
        self.created: int | None = None
        """Never known: the format does not say it."""
        self.service_tier: str | None = None
        self.stop_reason: str | None = None
        self.usage: Usage | None = None
        self.usage_invalid = False
        self.message: dict[str, Any] = {}
        self._told: dict[str, Any] = {}
        """The usage object, merged of all that came."""
        self._blocks: dict[int, BlockFacts] = {}

    @property
    def finish_reasons(self) -> dict[int, str]:
        """Why the answer stopped, in the words of chat completions, so that one word means one thing on every endpoint. Under
        0: it is one answer, however many blocks it has."""
        reason = finish_reason(self.stop_reason)
        return {} if reason is None else {0: reason}

    @property
    def text(self) -> str:
        """The text of all text blocks, one after the other."""
        return "".join(block.words for _, block in sorted(self._blocks.items()))

    @property
    def output_bytes(self) -> int:
        """UTF-8 bytes of all the model wrote: text, thinking, what tools are called with. Not what tools returned."""
        return sum(utf8_length(text) for block in self._blocks.values() for text in block.written())

    @property
    def text_since_usage(self) -> bool:
        """Text has come that the reported usage does not count yet. A plain answer's usage counts all of it."""
        return False

    def learn(self, message: dict[str, Any]) -> None:
        """Take a message object, whole or as it was when the answer began."""
        self.message = message
        if type(answer_id := message.get("id")) is str:
            self.id = answer_id
        if type(model := message.get("model")) is str:
            self.model = model
        for number, block in dicts(message.get("content")):
            self._blocks[number] = BlockFacts(block)
        self._take_reason(message)
        self._take_usage(message.get("usage"))

    def _take_reason(self, holder: dict[str, Any]) -> None:
        if type(reason := holder.get("stop_reason")) is str and reason:
            self.stop_reason = reason

    def _take_usage(self, told: Any) -> bool:
        """Whether there is one that can be true."""
        if told is None:
            return False
        if type(told) is dict:
            self._told = merged(self._told, told)
        usage, invalid = read_message_usage(self._told if type(told) is dict else told, self.service_tier)
        if usage is not None:
            self.usage, self.service_tier = compacted(usage, self._told), usage.service_tier
        self.usage_invalid = self.usage_invalid or invalid
        return usage is not None

    def whole(self) -> dict[str, Any]:
        """The answer as one message object; what never came is null or absent."""
        empty: dict[str, Any] = {"id": None, "type": "message", "role": "assistant", "model": None, "content": []}
        message = {**empty, **self.message}
        message["content"] = [block.whole() for _, block in sorted(self._blocks.items())]
        message["stop_reason"] = self.stop_reason
        message.setdefault("stop_sequence", None)
        if self._told:
            message["usage"] = self._told
        return message


class MessageStream(MessageFacts):
    """Observes an upstream stream, each event exactly once, and says what is to be done with it.

    What an event is, its JSON says; the `event` line may be missing or wrong. `finished` and `done` are True once `message_stop`
    has come: a stop reason without it is no end. `error` is what the provider's own error event held. `value` is the JSON
    observed last.
    """

    __slots__ = ("_counted", "_ended", "done", "error", "saying", "value")

    ends_with_body = False

    def __init__(self) -> None:
        super().__init__()
        self.done = False
        self.error: Any = None
        self.value: Any = None
        self.saying: Fragments | None = None
        self._counted = 0
        self._ended: dict[str, Any] = {}
        """What was said of the message at its end."""

    @property
    def finished(self) -> bool:
        return self.done

    @property
    def text_since_usage(self) -> bool:
        return self._fragments() > self._counted

    def learn(self, message: dict[str, Any]) -> None:
        self._told = {"output_tokens": 0}  # some providers tell of the input only, as long as there is no output
        super().learn(message)

    def _fragments(self) -> int:
        blocks = self._blocks.values()
        return sum(len(block.text) + len(block.thinking) + len(block.partial_json) for block in blocks)

    def observe(self, event: Event, value: Any = None) -> Verdict:
        """Learn from one event. Raises `UpstreamProtocolError` when its data is neither a JSON object nor `[DONE]`."""
        data = event[1]
        self.saying = None
        if not data:
            self.value = None
            # Anthropic's TypeScript SDK parses the data of every event it knows by name, and dies where there is none.
            return FORWARD if data is None and is_comment(event[0]) else DROP
        try:
            if value is None:
                value = loads(data) if type(data) is bytes else large.loads(data)
            self.value = value
        except JSONDecodeError:
            self.value = None
            if is_done(data):
                return DROP  # not this format's end
            raise UpstreamProtocolError(GARBAGE) from None
        # The short way for what most events are: a piece of what a block that has begun says.
        try:
            delta = value["delta"]
            member = TEXT_DELTAS[delta["type"]]
            if value["type"] == "content_block_delta" and (piece := delta[member]) and type(piece) is str:
                said: Fragments = getattr(self._blocks[value["index"]], member)
                said.append(piece)
                if member != "partial_json":  # those who read a call count its pieces
                    self.saying = said
                return FORWARD
        except (KeyError, TypeError):
            pass  # another event, or one of a block that never began
        return self._observe_any(value)

    def likeness(self, raw: bytes) -> Alike | None:
        """What the event observed last, of which these are the bytes, has in common with others that say more of the same, where
        it can be told. `value` is of no use after it."""
        if self.saying is None:
            return None
        delta = self.value["delta"]
        member = TEXT_DELTAS[delta["type"]]
        alike, probe = likeness(raw, b'"%b":' % member.encode(), _PADDING, self.saying)
        delta[member] = PROBE
        return alike if probe == self.value else None

    def _observe_any(self, value: Any) -> Verdict:
        if type(value) is not dict:
            raise UpstreamProtocolError(GARBAGE)
        kind = value.get("type")
        if (error := told_in_answer(value)) and (type(kind) is not str or kind == "error" or error is value):
            self.error = error
            return ERROR_EVENT
        if kind == "message_stop":
            self.done = True
            # What a message's beginning says of its output is a placeholder, which nothing has taken the place of.
            self.usage_invalid = self.usage_invalid or (self.usage is not None and self.text_since_usage)
            return DONE
        if kind == "message_start" and type(message := value.get("message")) is dict:
            self.learn(message)
        elif kind == "content_block_start" and type(begun := value.get("content_block")) is dict:
            self._begin(index_of(value), begun)
        elif kind == "content_block_delta" and type(delta := value.get("delta")) is dict:
            self._known(index_of(value), delta).add(delta)
        elif kind == "message_delta":
            self._take_end(value)
        return FORWARD

    def _begin(self, index: int, begun: dict[str, Any]) -> BlockFacts:
        before = self._blocks.get(index)
        self._blocks[index] = block = BlockFacts(begun)
        if before is not None and type_of(begun) == "text":  # some give every block one number: nothing of the text is lost
            block.text = before.text
        return block

    def _known(self, index: int, delta: dict[str, Any]) -> BlockFacts:
        """The block at a place; one that never began is of the type that its pieces are of."""
        if (block := self._blocks.get(index)) is not None:
            return block
        return self._begin(index, {"type": "thinking" if delta.get("type") == "thinking_delta" else "text"})

    def _take_end(self, value: dict[str, Any]) -> None:
        if type(delta := value.get("delta")) is dict:
            self._take_reason(delta)
            self._ended |= delta
        self._ended |= {name: member for name, member in value.items() if name not in ("type", "delta", "usage")}
        if self._take_usage(value.get("usage")):
            self._counted = self._fragments()

    def whole(self) -> dict[str, Any]:
        return {**super().whole(), **self._ended}


_PADDING = Padding(behind=b"}", fill=b" ")
"""Anthropic's: between the braces that end an event."""


def read_message(body: bytes) -> MessageFacts:
    """The facts of a plain answer.

    Raises `UpstreamError` when it is an error or a web page, `UpstreamProtocolError` when it is no JSON object.
    """
    facts = MessageFacts()
    facts.learn(whole_answer(body, "content"))
    return facts


def assembled(facts: MessageFacts) -> dict[str, Any]:
    """An answer as one message object, whatever way it came."""
    return facts.whole()


def _string(value: Any) -> str:
    return value if type(value) is str else ""
