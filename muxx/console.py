"""What every command shares: the configuration it was given, its results, and how it fails.

Results go to stdout, everything else to stderr. A failure is one line and an exit code, never a stack trace. What is shown on
a terminal cannot control it: control characters arrive as escapes.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

import click
import orjson

from .checking import Loaded, load_checked
from .config import Config
from .configfile import ConfigError
from .errors import MuxxError, StartError
from .moments import moment_of
from .processes import INTERRUPTED, interruptible_at_once
from .shown import printable

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

CONFIG_VARIABLE = "MUXX_CONFIG"
DEFAULT_FILE = Path("muxx.toml")
PLUGINS_DIR_VARIABLE = "MUXX_PLUGINS_DIR"
PLUGINS_DIR = f"{__name__}.plugins_dir"
"""Where a call's context keeps what `--plugins-dir` gave."""

WIDEST = 10_000
"""Columns of a table: one that does not fit is the terminal's to wrap, for an id that is cut short can be given to no command."""

_UNDECODABLE = re.compile("[\udc80-\udcff]")
"""What Python makes of bytes of the system that are no text: no database and no terminal takes it."""


class MomentArgument(click.ParamType[float]):
    """A moment on a command line, as `moment_of` reads it."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return moment_of(value)
        except ValueError:
            self.fail("write 2026-11-22, 2026-11-22T10:00:00Z (UTC unless it says otherwise) or seconds since 1970", param, ctx)


class ListedByDefault(click.Group):
    """Without the name of a command it is `list` that is meant."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        asks_for_help = args[:1] in ([option] for option in ctx.help_option_names)
        if not ctx.resilient_parsing and not asks_for_help and (not args or args[0].startswith("-")):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@contextmanager
def failures() -> Iterator[None]:
    """Inside, muxx's own errors end the command: a `StartError` with its exit code, a `MuxxError` and a full disk with 1. What
    was given and is no text ends it with 2."""
    try:
        yield
    except ConfigError as error:
        _fail(str(error), error.exit_code, error)
    except StartError as error:
        _fail(f"Error: {error}", error.exit_code, error)
    except MuxxError as error:
        _fail(f"Error: {error.message}", 1, error)
    except UnicodeEncodeError as error:
        if not _UNDECODABLE.search(error.object):
            raise
        _fail("Error: an argument, or a variable in the environment, is not UTF-8 text.", 2, error)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" ({error.filename})" if error.filename else ""
        _fail(f"Error: {error.strerror}{where}. Make room, and try again.", 1, error)


def _fail(text: str, exit_code: int, cause: Exception) -> NoReturn:
    click.echo(text, err=True)
    raise click.exceptions.Exit(exit_code) from cause


def find_config(given: Path | None) -> Path | None:
    """The file given, else the one $MUXX_CONFIG names, else ./muxx.toml where there is one, else None: the defaults."""
    if given is not None:
        return given
    named = os.environ.get(CONFIG_VARIABLE)
    if named:
        return Path(named)
    return DEFAULT_FILE if os.path.lexists(DEFAULT_FILE) else None  # what cannot be read is an error, not the defaults


def find_plugins_dir(ctx: click.Context) -> Path | None:
    """The folder that `--plugins-dir` gave, else the one $MUXX_PLUGINS_DIR names, else None: there are no single-file plugins."""
    given = ctx.meta.get(PLUGINS_DIR) or os.environ.get(PLUGINS_DIR_VARIABLE)
    return Path(given) if given else None


def load(ctx: click.Context, given: Path | None) -> Loaded:
    """The configuration of this call, checked against the plugins that are there; read once per call, file and folder."""
    seen: dict[tuple[Path | None, Path | None], Loaded] = ctx.meta.setdefault(__name__, {})
    which = find_config(given), find_plugins_dir(ctx)
    if which not in seen:
        with interruptible_at_once():
            seen[which] = load_checked(*which)
    return seen[which]


def _config(ctx: click.Context, _: click.Parameter, given: Path | None) -> Config | None:
    if ctx.resilient_parsing:  # the shell asks for completions
        return None
    with failures():
        return load(ctx, given).config


def config_path_option(name: str = "path", **attributes: Any) -> Callable[[F], F]:
    """`--config FILE` as it stands, for a command that has to look at the file by itself; and `--plugins-dir DIR`."""
    config = click.option(
        "--config",
        name,
        type=click.Path(path_type=Path),
        metavar="FILE",
        help=f"The configuration file.  [default: ${CONFIG_VARIABLE}, else ./{DEFAULT_FILE} if there is one]",
        **attributes,
    )
    return lambda command: config(plugins_dir_option(command))


def plugins_dir_option(command: F) -> F:
    """`--plugins-dir DIR`, for `find_plugins_dir`; read before `--config`, whose file is checked against the plugins."""
    return click.option(
        "--plugins-dir",
        type=click.Path(path_type=Path),
        metavar="DIR",
        is_eager=True,
        expose_value=False,
        callback=_keep_plugins_dir,
        help=f"A folder whose *.py files are plugins too.  [default: ${PLUGINS_DIR_VARIABLE}, else none]",
    )(command)


def _keep_plugins_dir(ctx: click.Context, _: click.Parameter, given: Path | None) -> None:
    if given is not None:
        ctx.meta[PLUGINS_DIR] = given


def config_option(command: F) -> F:
    """`--config FILE`, handed to the command as `config: Config`, loaded and valid; with it comes `--plugins-dir DIR`."""
    return config_path_option("config", callback=_config)(command)


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine in a loop of its own; muxx's own errors end the command with one line."""
    with failures():
        return asyncio.run(_interruptible(work))


async def _interruptible(work: Coroutine[Any, Any, T]) -> T:
    """The first SIGINT cancels `work`, which then closes what it opened. A second one ends the process: it would cancel that, and
    the threads of connections that nobody closes keep Python from ever ending."""
    cancel = signal.getsignal(signal.SIGINT)  # asyncio's, where it has one: not where SIGINT is ignored, or in another thread
    if not callable(cancel) or cancel is signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        return await work

    def interrupted(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
        cancel(number, frame)

    signal.signal(signal.SIGINT, interrupted)
    try:
        return await work
    finally:
        signal.signal(signal.SIGINT, cancel)


def echo_json(value: Any) -> None:
    """Print one JSON value, indented, for people and `jq` alike."""
    click.echo(orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows under their columns: a table on a terminal (without colour under NO_COLOR), aligned plain text elsewhere."""
    cells = [[_cell(value) for value in row] for row in rows]
    if sys.stdout.isatty():
        _rich_table(columns, cells)
        return
    lines = [list(columns), *cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _rich_table(columns: Sequence[str], cells: Iterable[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(*columns, box=SIMPLE_HEAD, pad_edge=False)
    for row in cells:
        shown.add_row(*(Text(cell) for cell in row))
    Console(width=WIDEST, height=1).print(shown)  # with no height given, one of TERM=dumb is 80 wide whatever the width


def _cell(value: Any) -> str:
    """One line of text for any value; `-` for none."""
    return printable(str(value).lower() if isinstance(value, bool) else value)
