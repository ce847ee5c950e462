"""Tokens in Google's dialect: cached ones are among the prompt's, thoughts stand beside the candidates', tools' results apart."""

from __future__ import annotations

from typing import Any

from ...money import Usage
from ..counts import MAX_TOKENS, Details, is_believable

SOUND, PICTURES, VIDEO = MEDIA = ("AUDIO", "IMAGE", "VIDEO")
"""The modalities that have prices of their own at some models. A document's tokens cost what text does."""

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
    asked, by_tools = details.media(value.get("promptTokensDetails")), details.media(value.get("toolUsePromptTokensDetails"))
    kept, made = details.media(value.get("cacheTokensDetails")), details.media(value.get("candidatesTokensDetails"))
    details.part(value.get("totalTokenCount"), MAX_TOKENS)  # nothing follows from it
    tier = value.get("serviceTier")
    usage = Usage(
        input_tokens=read,
        output_tokens=written,
        cache_read_tokens=cached,
        reasoning_tokens=thoughts,
        input_audio_tokens=details.part(asked[SOUND] + by_tools[SOUND], read),
        output_audio_tokens=details.part(made[SOUND], written),
        cache_read_audio_tokens=details.part(kept[SOUND], cached),
        input_image_tokens=details.part(asked[PICTURES] + by_tools[PICTURES], read),
        output_image_tokens=details.part(made[PICTURES], written),
        cache_read_image_tokens=details.part(kept[PICTURES], cached),
        input_video_tokens=details.part(asked[VIDEO] + by_tools[VIDEO], read),
        output_video_tokens=details.part(made[VIDEO], written),
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
    given = (usage.input_audio_tokens, usage.input_image_tokens, usage.input_video_tokens)
    made = (usage.output_audio_tokens, usage.output_image_tokens, usage.output_video_tokens)
    kept = (usage.cache_read_audio_tokens, usage.cache_read_image_tokens, 0)
    for name, total, apart in (
        ("promptTokensDetails", usage.input_tokens, given),
        ("candidatesTokensDetails", told["candidatesTokenCount"], made),
        ("cacheTokensDetails", usage.cache_read_tokens, kept),
    ):
        if any(apart):
            counts = (("TEXT", max(total - sum(apart), 0)), *zip(MEDIA, apart, strict=True))
            told[name] = [{"modality": modality, "tokenCount": count} for modality, count in counts if count]
    return told


class _Details(Details):
    def media(self, details: Any) -> dict[str, int]:
        """The tokens of each medium that has a price of its own anywhere, among those that are told by their modality."""
        counts = dict.fromkeys(MEDIA, 0)
        if type(details) is not list:
            self.invalid = self.invalid or details is not None
            return counts
        for entry in details:
            if type(entry) is dict and (modality := entry.get("modality")) in MEDIA:
                counts[modality] += self.part(entry.get("tokenCount"), MAX_TOKENS)
        return counts
