"""A `Prompt` as a request of Google's format, for the Gemini API."""

from __future__ import annotations

import re
from base64 import b64encode
from typing import Any

from ..prompt import Block, Call, Losses, Media, Output, Prompt, Reasoning, Refusal, Result, Text, Thought, Tool
from ..seals import opened
from .media import is_googles
from .pieces import parsed_arguments
from .prompt_parts import NO_SIGNATURE
from .request import WHOLE

FORMAT = "gemini"
_NUMBERS = {
    "max_tokens": "maxOutputTokens", "temperature": "temperature", "top_p": "topP", "top_k": "topK", "n": "candidateCount",
    "seed": "seed", "frequency_penalty": "frequencyPenalty", "presence_penalty": "presencePenalty",
}  # fmt: skip
_MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY", "named": "ANY"}
_TIERS = {"default": "standard", "auto": None, "standard_only": "standard", "flex": "flex", "priority": "priority"}
_BUDGETS = {"minimal": 1024, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 24576}
"""Efforts as tokens, for models that know no levels: as Google's own endpoint for OpenAI's clients has them."""
_BUDGETED = re.compile(r"gemini-2\.|gemini-1\.")
_MOST = ((re.compile(r"gemini-2\.5-flash"), 24576), (re.compile(r"gemini-2\.5-pro"), 32768))
"""Google refuses larger budgets for these."""
_SIGNED = re.compile(r"gemini-(?:[3-9]|\d\d)")
"""Models that refuse a call of theirs without the signature they gave it."""
_SEND_DATA = "Send the file itself, in base64: the Gemini API fetches no URLs of others."


def write_prompt(prompt: Prompt, losses: Losses) -> dict[str, Any]:
    """The body, with the model and whether a stream is wanted as the kernel has them there."""
    writer = _Contents(prompt, losses)
    body: dict[str, Any] = {"model": prompt.model, "stream": prompt.stream, "contents": writer.contents()}
    if not body["contents"]:
        losses.refuse(prompt.place("messages"), "Give at least one user turn.")
    if instructions := [*(part for block in prompt.system for part in writer.text(block)), *writer.moved]:
        body["systemInstruction"] = {"parts": instructions}
    if prompt.tools:
        body["tools"] = [{"functionDeclarations": [_declared(tool, losses) for tool in prompt.tools]}]
    if (choice := prompt.choice(losses)) is not None:
        config: dict[str, Any] = {"mode": _MODES[choice.mode]}
        if choice.mode == "named":
            config["allowedFunctionNames"] = [choice.name]
        body["toolConfig"] = {"functionCallingConfig": config}
    if settings := _settings(prompt, losses):
        body["generationConfig"] = settings
    if tier := _TIERS.get(prompt.service_tier or "auto"):
        body["serviceTier"] = tier
    _refuse(prompt, losses)
    return body


def write_count_prompt(prompt: Prompt, losses: Losses) -> dict[str, Any]:
    """A request to count the tokens of all that `write_prompt` writes."""
    body = write_prompt(prompt, losses)
    inner = {name: value for name, value in body.items() if name not in ("model", "stream")}
    return {"model": prompt.model, "stream": False, WHOLE: inner}


def _refuse(prompt: Prompt, losses: Losses) -> None:
    """Tell what this format has no word for. Log probabilities it has, but they do not get into another format's answer."""
    if prompt.parallel_tool_calls is False:
        losses.hint(prompt.place("parallel_tool_calls"))  # clients send it unasked, wherever there are tools
    for name in ("logprobs", "top_logprobs"):
        if getattr(prompt, name):
            losses.cannot(prompt.place(name))
    if prompt.verbosity not in (None, "medium"):
        losses.cannot(prompt.place("verbosity"))
    if prompt.user is not None:
        losses.hint(prompt.place("user"))
    if prompt.service_tier is not None and prompt.service_tier not in _TIERS:
        losses.hint(prompt.place("service_tier"))


def _settings(prompt: Prompt, losses: Losses) -> dict[str, Any]:
    """The `generationConfig`."""
    numbers = {theirs: value for ours, theirs in _NUMBERS.items() if (value := getattr(prompt, ours)) is not None}
    settings: dict[str, Any] = {**numbers}
    if prompt.stop:
        settings["stopSequences"] = list(prompt.stop)
    if prompt.output is not None:
        settings |= _output(prompt.output)
    if prompt.reasoning is not None and (thinking := _thinking(prompt, prompt.reasoning, losses)):
        settings["thinkingConfig"] = thinking
    return settings


def _output(output: Output) -> dict[str, Any]:
    """The form of the answer; what a schema is called and said to be for is in the schema itself here."""
    form: dict[str, Any] = {"responseMimeType": "application/json"}
    if output.kind == "schema":
        said = {"title": output.name, "description": output.description}
        form["responseJsonSchema"] = {**{name: text for name, text in said.items() if text}, **(output.schema or {})}
    return form


def _thinking(prompt: Prompt, reasoning: Reasoning, losses: Losses) -> dict[str, Any]:
    """How much to think: as tokens, or as a level. Google refuses both at once; the tokens are the more exact."""
    config: dict[str, Any] = {}
    effort = reasoning.effort
    if reasoning.budget is not None:
        most = (most for names, most in _MOST if names.search(prompt.model))
        config["thinkingBudget"] = min([reasoning.budget, *most])
        if effort is not None:
            losses.hint(prompt.place("reasoning"))
    elif effort == "none":
        config["thinkingBudget"] = 0
    elif effort is not None and effort not in _BUDGETS:
        losses.cannot(prompt.place("reasoning"))
    elif effort is not None and _BUDGETED.search(prompt.model):
        config["thinkingBudget"] = _BUDGETS[effort]
    elif effort is not None:
        config["thinkingLevel"] = effort.upper()
    if reasoning.show is not None:
        config["includeThoughts"] = reasoning.show
    return config


