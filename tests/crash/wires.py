"""How requests and answers are carried, and spoiled, between two open connections."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tests.crash.faults import Fault, Kind, Plan
from tests.crash.messages import Memory, Message, read_message, status_message


TCP = "tcp"
"""What plans call a chunk of bytes that is not HTTP."""

_PATIENCE = 30.0
_CHUNK = 64 * 1024
_HTTP_ONLY = frozenset({Kind.STATUS, Kind.LATE_STATUS, Kind.STALE})

Observer = Callable[[Message, Fault], None]


@dataclass(frozen=True, slots=True)
class Pipe:
    """One open connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, content: bytes) -> None:
        """Write *content*, and wait until it is on its way."""
        self.writer.write(content)
        await self.writer.drain()

    def reset(self) -> None:
        """End the connection with RST."""
        # A lingering time of nothing makes close() send it (socket(7)).
        connection: socket.socket = self.writer.get_extra_info("socket")
        linger = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    async def spoil(self, fault: Fault, answer: bytes) -> None:
        """End the connection in place of *answer*, in the way of *fault*."""
        match fault.kind:
            case Kind.RESET_REPLY:
                self.reset()
            case Kind.TRUNCATE:
                await self.send(answer[: fault.size])
            case Kind.HALF_CLOSE:
                self.writer.write_eof()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_PATIENCE):
                        await self.reader.read()
            case _:
                assert fault.kind is Kind.DROP_REPLY, fault


class Wire(Protocol):
    """Carries what two sides say, until one has enough."""

    async def carry(self, near: Pipe, far: Pipe) -> None:
        """Serve the client *near* with what *far* answers; whoever called closes."""


class HTTPWire:
    """Carries HTTP/1.1, request by request; knows JSON-RPC and KMS by name."""

    def __init__(self, plan: Plan, observer: Observer | None) -> None:
        self._plan = plan
        self._observer = observer
        self._memory = Memory()

    async def carry(self, near: Pipe, far: Pipe) -> None:
        """Answer one request after the other, until a fault ends the connection."""
        while (question := await read_message(near.reader)) is not None:
            fault = self._plan.next(question.name)
            if self._observer:
                self._observer(question, fault)
            answer = await self._answer(question, fault, near, far)
            if answer is None:
                return
            await near.send(answer)

    async def _answer(
        self, question: Message, fault: Fault, near: Pipe, far: Pipe
    ) -> bytes | None:
        """Let *fault* happen to *question*; None ends the connection."""
        match fault.kind:
            case Kind.RESET:
                near.reset()
                return None
            case Kind.STATUS:
                return status_message(fault.status)
            case Kind.STALE:
                stale = self._memory.answer(question, fault.seconds)
                return stale or await self._ask(question, far)
            case Kind.DELAY:
                await asyncio.sleep(fault.seconds)
        answer = await self._ask(question, far)
        if fault.kind in {Kind.PASS, Kind.DELAY}:
            return answer
        if fault.kind is Kind.LATE_STATUS:
            return status_message(fault.status)
        await near.spoil(fault, answer)
        return None

    async def _ask(self, question: Message, far: Pipe) -> bytes:
        await far.send(question.raw)
        async with asyncio.timeout(_PATIENCE):
            answer = await read_message(far.reader)
        if answer is None:
            raise EOFError
        self._memory.keep(question, answer)
        return answer.raw


class TCPWire:
    """Carries anything; each chunk that the client sends is a request."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    async def carry(self, near: Pipe, far: Pipe) -> None:
        """Hand on chunks in both directions, until a fault ends the connection."""
        answering = asyncio.create_task(_pump(far.reader, near))
        try:
            while chunk := await near.reader.read(_CHUNK):
                fault = self._plan.next(TCP)
                if fault.kind is Kind.DELAY:
                    await asyncio.sleep(fault.seconds)
                if fault.kind in {Kind.PASS, Kind.DELAY}:
                    await far.send(chunk)
                    continue
                # Nothing of the answer may slip through any more.
                answering.cancel()
                await asyncio.gather(answering, return_exceptions=True)
                await _end(fault, chunk, near, far)
                return
        finally:
            answering.cancel()


async def _end(fault: Fault, chunk: bytes, near: Pipe, far: Pipe) -> None:
    if fault.kind in _HTTP_ONLY:
        raise ValueError(f"{fault.kind} is for HTTP")
    if fault.kind is Kind.RESET:
        near.reset()
        return
    await far.send(chunk)
    # An answer, or its absence for a while, says that the server has acted.
    answer = b""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            answer = await far.reader.read(_CHUNK)
    await near.spoil(fault, answer)


async def _pump(reader: asyncio.StreamReader, to: Pipe) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(_CHUNK):
            await to.send(chunk)
    to.writer.close()  # Which ends the reading of the other direction, too.
