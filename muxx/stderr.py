"""The operator's log: one line per event on stderr, text on a terminal, one JSON object per line elsewhere.

Whatever a message quotes, a line stays one line of valid UTF-8 without control characters, and no longer than `LONGEST`.
"""

from __future__ import annotations

import logging
import sys
import time

import orjson

LONGEST = 2048


def printable(text: str) -> str:
    """`text` with everything that could steer a terminal or a log parser escaped, and cut to `LONGEST` characters."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


class TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        return f"{clock} {record.levelname.lower():<7} {record.name}: {printable(record.getMessage())}"


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": printable(record.getMessage()),
        }
        return orjson.dumps(line).decode()


def log_to_stderr() -> None:
    """Send the log of muxx, and warnings of the libraries, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter() if sys.stderr.isatty() else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("muxx").setLevel(logging.INFO)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # its messages quote exceptions, which may quote secrets
