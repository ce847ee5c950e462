"""Plugins are found, checked, built and ordered before the first request; what is wrong is refused in a sentence that helps."""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from standard import STANDARD

from muxx import (
    Chunk,
    Exchange,
    Gateway,
    HttpRequest,
    Identity,
    Migration,
    PluginConfig,
    Provider,
    Reply,
    Route,
    StartError,
    discovery,
    hookimpl,
    hookspecs,
)
from muxx.checking import check_models
from muxx.configfile import ConfigError, load_config
from muxx.discovery import Found, candidates, config_classes, discover
from muxx.hookspecs import HOOK_NAMES, REQUEST_HOOKS, SYNC_ONLY, signature_of
from muxx.plugins import PluginLoadError, PluginSet, build
from muxx.testing import RunningGateway
from muxx.testing.installing import installed
from muxx.testing.settings import toml


def found(plugins: Mapping[str, type]) -> list[Found]:
    return [Found(name, cls, "outside", "1") for name, cls in plugins.items()]


def plugin_set(config: Mapping[str, Any] | None = None, /, **plugins: type) -> PluginSet:
    """The plugins built as at start, with `[plugins]` from `config`."""
    return build(found(plugins), load_from(config or {}, plugins))


def load_from(config: Mapping[str, Any], plugins: Mapping[str, type]) -> Any:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "muxx.toml"
        path.write_text(toml({"plugins": config}))
        return load_config(path, config_classes(found(plugins)))


def refusal(config: Mapping[str, Any] | None = None, /, **plugins: type) -> str:
    """What the start is refused with. It is a `StartError` that exits 2, and its text is one line."""
    with pytest.raises(StartError) as caught:
        plugin_set(config, **plugins)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


def problem_of(name: str) -> str:
    """Why the one plugin of this name is refused, where it is on. Off, it harms nobody."""
    [item] = [item for item in discover() if item.name == name]
    assert item.problem is not None
    with pytest.raises(PluginLoadError) as caught:
        build([item], load_config(None, config_classes([item])))
    off = load_from({name: {"enabled": False, "whatever": 1}}, {name: item.cls})
    assert build([item], off).disabled == (item,)
    return str(caught.value)


# ── what is refused at load, naming plugin and mend ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("options", [{"wrapper": True}, {"hookwrapper": True}])
def test_a_wrapper_on_a_request_hook_is_refused(options: dict[str, bool]) -> None:
    class Wraps:
        @hookimpl(**options)
        def pre_request(self, exchange: Exchange) -> Any:
            yield

    said = refusal(around=Wraps)
    assert "'around'" in said
    assert "pre_request is a wrapper" in said
    assert "write a plain hook" in said


@pytest.mark.parametrize("hook", HOOK_NAMES)
def test_an_unmarked_function_named_like_a_hook_is_refused(hook: str) -> None:
    said = refusal(forgetful=type("Forgetful", (), {hook: lambda self: None}))
    assert "'forgetful'" in said
    assert f"{hook}()" in said
    assert "put @muxx.hookimpl above it" in said


@pytest.mark.parametrize(
    ("name", "hint"),
    [("pre_requests", "did you mean 'pre_request'"), ("on_chunks", "did you mean 'on_chunk'"), ("zzz", "needs a newer muxx")],
)
def test_an_unknown_hook_is_refused_with_the_nearest_name(name: str, hint: str) -> None:
    said = refusal(ahead=type("Ahead", (), {name: hookimpl(lambda self: None)}))
    assert "'ahead'" in said
    assert f"unknown hook {name!r}" in said
    assert "needs a newer muxx" in said
    assert hint in said


def with_a_hook_of_its_own(self: Any) -> None:
    self.pre_request = hookimpl(lambda exchange: None)


@pytest.mark.parametrize(
    ("members", "mend"),
    [
        ({"pre_request": hookimpl(classmethod(lambda cls, exchange: None))}, "put @muxx.hookimpl below that"),
        ({"guard": hookimpl(staticmethod(lambda exchange: None), specname="pre_request")}, "put @muxx.hookimpl below that"),
        ({"pre_request": classmethod(lambda cls, exchange: None)}, "put @muxx.hookimpl above it"),
        ({"__init__": with_a_hook_of_its_own}, "make it a method under @muxx.hookimpl"),
    ],
)
def test_a_hook_that_would_be_left_out_without_a_word_is_refused(members: dict[str, Any], mend: str) -> None:
    said = refusal(silent=type("Silent", (), members))
    assert "'silent'" in said
    assert mend in said


