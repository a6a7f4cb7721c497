"""A proxy before an S3 server: counts requests, tells of every write, and can answer errors."""

import asyncio
import threading
from collections.abc import Callable
from typing import Literal

import aiohttp
from aiohttp import web
from yarl import URL

Told = Callable[[str, Literal["before", "after"]], None]
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "expect"}
ERROR = (
    '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code>'
    "<Message>injected</Message></Error>"
)
LOOP_SECONDS = 0.02
"""in which a connection that broke is seen"""
CODES = {500: "InternalError", 503: "ServiceUnavailable"}


class Proxy:
    """An S3 endpoint in front of another, on a thread of its own."""

    def __init__(self, behind: str) -> None:
        """Start it.

        Args:
            behind: the address of the S3 server.
        """
        self.told: Told = lambda _key, _phase: None
        """is told of each write, before and after it is stored, while its client waits"""
        self.address = ""
        self._behind = behind
        self.requests = 0
        self._lock = threading.Lock()
        self._errors, self._status = 0, 500
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        started.wait(30)

    def fail(self, requests: int, status: int = 500) -> None:
        """Answer the next requests with an error."""
        with self._lock:
            self._errors, self._status = requests, status

    @property
    def errors_left(self) -> int:
        """How many requests are still to be answered with an error."""
        return self._errors

    def close(self) -> None:
        """Stop it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    # --- on the thread ---

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._runner.cleanup())
        self._loop.run_until_complete(self._client.close())

    async def _start(self) -> None:
        # Without limits: a server that stands still holds its clients.
        self._client = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None),
            connector=aiohttp.TCPConnector(limit=0),
            auto_decompress=False,
        )
        application = web.Application(client_max_size=1 << 30)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.address = f"http://{host}:{port}"

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        with self._lock:
            self.requests += 1
            if self._errors > 0:
                self._errors -= 1
                return web.Response(
                    status=self._status,
                    text=ERROR.format(code=CODES[self._status]),
                    content_type="application/xml",
                )
        is_write = request.method == "PUT" and "partNumber" not in request.query
        if is_write:
            await self._tell(request.path, "before")
            await asyncio.sleep(LOOP_SECONDS)
            if request.transport is None or request.transport.is_closing():
                return web.Response(status=400)  # its writer has died, so nothing is stored
        reply = await self._forward(request, body)
        if is_write and reply.status < 300:
            await self._tell(request.path, "after")
        return reply

    async def _tell(self, path: str, phase: Literal["before", "after"]) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.told, path, phase)

    async def _forward(self, request: web.Request, body: bytes) -> web.Response:
        headers = {k: v for k, v in request.headers.items() if k.lower() not in HOP_BY_HOP}
        async with self._client.request(
            request.method,
            URL(f"{self._behind}{request.raw_path}", encoded=True),
            headers=headers,
            data=body,
            allow_redirects=False,
        ) as answer:
            content = await answer.read()
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in HOP_BY_HOP}
            if request.method == "HEAD":
                return _Head(status=answer.status, headers=kept)
            kept.pop("Content-Length", None)
            return web.Response(status=answer.status, headers=kept, body=content)


class _Head(web.Response):
    """An answer without a body whose Content-Length is that of the object."""
