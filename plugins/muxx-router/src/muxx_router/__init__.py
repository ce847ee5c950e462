"""muxx-router: a model name of your own stands for several models, and each request goes to the cheapest that can take it.

The others follow in order, so that muxx falls back to them. The row's attribute `router` says what was decided, and why.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

from muxx import Exchange, Gateway, ModelNotFound, PermissionDenied, StartError, Target, hookimpl, usd

from .choice import Choice, choose, fits, refusal
from .demand import Demand, demand_of
from .settings import RouteConfig, RouterConfig

__all__ = ["Router"]

NAME = "router"
"""The name of the entry point, which is this plugin's name everywhere."""


class Router:
    """The plugin. It keeps nothing: what a request is decided by is in the request, the configuration and the prices."""

    Config = RouterConfig

    def __init__(self, config: RouterConfig) -> None:
        self.config = config

    @hookimpl
    async def lifespan(self, gateway: Gateway) -> AsyncIterator[None]:
        """Every name has to be known: a route's to muxx, or its requests end before they come here, and its candidates'."""
        for name, route in self.config.routes.items():
            at = f'plugins.router.routes."{name}"'
            first = route.steps[0].candidates[0]
            if not _is_known(gateway, name):
                raise StartError(f'{at}: muxx does not know this name; add [[models]] name = "{name}", targets = ["{first}"]')
            unknown = [c for tier in route.steps for c in tier.candidates if not _is_known(gateway, c)]
            if unknown:
                raise StartError(f"{at}: nobody serves {unknown[0]}; add it under [[models]], or take it out")
        yield

    @hookimpl
    def pre_request(self, gateway: Gateway, exchange: Exchange) -> None:
        """Replace the targets of a routed name. Other names are left as they were planned."""
        route = self.config.routes.get(exchange.request.model)
        if route is None:
            return
        demand = self._demand(exchange, route)
        allowed = partial(_allowed_targets, gateway, exchange)
        choice = choose(self.config, route, demand, allowed=allowed, price=gateway.price)
        _note(exchange, demand, choice)
        if not choice.order:
            raise refusal(choice, demand)
        exchange.targets = choice.targets

    def _demand(self, exchange: Exchange, route: RouteConfig) -> Demand:
        request = exchange.request
        return demand_of(
            exchange.operation,
            request.body,
            (part.text for part in request.parts()),
            expected_output=route.expected_output,
            bytes_per_token=self.config.bytes_per_token,
            media_tokens=self.config.media_tokens,
        )


def _is_known(gateway: Gateway, name: str) -> bool:
    try:
        return bool(gateway.plan(name))
    except ModelNotFound:
        return False


def _allowed_targets(gateway: Gateway, exchange: Exchange, candidate: str) -> tuple[Target, ...]:
    """A candidate's targets, less what the caller's key may not use.

    muxx's rule for a name that stands for others: a key that may use the name may use what it stands for. Any other key gets what
    it would get by asking for the candidate itself, and muxx itself says what that is: `reroute` plans for this caller.
    """
    models = exchange.identity.models if exchange.identity is not None else ()
    if not models or fits(models, exchange.request.model):
        return gateway.plan(candidate)
    try:
        exchange.reroute(candidate)
    except PermissionDenied:
        return ()
    return exchange.targets


def _note(exchange: Exchange, demand: Demand, choice: Choice) -> None:
    exchange.attributes[NAME] = {
        "tier": choice.tier,
        "input_tokens": demand.input_tokens,
        "output_tokens": demand.output_tokens * demand.choices,
        "needs": sorted(demand.needs),
        "order": [{"model": candidate.name, "usd": usd(candidate.pico)} for candidate in choice.order],
        "dropped": choice.dropped,
    }
