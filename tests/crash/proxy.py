"""
A fault proxy on loopback, before a node, a KMS or a database.

::

    with Proxy("http://127.0.0.1:8545") as proxy:
        proxy.plan.script("eth_sendRawTransaction", DROP_REPLY)
        ...

It parses HTTP, and names each request by its JSON-RPC method or KMS operation.  Of any
other protocol, each chunk that a client sends is a request called ``tcp``.
"""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Self
from urllib.parse import urlsplit

from tests.crash.fault_plan import Plan
from tests.crash.http_messages import LARGEST
from tests.crash.proxy_connections import (
    Connection,
    HTTPForwarder,
    Observer,
    Sleep,
    TCPForwarder,
)


class Proxy:
    """
    The proxy, in a thread of this process.

    Args:
        upstream: ``http://host:port``, ``tcp://host:port`` or ``unix:/path``.
        observer: Called with every HTTP request and its fault.
        clock: Times blackouts and stale responses.
        sleep: Delays HTTP requests.
    """

    def __init__(
        self,
        upstream: str,
        observer: Observer | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.plan = Plan(clock)
        self._upstream = upstream
        self._forwarder = (
            HTTPForwarder(self.plan, observer, clock, sleep)
            if upstream.startswith("http:")
            else TCPForwarder(self.plan)
        )
        self._loop = asyncio.new_event_loop()
        self._tasks = set[asyncio.Task[None]]()
        # Clients may connect before the thread runs.
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._thread = threading.Thread(target=self._run, name="fault-proxy")

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        """The URL for HTTP clients."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            server = self._loop.run_until_complete(
                asyncio.start_server(self._accept, sock=self._listener, limit=LARGEST)
            )
            self._loop.run_forever()
            server.close()
            self._loop.run_until_complete(self._cancel_tasks())

    def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = self._loop.create_task(self._serve(Connection(reader, writer)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Not in the task, which may be cancelled before its first step.
        task.add_done_callback(lambda _: writer.close())

    async def _cancel_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # The transports close in the next iterations of the loop.
        await asyncio.sleep(0.01)

    async def _serve(self, client: Connection) -> None:
        if self.plan.is_dark():
            client.reset()
            return
        # Killed clients and servers are normal here.
        with contextlib.suppress(OSError, EOFError, ValueError):
            server = await self._connect()
            try:
                await self._forwarder.forward(client, server)
            finally:
                server.writer.close()

    async def _connect(self) -> Connection:
        if self._upstream.startswith("unix:"):
            path = self._upstream.removeprefix("unix:")
            return Connection(*await asyncio.open_unix_connection(path, limit=LARGEST))
        parts = urlsplit(self._upstream)
        return Connection(
            *await asyncio.open_connection(parts.hostname, parts.port, limit=LARGEST)
        )
