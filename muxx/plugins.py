"""Check the plugins that were found, build them, and compile each hook's implementations into one frozen chain.

pluggy validates and orders; muxx runs the request hooks itself. A chain is a tuple of callables that all take the hook's
full arguments, whatever subset the plugin asked for, so running one is a plain loop and an empty one costs a truth test.

Everything a plugin author can get wrong is refused here, before the first request, in a sentence that names the plugin and the
mend.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Literal

import pluggy
from pydantic import ValidationError

from . import hookspecs
from .config import Config, PluginConfig
from .crashes import crash_words
from .discovery import STANDARD_DISTRIBUTION, Found, candidates, named_when_slow, refuse_unknown
from .errors import PluginLoadError, StartError

Mark = Literal["tryfirst", "trylast"]


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin that is on: its instance, its settings, and the hooks it implements."""

    name: str
    instance: Any
    config: PluginConfig
    origin: str
    version: str | None
    hooks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One implementation in a chain. `call` takes the hook's full arguments, in order."""

    plugin: str
    call: Callable[..., Any]
    is_async: bool
    on_error: str = "refuse"
    timeout_s: float | None = None
    mark: Mark | None = None
    """What its `@hookimpl` says of its place."""
    hook: str = "a hook"
    """What is said to have failed when it does."""


Chain = tuple[Step, ...]


class PluginSet:
    """The plugins that are on, in order, and their compiled chains. Frozen once built."""

    def __init__(self, plugins: Sequence[Plugin], disabled: Sequence[Found], manager: pluggy.PluginManager) -> None:
        self.plugins = tuple(plugins)
        self.disabled = tuple(disabled)
        self.manager = manager
        self.chains: Mapping[str, Chain] = {
            hook: _compile(hook, manager, self.by_name) for hook in (*hookspecs.REQUEST_HOOKS, "first_key", "lifespan")
        }

    @property
    def by_name(self) -> dict[str, Plugin]:
        return {p.name: p for p in self.plugins}

    def chain(self, hook: str) -> Chain:
        return self.chains[hook]

    def only(self, plugin: Plugin, hook: str) -> pluggy.HookCaller:
        """The hook as if no other plugin implemented it, so that a crash can be laid at this one's door."""
        return self.manager.subset_hook_caller(hook, [other.instance for other in self.plugins if other is not plugin])

    def registered(self, hook: str, **arguments: Any) -> Iterator[tuple[str, Any]]:
        """Each item that plugins return from a start-up hook, with its plugin's name, the last in calling order first. A crash
        names its plugin."""
        for plugin in self.plugins:
            try:
                returned = self.only(plugin, hook)(**arguments)
                for whole in returned:
                    if not isinstance(whole, Iterable):
                        raise PluginLoadError(plugin.name, f"its {hook} gives a {type(whole).__name__}; give a list of them")
                items = [item for whole in returned for item in whole]
            except StartError:
                raise
            except (Exception, SystemExit) as error:
                text = f"its {hook} failed ({crash_words(error)}); upgrade it or switch it off"
                raise PluginLoadError(plugin.name, text) from error
            for item in items:
                yield plugin.name, item

    def require_authenticator(self) -> None:
        """No gateway starts without someone who can say who is calling."""
        if not self.chains["authenticate"]:
            raise StartError("no plugin implements `authenticate`, so nobody could call; enable the standard plugin `keys`")


class _Manager(pluggy.PluginManager):
    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        """A hook is a marked function of the class, and to look into every other member as pluggy does is half of a start."""
        marked = not name.startswith("__") and hasattr(getattr(type(plugin), name, None), "muxx_impl")
        return super().parse_hookimpl_opts(plugin, name) if marked else None


