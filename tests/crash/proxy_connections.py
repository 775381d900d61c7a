"""Forwards requests and responses between two connections, and injects faults."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.crash.fault_plan import Fault, Kind, Plan
from tests.crash.http_messages import (
    Message,
    ResponseHistory,
    read_message,
    status_message,
)


TCP = "tcp"
"""The name in plans of a chunk of bytes that is not HTTP."""

_SERVER_SECONDS = 30.0
_CHUNK = 64 * 1024
_HTTP_ONLY = frozenset({Kind.STATUS, Kind.LATE_STATUS, Kind.STALE})

Observer = Callable[[Message, Fault], None]


@dataclass(frozen=True, slots=True)
class Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, content: bytes) -> None:
        self.writer.write(content)
        await self.writer.drain()

    def reset(self) -> None:
        """Close the connection with RST."""
        # SO_LINGER of zero seconds makes close() send it (socket(7)).
        connection: socket.socket = self.writer.get_extra_info("socket")
        linger = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    async def lose(self, fault: Fault, response: bytes) -> None:
        """Close the connection in the way of *fault* instead of sending *response*."""
        match fault.kind:
            case Kind.RESET_REPLY:
                self.reset()
            case Kind.TRUNCATE:
                await self.send(response[: fault.size])
            case Kind.HALF_CLOSE:
                self.writer.write_eof()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_SERVER_SECONDS):
                        await self.reader.read()
            case _:
                assert fault.kind is Kind.DROP_REPLY, fault


Sleep = Callable[[float], Awaitable[None]]


class HTTPForwarder:
    """Forwards HTTP/1.1, and names requests by JSON-RPC method or KMS operation."""

    def __init__(
        self,
        plan: Plan,
        observer: Observer | None,
        clock: Callable[[], float],
        sleep: Sleep,
    ) -> None:
        self._plan = plan
        self._observer = observer
        self._sleep = sleep
        self._history = ResponseHistory(clock)

    async def forward(self, client: Connection, server: Connection) -> None:
        """Forward one request after the other."""
        while (request := await read_message(client.reader)) is not None:
            fault = self._plan.next(request.name)
            if self._observer:
                self._observer(request, fault)
            response = await self._answer(request, fault, client, server)
            if response is None:
                return
            await client.send(response)

    async def _answer(
        self, request: Message, fault: Fault, client: Connection, server: Connection
    ) -> bytes | None:
        """Return the response to *request* with *fault*; None closes the connection."""
        match fault.kind:
            case Kind.RESET:
                client.reset()
                return None
            case Kind.STATUS:
                return status_message(fault.status)
            case Kind.STALE:
                stale = self._history.find(request, fault.seconds)
                return stale or await self._ask(request, server)
            case Kind.DELAY:
                await self._sleep(fault.seconds)
        response = await self._ask(request, server)
        if fault.kind in {Kind.PASS, Kind.DELAY}:
            return response
        if fault.kind is Kind.LATE_STATUS:
            return status_message(fault.status)
        await client.lose(fault, response)
        return None

    async def _ask(self, request: Message, server: Connection) -> bytes:
        await server.send(request.raw)
        async with asyncio.timeout(_SERVER_SECONDS):
            response = await read_message(server.reader)
        if response is None:
            raise EOFError
        self._history.keep(request, response)
        return response.raw


class TCPForwarder:
    """Forwards any protocol; each chunk that the client sends is a request."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    async def forward(self, client: Connection, server: Connection) -> None:
        """Forward chunks in both directions."""
        answering = asyncio.create_task(_pump(server.reader, client))
        try:
            while chunk := await client.reader.read(_CHUNK):
                fault = self._plan.next(TCP)
                if fault.kind is Kind.DELAY:
                    await asyncio.sleep(fault.seconds)
                if fault.kind in {Kind.PASS, Kind.DELAY}:
                    await server.send(chunk)
                    continue
                # From now on no response may pass.
                answering.cancel()
                await asyncio.gather(answering, return_exceptions=True)
                await _end(fault, chunk, client, server)
                return
        finally:
            answering.cancel()


async def _end(
    fault: Fault, chunk: bytes, client: Connection, server: Connection
) -> None:
    if fault.kind in _HTTP_ONLY:
        raise ValueError(f"{fault.kind} is for HTTP")
    if fault.kind is Kind.RESET:
        client.reset()
        return
    await server.send(chunk)
    # After a response, or a second without one, the server has acted.
    response = b""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            response = await server.reader.read(_CHUNK)
    await client.lose(fault, response)


async def _pump(reader: asyncio.StreamReader, to: Connection) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(_CHUNK):
            await to.send(chunk)
    to.writer.close()  # Ends the reading of the other direction, too.
