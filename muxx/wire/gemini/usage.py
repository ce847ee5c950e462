"""Tokens in Google's dialect: cached ones are among the prompt's, thoughts stand beside the candidates', tools' results apart."""

from __future__ import annotations

from typing import Any

from ...money import Usage
from ..counts import MAX_TOKENS, Details, is_believable

_TOTALS = ("promptTokenCount", "toolUsePromptTokenCount", "candidatesTokenCount", "thoughtsTokenCount")


def read_gemini_usage(value: Any) -> tuple[Usage | None, bool]:
    """The usage a provider reports, and whether any of it cannot be true. Never raises.

    Counts of 0 are left out by Google, so an absent one is 0; where all of them are, there is no usage. A detail that is no
    count, or more than the total it is part of, counts as 0.
    """
    if type(value) is not dict:
        return None, True
    given = [value.get(name) for name in _TOTALS]
    if all(count is None for count in given):
        return None, False
    if not all(count is None or is_believable(count) for count in given):
        return None, True
    prompt, tools, candidates, thoughts = (count or 0 for count in given)
    read, written = prompt + tools, candidates + thoughts
    details = _Details()
    cached = details.part(value.get("cachedContentTokenCount"), read)
    heard = details.audio(value.get("promptTokensDetails")) + details.audio(value.get("toolUsePromptTokensDetails"))
    details.part(value.get("totalTokenCount"), MAX_TOKENS)  # nothing follows from it
    tier = value.get("serviceTier")
    usage = Usage(
        input_tokens=read,
        output_tokens=written,
        cache_read_tokens=cached,
        reasoning_tokens=thoughts,
        input_audio_tokens=details.part(heard, read),
        output_audio_tokens=details.part(details.audio(value.get("candidatesTokensDetails")), written),
        cache_read_audio_tokens=details.part(details.audio(value.get("cacheTokensDetails")), cached),
        service_tier=tier.lower() if type(tier) is str else None,
        source="provider",
    )
    return usage, details.invalid


def usage_metadata(usage: Usage) -> dict[str, Any]:
    """A `usageMetadata` as Google writes it."""
    told: dict[str, Any] = {
        "promptTokenCount": usage.input_tokens,
        "candidatesTokenCount": usage.output_tokens - usage.reasoning_tokens,
        "totalTokenCount": usage.input_tokens + usage.output_tokens,
    }
    if usage.cache_read_tokens:
        told["cachedContentTokenCount"] = usage.cache_read_tokens
    if usage.reasoning_tokens:
        told["thoughtsTokenCount"] = usage.reasoning_tokens
    for name, total, audio in (
        ("promptTokensDetails", usage.input_tokens, usage.input_audio_tokens),
        ("candidatesTokensDetails", told["candidatesTokenCount"], usage.output_audio_tokens),
        ("cacheTokensDetails", usage.cache_read_tokens, usage.cache_read_audio_tokens),
    ):
        if audio:
            told[name] = [_modality("TEXT", total - audio), _modality("AUDIO", audio)]
    return told


def _modality(name: str, count: int) -> dict[str, Any]:
    return {"modality": name, "tokenCount": count}


class _Details(Details):
    def audio(self, details: Any) -> int:
        """The tokens of sound among those that are told by their modality."""
        if type(details) is not list:
            self.invalid = self.invalid or details is not None
            return 0
        found = [entry.get("tokenCount") for entry in details if type(entry) is dict and entry.get("modality") == "AUDIO"]
        return sum(self.part(count, MAX_TOKENS) for count in found)
