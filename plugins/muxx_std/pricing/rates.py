"""The arithmetic of money: tokens times prices, in integers, exactly.

Invariants, each of them a test: a cost is never negative and never raises, whatever the counts say; it does not fall when the
input or the output grows; input and output add up to the total; nothing is rounded. Prices are pico-dollars per token, because
$0.0375 per 1M tokens is 37,500 of them and only 37.5 nano-dollars.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from muxx import Cost, Usage

SIDE_BITS = 62
HIGHEST_SIDE_PICO = 2**SIDE_BITS - 1
"""Neither side of a cost exceeds this ($4.6M), so that a total fits SQLite's 64-bit integer even for a provider's nonsense."""

SECONDS_PER_DAY = 24 * 60 * 60

KINDS = (
    "input", "output", "cache_read", "cache_write", "reasoning", "input_audio", "output_audio", "cache_read_audio",
    "cache_write_1h", "input_image", "output_image", "cache_read_image", "input_video", "output_video",
)  # fmt: skip
"""Every kind of token that can have a price of its own; `Usage` counts exactly these."""

PART_OF = {
    "cache_read": ("input",), "cache_write": ("input",), "cache_write_1h": ("cache_write",),
    "input_audio": ("input",), "cache_read_audio": ("cache_read", "input_audio"),
    "input_image": ("input",), "cache_read_image": ("cache_read", "input_image"), "input_video": ("input",),
    "reasoning": ("output",), "output_audio": ("output",), "output_image": ("output",), "output_video": ("output",),
}  # fmt: skip
"""What each kind is part of; input and output are parts of nothing. What has no price of its own costs the dearest of what it is
part of."""

PLAIN, DETAILED = 2, len(KINDS)
"""The places in a `Usage` where the kinds begin that are parts of input and output, and where they end."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Pico-dollars per token of each kind. A kind without a price of its own has that of the kind it is part of.

    `output` is None where the vendor has no output price (embeddings): output tokens then have no known price.
    """

    input: int
    output: int | None
    cache_read: int
    cache_write: int
    reasoning: int
    input_audio: int
    output_audio: int
    cache_read_audio: int
    cache_write_1h: int
    input_image: int
    output_image: int
    cache_read_image: int
    input_video: int
    output_video: int

    @classmethod
    def of(cls, given: Mapping[str, int]) -> Rates:
        """Fill in what is not priced apart."""
        rates = cls(*(_price(given, kind) for kind in KINDS))
        return rates if "output" in given else replace(rates, output=None)

    def input_cost(self, usage: Usage, total: int) -> int:
        """The price of `total` input tokens, of which those of the other kinds are a part."""
        _, _, cached, written, _, audio, _, cached_audio, hourly, images, _, cached_images, video, *_ = usage
        if not (cached or written or audio or cached_audio or images or cached_images or video):
            return total * self.input
        cached = _within(cached, total)
        cached_audio = _within(cached_audio, cached)
        cached_images = _within(cached_images, cached - cached_audio)
        fresh = total - cached
        audio = _within(audio - cached_audio, fresh)
        images = _within(images - cached_images, fresh - audio)
        video = _within(video, fresh - audio - images)
        text = fresh - audio - images - video
        written = _within(written, text)
        hourly = _within(hourly, written)
        return (
            (text - written) * self.input
            + (cached - cached_audio - cached_images) * self.cache_read
            + cached_audio * self.cache_read_audio
            + cached_images * self.cache_read_image
            + audio * self.input_audio
            + images * self.input_image
            + video * self.input_video
            + (written - hourly) * self.cache_write
            + hourly * self.cache_write_1h
        )

    def output_cost(self, usage: Usage, total: int) -> int | None:
        """The price of `total` output tokens, of which those of the other kinds are a part; None when it is unknown."""
        if self.output is None:
            return None if total else 0
        if not (usage.reasoning_tokens or usage.output_audio_tokens or usage.output_image_tokens or usage.output_video_tokens):
            return total * self.output
        audio = _within(usage.output_audio_tokens, total)
        images = _within(usage.output_image_tokens, total - audio)
        video = _within(usage.output_video_tokens, total - audio - images)
        text = total - audio - images - video
        reasoning = _within(usage.reasoning_tokens, text)
        return (
            (text - reasoning) * self.output
            + audio * self.output_audio
            + images * self.output_image
            + video * self.output_video
            + reasoning * self.reasoning
        )


def _price(given: Mapping[str, int], kind: str) -> int:
    """Of the kind, else the highest that is given of what it is part of; 0 for output that has none. `KeyError` without one of
    input."""
    if kind in given:
        return given[kind]
    if kind == "output":
        return 0
    priced = [given[whole] for whole in PART_OF[kind] if whole in given]
    return max(priced) if priced else _price(given, PART_OF[kind][0])


def _within(part: int, whole: int) -> int:
    """What a provider reports as part of a whole, held between nothing and all of it."""
    return 0 if part < 0 else part if part < whole else whole


@dataclass(frozen=True, slots=True)
class Period:
    """Prices from one moment (Unix seconds) until the next period's. `rates` is None when the model had no token price then."""

    starts: float
    rates: Rates | None
    tiers: tuple[tuple[int, Rates], ...] = ()
    """(above, rates), ascending: an input longer than `above` tokens makes *all* tokens cost these rates."""
    hours: tuple[Hours, ...] = ()
    """When on each day other prices hold; the first that does, counts."""

    def at(self, now: float) -> Period:
        """The prices at a moment of this period."""
        second = now % SECONDS_PER_DAY
        return next((hours.period for hours in self.hours if hours.hold_at(second)), self)


