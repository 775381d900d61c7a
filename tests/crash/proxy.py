"""
A fault proxy on loopback, in front of a node, a KMS or a database.

::

    with Proxy("http://127.0.0.1:8545") as proxy:
        proxy.plan.script("eth_sendRawTransaction", DROP_REPLY)
        ...

HTTP is understood request by request (``eth_sendRawTransaction``, ``Sign``); of
anything else, such as PostgreSQL's protocol, each chunk that a client sends is a
request called ``tcp``.  As a process of its own, ``control.py`` drives it::

    python -m tests.crash.proxy --upstream unix:/tmp/pg/.s.PGSQL.5432 --ready-file f
"""

import argparse
import asyncio
import contextlib
import json
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from tests.crash.control import serve_control
from tests.crash.faults import Plan
from tests.crash.messages import LARGEST
from tests.crash.wires import HTTPWire, Observer, Pipe, TCPWire, Wire


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Proxy:
    """
    The proxy in a thread of this process; see the module.

    Args:
        upstream: ``http://host:port``, ``tcp://host:port`` or ``unix:/path``.
        observer: Told of every HTTP request and of what happens to it.
    """

    def __init__(self, upstream: str, observer: Observer | None = None) -> None:
        self.plan = Plan()
        self._upstream = upstream
        is_http = upstream.startswith("http:")
        self._wire: Wire = (
            HTTPWire(self.plan, observer) if is_http else TCPWire(self.plan)
        )
        self._loop = asyncio.new_event_loop()
        self._tasks = set[asyncio.Task[None]]()
        # Open before the thread runs, so that nobody needs to wait for it.
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._control = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._run, name="fault-proxy")

    @property
    def port(self) -> int:
        """Where clients connect."""
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        """Where HTTP clients connect."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def control_port(self) -> int:
        """Where another process may drive the plan."""
        return int(self._control.getsockname()[1])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            servers = [
                self._listen(self._listener, self._serve),
                self._listen(
                    self._control, lambda *streams: serve_control(self.plan, *streams)
                ),
            ]
            self._loop.run_forever()
            for server in servers:
                server.close()
            self._loop.run_until_complete(self._end())

    def _listen(self, listener: socket.socket, serve: Serve) -> asyncio.Server:
        def start(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = self._loop.create_task(_guarded(serve, reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            # Not in the task, which may be cancelled before its first step.
            task.add_done_callback(lambda _: writer.close())

        return self._loop.run_until_complete(
            asyncio.start_server(start, sock=listener, limit=LARGEST)
        )

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # The transports say goodbye in the next turns of the loop.
        await asyncio.sleep(0.01)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        near = Pipe(reader, writer)
        if self.plan.is_dark():
            near.reset()
            return
        far = await self._connected()
        try:
            await self._wire.carry(near, far)
        finally:
            far.writer.close()

    async def _connected(self) -> Pipe:
        if self._upstream.startswith("unix:"):
            path = self._upstream.removeprefix("unix:")
            return Pipe(*await asyncio.open_unix_connection(path, limit=LARGEST))
        parts = urlsplit(self._upstream)
        return Pipe(
            *await asyncio.open_connection(parts.hostname, parts.port, limit=LARGEST)
        )


async def _guarded(
    serve: Serve, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    # Clients and servers that are killed are this place's daily bread.
    with contextlib.suppress(OSError, EOFError, ValueError):
        await serve(reader, writer)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a proxy until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.proxy")
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--ready-file", type=Path, required=True)
    options = parser.parse_args(arguments)
    with Proxy(options.upstream) as proxy:
        facts = {"port": proxy.port, "control_port": proxy.control_port}
        draft = options.ready_file.with_suffix(".draft")
        draft.write_text(json.dumps(facts), encoding="utf-8")
        draft.replace(options.ready_file)
        # Whoever started us holds the other end, and drops it when it dies.
        while os.read(0, 1):
            pass


if __name__ == "__main__":
    main()