def build(found: Sequence[Found], config: Config) -> PluginSet:
    """Instantiate the plugins that `config` leaves on, check their hooks, order them and compile their chains."""
    manager = _Manager("muxx")
    manager.add_hookspecs(hookspecs)
    _refuse_unknown_settings({f.name for f in found}, config)
    plugins: list[Plugin] = []
    disabled: list[Found] = []
    for item in _registration_order(found, config):
        if _is_off(item.name, config):
            disabled.append(item)
            continue
        if item.problem is not None:
            raise item.problem
        settings = _settings(item, config)
        instance = _instantiate(item, settings)
        hooks = check_hooks(item.name, instance)
        manager.register(instance, name=item.name)
        plugins.append(Plugin(item.name, instance, settings, item.origin, item.version, hooks))
    return PluginSet(plugins, disabled, manager)


def _refuse_unknown_settings(found: set[str], config: Config) -> None:
    """A name in `[plugins]` has to be a plugin's that is there, though `MUXX_LOAD_PLUGINS` may have left that one out."""
    named = (*config.plugins.tables, *(config.plugins.only or ()), *config.plugins.order)
    if found.issuperset(named):
        return  # the usual case, and looking through every installed package takes its time
    refuse_unknown("[plugins]", named, found | {c.name for c in candidates(config.plugins_dir)})


def _registration_order(found: Sequence[Found], config: Config) -> list[Found]:
    """pluggy calls last registered first, so register in reverse of the order wanted: `order` first, then by name."""
    rank = {name: i for i, name in enumerate(config.plugins.order)}
    return sorted(found, key=lambda f: (rank.get(f.name, len(rank)), f.name), reverse=True)


def _is_off(name: str, config: Config) -> bool:
    return config.plugins.leaves_out(name) or config.plugins.tables.get(name, {}).get("enabled") is False


def _settings(item: Found, config: Config) -> PluginConfig:
    known = config.plugin_settings.get(item.name)
    if known is not None:
        return known
    try:
        return item.config_class.model_validate(config.plugins.tables.get(item.name, {}))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
        raise PluginLoadError(item.name, f"its settings in [plugins.{item.name}] do not fit: {problems}") from None


def _instantiate(item: Found, settings: PluginConfig) -> Any:
    takes_config = len(inspect.signature(item.cls).parameters) > 0
    try:
        with named_when_slow(item.name, "be built"):
            return item.cls(settings) if takes_config else item.cls()
    except (Exception, SystemExit) as error:
        raise PluginLoadError(item.name, f"it could not be built ({crash_words(error)})") from error


def check_hooks(plugin: str, instance: Any) -> tuple[str, ...]:
    """The hooks `instance` implements; refuses what could not work, naming plugin and mend."""
    hooks = []
    for attribute in dir(instance):
        if attribute.startswith("__"):
            continue
        method = inspect.getattr_static(type(instance), attribute, None)
        function = getattr(method, "__func__", method)
        options = getattr(function, "muxx_impl", None)
        if options is None:
            if (problem := _never_called(instance, attribute, method)) is not None:
                raise PluginLoadError(plugin, problem)
            continue
        hook = options.get("specname") or attribute
        _check_hook(plugin, hook, function, options)
        _check_arguments(plugin, hook, method, getattr(instance, attribute))
        hooks.append(hook)
    return tuple(sorted(hooks, key=hookspecs.HOOK_NAMES.index))


def _never_called(instance: object, attribute: str, method: object) -> str | None:
    """Why something that looks like a hook is none: a guard must not be left out without a word."""
    if isinstance(method, classmethod | staticmethod) and hasattr(method, "muxx_impl"):
        return f"{attribute}() is marked above its @{type(method).__name__}, where nobody looks; put @muxx.hookimpl below that"
    if attribute not in hookspecs.HOOK_NAMES or not callable(getattr(instance, attribute)):
        return None
    if method is None:
        return f"{attribute}() is set on the instance, where nobody looks for hooks; make it a method under @muxx.hookimpl"
    return f"{attribute}() is named like a hook but not marked; put @muxx.hookimpl above it"