@dataclass(frozen=True, slots=True)
class Hours:
    """Prices from one second of each day (UTC) until another, which lies past midnight when it is the earlier one."""

    since: float
    until: float
    period: Period

    def hold_at(self, second: float) -> bool:
        if self.until < self.since:
            return second >= self.since or second < self.until
        return self.since <= second < self.until


@dataclass(frozen=True, slots=True)
class Tariff:
    """A model's prices over time, newest first; the oldest one also holds for all time before it."""

    model: str
    version: str
    periods: tuple[Period, ...]
    flat: tuple[int, int] | None = field(init=False, repr=False)
    """The prices of plain input and output that hold at any time, for any number of tokens; None where it is not so simple."""

    def __post_init__(self) -> None:
        only = self.periods[0]
        rates = only.rates if len(self.periods) == 1 and not only.tiers and not only.hours else None
        flat = None if rates is None or rates.output is None else (rates.input, rates.output)
        object.__setattr__(self, "flat", flat)

    def at(self, now: float) -> Period:
        """The period that `now` is in; which of its hours it is, `Period.at` says."""
        for period in self.periods:
            if now >= period.starts:
                return period
        return self.periods[-1]

    def cost(self, usage: Usage, now: float) -> Cost | None:
        """What `usage` costs at `now`; None when any of it has no known price."""
        if self.flat is not None and not any(usage[PLAIN:DETAILED]):
            pico_in, pico_out = self.flat
            cost_in, cost_out = usage[0] * pico_in, usage[1] * pico_out
            if not (cost_in | cost_out) >> SIDE_BITS:  # neither is negative, nor above the highest
                return Cost(cost_in, cost_out, self.version)
        return self._detailed_cost(usage, now)

    def _detailed_cost(self, usage: Usage, now: float) -> Cost | None:
        """As `cost`, whatever the prices depend on and the counts say."""
        period = self.at(now)
        if period.hours:
            period = period.at(now)
        rates = period.rates
        if rates is None:
            return None
        total_in, total_out = usage.input_tokens, usage.output_tokens
        for above, dearer in period.tiers:
            if total_in > above:
                rates = dearer
        cost_in = rates.input_cost(usage, total_in if total_in > 0 else 0)
        cost_out = rates.output_cost(usage, total_out if total_out > 0 else 0)
        if cost_out is None:
            return None
        if cost_in > HIGHEST_SIDE_PICO or cost_out > HIGHEST_SIDE_PICO:
            cost_in, cost_out = min(cost_in, HIGHEST_SIDE_PICO), min(cost_out, HIGHEST_SIDE_PICO)
        return Cost(cost_in, cost_out, self.version)
