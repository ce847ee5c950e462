"""The command line. muxx's own commands are here and in the modules named `…command` and `…commands`; the rest (keys, logs,
prices …) are the plugins'.

Exit codes: 0; 1 failed; 2 usage or configuration; 3 database or secret; 4 address in use; 130 interrupted
twice, or while it loads. A command that needs no server imports none.
"""

from __future__ import annotations

import gc
import inspect
import os
import signal
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import click
import orjson

from .benchcommand import bench
from .checking import build_checked
from .config import Config
from .console import PLUGINS_DIR, config_option, config_path_option, echo_json, failures, find_plugins_dir, load, run_async, table
from .crashes import crash_words
from .discovery import STANDARD_DISTRIBUTION, config_classes, discover
from .errors import PluginLoadError, StartError
from .explain import MASK, Explained, json_schema, layers, project_layers
from .host import Host
from .modelcommands import models
from .plugincommands import plugins
from .plugins import PluginSet, build
from .projectsettings import Own
from .providercommands import providers
from .secret import VARIABLE
from .secretcommands import secret
from .version import __version__

IGNORED_SIGNALS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""The first until there is something to reload. Others reopen their log on the other two, and would end by them else."""


class PluginCommands(click.Group):
    """What plugins register their commands on. A name that is taken is refused: the last one must not win silently."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        name = name or cmd.name or ""
        if name in self.commands or name in cli.commands:
            raise ValueError(f"there is a command {name!r} already")
        super().add_command(cmd, name)