@pytest.mark.parametrize(
    ("implementation", "mend"),
    [
        (lambda exchange: None, "pre_request() is a method and has no `self`; put it before the arguments"),
        (lambda self, *args: None, "takes `*args`, and gets what it names; it may take any of: gateway, exchange"),
        (lambda self, **named: None, "takes `**named`, and gets what it names; it may take any of: gateway, exchange"),
        (lambda self, *, exchange: None, "wants 'exchange' by keyword, and arguments come by place; take the `*` out"),
    ],
)
def test_arguments_no_hook_can_be_given_are_refused(implementation: Any, mend: str) -> None:
    said = refusal(odd=type("Odd", (), {"pre_request": hookimpl(implementation)}))
    assert "'odd'" in said
    assert mend in said


@pytest.mark.parametrize("kind", [classmethod, staticmethod])
def test_a_hook_may_be_a_classmethod_or_a_staticmethod(kind: Any) -> None:
    takes = (lambda cls, exchange: None) if kind is classmethod else (lambda exchange: None)
    built = plugin_set(plain=type("Plain", (), {"pre_request": kind(hookimpl(takes))}))
    assert built.chain("pre_request")[0].call(None, object()) is None


def test_a_name_brought_by_two_distributions_is_refused(tmp_path: Path) -> None:
    class Any_:
        pass

    with ExitStack() as stack:
        for part in ("one", "two"):
            (tmp_path / part).mkdir()
            stack.enter_context(installed({"twice": Any_}, tmp_path / part))
        assert re.fullmatch(
            r"plugin 'twice': two distributions bring this name \(muxx_testing.+, muxx_testing.+\); uninstall one", problem_of("twice")
        )


def test_a_distribution_that_is_on_the_path_twice_counts_once_as_python_would_import_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("2", "1"):
        metadata = tmp_path / version / f"muxx_again-{version}.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: muxx-again\nVersion: {version}\n")
        entry = f"again{version} = muxx_std.mock:Mock\n"
        (metadata / "entry_points.txt").write_text(f"[other]\n{entry}[muxx]\n{entry}")
        monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / version)])
    assert [(c.name, c.version) for c in candidates() if c.origin == "muxx-again"] == [("again2", "2")]


def test_without_an_authenticator_no_gateway_is_made() -> None:
    with pytest.raises(StartError, match=r"no plugin implements `authenticate`.*enable the standard plugin `keys`"):
        plugin_set().require_authenticator()


async def test_without_an_authenticator_the_server_does_not_start() -> None:
    with pytest.raises(StartError, match="no plugin implements `authenticate`"):
        async with RunningGateway({"plugins": {"keys": {"enabled": False}}}):
            pass


@pytest.mark.parametrize("hook", sorted(SYNC_ONLY))
def test_an_async_function_is_refused_where_only_a_plain_one_can_work(hook: str) -> None:
    """FAULTS P05: pluggy alone would return a coroutine that nobody awaits."""

    async def implementation(self: Any) -> None: ...

    said = refusal(eager=type("Eager", (), {hook: hookimpl(implementation)}))
    assert "'eager'" in said
    assert f"{hook} must be a plain `def`" in said


@pytest.mark.parametrize("hook", sorted(SYNC_ONLY))
def test_an_async_generator_is_refused_where_only_a_plain_function_can_work(hook: str) -> None:
    async def implementation(self: Any) -> AsyncIterator[None]:
        yield

    assert "must be a plain `def`" in refusal(eager=type("Eager", (), {hook: hookimpl(implementation)}))


@pytest.mark.parametrize("hook", REQUEST_HOOKS)
def test_an_async_generator_is_no_request_hook(hook: str) -> None:
    """Nobody would iterate it, so nothing it does would ever happen."""

    async def implementation(self: Any) -> AsyncIterator[None]:
        yield

    said = refusal(lazy=type("Lazy", (), {hook: hookimpl(implementation)}))
    assert "'lazy'" in said
    assert hook in said


@pytest.mark.parametrize("hook", sorted(set(REQUEST_HOOKS) - {"on_chunk"}))
def test_a_generator_is_no_request_hook_but_for_chunks(hook: str) -> None:
    def implementation(self: Any) -> Iterable[None]:
        yield

    said = refusal(lazy=type("Lazy", (), {hook: hookimpl(implementation)}))
    assert "'lazy'" in said
    assert hook in said


def test_on_chunk_may_be_a_generator() -> None:
    class Doubles:
        @hookimpl
        def on_chunk(self, chunk: Chunk) -> Iterable[Chunk]:
            yield chunk
            yield chunk

    [step] = plugin_set(doubles=Doubles).chain("on_chunk")
    assert [c.text for c in step.call(None, None, Chunk("text", "a"))] == ["a", "a"]


@pytest.mark.parametrize("make", [lambda self, gateway: None, asyncio.sleep])
def test_a_lifespan_that_is_no_async_generator_is_refused(make: Any) -> None:
    said = refusal(living=type("Living", (), {"lifespan": hookimpl(make)}))
    assert "'living'" in said
    assert "exactly one `yield`" in said


