"""What is told of an error that came of anybody's code: its kind and its place. Its text is not, for it may quote a secret; but
SQLite's own words for a fault of the database quote nothing, and at a start nobody's request is on the way yet.
"""

from __future__ import annotations

import os
import sqlite3
from types import TracebackType
from typing import Any

MUXX = os.path.dirname(__file__)


def describe_crash(error: BaseException) -> str:
    """The error's type and place, without its text, which may quote a secret; that of a database's fault cannot."""
    fault = fault_of_database(error)
    return f"{type(error).__name__}{place_of(error.__traceback__)}{fault and f': {fault}'}"


def crash_of(left: Any, error: BaseException) -> str:
    """As `describe_crash`, of what a plugin has `left` to be called later: its full name says whose it is, which a place in muxx
    does not."""
    called = getattr(left, "func", left)  # what a partial calls
    return f"{called.__module__}.{getattr(called, '__qualname__', type(called).__qualname__)}: {describe_crash(error)}"


def crash_words(error: BaseException) -> str:
    """What a plugin's own code raised at the start, and where; of a call that does not fit there is no such place."""
    trace = error.__traceback__
    return f"{type(error).__name__}{place_of(trace.tb_next if trace is not None else None)}: {error}"


def let_go_of_frames(error: BaseException | None) -> None:
    """Have an error that is kept, and what it came from, refer to none of the frames it went through: one of these mostly refers
    to whoever keeps it, and then all that they hold would wait for the garbage collector."""
    while error is not None and error.__traceback__ is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def is_database_fault(error: BaseException | None) -> bool:
    """True when the database could not do its work (locked, full, damaged); False when it was asked for something wrong."""
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR:  # no such table, a syntax error: also OperationalErrors
        return False
    return isinstance(error, (sqlite3.OperationalError, sqlite3.InternalError)) or type(error) is sqlite3.DatabaseError


def fault_of_database(error: BaseException) -> str:
    """SQLite's own words for a fault of the database; empty for any other error, whose text may quote what it was about."""
    own = is_database_fault(error) and hasattr(error, "sqlite_errorcode")  # which Python sets where SQLite itself has failed
    return " ".join(str(error).split()) if own else ""


def place_of(trace: TracebackType | None) -> str:
    """Where what was raised came from, as said behind the error's type: the file, the line and the function. Where a library
    raised it, or muxx, also the line from which whose code muxx had called went there: that is the one to mend."""
    places: list[tuple[str, str]] = []
    while trace is not None:
        code = trace.tb_frame.f_code
        folder, _, file = code.co_filename.rpartition("/")
        places.append((folder, f"{file}:{trace.tb_lineno} in {code.co_name}"))
        trace = trace.tb_next
    if not places:
        return ""
    called = next((folder for folder, _ in places if not _calls_plugins(folder)), None)
    own = [place for folder, place in places if folder == called]
    raised = places[-1][1]
    return f" at {raised}" if not own or own[-1] == raised else f" at {raised}, called at {own[-1]}"


def _calls_plugins(folder: str) -> bool:
    return f"{folder}/".startswith(f"{MUXX}/") or folder.endswith("/pluggy")