def _check_hook(plugin: str, hook: str, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    if hook not in hookspecs.HOOK_NAMES:
        near = difflib.get_close_matches(hook, hookspecs.HOOK_NAMES, n=1)
        hint = f"needs a newer muxx, or did you mean {near[0]!r}?" if near else "needs a newer muxx?"
        raise PluginLoadError(plugin, f"unknown hook {hook!r}: {hint}")
    if options.get("wrapper") or options.get("hookwrapper"):
        problem = f"{hook} is a wrapper; request hooks are run by muxx, not by pluggy: write a plain hook instead"
        raise PluginLoadError(plugin, problem)
    asynchronous = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
    if hook in hookspecs.SYNC_ONLY and asynchronous:
        raise PluginLoadError(plugin, f"{hook} must be a plain `def`: nothing would await it")
    if hook in hookspecs.REQUEST_HOOKS and _yields(function) and (asynchronous or hook != "on_chunk"):
        raise PluginLoadError(plugin, f"{hook} is a generator, which nobody would run to its end; return the result instead")
    if hook == "first_key" and not inspect.iscoroutinefunction(function):
        raise PluginLoadError(plugin, "first_key must be an `async def`")
    if hook == "lifespan" and not inspect.isasyncgenfunction(function):
        raise PluginLoadError(plugin, "lifespan must be an `async def` with exactly one `yield`")


def _check_arguments(plugin: str, hook: str, method: object, bound: Callable[..., Any]) -> None:
    known = hookspecs.signature_of(hook)
    may_take = f"it may take any of: {', '.join(known)}"
    if inspect.isfunction(method) and next(iter(inspect.signature(method).parameters), None) in known:
        raise PluginLoadError(plugin, f"{hook}() is a method and has no `self`; put it before the arguments, of which {may_take}")
    for name, parameter in inspect.signature(bound).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise PluginLoadError(plugin, f"{hook}() takes `{parameter}`, and gets what it names; {may_take}")
        if name not in known:
            raise PluginLoadError(plugin, f"{hook}() asks for {name!r}; {may_take}")
        if parameter.kind is parameter.KEYWORD_ONLY:
            raise PluginLoadError(plugin, f"{hook}() wants {name!r} by keyword, and arguments come by place; take the `*` out")


def _yields(function: Callable[..., Any]) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def _compile(hook: str, manager: pluggy.PluginManager, plugins: Mapping[str, Plugin]) -> Chain:
    """The hook's implementations in calling order, each taking the hook's full arguments."""
    rank = {name: place for place, name in enumerate(reversed(list(plugins)))}
    impls = getattr(manager.hook, hook).get_hookimpls()
    steps = []
    # pluggy turns the order round among those that are `trylast`, so the order is made here.
    for impl in sorted(impls, key=lambda i: (_place(i, plugins[i.plugin_name]), rank[i.plugin_name])):
        plugin = plugins[impl.plugin_name]
        call = _full_signature(hookspecs.signature_of(hook), impl.function)
        is_async, settings = inspect.iscoroutinefunction(impl.function), plugin.config
        mark: Mark | None = "tryfirst" if impl.tryfirst else "trylast" if impl.trylast else None
        steps.append(Step(plugin.name, call, is_async, settings.on_error, settings.timeout_s, mark, hook))
    return tuple(steps)


def _place(impl: pluggy.HookImpl, plugin: Plugin) -> int:
    """Where an implementation stands by its mark.

    Of those with one mark the standard plugins' are outermost: whoever is `trylast` still comes before the keys, which refuse
    what they do not know, and before the cache, which answers.
    """
    marked = 2 * (impl.trylast - impl.tryfirst)
    return marked + (marked > 0) - (marked < 0) if plugin.origin == STANDARD_DISTRIBUTION else marked


def _full_signature(full: tuple[str, ...], function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` itself when it takes every argument in order, else an adapter that picks the ones it asked for."""
    wanted = tuple(inspect.signature(function).parameters)
    if wanted == full:
        return function
    places = [full.index(name) for name in wanted]
    # Of one place, or none, a slice: `itemgetter` would give the bare item, and needs one at least.
    first = places[0] if places else 0
    pick = itemgetter(*places) if len(places) > 1 else itemgetter(slice(first, first + len(places)))

    def adapted(*args: Any) -> Any:
        return function(*pick(args))

    return adapted