@pytest.mark.parametrize("hook", HOOK_NAMES)
def test_an_unknown_argument_is_refused_with_those_there_are(hook: str) -> None:
    async def lives(self: Any, wish: Any) -> AsyncIterator[None]:
        yield

    async def begins(self: Any, wish: Any) -> None:
        """What the first key wants: a coroutine."""

    special = {"lifespan": lives, "first_key": begins}
    implementation: Any = special.get(hook, lambda self, wish: None)
    said = refusal(wishing=type("Wishing", (), {hook: hookimpl(implementation)}))
    assert "'wishing'" in said
    assert f"{hook}() asks for 'wish'" in said
    assert f"it may take any of: {', '.join(signature_of(hook))}" in said


def test_a_config_that_is_no_plugin_config_is_refused() -> None:
    class Free:
        class Config:
            pass

    said = refusal(free=Free)
    assert "'free'" in said
    assert "must be a class derived from muxx.PluginConfig" in said


class Settled:
    """A plugin with settings."""

    class Config(PluginConfig):
        level: int = 3

    def __init__(self, config: Config) -> None:
        self.level = config.level


def test_settings_that_do_not_fit_are_refused_with_file_and_key() -> None:
    for settings, said in (
        ({"level": "high"}, "plugins.settled.level"),
        ({"lewel": 4}, "did you mean 'level'"),
        ({"timeout_s": -1}, "plugins.settled.timeout_s"),
        ({"on_error": "panic"}, "plugins.settled.on_error"),
    ):
        with pytest.raises(ConfigError) as caught:
            plugin_set({"settled": settings}, settled=Settled)
        assert len(caught.value.errors) == 1
        assert said in str(caught.value)


def test_settings_are_given_to_the_constructor_and_are_frozen() -> None:
    [plugin] = plugin_set({"settled": {"level": 7, "on_error": "ignore", "timeout_s": 0.5}}, settled=Settled).plugins
    assert plugin.instance.level == 7
    assert (plugin.config.on_error, plugin.config.timeout_s) == ("ignore", 0.5)
    with pytest.raises(ValueError, match="frozen"):
        plugin.config.enabled = False


def test_without_a_table_settings_have_their_defaults() -> None:
    [plugin] = plugin_set(settled=Settled).plugins
    assert plugin.instance.level == 3
    assert (plugin.config.enabled, plugin.config.on_error, plugin.config.timeout_s) == (True, "refuse", None)


def test_a_constructor_that_fails_is_named_without_a_trace() -> None:
    class Breaks:
        def __init__(self) -> None:
            raise OSError("no such device")

    said = refusal(broken=Breaks)
    assert re.search(r"plugin 'broken': it could not be built \(OSError at test_plugins\.py:\d+ in __init__: no such device\)", said)


def test_a_module_that_cannot_be_imported_is_named_with_its_distribution(tmp_path: Path) -> None:
    with installed({"torn": Settled}, tmp_path):
        [entries] = tmp_path.glob("*/entry_points.txt")
        entries.write_text("[muxx]\ntorn = no_such_module_anywhere:Torn\n")
        assert re.match(r"plugin 'torn': .*cannot be imported.*upgrade or uninstall muxx_testing", problem_of("torn"))


