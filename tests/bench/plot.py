"""The figures that matter most, as bars in an SVG of our own making: no dependency draws it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from . import calls, streams
from .measure import medians
from .part import DOCS

PLOT = DOCS.with_suffix(".svg")
WIDTH, LEFT, RIGHT = 760, 190, 90
LINE, BAR, GAP = 20, 14, 26
OTHERWISE = "#93b4f4"
"""muxx, set up in another way."""
COLOURS = {
    "muxx": "#2563eb", "no recording": OTHERWISE, "muxx, reading plugin": OTHERWISE, "muxx, translated": OTHERWISE,
    "bare": "#9ca3af", "nginx": "#059669",
}  # fmt: skip
OTHER_COLOUR = "#d1d5db"


@dataclass(frozen=True)
class Bar:
    label: str
    value: float
    text: str
    who: str


@dataclass(frozen=True)
class Panel:
    """Bars to one scale."""

    title: str
    bars: list[Bar]


def write(results: dict[str, Any], path: Path = PLOT) -> None:
    path.write_text(drawn(panels(results)))


def panels(results: dict[str, Any]) -> list[Panel]:
    """What is drawn, of the parts that were measured."""
    found = []
    if "rounds" in results.get("streams", {}):
        found += _of_streams(results["streams"])
    if "loops" in results.get("calls", {}):
        found = [_of_calls(results["calls"]), *found]
    return found


def _of_calls(result: dict[str, Any]) -> Panel:
    """nginx and the upstream itself would leave no room for the others: they are in the table."""
    loop, one = next(iter(result["loops"].items()))
    bars = []
    for cell in calls.CELLS:
        if cell.name in one["rounds"] and cell.name.startswith("plain-"):
            rates = {name: figures["requests_per_s"] for name, figures in medians(one["rounds"][cell.name]).items()}
            bars += [
                Bar(f"{calls.SHOWN[name]}, {cell.connections}", rates[name], f"{rates[name]:,.0f}", calls.SHOWN[name])
                for name in calls.SHOWN
                if name in rates and name not in ("nginx", "direct")
            ]
    return Panel(f"Requests per second on one core ({loop}), by connections", bars)


def _of_streams(result: dict[str, Any]) -> list[Panel]:
    found = medians(result["rounds"][streams.SLOW_1000])
    shown = [(name, title) for name, title in streams.SHOWN.items() if name in found and name != "direct"]
    costs = [Bar(title, found[name]["cpu_us"], f"{found[name]['cpu_us']:.1f}", title) for name, title in shown]
    delays = [Bar(title, found[name]["p99_ms"], f"{found[name]['p99_ms']:.1f}", title) for name, title in shown]
    return [
        Panel("1,000 slow streams: µs of CPU per event", costs),
        Panel("1,000 slow streams: delay per event, p99 in ms", delays),
    ]


def drawn(shown: list[Panel]) -> str:
    """The SVG. It brings its own white ground, so that it reads on a dark page too."""
    lines, top = [], GAP
    for panel in shown:
        lines.append(f'<text x="16" y="{top}" font-weight="600">{escape(panel.title)}</text>')
        most = max((bar.value for bar in panel.bars), default=0.0) or 1.0
        for bar in panel.bars:
            top += LINE
            lines += _line(bar, top, (WIDTH - LEFT - RIGHT) * bar.value / most)
        top += LINE + GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" font-family="sans-serif" font-size="13">'
    ground = f'<rect width="{WIDTH}" height="{top}" rx="8" fill="#ffffff"/>'
    return "\n".join((head, f"<title>{escape('; '.join(panel.title for panel in shown))}</title>", ground, *lines, "</svg>\n"))


def _line(bar: Bar, top: int, length: float) -> tuple[str, str, str]:
    colour = COLOURS.get(bar.who, OTHER_COLOUR)
    return (
        f'<text x="{LEFT - 8}" y="{top}" text-anchor="end">{escape(bar.label)}</text>',
        f'<rect x="{LEFT}" y="{top - BAR + 3}" width="{max(1.0, length):.1f}" height="{BAR}" fill="{colour}"/>',
        f'<text x="{LEFT + length + 6:.1f}" y="{top}">{escape(bar.text)}</text>',
    )
