"""What there is to call, in words: each provider with where its key comes from, each model name with where it leads and why."""

from __future__ import annotations

import difflib
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .providers import BUILT_IN_MODELS, key_variable, provider_rows
from .registering import registered_providers
from .routing import Resolved, RoutingTable, targets_of
from .targets import Provider, Target

if TYPE_CHECKING:
    from .config import Config
    from .plugins import PluginSet

RULES = {
    "configured": "the name in the file",
    "provider/model": "a provider and its model",
    "wildcard": "a pattern in the file",
    "built in": "a built-in name",
    "mock": "the mock provider",
}


class Catalogue:
    """The providers and names of a configuration, as a gateway that starts now would have them."""

    def __init__(self, config: Config, plugins: PluginSet) -> None:
        self.config = config
        self.providers: Mapping[str, Provider] = provider_rows(config, registered_providers(plugins, None).providers)
        self.routing = RoutingTable(config, self.providers)

    def key_source(self, row: Provider) -> str | None:
        """Where the provider's key comes from, never the key; None where it has and needs none."""
        section = self.config.providers.get(row.name)
        if section is not None and (section.api_key is not None or section.api_keys):
            count = len(row.keys)
            return "file" if count == 1 else f"file ({count} keys)"
        if (variable := key_variable(row)) is not None:
            return f"${variable}"
        return None if row.api_key_env is None else f"missing: set {row.api_key_env}"

    def listed(self) -> list[dict[str, Any]]:
        """Every provider, those of the file first."""
        first = list(self.config.providers)
        names = sorted(self.providers, key=lambda name: first.index(name) if name in first else len(first))
        return [self._provider(self.providers[name]) for name in names]

    def _provider(self, row: Provider) -> dict[str, Any]:
        return {
            "name": row.name,
            "format": row.format,
            "base_url": f"${row.address_env}{row.base_url}" if row.base_url.startswith("/") else row.base_url,
            "key": self.key_source(row),
            "endpoints": list(row.endpoints),
            "usable": row.missing is None,
            "missing": row.missing,
        }

    def models(self) -> list[dict[str, Any]]:
        """Every name that can be asked for now, those without a wildcard first."""
        found = ((name, self.routing.resolve(name)) for name in self.routing.names())
        return [
            {
                "name": name,
                "targets": [str(target) for target in resolved.targets],
                "strategy": resolved.strategy,
                "rule": RULES[resolved.rule],
                "usable": any(target.provider.missing is None for target in resolved.targets),
            }
            for name, resolved in found
            if resolved is not None
        ]

    def nearest(self, name: str) -> list[str]:
        """Names like this one that somebody serves."""
        known = [*self.routing.names(), *(name for name, _ in BUILT_IN_MODELS)]
        known += [f"{provider}/{name.partition('/')[2]}" for provider in self.providers if "/" in name]
        return difflib.get_close_matches(name, list(dict.fromkeys(known)), n=3)

    def explained(self, name: str, allowed: Sequence[str] = (), paid: Container[str] = ()) -> dict[str, Any] | None:
        """What a request for `name` meets, with a key that may use what is `allowed` (nothing named: everything), of a project
        that has keys of its own of the providers `paid`; None when nobody serves it."""
        resolved = self.routing.resolve(name)
        if resolved is None:
            return None
        left = targets_of(resolved.targets, allowed, name)
        return {
            "name": name,
            "rule": RULES[resolved.rule],
            "matched": resolved.name,
            "strategy": resolved.strategy,
            "targets": [
                self._target(resolved, target, allowed=target in left, paid=target.provider.name in paid)
                for target in resolved.targets
            ],
        }

    def _target(self, resolved: Resolved, target: Target, *, allowed: bool, paid: bool) -> dict[str, Any]:
        provider, times = target.provider, target.timeouts
        skipped = None if allowed else "not allowed for this key"
        if allowed and (missing := provider.missing_for(paid)) is not None:
            skipped = f"no key: set {missing}" if missing == provider.api_key_env else f"set {missing}"
        return {
            "target": str(target),
            "format": provider.format,
            "weight": target.weight if resolved.strategy == "weighted" else None,
            "key": "the project's" if paid else self.key_source(provider),
            "skipped": skipped,
            "retries": target.retries,
            "timeouts_s": {
                "connect": times.connect,
                "first_byte": times.first_byte,
                "first_token": times.first_token,
                "between_events": times.between_events,
                "whole": times.whole,
            },
            "fall_back_on": sorted(map(str, target.fall_back_on)),
            "buffer_until": target.buffer_until,
            "on_unsupported": "drop" if target.drops_unsupported else "error",
            "endpoints": ways(provider),
        }


def ways(provider: Provider) -> dict[str, str]:
    """How the provider answers each endpoint a client may call: as it is, by translation, or not at all. A count that it cannot
    make is estimated here."""
    from .translating import upstream_wire
    from .wire.wires import BY_NAME

    told = {}
    for name, wire in BY_NAME.items():
        up = upstream_wire(wire, provider)
        if up is None:
            told[name] = "estimated" if wire.counts else "no"
        else:
            told[name] = "native" if up is wire else f"as {up.name}"
    return told


def unknown(kind: str, name: str, near: Iterable[str]) -> str:
    """A sentence about a name nobody has, with those like it."""
    like = ", ".join(near)
    return f"There is no {kind} {name!r}." + (f" Near to it: {like}." if like else "")
