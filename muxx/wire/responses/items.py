"""Items: what a Responses answer is made of, and its input too. Where their texts stand, and which events carry them in pieces.

A text has a path within its item, e.g. `("content", 0, "text")` or `("arguments",)`. The pieces of a text come in events named
`response.….delta`; one named `.done` repeats the whole, and so do the events that repeat its part, its item and the answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

Path = tuple[str | int, ...]
Place = tuple[Path, Any, Any]
"""A text's path, and the container and key under which it stands."""

TextKind = Literal["text", "refusal", "reasoning", "tool_call", "other"]


MOST_PARTS = 10_000
"""No item has more parts than this; a larger number is a mistake, and lists would grow to it."""


def place(number: Any) -> int:
    """The number of a part. What is none counts as the first."""
    return number if type(number) is int and 0 <= number < MOST_PARTS else 0


class Form(NamedTuple):
    """One way in which a text comes in pieces: `{stem}.delta` and `{stem}.done`, the latter with the whole as `member`.

    `path` is the text's path with None for the number that the events carry as `number`.
    """

    stem: str
    kind: TextKind
    path: tuple[str | None, ...]
    number: str | None
    member: str

    def path_of(self, event: dict[str, Any]) -> Path:
        """The path of the text this event is about. What names no place is the first."""
        number = 0 if self.number is None else place(event.get(self.number))
        return tuple(number if step is None else step for step in self.path)


FORMS = (
    Form("response.output_text", "text", ("content", None, "text"), "content_index", "text"),
    Form("response.refusal", "refusal", ("content", None, "refusal"), "content_index", "refusal"),
    Form("response.reasoning_text", "reasoning", ("content", None, "text"), "content_index", "text"),
    Form("response.reasoning_summary_text", "reasoning", ("summary", None, "text"), "summary_index", "text"),
    Form("response.function_call_arguments", "tool_call", ("arguments",), None, "arguments"),
    Form("response.mcp_call_arguments", "tool_call", ("arguments",), None, "arguments"),
    Form("response.custom_tool_call_input", "tool_call", ("input",), None, "input"),
    Form("response.code_interpreter_call_code", "tool_call", ("code",), None, "code"),
    Form("response.shell_call_command", "tool_call", ("action", "commands", None), "command_index", "command"),
)

WHOLE = Form("", "other", (), None, "")
"""Of texts that no event brings in pieces: what tools built into the provider are asked, and what they return."""

DELTAS = {f"{form.stem}.delta": form for form in FORMS}
DONES = {f"{form.stem}.done": form for form in FORMS}
REPEATS = {**DONES, "response.shell_call_command.added": FORMS[-1]}
"""Events that hold one text as far as it has come."""

_BY_STEM = {form.stem: form for form in FORMS}

CALLS = {
    "function_call": _BY_STEM["response.function_call_arguments"],
    "mcp_call": _BY_STEM["response.mcp_call_arguments"],
    "mcp_approval_request": _BY_STEM["response.mcp_call_arguments"],
    "custom_tool_call": _BY_STEM["response.custom_tool_call_input"],
    "code_interpreter_call": _BY_STEM["response.code_interpreter_call_code"],
    "shell_call": _BY_STEM["response.shell_call_command"],
}
"""Items that are calls of a tool, and the form in which what they are called with comes."""


_BY_FIELD = {form.path[0]: form for form in reversed(FORMS)}


def form_of(item_type: str, path: Path) -> Form:
    """The form in which a text of such an item comes. Defined for every path, whatever a strange provider puts where."""
    if path[0] == "action" and path[1] != "commands":
        return WHOLE
    if path[0] != "content":
        form = CALLS.get(item_type)
        return form if form is not None and form.path[0] == path[0] else _BY_FIELD.get(str(path[0]), WHOLE)
    if path[-1] == "refusal":
        return _BY_STEM["response.refusal"]
    return _BY_STEM["response.reasoning_text" if item_type == "reasoning" else "response.output_text"]


_PROSE = ("summary", "content")
_CALLED_WITH = ("arguments", "input", "code", "queries")
_RETURNED = ("output", "outputs", "results", "result", "error")
_NESTED = {"action": ("commands", "command", "query", "queries", "text"), "operation": ("diff",)}
_LEAVES = ("text", "refusal", "stdout", "stderr", "logs")
"""Under these names a part of a list holds its text."""


def written(item: dict[str, Any]) -> Iterator[Place]:
    """Every text of an answer's item that the model wrote and that may come in pieces."""
    item_type = item.get("type")
    if type(item_type) is not str:
        return
    if item_type in ("message", "reasoning"):
        yield from _texts(item, _PROSE)
    elif item_type == "shell_call":
        yield from _within("action", item.get("action"), ("commands",))
    elif (form := CALLS.get(item_type)) is not None:
        yield from _texts(item, (form.member,))


def all_texts(item: dict[str, Any]) -> Iterator[Place]:
    """Every text of an item, what tools returned included. An image is no text, though it comes as a string."""
    yield from _texts(item, _PROSE)
    yield from _texts(item, _CALLED_WITH)
    if item.get("type") != "image_generation_call":
        yield from _texts(item, _RETURNED)
    for name, fields in _NESTED.items():
        yield from _within(name, item.get(name), fields)


def is_returned(path: Path) -> bool:
    """The text is what a tool returned."""
    return path[0] in _RETURNED


def _within(name: str, holder: Any, fields: tuple[str, ...]) -> Iterator[Place]:
    for path, container, key in _texts(holder, fields) if type(holder) is dict else ():
        yield (name, *path), container, key


def _texts(holder: dict[str, Any], fields: tuple[str, ...]) -> Iterator[Place]:
    """The texts of these fields: each a string, or a list of strings and of parts."""
    for field in fields:
        value = holder.get(field)
        if type(value) is str:
            yield (field,), holder, field
        elif type(value) is list:
            for number, part in enumerate(value):
                if type(part) is str:
                    yield (field, number), value, number
                elif type(part) is dict:
                    yield from (((field, number, leaf), part, leaf) for leaf in _LEAVES if type(part.get(leaf)) is str)


def shown(path: Path) -> str:
    """A path as people write it: `content[0].text`."""
    return "".join(f"[{step}]" if type(step) is int else f".{step}" for step in path).lstrip(".")
