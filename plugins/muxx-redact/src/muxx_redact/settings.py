"""`[plugins.redact]` of the configuration."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Self

from muxx import PluginConfig
from pydantic import AfterValidator, Field, SecretStr, model_validator

from .detectors import BUILT_IN, NAMES, Detector
from .own import LONGEST, checked_pattern, literal_detector, pattern_detector
from .scanner import Scanner


def _mask(text: str) -> str:
    if not re.fullmatch(r'[^"\\\x00-\x1f\x7f]*', text):
        raise ValueError("may hold no quote, backslash or control character, for it is put into JSON")
    return text


def _literals(texts: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    if not texts or not all(3 <= len(text.get_secret_value()) <= LONGEST for text in texts):
        raise ValueError(f"must be texts of 3 to {LONGEST} characters: a shorter one would hide half of every answer")
    return texts


Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Mask = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_mask)]
Pattern = Annotated[str, AfterValidator(checked_pattern)]
Literals = Annotated[tuple[SecretStr, ...], AfterValidator(_literals)]


class RedactConfig(PluginConfig):
    requests: bool = True
    """Look at requests: messages, tool arguments, tool results."""
    answers: bool = True
    """Look at answers: text, reasoning, refusals, tool arguments."""
    tool_arguments: bool = True
    """Look at the arguments of tool calls too; false where tools need the real values."""

    api_key: bool = True
    """Keys of muxx, OpenAI, Anthropic, Google, GitHub, GitLab, AWS, Slack, Stripe and Hugging Face."""
    jwt: bool = True
    """JSON web tokens."""
    private_key: bool = True
    """Private keys in PEM."""
    email: bool = True
    """E-mail addresses."""
    card: bool = True
    """Payment card numbers with a right check digit."""
    iban: bool = True
    """IBANs with right check digits."""
    ssn: bool = True
    """US social security numbers written with dashes or blanks."""
    phone: bool = True
    """Telephone numbers: international with a +, and North American in the usual groups."""
    ip: bool = False
    """IP addresses."""

    patterns: dict[Name, Pattern] = Field(default_factory=dict)
    """Your own regular expressions, by name. Each must have a longest match, and delays answers by as much."""
    literals: dict[Name, Literals] = Field(default_factory=dict)
    """Your own texts, by name, found as they are written."""

    mask: Mask = "[{name}]"
    """What is put in the place of a match; {name} is the detector's name in capitals."""
    block: tuple[str, ...] = ()
    """Detectors whose matches refuse the request, or end the answer, instead of being masked."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        own = [*self.patterns, *self.literals]
        if len({*own, *NAMES}) < len(own) + len(NAMES):
            raise ValueError("patterns and literals need names of their own, each used once")
        if unknown := [number for number, name in enumerate(self.block) if name not in (*own, *NAMES)]:
            raise ValueError(f"entry {unknown[0]} of block is no detector; there are {', '.join((*NAMES, *own))}")
        scanner = Scanner(self.detectors())
        if any(scanner.scan(mask, 0, len(mask))[0] for mask in map(self.mask_of, (*NAMES, *own))):
            raise ValueError("mask is something that would be masked itself; choose another")
        return self

    def detectors(self) -> Iterator[Detector]:
        """Those that are on."""
        yield from (detector for detector in BUILT_IN if getattr(self, detector.name))
        yield from (pattern_detector(name, source) for name, source in self.patterns.items())
        for name, texts in self.literals.items():
            yield literal_detector(name, [text.get_secret_value() for text in texts])

    def mask_of(self, name: str) -> str:
        return self.mask.replace("{name}", name.upper())
