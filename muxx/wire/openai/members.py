"""What chat completions and Responses have in common of a request's members, as `wire.members` reads them."""

from __future__ import annotations

from typing import Any

from ..members import Read, cannot_unless, expect, hint, member, number, optional, passed_over, tell_others
from ..prompt import Losses, Output, Prompt


def read_tier(prompt: Prompt, field: str, value: Any, losses: Losses) -> None:
    if expect(value, str, field) not in ("auto", "default"):
        prompt.service_tier = value
        prompt.places["service_tier"] = field


LOGPROBS = "Log probabilities are no part of a translated answer."

COMMON: dict[str, Read] = {
    "model": passed_over,
    "stream": passed_over,
    "stream_options": passed_over,
    "store": passed_over,
    "temperature": number("temperature"),
    "top_p": number("top_p"),
    "top_k": member("top_k", int),
    "parallel_tool_calls": member("parallel_tool_calls", bool, default=True),
    "top_logprobs": cannot_unless(0, advice=LOGPROBS),
    "user": member("user", str),
    "service_tier": read_tier,
    "metadata": hint,
    "safety_identifier": hint,
    "prompt_cache_key": hint,
    "prompt_cache_options": hint,
    "prompt_cache_retention": hint,
}
"""What both formats have under the same name. `top_k` is no word of OpenAI's, but clients know it from others."""


_SCHEMA = {"type", "name", "description", "schema", "strict"}


def read_output(form: dict[str, Any], schema: dict[str, Any], path: str, losses: Losses) -> Output | None:
    """The form of the answer's text; the members of a schema stand in `schema`. None for plain text."""
    kind = form.get("type")
    if kind == "json_object":
        return Output("json")
    if kind == "json_schema":
        tell_others(schema, _SCHEMA, path, losses)
        return Output(
            "schema",
            schema=optional(schema, "schema", dict, path),
            name=optional(schema, "name", str, path),
            description=optional(schema, "description", str, path),
            strict=optional(schema, "strict", bool, path),
        )
    if kind != "text":
        losses.cannot(path)
    return None