@pytest.mark.parametrize(
    ("settings", "key"), [({"only": ["settld"]}, "only[0]"), ({"order": ["settld"]}, "order[0]"), ({"settld": {}}, "settld")]
)
def test_a_plugin_nobody_installed_is_refused_with_the_nearest_name(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(StartError, match=rf"plugins\.{re.escape(key)}: .*did you mean 'settled'"):
        plugin_set(settings, settled=Settled)


# ── discovery ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_standard_plugins_are_found_through_the_entry_point_group() -> None:
    names = {item.name: item.origin for item in discover()}
    assert set(names) >= STANDARD
    assert {names[name] for name in STANDARD} == {"muxx"}


def test_an_installed_plugin_is_found_with_its_origin_and_version(tmp_path: Path) -> None:
    with installed({"guest": Settled}, tmp_path):
        [guest] = [item for item in discover() if item.name == "guest"]
    assert guest.cls is Settled
    assert guest.origin.startswith("muxx_testing_plugins")
    assert guest.version == "0"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, {"guest", "other"}), ("", set()), (" , ", set()), ("guest", {"guest"}), (" guest , other ", {"guest", "other"}),
        ("keys", set()),
    ],
)
def test_muxx_load_plugins_limits_which_outside_plugins_are_found(
    value: str | None, expected: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is None:
        monkeypatch.delenv("MUXX_LOAD_PLUGINS", raising=False)
    else:
        monkeypatch.setenv("MUXX_LOAD_PLUGINS", value)
    with installed({"guest": Settled, "other": Settled}, tmp_path):
        names = {item.name for item in discover()}
    assert names >= STANDARD
    assert names & {"guest", "other"} == expected


def test_muxx_load_plugins_refuses_a_name_that_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt guard would be left out without a word."""
    monkeypatch.setenv("MUXX_LOAD_PLUGINS", "guset")
    with installed({"guest": Settled}, tmp_path), pytest.raises(StartError, match=r"MUXX_LOAD_PLUGINS names 'guset'.*did you mean 'guest'"):
        discover()


def test_an_entry_point_that_names_no_class_is_refused(tmp_path: Path) -> None:
    with installed({"loose": Settled}, tmp_path):
        [entries] = tmp_path.glob("*/entry_points.txt")
        entries.write_text("[muxx]\nloose = muxx.version\n")
        assert "muxx.version is no class; its entry point has to name one" in problem_of("loose")


def test_a_plugin_whose_config_is_none_of_muxxs_is_this_plugins_problem_alone(tmp_path: Path) -> None:
    class Free:
        class Config:
            pass

    with installed({"free": Free}, tmp_path):
        assert "its Config must be a class derived from muxx.PluginConfig" in problem_of("free")


@pytest.mark.parametrize("error", ["raise SystemExit(0)", "raise OSError('two\\nlines')", "import no_such_module_anywhere"])
def test_whatever_an_import_raises_is_one_line_about_the_plugin(error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "muxx_test_raising.py").write_text(error)
    with installed({"raising": Settled}, tmp_path):
        [entries] = tmp_path.glob("*/entry_points.txt")
        entries.write_text("[muxx]\nraising = muxx_test_raising:Raising\n")
        said = problem_of("raising")
    assert "\n" not in said
    assert "muxx_test_raising:Raising cannot be imported" in said


def test_an_installed_plugin_is_on() -> None:
    assert [p.name for p in plugin_set(settled=Settled).plugins] == ["settled"]


class Marks:
    """Implements hooks without doing anything."""

    @hookimpl
    def pre_request(self) -> None: ...

    @hookimpl
    def on_chunk(self) -> None: ...


def test_enabled_false_switches_a_plugin_off() -> None:
    plugins = plugin_set({"one": {"enabled": False}}, one=Marks, two=Marks)
    assert [p.name for p in plugins.plugins] == ["two"]
    assert [f.name for f in plugins.disabled] == ["one"]
    assert [s.plugin for s in plugins.chain("pre_request")] == ["two"]


def test_a_plugin_that_is_off_is_neither_built_nor_checked() -> None:
    class Broken:
        def __init__(self) -> None:
            raise AssertionError("built")

        def pre_request(self) -> None: ...

    assert plugin_set({"broken": {"enabled": False}}, broken=Broken).plugins == ()


def test_only_leaves_out_all_others() -> None:
    plugins = plugin_set({"only": ["two"]}, one=Marks, two=Marks, three=Marks)
    assert [p.name for p in plugins.plugins] == ["two"]
    assert {f.name for f in plugins.disabled} == {"one", "three"}


def test_every_chain_is_a_tuple_and_empty_without_implementations() -> None:
    plugins = plugin_set()
    assert {plugins.chain(hook) for hook in REQUEST_HOOKS} == {()}


def test_the_default_install_compiles_an_empty_on_chunk_chain() -> None:
    """DESIGN §2: the default install is on the fast path."""
    standard = [item for item in discover() if item.origin == "muxx"]
    plugins = build(standard, load_config(None, config_classes(standard)))
    assert {p.name for p in plugins.plugins} == STANDARD
    assert plugins.chain("on_chunk") == ()


def test_two_sets_of_plugins_share_no_instance() -> None:
    first, second = plugin_set(settled=Settled), plugin_set(settled=Settled)
    assert first.plugins[0].instance is not second.plugins[0].instance


# ── order ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def placed(place: str | None = None) -> type:
    """A plugin whose `pre_request` and `post_response` stand first, last, or where its name says."""
    options = {place: True} if place else {}

    class Placed:
        @hookimpl(**options)
        def pre_request(self, exchange: Exchange) -> None: ...

        @hookimpl(**options)
        async def post_response(self) -> None: ...

    return Placed


def order_of(plugins: PluginSet, hook: str = "pre_request") -> list[str]:
    return [step.plugin for step in plugins.chain(hook)]


def test_plugins_run_in_the_order_of_their_names() -> None:
    assert order_of(plugin_set(c=placed(), a=placed(), b=placed())) == ["a", "b", "c"]


def test_tryfirst_goes_before_and_trylast_after_all_others() -> None:
    plugins = plugin_set(a=placed("trylast"), b=placed(), c=placed(), d=placed("tryfirst"))
    assert order_of(plugins) == order_of(plugins, "post_response") == ["d", "b", "c", "a"]


@pytest.mark.parametrize("place", ["tryfirst", "trylast"])
def test_among_those_first_and_among_those_last_the_name_decides(place: str) -> None:
    assert order_of(plugin_set(b=placed(place), c=placed(place), a=placed(place))) == ["a", "b", "c"]


def test_of_those_last_the_standard_plugins_come_last_and_of_those_first_they_come_first() -> None:
    """A guard that is `trylast`, whatever its name, is asked before the cache answers; limits come before any guard."""
    outside = {"zoo": placed("trylast"), "aba": placed("tryfirst")}
    standard = {"cache": placed("trylast"), "limits": placed("tryfirst")}
    there = [Found(name, cls, "muxx", "0") for name, cls in standard.items()]
    there += [Found(name, cls, "muxx-outside", "0") for name, cls in outside.items()]
    for order in ([], ["aba", "cache"]):
        config = load_from({"order": order}, {**outside, **standard})
        assert order_of(build(there, config)) == ["limits", "aba", "zoo", "cache"]


def test_the_files_order_goes_before_names_but_not_before_tryfirst_and_trylast() -> None:
    plugins = plugin_set({"order": ["y", "z", "x"]}, x=placed("tryfirst"), y=placed("trylast"), z=placed(), a=placed())
    assert order_of(plugins) == ["x", "z", "a", "y"]
    assert order_of(plugin_set({"order": ["c", "a"]}, a=placed(), b=placed(), c=placed(), d=placed())) == ["c", "a", "b", "d"]


@pytest.mark.parametrize("place", ["tryfirst", "trylast"])
def test_the_files_order_decides_among_those_first_and_among_those_last(place: str) -> None:
    assert order_of(plugin_set({"order": ["c", "b"]}, a=placed(place), b=placed(place), c=placed(place))) == ["c", "b", "a"]


def test_def_and_async_def_keep_one_order() -> None:
    class Async:
        @hookimpl
        async def pre_request(self) -> None: ...

    plugins = plugin_set(a=placed(), b=Async, c=placed(), d=Async)
    assert [(step.plugin, step.is_async) for step in plugins.chain("pre_request")] == [
        ("a", False), ("b", True), ("c", False), ("d", True),
    ]  # fmt: skip


# ── arguments ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


ARGUMENTS = {"gateway": 1, "exchange": 2, "chunk": 3}


@pytest.mark.parametrize(
    "names",
    ["", "gateway", "exchange", "chunk", "exchange, chunk", "chunk, exchange", "chunk, gateway", "gateway, exchange, chunk"],
)
def test_a_hook_gets_the_arguments_it_names_and_no_others(names: str) -> None:
    space: dict[str, Any] = {}
    exec(f"def on_chunk(self, {names}):\n    return ({names}{',' if names else ''})", space)  # every subset, in any order
    [step] = plugin_set(picky=type("Picky", (), {"on_chunk": hookimpl(space["on_chunk"])})).chain("on_chunk")
    assert step.call(*ARGUMENTS.values()) == tuple(ARGUMENTS[name] for name in re.findall(r"\w+", names))


async def test_async_hooks_may_take_a_subset_too() -> None:
    class Picky:
        @hookimpl
        async def on_chunk(self, chunk: Chunk) -> Any:
            return chunk

    [step] = plugin_set(picky=Picky).chain("on_chunk")
    assert step.is_async
    assert await step.call(1, 2, 3) == 3


def test_a_hook_that_takes_everything_is_called_without_an_adapter() -> None:
    class Whole:
        @hookimpl
        def on_chunk(self, gateway: Gateway, exchange: Exchange, chunk: Chunk) -> None: ...

    plugins = plugin_set(whole=Whole)
    [step] = plugins.chain("on_chunk")
    assert step.call == plugins.plugins[0].instance.on_chunk


def test_a_hook_may_have_another_name_where_it_says_which_hook_it_is() -> None:
    class Named:
        @hookimpl(specname="authenticate")
        def by_cookie(self, request: Any) -> Identity:
            return Identity(request)

    plugins = plugin_set(named=Named)
    assert plugins.plugins[0].hooks == ("authenticate",)
    assert plugins.chain("authenticate")[0].call(None, "someone") == Identity("someone")


def test_hooks_may_be_inherited() -> None:
    class Child(Marks):
        pass

    assert plugin_set(child=Child).plugins[0].hooks == ("pre_request", "on_chunk")


# ── what is to go ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_deprecated_hook_or_argument_warns_whoever_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the guide promises its readers; pluggy does it, once a hook is marked."""
    spec: dict[str, Any] = hookspecs.pre_request.muxx_spec  # type: ignore[attr-defined]
    monkeypatch.setitem(spec, "warn_on_impl", DeprecationWarning("use another hook"))
    with pytest.warns(DeprecationWarning, match="use another hook"):
        plugin_set(marks=Marks)
    monkeypatch.setitem(spec, "warn_on_impl", None)
    monkeypatch.setitem(spec, "warn_on_impl_args", {"exchange": DeprecationWarning("use another argument")})
    with pytest.warns(DeprecationWarning, match="use another argument"):
        plugin_set(placed=placed())
    plugin_set(marks=Marks)


# ── start-up hooks ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_error_in_lifespan_stops_the_start_and_names_the_plugin() -> None:
    class Dies:
        @hookimpl
        async def lifespan(self) -> AsyncIterator[None]:
            raise OSError("unreachable")
            yield

    with pytest.raises(StartError, match=r"plugin 'dies' could not start: OSError.*unreachable"):
        async with RunningGateway(plugins={"dies": Dies}):
            pass


async def test_lives_end_in_the_reverse_of_their_order_also_when_one_of_them_fails(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []

    def living(name: str, fails: bool = False) -> type:
        class Living:
            @hookimpl
            async def lifespan(self) -> AsyncIterator[None]:
                told.append(f"{name} begins")
                yield
                told.append(f"{name} ends")
                if fails:
                    raise OSError

        return Living

    async with RunningGateway(plugins={"a": living("a"), "b": living("b", fails=True), "c": living("c")}):
        assert told == ["a begins", "b begins", "c begins"]
    assert told[3:] == ["c ends", "b ends", "a ends"]
    assert "plugin b failed while stopping: OSError" in caplog.text


async def test_a_second_yield_is_not_run_and_the_plugin_is_named(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []

    class Twice:
        @hookimpl
        async def lifespan(self) -> AsyncIterator[None]:
            yield
            yield
            told.append("the rest")

    async with RunningGateway(plugins={"twice": Twice}):
        pass
    assert "plugin twice: its lifespan has more than one yield" in caplog.text
    assert told == []


# ── what plugins register ───────────────────────────────────────────────────────────────────────────────────────────────────


async def answered(gateway: Gateway, request: HttpRequest) -> Reply:
    return Reply.json({})


async def one_argument(request: HttpRequest) -> Reply:
    return Reply.json({})


async def start_refused(**members: Any) -> tuple[str, int]:
    """What the start of a gateway with a plugin `mine` is refused with that has these members."""
    with pytest.raises(StartError) as caught:
        async with RunningGateway(plugins={"mine": type("Mine", (), members)}):
            pass
    return str(caught.value), caught.value.exit_code


def giving(value: Any) -> Any:
    """A start-up hook that gives this, or raises it."""

    def hook(self: object) -> Any:
        if isinstance(value, BaseException):
            raise value
        return value

    return hook


def speaking(format: Any) -> Any:
    def hook(self: object) -> list[Provider]:
        return [Provider("office", "http://office.example", format)]

    return hook


def failing_later(self: object) -> Iterator[Any]:
    yield from ()
    raise ValueError("later")


FAILS_AT = failing_later.__code__.co_firstlineno + 2

@pytest.mark.parametrize(("given", "said"), [
    (giving([("GET", "/v1/mine", answered)]), "its register_routes gives a tuple; give muxx.Route"),
    (giving(Route("GET", "/v1/mine", answered)), "its register_routes gives a Route; give a list of them"),
    (giving([Route("GET", "/v1/mine", answered, "Admin")]), "its route /v1/mine has the role 'Admin'; it may be one of: public, "),  # type: ignore[arg-type]
    (giving([Route("get", "/v1/mine", answered)]), "its route /v1/mine has the method 'get'; it may be one of: GET, "),  # type: ignore[arg-type]
    (giving([Route("GET", "v1/mine", answered)]), "its route 'v1/mine' is no path; begin it with a slash"),
    (giving([Route("GET", "/v1/mine", answered, answer=dict)]), "its route /v1/mine has <class 'dict'> for its answer; give a pydantic model or a"),  # type: ignore[arg-type]
    (giving([Route("GET", "/v1/mine", None)]), "its route /v1/mine has no handler"),  # type: ignore[arg-type]
    (giving([Route("GET", "/v1/mine", lambda gateway, request: Reply(b""))]), "the handler of its route /v1/mine cannot be called; make it an `async def"),
    (giving([Route("GET", "/v1/mine", one_argument)]), "the handler of its route /v1/mine cannot be called; make it an `async def"),  # type: ignore[arg-type]
    (giving([Route("GET", "/v1/mine/{myId}", answered)]), "its route /v1/mine/{myId} cannot be read; name each segment once, in small letters"),
    (giving([Route("GET", "/v1/mine/{a}/{a}", answered)]), "its route /v1/mine/{a}/{a} cannot be read; name each segment once"),
    (giving([Route("GET", "/v1/mine/{a}", answered), Route("GET", "/v1/mine/{b}", answered)]), "it serves GET /v1/mine/{b}, and so does plugin 'mine'"),
    (giving([Route("POST", "/v1/chat/completions", answered)]), "it serves /v1/chat/completions, which is the kernel's"),
    (giving([Route("GET", "/v1/logs", answered)]), "GET /v1/logs, and so does plugin '"),
    (giving(SystemExit(0)), "its register_routes failed (SystemExit"),
    (failing_later, f"its register_routes failed (ValueError at test_plugins.py:{FAILS_AT} in failing_later: later)"),
])  # fmt: skip
async def test_a_route_that_could_not_work_stops_the_start_and_names_the_plugin(given: Any, said: str) -> None:
    text, code = await start_refused(register_routes=hookimpl(given, specname="register_routes"))
    assert said in text
    assert re.search(r"plugin '(mine|logs)'", text)
    assert code == 2


@pytest.mark.parametrize(("given", "said"), [
    (giving([42]), "its register_providers gives a int; give muxx.Provider rows and (name, transport) pairs"),
    (giving({"office": Provider("office", "http://office.example")}), "its register_providers gives a str"),
    (giving([("carrier", object())]), "its register_providers gives a tuple"),
    (giving([Provider("office/1", "http://office.example")]), "its provider 'office/1' has a name that no model can be asked for by; a name may hold"),
    (giving([Provider("office", "office.example")]), "its provider 'office' has the base_url 'office.example'; it must be an http:// or"),
    (giving([Provider("office", "http://o.example", transport="car")]), "'office' names the transport 'car', which no plugin brings; give ('car', "),
    (giving([Provider("office", "http://o.example", endpoints=("chats",))]), "'office' has endpoints that are none: 'chats'; give a tuple of: chat, "),
    (giving([Provider("office", "http://o.example", endpoints="chat")]), "'office' has endpoints that are none: 'chat'; give a tuple of: chat, "),  # type: ignore[arg-type]
    (giving([Provider("office", "http://o.example", on_unsupported="dorp")]), "'office' has the on_unsupported 'dorp'; it may be one of: error, drop"),  # type: ignore[arg-type]
    (speaking("bedrock"), "provider 'office' has the format 'bedrock'; it may be one of: openai, anthropic, gemini"),
    (giving(Provider("office", "http://o.example")), "its register_providers gives a Provider; give a list of them"),
    (failing_later, f"its register_providers failed (ValueError at test_plugins.py:{FAILS_AT} in failing_later: later)"),
])  # fmt: skip
async def test_a_provider_that_could_not_work_stops_the_start_and_names_the_plugin(given: Any, said: str) -> None:
    hook = hookimpl(given, specname="register_providers")
    text, code = await start_refused(register_providers=hook)
    assert text.startswith("plugin 'mine': ")
    assert said in text
    assert code == 2
    mine = {"mine": type("Mine", (), {"register_providers": hook})}
    with pytest.raises(PluginLoadError, match=re.escape(said)):
        check_models(load_from({}, mine), plugin_set(**mine))


@pytest.mark.parametrize("migrations", [["CREATE TABLE mine (a)"], Migration("main", "CREATE TABLE mine (a)"), (Migration("log", "SELECT 1"),)])  # type: ignore[arg-type]  # fmt: skip
async def test_migrations_that_are_none_stop_the_start_and_name_the_plugin(migrations: Any) -> None:
    text, code = await start_refused(migrations=migrations)
    assert text.startswith("plugin 'mine': its migrations cannot be read; give a tuple of muxx.Migration")
    assert code == 2


async def test_a_crash_in_first_key_stops_the_start_and_names_the_plugin() -> None:
    async def first_key(self: object) -> None:
        raise ValueError("SECRET")

    text, code = await start_refused(first_key=hookimpl(first_key))
    assert text.startswith("plugin 'mine': its first_key failed (ValueError at test_plugins.py:")
    assert "SECRET" not in text
    assert code == 2


@pytest.mark.parametrize("exits", [False, True])
async def test_a_lifespan_that_ends_before_its_yield_stops_the_start_and_names_the_plugin(exits: bool) -> None:
    async def lifespan(self: object) -> AsyncIterator[None]:
        if exits:
            raise SystemExit(0)
        return
        yield

    text, code = await start_refused(lifespan=hookimpl(lifespan))
    assert text.startswith("plugin 'mine' could not start: " + ("SystemExit at" if exits else "its lifespan ended before a `yield`"))
    assert code == 1


def test_a_plugin_that_exits_while_it_is_built_is_refused() -> None:
    class Exits:
        def __init__(self) -> None:
            raise SystemExit(0)

    assert "plugin 'exits': it could not be built (SystemExit" in refusal(exits=Exits)


@pytest.mark.parametrize(("source", "what"), [("time.sleep(0.1)", "be imported"), ("def __init__(self): time.sleep(0.1)", "be built")])
def test_a_plugin_that_takes_long_to_be_there_is_named(
    source: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(discovery, "SLOW_SECONDS", 0.05)
    (tmp_path / "heavy.py").write_text(f"import time\nimport muxx\n\nclass Heavy:\n    {source}\n    post_response = muxx.hookimpl(lambda self: None, specname='post_response')\n")
    build([item for item in discover(tmp_path) if item.name == "heavy"], load_from({}, {}))
    assert re.search(rf"plugin heavy took 0\.\d s to {what}; begin what is heavy in its lifespan", caplog.text)


def test_settings_of_a_type_that_is_not_there_are_their_plugins_problem() -> None:
    class Mine:
        class Config(PluginConfig):
            where: "Path2 | None" = None  # type: ignore[name-defined]  # noqa: F821, UP037

    with pytest.raises(PluginLoadError, match="plugin 'mine': its Config names a type that is not there; import it outside"):
        config_classes(found({"mine": Mine}))


@pytest.mark.parametrize("given", [ValueError("SECRET"), ["no pair"], None])
def test_a_crash_in_problems_in_is_said_of_the_plugin(given: Any) -> None:
    class Mine:
        class Config(PluginConfig):
            def problems_in(self, config: Any) -> Any:
                if isinstance(given, BaseException):
                    raise given
                return given

    with pytest.raises(ConfigError, match=r"plugins\.mine: its problems_in failed \(\w+Error\)") as caught:
        load_from({}, {"mine": Mine})
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(("given", "said"), [
    (None, "it returned no Reply"),
    (Reply("hello"), "its Reply carries a str; give bytes, or an async iterator of them"),  # type: ignore[arg-type]
    (Reply([Chunk("text", "hello")]), "its Reply carries a list; give bytes, or an async iterator of them"),
    (Reply(b"{}", status="200"), "the status of its Reply is '200'; give an int from 200 to 599"),  # type: ignore[arg-type]
])  # fmt: skip
async def test_a_handler_that_gives_no_usable_reply_is_named_with_its_plugin(
    given: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(gateway: Gateway, request: HttpRequest) -> Any:
        return given

    routes = giving([Route("GET", "/v1/mine", handler), Route("POST", "/v1/mine", handler)])
    hook = hookimpl(routes, specname="register_routes")
    async with RunningGateway(plugins={"mine": type("Mine", (), {"register_routes": hook})}) as gateway:
        answer = await gateway.get("/v1/mine")
        assert (answer.status, answer.error["code"]) == (500, "plugin_error")
    assert f"plugin mine failed in GET /v1/mine: {said}" in caplog.text


@pytest.mark.parametrize(("given", "said"), [
    (Reply("hello"), "its Reply carries a str; give bytes, or an async iterator of them"),  # type: ignore[arg-type]
    (Reply({"a": 1}), "its Reply carries a dict; give bytes"),  # type: ignore[arg-type]
    (Reply(None), "its Reply carries a NoneType; give bytes"),  # type: ignore[arg-type]
    (Reply(["hello"]), "its Reply carries something else than bytes or Chunks"),  # type: ignore[arg-type]
    (Reply(b"hello"), "the bytes of its Reply are no answer of this endpoint; Chunks are put into its format"),
    (Reply(b"{}", status=999), "the status of its Reply is 999; give an int from 200 to 599"),
])  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
async def test_a_reply_that_cannot_be_sent_is_named_with_its_plugin_and_what_is_wrong(
    given: Any, said: str, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    hook = hookimpl(giving(given), specname="pre_request")
    async with RunningGateway(plugins={"mine": type("Mine", (), {"pre_request": hook})}) as gateway:
        answer = await gateway.chat(stream=stream)
        assert (answer.status, answer.error["code"]) == (500, "plugin_error")
    assert re.search(f"plugin mine failed in its reply to request req_[0-9a-f]+: {re.escape(said)}", caplog.text)


async def test_a_lifespan_that_everything_waits_for_is_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lifespan(self: object) -> AsyncIterator[None]:
        await asyncio.sleep(0.1)
        yield
        await asyncio.sleep(0.1)

    monkeypatch.setattr("muxx.chains.LATE_SECONDS", 0.05)
    async with RunningGateway(plugins={"mine": type("Mine", (), {"lifespan": hookimpl(lifespan)})}):
        pass
    assert caplog.text.count("plugin mine has been in lifespan for 0.05 s, and muxx waits for it") == 2
