"""The same calls to a provider behind TLS, over connections that are kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from .certificates import Certificates
from .gateways import Nginx, PassThrough
from .machine import cores
from .measure import Bench, Cell, Figures, medians, quietest, ratio, told
from .muxxes import Muxx
from .part import Claim, Stage, Table, say
from .server import Server, Upstream

NAME = "tls"
TITLE = "TLS to the provider"
WORDS = """Plain calls over 64 connections, with TLS to the provider and without, everything else equal. The connections to the provider are kept, so there are few handshakes. The provider's
certificate is signed by an authority of the bench's own, which muxx and the pass-through know as one of the system's (`SSL_CERT_FILE`)."""

CALLS = Cell("plain-c64", "", (), 64)
SHOWN = {"muxx, TLS": "muxx, TLS", "muxx": "muxx, plain", "pass-through, TLS": "bare, TLS", "pass-through": "bare, plain"}


class MuxxOverTls(Muxx):
    """muxx, with its provider behind TLS."""

    name = "muxx, TLS"


class PassThroughOverTls(PassThrough):
    """Bare aiohttp, with its provider behind TLS."""

    name = "pass-through, TLS"


class NginxWithTls(Nginx):
    """TLS before the upstream, on the upstream's core."""

    name = "TLS front"
    listen = " ssl"

    def __init__(self, directory: Path, core: int, upstream: str, certificates: Certificates) -> None:
        self.server_lines = f"ssl_certificate {certificates.chain}; ssl_certificate_key {certificates.key};"
        super().__init__(directory, core, upstream)


class UpstreamWithTls(Upstream):
    """The upstream in Python, which can speak TLS by itself."""

    name = "TLS upstream"

    def __init__(self, directory: Path, core: int, stage: Stage, certificates: Certificates) -> None:
        super().__init__(directory, core, stage.tools.upstream_in_python)
        self._certificates = certificates

    def start(self) -> None:
        self.port = self.printed_port([*self._command, str(self._pieces), str(self._certificates.chain), str(self._certificates.key)])


def measured(stage: Stage) -> dict[str, Any]:
    """The rounds, and who spoke TLS."""
    with stage.upstream() as (above, upstream), _front(stage, above, upstream) as (front, environment):
        bench = Bench(stage, upstream, front)
        rounds = []
        for number, directory in stage.each_round(above, NAME):
            turn = _round(stage, bench, directory, (upstream, front), environment, backwards=bool(number % 2))
            say(f"  {told(turn)}")
            rounds.append(turn)
        return {"loop": stage.loops[0], "front": "nginx" if isinstance(front, Nginx) else "Python", "rounds": rounds}


@contextmanager
def _front(stage: Stage, directory: Path, upstream: Upstream) -> Iterator[tuple[Server, dict[str, str]]]:
    """Whoever speaks TLS for the upstream, and what makes others trust it."""
    certificates = Certificates(directory)
    _, other_core = cores()
    front: Server
    if Nginx.is_installed():
        front = NginxWithTls(directory, other_core, upstream.url, certificates)
    else:
        front = UpstreamWithTls(directory, other_core, stage, certificates)
    with front:
        yield front, {"SSL_CERT_FILE": str(certificates.authority)}


def _round(
    stage: Stage, bench: Bench, directory: Path, fronts: tuple[Server, Server], environment: dict[str, str], *, backwards: bool
) -> Figures:
    core, loop = cores()[0], stage.loops[0]
    plain, tls = f"http://127.0.0.1:{fronts[0].port}", f"https://127.0.0.1:{fronts[1].port}"
    with ExitStack() as stack:
        servers: list[Server] = [
            stack.enter_context(MuxxOverTls(directory, core, loop=loop, upstream=tls, environment=environment)),
            stack.enter_context(PassThroughOverTls(directory, core, loop, tls, environment)),
            stack.enter_context(Muxx(directory, core, loop=loop, upstream=plain)),
            stack.enter_context(PassThrough(directory, core, loop, plain)),
        ]
        bench.warm_up(servers)

        def measure(server: Server) -> dict[str, Any]:
            return bench.measure(server, CALLS, stage.seconds, [other for other in servers if other is not server])

        return quietest(servers, measure, tries=stage.tries, backwards=backwards)


# ── what it comes to ──


def claims(result: dict[str, Any]) -> list[Claim]:
    return []


def tables(result: dict[str, Any]) -> list[Table]:
    found = medians(result["rounds"])
    rows = [
        (
            shown,
            f"{found[name]['requests_per_s']:,.0f}",
            f"{found[name]['cpu_us']:.1f}",
            f"{found[name]['p50_ms']:.2f} / {found[name]['p99_ms']:.2f}",
        )
        for name, shown in SHOWN.items()
    ]
    return [Table(f"On {result['loop']}:", ("", "requests/s", "µs of CPU per request", "p50 / p99 ms"), rows)]


def remarks(result: dict[str, Any]) -> list[str]:
    rounds = result["rounds"]
    times = ratio(rounds, "muxx, TLS", "pass-through, TLS", "requests_per_s")
    costs = {name: found["cpu_us"] for name, found in medians(rounds).items()}
    return [
        f"With TLS muxx serves {times:.2f} times the pass-through's requests/s. It costs muxx {costs['muxx, TLS'] - costs['muxx']:.1f} µs per call and the pass-through "
        f"{costs['pass-through, TLS'] - costs['pass-through']:.1f} µs. On the provider's side TLS is spoken by {result['front']}."
    ]
