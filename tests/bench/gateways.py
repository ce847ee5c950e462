"""Those muxx is compared with: bare aiohttp, nginx, and other gateways where they are installed."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from muxx.testing import unused_port

from .payloads import MODEL
from .server import Server
from .tools import HERE


class PassThrough(Server):
    """Bare aiohttp."""

    name = "pass-through"

    def __init__(self, directory: Path, core: int, loop: str, upstream: str, environment: Mapping[str, str] = {}) -> None:
        super().__init__(directory, core)
        self._environment = environment
        self._command = [sys.executable, str(HERE / "passthrough.py"), upstream, loop]

    def start(self) -> None:
        self.port = self.printed_port(self._command, self._environment)


NGINX_CONFIG = """
{user}
daemon off;
pid {directory}/nginx.pid;
worker_processes 1;
worker_rlimit_nofile 65536;
error_log stderr error;
events {{ worker_connections 32768; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    client_body_buffer_size 256k;
    keepalive_requests 1000000000;
    upstream provider {{
        server {upstream};
        keepalive 1024;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port}{listen};
        {server}
        location / {{
            proxy_pass http://provider;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Authorization "Bearer sk-upstream";
            proxy_buffering off;
            proxy_read_timeout 600s;
        }}
    }}
}}
"""
"""What it takes to carry streams as they come, and nothing else."""


class Nginx(Server):
    """nginx with one worker: what carrying bytes costs where it is done in C."""

    name = "nginx"
    listen = ""
    server_lines = ""

    def __init__(self, directory: Path, core: int, upstream: str) -> None:
        super().__init__(directory, core)
        self.port = unused_port()
        self._directory = directory / self.name.replace(" ", "-")
        self._directory.mkdir()
        (self._directory / "nginx.conf").write_text(
            NGINX_CONFIG.format(
                user="user root;" if os.geteuid() == 0 else "", directory=self._directory, port=self.port, listen=self.listen,
                upstream=upstream.removeprefix("http://"), server=self.server_lines,
            )
        )  # fmt: skip

    @staticmethod
    def is_installed() -> bool:
        return shutil.which("nginx") is not None

    def start(self) -> None:
        self.spawn(["nginx", "-e", "stderr", "-p", str(self._directory), "-c", str(self._directory / "nginx.conf")])
        self.wait_until(self.listens)


@dataclass(frozen=True)
class Adapter:
    """How to start another gateway. In texts `{port}`, `{upstream}`, `{model}` and `{config}`, the path of its file, are filled in."""

    name: str
    program: str
    arguments: Sequence[str]
    config: str
    config_name: str
    ready: str
    """A path that answers 200 when it serves."""
    model: str = MODEL
    """What it has to be asked for."""
    environment: tuple[tuple[str, str], ...] = ()

    def is_installed(self) -> bool:
        return shutil.which(self.program) is not None


ADAPTERS = (
    Adapter(
        "LiteLLM", "litellm", ("--config", "{config}", "--host", "127.0.0.1", "--port", "{port}"),
        'model_list:\n- model_name: "{model}"\n  litellm_params:\n    model: openai/gpt-4o-mini\n'
        "    api_base: {upstream}/v1\n    api_key: sk-upstream\ngeneral_settings:\n  master_key: sk-client\n",
        "litellm.yaml", "/health/liveliness", environment=(("LITELLM_LOG", "ERROR"), ("LITELLM_LOCAL_MODEL_COST_MAP", "True")),
    ),
    Adapter(
        "HAProxy", "haproxy", ("-db", "-f", "{config}"),
        "global\n    maxconn 9000\n    nbthread 1\ndefaults\n    mode http\n    option http-keep-alive\n    option http-no-delay\n"
        "    timeout connect 5s\n    timeout client 600s\n    timeout server 600s\nfrontend clients\n    bind 127.0.0.1:{port}\n"
        "    monitor-uri /ready\n    default_backend provider\nbackend provider\n    http-reuse always\n"
        '    http-request set-header Authorization "Bearer sk-upstream"\n    server provider {address}\n',
        "haproxy.cfg", "/ready",
    ),
)  # fmt: skip
"""A further one is a row here. Each gets one process on the gateways' core, and the client's key `sk-client`."""


class Installed(Server):
    """Another gateway, as its adapter starts it."""

    ours = False

    def __init__(self, adapter: Adapter, directory: Path, core: int, upstream: str) -> None:
        self.name = adapter.name
        super().__init__(directory, core)
        self.port = unused_port()
        self.model = adapter.model
        self._adapter = adapter
        config = directory / adapter.config_name
        fill = {
            "port": self.port, "upstream": upstream, "address": upstream.removeprefix("http://"), "model": adapter.model,
            "config": config,
        }  # fmt: skip
        config.write_text(adapter.config.format(**fill))
        self._command = [adapter.program, *(text.format(**fill) for text in adapter.arguments)]

    def start(self) -> None:
        self.spawn(self._command, dict(self._adapter.environment))
        self.wait_until(lambda: self.answers(self._adapter.ready))