class MuxxGroup(click.Group):
    """muxx's commands, and those of the plugins that are on, which are looked for only when muxx has none of that name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[f"{__name__}.path"] = path_argument(args, "--config")
        ctx.meta[PLUGINS_DIR] = path_argument(args, "--plugins-dir")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        with failures():
            return super().invoke(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        if ctx.resilient_parsing:
            return _commands_that_load(ctx).get_command(ctx, cmd_name)
        with failures():
            return _plugin_commands(ctx).get_command(ctx, cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_commands_that_load(ctx).list_commands(ctx)])


def path_argument(args: Sequence[str], option: str) -> Path | None:
    """What `option` will be, before the command it belongs to is known: which commands there are depends on it."""
    for argument, following in zip_longest(args, args[1:]):
        if argument == "--":
            break
        if argument == option and following is not None:
            return Path(following)
        if argument.startswith(f"{option}="):
            return Path(argument.partition("=")[2])
    return None


def _plugin_commands(ctx: click.Context) -> click.Group:
    """The commands of every plugin that is on, collected once per call."""
    key = f"{__name__}.commands"
    if key not in ctx.meta:
        commands = PluginCommands()
        loaded = load(ctx, ctx.meta.get(f"{__name__}.path"))
        register_commands(build(loaded.found, loaded.config), commands)
        ctx.meta[key] = commands
    group: click.Group = ctx.meta[key]
    return group


def register_commands(plugins: PluginSet, commands: click.Group) -> None:
    """Add each plugin's commands. A failure names its plugin: of two with one command's name not the standard one."""
    for plugin in sorted(plugins.plugins, key=lambda plugin: plugin.origin != STANDARD_DISTRIBUTION):
        try:
            plugins.only(plugin, "register_commands")(cli=commands)
        except (Exception, SystemExit) as error:
            text = f"its commands cannot be added ({crash_words(error)}); upgrade it or switch it off"
            raise PluginLoadError(plugin.name, text) from error
        if (name := _unawaited(commands)) is not None:
            text = f"its command {name!r} is an `async def`, which nobody would await; make it a `def` that calls muxx.run_async"
            raise PluginLoadError(plugin.name, text)


def _unawaited(group: click.Group) -> str | None:
    """The name of a command whose function would be called and never run."""
    for name, command in group.commands.items():
        if inspect.iscoroutinefunction(command.callback):
            return name
        if isinstance(command, click.Group) and (inner := _unawaited(command)) is not None:
            return f"{name} {inner}"
    return None


def _commands_that_load(ctx: click.Context) -> click.Group:
    """Help and completion work with a broken configuration too; they only know less."""
    try:
        return _plugin_commands(ctx)
    except StartError as error:
        if not ctx.resilient_parsing:
            click.echo(f"{error}\nSo the plugins' commands are missing from this list.\n", err=True)
        return click.Group()


@click.group(cls=MuxxGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="muxx", message="%(prog)s %(version)s")
def cli() -> None:
    """The LLM gateway you install with pip and trust with money and secrets."""


@cli.command()
@config_path_option()
@click.option("--mock", is_flag=True, help="Answer every model from the mock provider: no account, no network.")
@click.option("--host", help="Listen on this address instead of [server] host.")
@click.option("--port", type=click.IntRange(0, 65535), help="Listen on this port instead of [server] port.")
@click.option("--new-log", is_flag=True, help="Begin a new log where the old one is missing or damaged, which is put aside.")
@click.pass_context
def serve(ctx: click.Context, path: Path | None, mock: bool, host: str | None, port: int | None, new_log: bool) -> None:
    """Run the gateway until SIGTERM or SIGINT."""
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    gc.disable()  # what a start makes is to stay: looking for garbage in it again and again takes a tenth of the time
    try:
        loaded = load(ctx, path)
        from . import workers

        code = workers.serve(_listening(loaded.config, host, port), loaded.found, mock=mock, new_log=new_log)
    finally:
        gc.enable()
    ctx.exit(code)


def _listening(config: Config, host: str | None, port: int | None) -> Config:
    given = {name: value for name, value in {"host": host, "port": port}.items() if value is not None}
    return config.model_copy(update={"server": config.server.model_copy(update=given)})


@cli.group("config")
def config_group() -> None:
    """Check and explain the configuration."""


@config_group.command()
@config_path_option()
@click.pass_context
def check(ctx: click.Context, path: Path | None) -> None:
    """Say ok, or print every error at once and exit 2."""
    loaded = load(ctx, path)
    build_checked(loaded.found, loaded.config)
    click.echo(f"{loaded.config.path or 'built-in defaults'}: ok")


@config_group.command()
@config_option
@click.option("--project", metavar="NAME", help="Show what holds for this project, and nothing else.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(config: Config, project: str | None, as_json: bool) -> None:
    """Show every value and the layer it comes from. Secrets are masked; a string with a ${…} is shown as it is written."""
    shown = _effective(config) if project is None else project_layers(config, run_async(_own_settings(config, project)))
    if as_json:
        echo_json([row._asdict() for row in shown])
    else:
        table(("key", "value", "layer"), [(row.key, orjson.dumps(row.value).decode(), row.layer) for row in shown])


def _effective(config: Config) -> list[Explained]:
    """A secret in the environment goes before the file's."""
    rows = layers(config)
    if not os.environ.get(VARIABLE):
        return rows
    return [row._replace(value=MASK, layer="environment") if row.key == "server.secret" else row for row in rows]


async def _own_settings(config: Config, project: str) -> Own:
    """What the project sets itself. Where there is no database yet, none is made."""
    rows = []
    if config.database.path.exists():
        async with Host.open(config) as host:
            rows = [row for row in await host.projects.rows() if row.name == project]
    if not rows:
        click.echo(f"There is no project {project} yet; one of this name would have these.", err=True)
    return rows[0].own if rows else {}


@config_group.command()
@config_path_option(expose_value=False)
@click.pass_context
def schema(ctx: click.Context) -> None:
    """Print the JSON Schema of the file, with the settings of every plugin that is there, for editors."""
    echo_json(json_schema(config_classes(discover(find_plugins_dir(ctx)))))


for command in (bench, models, plugins, providers, secret):
    cli.add_command(command)
