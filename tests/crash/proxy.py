"""
A fault proxy on loopback, in front of a node, a KMS or a database.

::

    with Proxy("http://127.0.0.1:8545") as proxy:
        proxy.plan.script("eth_sendRawTransaction", DROP_REPLY)
        ...

HTTP is understood request by request (``eth_sendRawTransaction``, ``Sign``); of
anything else, such as PostgreSQL's protocol, each chunk that a client sends is a
request called ``tcp``.  As a process, driven through its control port (``control.py``)::

    python -m tests.crash.proxy --upstream unix:/tmp/pg/.s.PGSQL.5432 --ready-file f
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from tests.crash.control import serve_control
from tests.crash.faults import DROP_REPLY, Fault, Kind, Plan
from tests.crash.messages import LARGEST, Memory, Message, read_message, status_message


TCP = "tcp"

_PATIENCE = 30.0
_HTTP_ONLY = frozenset({Kind.STATUS, Kind.LATE_STATUS, Kind.STALE})
_CHUNK = 64 * 1024

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Observer = Callable[[Message, Fault], None]


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
        self._observer = observer
        self._memory = Memory()
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
        asyncio.set_event_loop(self._loop)
        is_http = self._upstream.startswith("http:")
        serve = self._serve_http if is_http else self._serve_tcp
        servers = [
            self._loop.run_until_complete(
                asyncio.start_server(
                    self._task(serve), sock=self._listener, limit=LARGEST
                )
            ),
            self._loop.run_until_complete(
                asyncio.start_server(
                    self._task(lambda *streams: serve_control(self.plan, *streams)),
                    sock=self._control,
                )
            ),
        ]
        self._loop.run_forever()
        for server in servers:
            server.close()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # The transports say goodbye in the loop's next turns.

    def _task(
        self,
        serve: Callable[
            [asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]
        ],
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        """Return what serves a connection as a task of ours, whatever it meets."""

        async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # Clients and servers that are killed are this place's daily bread.
            with contextlib.suppress(OSError, EOFError, ValueError):
                await serve(reader, writer)

        def start(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = self._loop.create_task(one(reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            # Not in the task, which may be cancelled before its first step.
            task.add_done_callback(lambda _: writer.close())

        return start

    async def _connect(self) -> Streams:
        if self._upstream.startswith("unix:"):
            return await asyncio.open_unix_connection(
                self._upstream.removeprefix("unix:"), limit=LARGEST
            )
        parts = urlsplit(self._upstream)
        return await asyncio.open_connection(parts.hostname, parts.port, limit=LARGEST)

    async def _serve_http(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self.plan.is_dark():
            _reset(writer)
            return
        far_reader, far_writer = await self._connect()
        try:
            far = far_reader, far_writer
            while (question := await read_message(reader)) is not None:
                fault = self.plan.next(question.name)
                if self._observer:
                    self._observer(question, fault)
                if not await self._answer(question, fault, (reader, writer), far):
                    return
        finally:
            far_writer.close()

    async def _answer(
        self, question: Message, fault: Fault, near: Streams, far: Streams
    ) -> bool:
        """Let *fault* happen to *question*; say whether the connection goes on."""
        _, writer = near
        if fault.kind is Kind.RESET:
            _reset(writer)
            return False
        if fault.kind is Kind.STATUS:
            return await _write(writer, status_message(fault.status))
        if fault.kind is Kind.STALE:
            stale = self._memory.answer(question, fault.seconds)
            if stale is not None:
                return await _write(writer, stale)
        if fault.kind is Kind.DELAY:
            await asyncio.sleep(fault.seconds)
        answer = await self._forward(question, far)
        if fault.kind is Kind.LATE_STATUS:
            return await _write(writer, status_message(fault.status))
        if fault.kind in {Kind.PASS, Kind.DELAY, Kind.STALE}:
            return await _write(writer, answer)
        await _spoil(fault, answer, near)
        return False

    async def _forward(self, question: Message, far: Streams) -> bytes:
        reader, writer = far
        await _write(writer, question.raw)
        async with asyncio.timeout(_PATIENCE):
            answer = await read_message(reader)
        if answer is None:
            raise EOFError
        self._memory.keep(question, answer)
        return answer.raw

    async def _serve_tcp(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self.plan.is_dark():
            _reset(writer)
            return
        far_reader, far_writer = await self._connect()
        answering = asyncio.create_task(_pump(far_reader, writer))
        try:
            while chunk := await reader.read(_CHUNK):
                fault = self.plan.next(TCP)
                if fault.kind is Kind.DELAY:
                    await asyncio.sleep(fault.seconds)
                if fault.kind in {Kind.PASS, Kind.DELAY}:
                    await _write(far_writer, chunk)
                    continue
                # Nothing of the answer may slip through any more.
                answering.cancel()
                await asyncio.gather(answering, return_exceptions=True)
                await _end_tcp(
                    fault, chunk, (reader, writer), (far_reader, far_writer)
                )
                return
        finally:
            answering.cancel()
            far_writer.close()


async def _end_tcp(fault: Fault, chunk: bytes, near: Streams, far: Streams) -> None:
    if fault.kind in _HTTP_ONLY:
        raise ValueError(f"{fault.kind} is for HTTP")
    if fault.kind is Kind.RESET:
        _reset(near[1])
        return
    await _write(far[1], chunk)
    # An answer, or its absence for a while, says that the server has acted.
    answer = b""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            answer = await far[0].read(_CHUNK)
    await _spoil(fault, answer, near)


async def _spoil(fault: Fault, answer: bytes, near: Streams) -> None:
    """End a connection in place of *answer*, in the way of *fault*."""
    reader, writer = near
    match fault.kind:
        case Kind.RESET_REPLY:
            _reset(writer)
        case Kind.TRUNCATE:
            await _write(writer, answer[: fault.size])
        case Kind.HALF_CLOSE:
            writer.write_eof()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    await reader.read()
        case _:
            assert fault == DROP_REPLY, fault


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(_CHUNK):
            await _write(writer, chunk)
    writer.close()  # Which ends the reading of the other direction, too.


async def _write(writer: asyncio.StreamWriter, content: bytes) -> bool:
    writer.write(content)
    await writer.drain()
    return True


def _reset(writer: asyncio.StreamWriter) -> None:
    # A lingering time of nothing makes close() send RST (socket(7)).
    connection: socket.socket = writer.get_extra_info("socket")
    linger = struct.pack("ii", 1, 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a proxy until SIGTERM, or until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.proxy")
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--ready-file", type=Path, required=True)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
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
