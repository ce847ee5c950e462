"""`[plugins.router]` of the configuration."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from muxx import PluginConfig
from pydantic import BaseModel, ConfigDict, Field, model_validator

ModelName = Annotated[str, Field(pattern=r"^[!-)+-~]{1,256}$")]
"""As a client writes it: no blank, and no `*`."""
Tag = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]
Tokens = Annotated[int, Field(ge=1, le=2**40)]


class Table(BaseModel):
    """A table within the plugin's own, as strict as that."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class ModelFacts(Table):
    """What has to be known of a candidate."""

    context: Tokens
    """Tokens of its context window, prompt and answer together."""
    max_output: Tokens | None = None
    """The most tokens it answers with; unset: as many as the window holds."""
    has: tuple[Tag, ...] = ()
    """What it can do that not every model can: tools, vision, json, audio, files, and endpoints that are not translated."""


class Tier(Table):
    """Candidates of one quality."""

    up_to: Tokens | None = None
    """The longest prompt this tier is for, in tokens; unset: any."""
    candidates: tuple[ModelName, ...] = Field(min_length=1)
    """Models as clients name them."""


class RouteConfig(Table):
    """What a name stands for: either `candidates`, or `tiers` of them."""

    candidates: tuple[ModelName, ...] = ()
    """Models as clients name them, cheapest first whatever the order here."""
    tiers: tuple[Tier, ...] = ()
    """Tiers from the smallest prompts to the largest; a request begins at its own and falls back to those after it."""
    unpriced: Literal["last", "exclude"] = "last"
    """Where a candidate goes whose price nobody knows."""
    expected_output: Tokens = 500
    """Tokens an answer is taken to have when the request does not limit it."""

    @model_validator(mode="after")
    def _is_one_or_the_other(self) -> Self:
        if bool(self.candidates) == bool(self.tiers):
            raise ValueError("give it either candidates or tiers")
        limits = [tier.up_to for tier in self.tiers]
        if self.tiers and limits.pop() is not None:
            raise ValueError("the last of its tiers is for all longer prompts, so it may have no up_to")
        if None in limits or sorted(set(limits), key=lambda limit: limit or 0) != limits:
            raise ValueError("every tier but the last needs an up_to, each above the one before")
        return self

    @property
    def steps(self) -> tuple[Tier, ...]:
        return self.tiers or (Tier(candidates=self.candidates),)


class RouterConfig(PluginConfig):
    models: dict[ModelName, ModelFacts] = Field(default_factory=dict)
    """Every candidate, with what it can do."""
    routes: dict[ModelName, RouteConfig] = Field(default_factory=dict)
    """The names this plugin routes."""
    bytes_per_token: float = Field(3.5, ge=1, le=8)
    """How much text is taken for a token; fewer is more cautious."""
    media_tokens: Tokens = 1500
    """What an image, a sound or a file is taken for."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for number, route in enumerate(self.routes.values(), 1):
            names = [name for tier in route.steps for name in tier.candidates]
            for place, name in enumerate(names, 1):
                if name in self.routes:
                    raise ValueError(f"candidate {place} of route {number} is itself a route; name a model there")
                if name not in self.models:
                    raise ValueError(f"candidate {place} of route {number} needs a table under models, with its context at least")
        return self
