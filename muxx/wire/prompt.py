"""What a request asks for, in no vendor's words: the middle between two formats. Values, and no IO.

A format that can be translated reads its requests into a `Prompt` and writes a `Prompt` as a request of its own. Neither knows
the other, so a new format is a reader and a writer, not a pair for each that exists. What cannot be carried is told to `Losses`
by its place in the caller's request: it is never left out in silence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

from ..errors import InvalidRequest
from ..shown import place_shown

Role = Literal["user", "assistant", "system"]
MediaKind = Literal["image", "document", "audio", "video"]


@dataclass(slots=True)
class Text:
    """A piece of text. `cache` is a prompt-cache marker behind it, in Anthropic's words, e.g. `{"type": "ephemeral"}`."""

    text: str
    cache: Mapping[str, Any] | None = None
    path: str = ""
    """Where it stands in the caller's request, for refusals."""
    signature: str | None = None
    """Opaque; Gemini signs texts, too."""


@dataclass(slots=True)
class Refusal:
    """The assistant's refusal of an earlier turn."""

    text: str
    path: str = ""


@dataclass(slots=True)
class Media:
    """An image, a document, sound or moving pictures: exactly one of `data` (base64), `url`, `file_id` and `text` is set.

    `text` is a document's, given as it is.
    """

    kind: MediaKind
    mime: str | None = None
    data: str | None = None
    url: str | None = None
    file_id: str | None = None
    text: str | None = None
    name: str | None = None
    """File name or title."""
    detail: str | None = None
    """How closely an image is to be looked at: low, high, auto."""
    cache: Mapping[str, Any] | None = None
    path: str = ""
    name_at: str = field(default="filename", compare=False)
    """Where its name stands in the caller's request, behind the path."""
    detail_at: str = field(default="detail", compare=False)
    """The same of the detail."""


@dataclass(slots=True)
class Call:
    """A call of a tool by the assistant. `arguments` is JSON text, as the model wrote it."""

    id: str
    name: str
    arguments: str
    signature: str | None = None
    cache: Mapping[str, Any] | None = None
    path: str = ""


@dataclass(slots=True)
class Result:
    """What a called tool returned."""

    id: str
    """Of the call."""
    content: list[Text | Media]
    is_error: bool = False
    name: str | None = None
    """Of the tool, where the format says it."""
    cache: Mapping[str, Any] | None = None
    path: str = ""


@dataclass(slots=True)
class Thought:
    """The assistant's reasoning of an earlier turn. `signature` is what its provider wants back with it, `redacted` reasoning
    that only its provider can read."""

    text: str
    signature: str | None = None
    redacted: str | None = None
    path: str = ""


Block = Text | Refusal | Media | Call | Result | Thought


@dataclass(slots=True)
class Turn:
    """One message. A `system` turn stands between others; what comes before all of them is in `Prompt.system`.

    `Result`s stand in user turns, `Call`s, `Thought`s and `Refusal`s in the assistant's.
    """

    role: Role
    blocks: list[Block]
    name: str | None = None
    """Of the participant."""
    path: str = ""


@dataclass(slots=True)
class Tool:
    """A function the model may call. `parameters` is a JSON schema of an object; None where it takes none."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    cache: Mapping[str, Any] | None = None
    path: str = ""


@dataclass(slots=True)
class ToolChoice:
    """`named` forces the tool of that `name`, `required` any tool."""

    mode: Literal["auto", "none", "required", "named"]
    name: str | None = None


@dataclass(slots=True)
class Output:
    """The form the answer's text has to have: any JSON object, or JSON of a schema."""

    kind: Literal["json", "schema"]
    schema: dict[str, Any] | None = None
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


@dataclass(slots=True)
class Reasoning:
    """How much the model is to think: an effort in OpenAI's words (none, minimal, low, medium, high, xhigh), or a most of tokens.

    `show`: whether the caller wants to see it; None where it did not say.
    """

    effort: str | None = None
    budget: int | None = None
    show: bool | None = None


@dataclass(slots=True)
class Prompt:
    """A request for one answer. A member that is None, or empty, was not given.

    `places` names, for each member that was given, the field of the caller's request it came from, for refusals: a format that
    cannot say `seed` tells `losses.cannot(prompt.place("seed"))`.
    """

    model: str
    stream: bool = False
    system: list[Text] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    tools: list[Tool] = field(default_factory=list)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    output: Output | None = None
    reasoning: Reasoning | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: Sequence[str] = ()
    n: int | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    verbosity: str | None = None
    user: str | None = None
    """The end user, as the provider is to know them."""
    service_tier: str | None = None
    places: dict[str, str] = field(default_factory=dict)

    def place(self, member: str) -> str:
        return self.places.get(member, member)

    def choice(self, losses: Losses) -> ToolChoice | None:
        """The choice among tools. Without tools, which may all have been dropped, providers refuse any, and without the tool it
        names that one: then there is none, and one that forces a call is told."""
        choice = self.tool_choice
        if choice is None:
            return None
        if self.tools and (choice.mode != "named" or any(tool.name == choice.name for tool in self.tools)):
            return choice
        if choice.mode in ("required", "named"):
            losses.cannot(self.place("tool_choice"), "Give the tools it is to choose from.")
        return None


MOST_NAMED = 20
"""Places that a message or a header names; the row has all that were dropped."""


class Losses:
    """What of a request cannot be carried to a provider of another format. Refused unless `drop`, and then all of it at once: a
    caller may have tens of thousands of members that nobody knows."""

    def __init__(self, target: str, *, drop: bool = False) -> None:
        self._target = target
        self._drop = drop
        self._dropped: dict[str, None] = {}
        self._refused: dict[str, str] = {}

    @property
    def dropped(self) -> list[str]:
        """Places in the caller's request that the provider does not get, each once."""
        return list(self._dropped)

    def cannot(self, place: str, advice: str = "") -> None:
        """The provider cannot be told this, and it would answer otherwise if it could."""
        if self._drop:
            self.hint(place)
        else:
            self.refuse(place, advice)

    def refuse(self, place: str, advice: str) -> None:
        """As `cannot`, and never dropped: the conversation itself would be lost with it."""
        self._refused.setdefault(place_shown(place), advice)

    def hint(self, place: str) -> None:
        """The provider cannot be told this, and its answer is the same without: always dropped, and the row says so."""
        self._dropped[place_shown(place)] = None

    def check(self) -> None:
        """Raise `InvalidRequest` that names everything that cannot be carried, if anything was."""
        if not self._refused:
            return
        named = [f"'{place}'" for place in islice(self._refused, MOST_NAMED)]
        more = len(self._refused) - len(named)
        fields = ", ".join([*named, f"and {more} more"] if more > 0 else named)
        advice = " ".join(dict.fromkeys(advice for advice in self._refused.values() if advice))
        general = 'Leave it out, or have the operator set on_unsupported = "drop".'
        raise InvalidRequest(
            f"{fields} cannot be sent to {self._target}, whose format has no counterpart. {advice or general}",
            code="unsupported_parameter",
            param=next(iter(self._refused)),
        )
