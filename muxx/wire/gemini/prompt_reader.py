"""A request of Google's format as a `Prompt`. Places are those of the caller's body, in the spelling it has there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...errors import InvalidRequest
from ..prompt import Losses, Output, Prompt, Reasoning, Tool, ToolChoice
from .names import camel, entries, spellings
from .prompt_parts import read_contents, read_texts, wrong
from .request import WHOLE
from .schema import json_schema

_EXACT = 2.0**53
"""Whole numbers below it are all there among the floats."""
_NUMBERS = {
    "maxOutputTokens": "max_tokens", "temperature": "temperature", "topP": "top_p", "topK": "top_k", "candidateCount": "n",
    "seed": "seed", "frequencyPenalty": "frequency_penalty", "presencePenalty": "presence_penalty",
}  # fmt: skip
_HINTS = frozenset({"labels", "store"})
_TIERS = {"standard": "default", "flex": "flex", "priority": "priority"}


def read_prompt(body: dict[str, Any], losses: Losses) -> Prompt:
    """Raises `InvalidRequest` for what is no request at all; `validate_generate` has seen the body."""
    return _read(body, Prompt(body["model"], bool(body.get("stream"))), losses, "")


def read_count_prompt(body: dict[str, Any], losses: Losses) -> Prompt:
    """The request whose tokens are to be counted."""
    for name in spellings(body, WHOLE):
        if type(body[name]) is dict:
            return _read(body[name], Prompt(body["model"]), losses, f"{name}.")
    return read_prompt(body, losses)


def _read(body: dict[str, Any], prompt: Prompt, losses: Losses, before: str) -> Prompt:
    """Take every member; `before` is what stands before their names in places."""
    reader = _Reader(prompt, losses)
    for name, value in body.items():
        if value is not None and name not in ("model", "stream"):
            reader.take(before + name, camel(name), value)
    reader.output()
    return prompt


class _Reader:
    def __init__(self, prompt: Prompt, losses: Losses) -> None:
        self.prompt = prompt
        self._losses = losses
        self._mime: tuple[str, Any] = ("", None)
        self._schema: Any = None
        self._members: dict[str, Callable[[str, Any], None]] = {
            "contents": self._contents,
            "systemInstruction": self._system,
            "tools": self._tools,
            "toolConfig": self._tool_config,
            "generationConfig": self._config,
            "serviceTier": self._tier,
        }
        self._settings: dict[str, Callable[[str, Any], None]] = {
            "stopSequences": self._stop,
            "thinkingConfig": self._thinking,
            "responseMimeType": self._mime_type,
            "responseSchema": self._dialect,
            "responseJsonSchema": self._json_schema,
            "_responseJsonSchema": self._json_schema,
            "responseLogprobs": self._logprobs,
            "logprobs": self._top_logprobs,
            "responseModalities": self._modalities,
            "mediaResolution": self._resolution,
        }

    def take(self, given: str, name: str, value: Any) -> None:
        if name in self._members:
            self._members[name](given, value)
        elif name in _HINTS:
            self._losses.hint(given)
        elif value not in ([], {}):
            self._losses.cannot(given)

    def output(self) -> None:
        """The form of the answer, which several members tell together."""
        place, mime = self._mime
        if self._schema is not None and mime in (None, "application/json"):
            self._set("output", Output("schema", self._schema), self.prompt.place("output"))
        elif mime == "application/json":
            self._set("output", Output("json"), place)
        elif mime not in (None, "text/plain"):
            self._losses.cannot(place, 'Ask for "application/json" with a schema.')

    def _set(self, name: str, value: Any, place: str) -> None:
        setattr(self.prompt, name, value)
        self.prompt.places[name] = place

    def _contents(self, given: str, value: Any) -> None:
        self.prompt.turns = read_contents(value, given, self._losses)
        self.prompt.places["messages"] = given

    def _system(self, given: str, value: Any) -> None:
        self.prompt.system = read_texts(value, given, self._losses)

    def _tier(self, given: str, value: Any) -> None:
        tier = _TIERS.get(str(value).lower())
        if tier is not None:
            self._set("service_tier", tier, given)
        elif not str(value).lower().endswith("unspecified"):
            self._losses.hint(given)

    # ── tools ──

    def _tools(self, given: str, value: Any) -> None:
        for path, entry in entries(value, given):
            for name, tool in entry.items():
                if camel(name) != "functionDeclarations":
                    if tool is not None:
                        self._losses.cannot(f"{path}.{name}", "Google's own tools are not other providers'.")
                    continue
                self.prompt.tools += [self._tool(place, function) for place, function in entries(tool, f"{path}.{name}")]

    def _tool(self, path: str, function: dict[str, Any]) -> Tool:
        known = {camel(name): value for name, value in function.items() if value is not None}
        if type(name := known.pop("name", None)) is not str:
            place = f"{path}.name"
            raise InvalidRequest(f"'{place}' is missing. Give the function a name.", code="missing_field", param=place)
        description, dialect, schema = (known.pop(key, None) for key in ("description", "parameters", "parametersJsonSchema"))
        for other, value in known.items():
            if other in ("response", "responseJsonSchema"):
                self._losses.hint(f"{path}.{other}")
            elif (other, str(value).upper()) not in (("behavior", "BLOCKING"), ("behavior", "UNSPECIFIED")):
                self._losses.cannot(f"{path}.{other}")
        parameters = schema if schema is not None else json_schema(dialect)
        return Tool(
            name,
            description if type(description) is str else None,
            parameters if type(parameters) is dict else None,
            path=path,
        )

    def _tool_config(self, given: str, value: Any) -> None:
        for name, part in value.items() if type(value) is dict else ():
            if camel(name) == "functionCallingConfig" and type(part) is dict:
                self._calling(f"{given}.{name}", {camel(key): entry for key, entry in part.items() if entry is not None})
            elif part is not None:
                self._losses.cannot(f"{given}.{name}")

    def _calling(self, path: str, config: dict[str, Any]) -> None:
        mode, allowed = str(config.pop("mode", "AUTO")).upper(), config.pop("allowedFunctionNames", None) or []
        for other in config:
            self._losses.cannot(f"{path}.{other}")
        if type(allowed) is not list:
            raise wrong(f"{path}.allowedFunctionNames", "Give an array of strings.")
        if allowed and (mode != "ANY" or len(allowed) > 1):
            self._losses.cannot(f"{path}.allowedFunctionNames", "Name one function, or leave the others out of tools.")
            allowed = []
        if mode == "ANY":
            self._set("tool_choice", ToolChoice("named", str(allowed[0])) if allowed else ToolChoice("required"), path)
        elif mode in ("AUTO", "NONE"):
            self._set("tool_choice", ToolChoice("auto" if mode == "AUTO" else "none"), path)
        elif mode != "MODE_UNSPECIFIED":
            self._losses.cannot(f"{path}.mode", 'Give "AUTO", "ANY" or "NONE".')

    # ── generationConfig ──

    def _config(self, given: str, value: Any) -> None:
        for name, setting in value.items() if type(value) is dict else ():
            place, known = f"{given}.{name}", camel(name)
            if setting is None:
                continue
            if known in _NUMBERS:
                if type(setting) not in (int, float):
                    raise wrong(place, "Give a number.")
                whole = type(setting) is float and known == "topK" and setting.is_integer() and abs(setting) < _EXACT
                self._set(_NUMBERS[known], int(setting) if whole else setting, place)
            elif known in self._settings:
                self._settings[known](place, setting)
            else:
                self._losses.cannot(place)

    def _stop(self, place: str, value: Any) -> None:
        stops = [value] if type(value) is str else value
        if type(stops) is not list or any(type(stop) is not str for stop in stops):
            raise wrong(place, "Give an array of strings.")
        if value:
            self._set("stop", stops, place)

    def _mime_type(self, place: str, value: Any) -> None:
        self._mime = place, value

    def _dialect(self, place: str, value: Any) -> None:
        self._json_schema(place, json_schema(value))

    def _json_schema(self, place: str, value: Any) -> None:
        if type(value) is not dict:
            raise wrong(place, "Give a schema, which is an object.")
        self._schema = value
        self.prompt.places["output"] = place

    def _logprobs(self, place: str, value: Any) -> None:
        if value:
            self._set("logprobs", True, place)

    def _top_logprobs(self, place: str, value: Any) -> None:
        if type(value) is not int:
            raise wrong(place, "Give an integer.")
        self._set("top_logprobs", value, place)

    def _modalities(self, place: str, value: Any) -> None:
        modalities = value if type(value) is list else [value]
        if any(str(modality).upper() not in ("TEXT", "MODALITY_UNSPECIFIED") for modality in modalities):
            self._losses.cannot(place, "Ask a model of Google's for other answers than text.")

    def _resolution(self, place: str, value: Any) -> None:
        if value != "MEDIA_RESOLUTION_UNSPECIFIED":
            self._losses.cannot(place)

    def _thinking(self, place: str, value: Any) -> None:
        config = {camel(name): entry for name, entry in value.items() if entry is not None} if type(value) is dict else {}
        reasoning = Reasoning()
        if type(show := config.pop("includeThoughts", None)) is bool:
            reasoning.show = show
        if type(level := config.pop("thinkingLevel", None)) is str and not level.endswith("UNSPECIFIED"):
            reasoning.effort = level.lower()
        budget = config.pop("thinkingBudget", None)
        if type(budget) is int and budget > 0:
            reasoning.budget = budget
        elif budget == 0:
            reasoning.effort = "none"
        for other in config:
            self._losses.cannot(f"{place}.{other}")
        if reasoning != Reasoning():
            self._set("reasoning", reasoning, place)
