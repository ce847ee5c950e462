"""Tokens, in OpenAI's dialect and its cousins: reading a usage object, and writing one."""

from __future__ import annotations

from typing import Any

from ...money import Usage
from ..counts import MAX_TOKENS, Details, is_believable


def read_usage(value: Any, service_tier: Any = None) -> tuple[Usage | None, bool]:
    """The usage a provider reports, and whether any of it cannot be true. Never raises.

    Without believable totals there is no usage. A detail that is no count, or more than the total it is part of, counts as 0.
    """
    if type(value) is not dict:
        return None, True
    service_tier = service_tier if type(service_tier) is str else None
    prompt: Any = value.get("prompt_tokens")
    completion: Any = value.get("completion_tokens")
    if not (type(prompt) is type(completion) is int and 0 <= prompt <= MAX_TOKENS and 0 <= completion <= MAX_TOKENS):
        return None, True
    given: Any = value.get("prompt_tokens_details")
    made: Any = value.get("completion_tokens_details")
    total = value.get("total_tokens")
    invalid = not (total is None or (type(total) is int and total >= 0))
    if _says_nothing(given) and _says_nothing(made) and value.keys() <= _PLAIN_MEMBERS:
        # What nearly every answer reports: totals, and details that are all 0.
        return Usage(prompt, completion, service_tier=service_tier, source="provider"), invalid
    invalid = invalid or not (_may_be_details(given) and _may_be_details(made))
    given, made = given if type(given) is dict else {}, made if type(made) is dict else {}
    reasoning = made.get("reasoning_tokens")
    if _is_beside(reasoning, value):
        completion += reasoning
    details = Details()
    if _SEARCHES in value:
        prompt += details.part(value.get("citation_tokens"), MAX_TOKENS)
        completion += (reasoning := details.part(value.get("reasoning_tokens"), MAX_TOKENS))
    cached = given.get("cached_tokens", value.get("prompt_cache_hit_tokens", value.get("cached_tokens")))
    usage = Usage(
        input_tokens=prompt,
        output_tokens=completion,
        cache_read_tokens=(cache_read := details.part(cached, prompt)),
        cache_write_tokens=details.part(given.get("cache_write_tokens"), prompt - cache_read),
        reasoning_tokens=details.part(reasoning, completion),
        input_audio_tokens=details.part(given.get("audio_tokens"), prompt),
        output_audio_tokens=details.part(made.get("audio_tokens"), completion),
        input_image_tokens=details.part(given.get("image_tokens"), prompt),
        output_image_tokens=details.part(made.get("image_tokens"), completion),
        input_video_tokens=details.part(given.get("video_tokens"), prompt),
        output_video_tokens=details.part(made.get("video_tokens"), completion),
        service_tier=service_tier,
        source="provider",
    )
    return usage, invalid or details.invalid


def usage_object(usage: Usage) -> dict[str, Any]:
    """A usage object as OpenAI writes it; pictures and videos as OpenRouter does, where there are any."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
            "audio_tokens": usage.input_audio_tokens,
            **_seen(usage.input_image_tokens, usage.input_video_tokens),
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": usage.output_audio_tokens,
            **_seen(usage.output_image_tokens, usage.output_video_tokens),
        },
    }


def _seen(images: int, videos: int) -> dict[str, int]:
    return {name: count for name, count in (("image_tokens", images), ("video_tokens", videos)) if count}


_PLAIN_MEMBERS = {
    "prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "completion_tokens_details",
}  # fmt: skip


_SEARCHES = "num_search_queries"
"""Perplexity's dialect: what the model read of its searches and how it reasoned stand beside all totals. What it read is
priced as input."""


def _says_nothing(details: Any) -> bool:
    """Whether details are absent, or each is a true 0 or null; something else that is empty, like false, is a mistake."""
    if type(details) is dict:
        for count in details.values():
            if count is not None and (type(count) is not int or count != 0):
                return False
    elif details is not None:
        return False
    return True


def _may_be_details(details: Any) -> bool:
    return details is None or type(details) is dict


def _is_beside(reasoning: Any, usage: dict[str, Any]) -> bool:
    """xAI's dialect: reasoning tokens stand beside the completion's, not among them; only the total says so."""
    if not is_believable(reasoning) or reasoning == 0:
        return False
    return bool(usage.get("total_tokens") == usage["prompt_tokens"] + usage["completion_tokens"] + reasoning)
