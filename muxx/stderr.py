"""The operator's log: one line per event on stderr, text on a terminal, one JSON object per line elsewhere.

Whatever a message quotes, a line stays one line of valid UTF-8 without control characters, and no longer than `LONGEST`.
"""

from __future__ import annotations

import io
import logging
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO

import orjson

from .crashes import describe_crash

LONGEST = 2048
LONGEST_NAME = 128
"""Of a logger."""

log = logging.getLogger("muxx")


def _one_line(text: str) -> str:
    """`text` with everything that could steer a terminal or a log parser escaped, and cut to `LONGEST` characters."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _said(record: logging.LogRecord) -> str:
    """A record's message; where what it was given does not fit it, the message as it was written, and where."""
    try:
        text = record.getMessage()
    except Exception as error:  # a plugin's mistake, and nothing that a line of the log should fail at
        written = record.msg if isinstance(record.msg, str) else type(record.msg).__name__
        text = f"{written} (its arguments do not fit, {type(error).__name__} at {record.pathname}:{record.lineno})"
    return _one_line(text)


class TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        return f"{clock} {_one_line(record.levelname.lower()):<7} {_named(record)}: {_said(record)}"


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": _one_line(record.levelname.lower()),
            "logger": _named(record),
            "message": _said(record),
        }
        return orjson.dumps(line).decode()


def _named(record: logging.LogRecord) -> str:
    return _one_line(str(record.name))[:LONGEST_NAME]


class _Handler(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:
        """Where stderr itself fails there is nobody to tell."""


class Printed(io.TextIOBase):
    """What stands for stdout and stderr where there is nothing but the log: each line that is printed becomes one of it."""

    encoding = "utf-8"

    def __init__(self, real: TextIO) -> None:
        self._real = real
        self._begun = _Begun()

    def write(self, text: str) -> int:
        *lines, self._begun.line = (self._begun.line + text).split("\n")
        for line in lines:
            _log_line(line)
        if len(self._begun.line) > LONGEST:
            self.flush()
        return len(text)

    def flush(self) -> None:
        line, self._begun.line = self._begun.line, ""
        _log_line(line)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._real.fileno()

    @property
    def buffer(self) -> Any:
        return self._real.buffer


class _Begun(threading.local):
    """The line that a thread has begun: other threads print meanwhile."""

    line = ""


def _log_line(line: str) -> None:
    if line.strip():
        logging.getLogger("muxx.printed").info("%s", line)


def _warned(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: object = None, line: object = None
) -> None:
    log.warning("%s: %s, at %s:%d", category.__name__, message, filename, lineno)


def _thread_failed(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is not SystemExit:
        name = args.thread.name if args.thread is not None else "?"
        log.error("thread %s failed: %s", name, _crash(args.exc_type, args.exc_value))


def _unraisable(args: sys.UnraisableHookArgs) -> None:
    log.error("nobody could be told of a failure in %s: %s", type(args.object).__name__, _crash(args.exc_type, args.exc_value))


def _crash(kind: type[BaseException], error: BaseException | None) -> str:
    return kind.__name__ if error is None else describe_crash(error)


@contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Inside, the log of muxx, and warnings of the libraries, go to stderr, and nothing else does.

    What Python itself would write there, and what anybody prints, becomes lines of the log. (What is written past Python's own
    files, as a library in C does, cannot.)
    """
    handler = _Handler(sys.stderr)
    handler.setFormatter(TextFormatter() if sys.stderr.isatty() else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("muxx").setLevel(logging.INFO)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # its messages quote exceptions, which may quote secrets
    warnings.showwarning = _warned
    threading.excepthook, sys.unraisablehook = _thread_failed, _unraisable
    with redirect_stdout(Printed(sys.stdout)), redirect_stderr(Printed(sys.stderr)):
        yield