def _declared(tool: Tool, losses: Losses) -> dict[str, Any]:
    """A function's declaration. That its schema is to be kept to strictly cannot be said, and is what Google tries to do."""
    if tool.strict:
        losses.hint(f"{tool.path}.strict")
    if tool.cache is not None:
        losses.hint(f"{tool.path}.cache_control")
    declared: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        declared["description"] = tool.description
    if tool.parameters is not None:
        declared["parametersJsonSchema"] = tool.parameters
    return declared


class _Contents:
    """Writes turns as contents. Calls are remembered, for a result has to name the function."""

    def __init__(self, prompt: Prompt, losses: Losses) -> None:
        self._prompt = prompt
        self._losses = losses
        self._called: dict[str, str] = {}
        self._signs = _SIGNED.search(prompt.model) is not None
        self.moved: list[dict[str, Any]] = []
        """Instructions that stood between turns: where they are not refused, they are given before everything."""

    def contents(self) -> list[dict[str, Any]]:
        """Contents whose roles take turns."""
        contents: list[dict[str, Any]] = []
        for turn in self._prompt.turns:
            if turn.role == "system":
                self._losses.cannot(turn.path, "Give instructions before everything else.")
                self.moved += [part for block in turn.blocks for part in self._block(block)]
                continue
            if turn.name is not None:
                self._losses.hint(f"{turn.path}.name")
            parts = [part for block in turn.blocks for part in self._block(block)]
            role = "model" if turn.role == "assistant" else "user"
            if contents and contents[-1]["role"] == role:
                contents[-1]["parts"] += parts
            elif parts:
                contents.append({"role": role, "parts": parts})
        if self._signs:
            for content in contents:
                _sign(content)
        return contents

    def text(self, block: Text) -> list[dict[str, Any]]:
        """The text as a part. Google refuses an empty one, but for those that carry a signature of its own."""
        self._note_cache(block)
        signature = self._signature(block.signature, block.path)
        return [{"text": block.text, **signature}] if block.text or signature else []

    def _block(self, block: Block) -> list[dict[str, Any]]:
        if isinstance(block, Text):
            return self.text(block)
        if isinstance(block, Refusal):
            return [{"text": block.text}] if block.text else []
        if isinstance(block, Media):
            return self._media(block)
        if isinstance(block, Call):
            return self._call(block)
        if isinstance(block, Result):
            return self._result(block)
        return self._thought(block)

    def _thought(self, block: Thought) -> list[dict[str, Any]]:
        signature = opened(FORMAT, block.signature)
        if signature is None:
            self._losses.hint(block.path)
            return []
        return [{"text": block.text, "thought": True, "thoughtSignature": signature}]

    def _call(self, block: Call) -> list[dict[str, Any]]:
        self._note_cache(block)
        self._called[block.id] = block.name
        arguments = parsed_arguments(block.arguments)
        if arguments is None:
            self._losses.cannot(block.path, "Send arguments of a call that are a JSON object.")
        call = {"id": block.id, "name": block.name, "args": arguments or {}}  # a call has to stand before its result
        return [{"functionCall": call, **self._signature(block.signature, block.path)}]

    def _result(self, block: Result) -> list[dict[str, Any]]:
        self._note_cache(block)
        name = block.name or self._called.get(block.id)
        if name is None:
            self._losses.cannot(block.path, "Put the call of a tool before its result.")
            return []
        texts = [entry.text for entry in block.content if isinstance(entry, Text)]
        for entry in block.content:
            if isinstance(entry, Text):
                self._note_cache(entry)
        response: dict[str, Any] = {
            "id": block.id,
            "name": name,
            "response": {"error" if block.is_error else "output": "\n".join(texts)},
        }
        if media := [part for entry in block.content if isinstance(entry, Media) for part in self._media(entry)]:
            response["parts"] = media
        return [{"functionResponse": response}]

    def _media(self, block: Media) -> list[dict[str, Any]]:
        self._note_cache(block)
        if block.name is not None:
            self._losses.hint(f"{block.path}.{block.name_at}")
        if block.detail not in (None, "auto"):
            self._losses.hint(f"{block.path}.{block.detail_at}")
        if block.url is not None and is_googles(block.url):
            mime = {"mimeType": block.mime} if block.mime is not None else {}
            return [{"fileData": {**mime, "fileUri": block.url}}]
        data = block.data if block.text is None else b64encode(block.text.encode()).decode()
        mime_type = block.mime or ("text/plain" if block.text is not None else None)
        if data is None:
            self._losses.cannot(block.path, _SEND_DATA)
            return []
        if mime_type is None:
            self._losses.cannot(block.path, "Say of what media type the file is.")
            return []
        return [{"inlineData": {"mimeType": mime_type, "data": data}}]

    def _signature(self, signature: str | None, path: str) -> dict[str, Any]:
        """The signature of a text or a call, where it is Google's own."""
        own = opened(FORMAT, signature)
        if own is not None:
            return {"thoughtSignature": own}
        if signature is not None:
            self._losses.hint(f"{path}.signature")
        return {}

    def _note_cache(self, block: Text | Media | Call | Result) -> None:
        """Gemini caches by itself."""
        if block.cache is not None:
            self._losses.hint(f"{block.path}.cache_control")


def _sign(content: dict[str, Any]) -> None:
    """The first call of each of the model's turns has a signature."""
    call = next((part for part in content["parts"] if "functionCall" in part), None)
    if call is not None:
        call.setdefault("thoughtSignature", NO_SIGNATURE)
