"""What masking costs: `python tests/measure.py [FILE]`. CPU time, the least of several rounds, with the detectors that are on."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from muxx import Chunk, TextWindow, ToolCall
from redact_kit import masked, side_of

from muxx_redact import Redact
from muxx_redact.settings import RedactConfig

CONFIG = RedactConfig()


def cpu(run: Callable[[], Any]) -> float:
    """Seconds."""
    best = float("inf")
    for _ in range(15):
        started = time.process_time()
        run()
        best = min(best, time.process_time() - started)
    return best


def stream(chunks: list[Chunk]) -> None:
    side = side_of(CONFIG)
    hold = Redact(CONFIG).scanner.hold
    window = TextWindow.per_channel(lambda chunk: side.function_for(chunk.kind == "tool_call"), hold=hold)
    for chunk in chunks:
        window.feed(chunk)
    window.feed(Chunk("end"))


def main(page: str) -> None:
    words = [Chunk("text", word) for word in re.findall(r" ?\w{1,6}|\W", page)]
    arguments = json.dumps({"notes": [page[start : start + 200] for start in range(0, len(page), 200)]})
    pieces = (arguments[at : at + 4] for at in range(0, len(arguments), 4))
    fragments = [Chunk("tool_call", tool_call=ToolCall(0, arguments=piece)) for piece in pieces]
    megabyte = (page * (1 + 10**6 // len(page)))[: 10**6]
    print(f"text, a chunk of a word or sign: {cpu(lambda: stream(words)) / len(words) * 1e6:.1f} µs")
    print(f"tool arguments, a chunk of four characters: {cpu(lambda: stream(fragments)) / len(fragments) * 1e6:.1f} µs")
    print(f"a megabyte of a request: {cpu(lambda: masked(megabyte, CONFIG)) * 1e3:.0f} ms")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent / "README.md").read_text())
