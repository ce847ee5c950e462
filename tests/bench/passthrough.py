"""What muxx is measured against: the least a reverse proxy on aiohttp can do, done well. It looks into nothing and keeps nothing.

    python passthrough.py UPSTREAM LOOP      listens on a free port of 127.0.0.1 and prints it

An application with one route, garbage collected as Python does, one client session without the defaults that slow a proxy down (its limit of 100 connections,
cookies, decompression, headers of its own), no access log, streams relayed as they are read. The provider's key is put in the
place of the client's: that much any gateway has to do.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

import aiohttp
from aiohttp import web
from yarl import URL

HEADERS = {"Authorization": "Bearer sk-upstream", "Content-Type": "application/json", "Accept": "*/*"}
BACKLOG = 2048


def client_session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
        timeout=aiohttp.ClientTimeout(total=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"),
        read_bufsize=2**18,
    )


def handler(session: aiohttp.ClientSession, url: URL) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def carry(request: web.Request) -> web.StreamResponse:
        async with session.post(url, data=await request.read(), headers=HEADERS) as answer:
            content_type = answer.headers.get("Content-Type", "")
            if not content_type.startswith("text/event-stream"):
                return web.Response(status=answer.status, body=await answer.read(), headers={"Content-Type": content_type})
            down = web.StreamResponse(status=answer.status, headers={"Content-Type": content_type, "Cache-Control": "no-cache"})
            await down.prepare(request)
            async for data in answer.content.iter_any():
                await down.write(data)
            await down.write_eof()
            return down

    return carry


async def main(upstream: str) -> None:
    async with client_session() as session:
        url = URL(f"{upstream}/v1/chat/completions")
        application = web.Application()
        application.router.add_post("/v1/chat/completions", handler(session, url))
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=BACKLOG)
        await site.start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    if sys.argv[2] == "uvloop":
        import uvloop as loop
    else:
        import asyncio as loop  # type: ignore[no-redef]
    loop.run(main(sys.argv[1]))
