"""Write `sizes.json` from LiteLLM's table of models: `python -m muxx_std.spend_caps.generate TABLE [PATH]`.

TABLE is `model_prices_and_context_window_backup.json` of a litellm wheel (see NOTICE). Only two figures of a model are taken: how
many tokens it reads, and how many it writes. A name without its date stands for the largest of its dated models.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .sizes import DATED, SHIPPED

_VENDORS = {
    "anthropic": "anthropic", "azure": "azure", "cerebras": "cerebras", "deepseek": "deepseek", "fireworks_ai": "fireworks",
    "gemini": "google", "groq": "groq", "mistral": "mistral", "moonshot": "moonshotai", "openai": "openai",
    "perplexity": "perplexity", "together_ai": "together", "xai": "x-ai",
}  # fmt: skip
"""LiteLLM's names of providers, and ours of vendors."""

_MODES = frozenset({"chat", "completion", "embedding", "responses"})

_BESIDE = {
    "anthropic": {
        "claude-3-haiku": (200_000, 4096), "claude-3-sonnet": (200_000, 4096), "claude-3-opus": (200_000, 4096),
        "claude-3-5-haiku": (200_000, 8192), "claude-3-5-sonnet": (200_000, 8192), "claude-3-7-sonnet": (200_000, 128_000),
        "claude-sonnet-4": (1_000_000, 64_000), "claude-sonnet-4-5": (1_000_000, 64_000), "claude-opus-4-1": (200_000, 32_000),
    },
    "google": {"gemini-1.5-pro": (2_097_152, 8192), "gemini-1.5-flash": (1_048_576, 8192)},
    "openai": {"gpt-4": (8192, 8192)},
}  # fmt: skip
"""Models that the table no longer has, or has smaller than they can be made with a header."""

Found = dict[str, dict[str, tuple[int, int]]]


def build(table: Mapping[str, Any]) -> Found:
    """Vendor, then model: the most tokens of input, and of output."""
    found: Found = {vendor: dict(_BESIDE.get(vendor, {})) for vendor in sorted(set(_VENDORS.values()))}
    for name, row in table.items():
        vendor, context = _VENDORS.get(row.get("litellm_provider")), row.get("max_input_tokens")
        if vendor is None or row.get("mode") not in _MODES or type(context) is not int or context < 1:
            continue
        output = row.get("max_output_tokens")
        size = (context, output if type(output) is int and output > 0 else context)
        model = name.split("/", 1)[1].lower() if name.startswith(f"{row['litellm_provider']}/") else name.lower()
        undated = re.sub(DATED, "", model)
        for known_as in {model, undated}:
            sizes = size, found[vendor].get(known_as, (0, 0)), _BESIDE.get(vendor, {}).get(undated, (0, 0))
            found[vendor][known_as] = max(of[0] for of in sizes), max(of[1] for of in sizes)
    return found


def dump(found: Found) -> str:
    """One model a line, so that a change of one is a change of one line."""
    vendors = (
        f" {json.dumps(vendor)}: {{\n"
        + ",\n".join(f"  {json.dumps(name)}: {json.dumps(size)}" for name, size in sorted(models.items()))
        + "\n }"
        for vendor, models in found.items()
    )
    return "{\n" + ",\n".join(vendors) + "\n}\n"


if __name__ == "__main__":
    path = Path(sys.argv[2]) if len(sys.argv) > 2 else SHIPPED
    path.write_text(dump(build(json.loads(Path(sys.argv[1]).read_text()))))
