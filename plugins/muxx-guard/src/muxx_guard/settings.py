"""`[plugins.guard]` of the configuration."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from muxx import PluginConfig, is_web_address
from pydantic import AfterValidator, Field, SecretStr, model_validator


def _address(text: str) -> str:
    if not is_web_address(text) or " " in text:
        raise ValueError("must be an http:// or https:// URL with a host")
    if "@" in urlsplit(text).netloc:
        raise ValueError("may not hold a user; put the service's secret into token")
    return text


def _header_safe(secret: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[!-~]+", secret.get_secret_value()):
        raise ValueError("may hold printable ASCII without spaces only, for it is sent in a header")
    return secret


class GuardConfig(PluginConfig):
    url: Annotated[str, AfterValidator(_address)]
    """Where the service takes questions."""
    token: Annotated[SecretStr, AfterValidator(_header_safe)] | None = None
    """What the service is sent as Authorization: Bearer."""
    requests: bool = True
    """Ask about requests."""
    answers: bool = True
    """Ask about answers; false leaves them on muxx's fast path."""
    tool_arguments: bool = True
    """Ask about the arguments of tool calls too, on both sides."""

    window_chars: int = Field(400, ge=1, le=100_000)
    """Ask about a streamed answer when this much of it is new."""
    sentence_chars: int = Field(80, ge=0, le=100_000)
    """Ask at the end of a sentence too, once this much is new; 0: do not look for sentences."""
    window_s: float = Field(2, gt=0, le=60)
    """Ask when a new text has waited this long."""
    overlap_chars: int = Field(80, ge=0, le=10_000)
    """How much of what was allowed is held back, to be seen again with what follows it."""
    batch_chars: int = Field(16_000, ge=100, le=1_000_000)
    """The most text in one question; more of it is several questions."""

    on_refused: Literal["error", "end"] = "error"
    """How an answer ends that the service refuses: with an error, or as if the model had stopped there."""
    on_failure: Literal["refuse", "allow"] = "refuse"
    """What happens when the service does not answer properly or in time."""
    service_timeout_s: float = Field(1, gt=0, le=60)
    """How long one look at a request, or at a window, may take."""
    max_questions: int = Field(64, ge=1, le=10_000)
    """The most questions at once, of each worker."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.overlap_chars >= self.batch_chars:
            raise ValueError("overlap_chars must be below batch_chars, or a long text would never end")
        return self
