"""Many slow clients in one thread."""

import socket
import ssl
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self


_PAUSE = 0.2
_ESTABLISHED = 1  # The first byte of ``struct tcp_info`` (tcp_states.h of Linux).


@dataclass(frozen=True, slots=True)
class Slow:
    """
    A kind of slow client: the bytes that it sends at once, and those one at a time.

    No client reads: one that sends everything at once is a slow reader.
    """

    name: str
    at_once: bytes
    byte_by_byte: bytes = b""


def slow_header() -> Slow:
    line = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 900
    return Slow("header", b"", line)


def slow_body(head: bytes) -> Slow:
    """Return a client that announces a body after *head* and sends it slowly."""
    return Slow("body", head + b"Content-Length: 16000\r\n\r\n", b" " * 900)


def slow_reader(request: bytes) -> Slow:
    return Slow("reader", request)


class SlowClients:
    """``with SlowClients(address, kinds, each=200)``: connected, slow clients."""

    def __init__(
        self,
        address: tuple[str, int],
        kinds: Sequence[Slow],
        *,
        each: int,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """Connect from twenty loopback addresses, below nginx's limit for each."""
        self._address = address
        self._context = context
        self._stop = threading.Event()
        self.rounds = 0
        self._clients: list[tuple[Slow, socket.socket]] = []
        for number in range(each):
            source = f"127.0.1.{1 + number % 20}"
            self._clients += [(kind, self._connected(source)) for kind in kinds]
        self._thread = threading.Thread(target=self._dribble)

    def __enter__(self) -> Self:
        for kind, client in self._clients:
            client.sendall(kind.at_once)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        for _kind, client in self._clients:
            client.close()

    def connected(self, kind: Slow) -> int:
        """Return how many clients of *kind* the server has not disconnected."""
        return sum(_is_open(client) for one, client in self._clients if one is kind)

    def _connected(self, source: str) -> socket.socket:
        client = socket.socket()
        # Small buffers on both sides: the server's kernel has room for a number of
        # segments, each of which would have 64 KiB on loopback.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        client.settimeout(10)
        client.bind((source, 0))
        client.connect(self._address)
        if self._context is None:
            return client
        return self._context.wrap_socket(client, server_hostname=self._address[0])

    def _dribble(self) -> None:
        while True:
            for kind, client in self._clients:
                byte = kind.byte_by_byte[self.rounds : self.rounds + 1]
                try:
                    client.sendall(byte)
                except OSError:  # Disconnected; ``connected`` counts those.
                    continue
            self.rounds += 1
            if self._stop.wait(_PAUSE):
                return


def _is_open(client: socket.socket) -> bool:
    (state,) = struct.unpack(
        "B", client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    )
    return bool(state == _ESTABLISHED)
