"""
The load generator: sends prepared requests over kept-alive connections.

It shares the cores with what it measures, so it is one thread with sockets, without an
HTTP library.  ``bench/service.py`` runs it in a process of its own::

    $ python -m bench.load < plan.json

The plan is a ``Plan`` as JSON; the result is the Unix time of the start, and a list
with a sample per request.
"""

import dataclasses
import json
import re
import selectors
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from bench.arrivals import Arrivals, ClosedLoop, OpenLoop


# How a refund's answer shows that it was broadcast.
_TX_HASH = re.compile(rb'"tx_hash": ?"0x')
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_ANSWER_SECONDS = 40.0


@dataclass(frozen=True, slots=True)
class Plan:
    """
    What to send.

    ``request`` is a whole HTTP request in which ``%08d`` stands for its number, from
    ``first`` on.  With ``rate``, requests are due at that rate a second (an open loop);
    otherwise each client sends the next one after an answer (a closed loop).  Sending
    ends after ``seconds``, or after ``count`` requests.
    """

    host: str
    port: int
    clients: int
    request: str
    first: int
    seconds: float
    rate: float | None = None
    count: int | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One request; times are in seconds since the start."""

    number: int
    due: float
    sent: float
    answered: float
    status: int
    has_hash: bool


class Client:
    """One connection, with at most one request at a time."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self.number, self.due, self.sent, self.is_busy = 0, 0.0, 0.0, False
        self.connect()

    def connect(self) -> None:
        """Open a connection, in place of one that was closed."""
        self._received, self._end = bytearray(), 0
        self.socket = socket.create_connection(self._address, _ANSWER_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def receive(self) -> tuple[int, bool] | None:
        """
        Return the answer's status, and whether it has a transaction hash.

        None if the answer is not complete yet.

        Raises:
            ConnectionError: The server closed the connection.
        """
        chunk = self.socket.recv(65536)
        if not chunk:
            raise ConnectionError("the server closed the connection")
        self._received += chunk
        received = self._received
        if not self._end:
            # Answers may be long, so the head is read once.
            head = received.find(b"\r\n\r\n")
            length = _LENGTH.search(received, 0, head) if head >= 0 else None
            if length is None:
                return None
            self._end = head + 4 + int(length[1])
        if len(received) < self._end:
            return None
        self._received, self._end = bytearray(), 0
        return int(received[9:12]), _TX_HASH.search(received) is not None


class Load:
    """
    Sends what is due to clients that are free.

    *start* is the zero of the samples' times, on *clock*.
    """

    def __init__(
        self,
        plan: Plan,
        arrivals: Arrivals,
        clock: Callable[[], float] = time.monotonic,
        start: float = 0.0,
    ) -> None:
        self._arrivals, self._clock, self._start = arrivals, clock, start
        self._template, self._number = plan.request.encode(), plan.first
        self._slots = self._template.count(b"%08d")
        self._free = deque(Client(plan.host, plan.port) for _ in range(plan.clients))
        self._clients = tuple(self._free)
        self._selector = selectors.DefaultSelector()
        self._samples: list[Sample] = []

    def run(self) -> list[Sample]:
        """
        Send until no request is due any more; return a sample of each.

        A request whose connection ends without an answer is sent again.

        Raises:
            TimeoutError: No answer arrived for 40 seconds.
        """
        for client in self._clients:
            self._selector.register(client.socket, selectors.EVENT_READ, client)
        while True:
            self._send_due()
            is_idle = len(self._free) == len(self._clients)
            if is_idle and self._arrivals.next_due() is None:
                break
            for key, _ in self._wait():
                self._receive(key.data)
        self._selector.close()
        for client in self._clients:
            client.socket.close()
        return self._samples

    def _send_due(self) -> None:
        while self._free and (due := self._arrivals.take(self._clock())) is not None:
            client = self._free.popleft()
            client.number, client.due, client.sent = self._number, due, self._clock()
            client.is_busy = True
            self._number += 1
            self._send(client)

    def _send(self, client: Client) -> None:
        """Send the client's request; the server may have closed the connection."""
        request = self._template % ((client.number,) * self._slots)
        try:
            client.socket.sendall(request)
        except ConnectionError:
            self._reconnect(client)
            client.socket.sendall(request)

    def _reconnect(self, client: Client) -> None:
        self._selector.unregister(client.socket)
        client.socket.close()
        client.connect()
        self._selector.register(client.socket, selectors.EVENT_READ, client)

    def _wait(self) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for an answer, or until the next request is due and can be sent."""
        due = self._arrivals.next_due()
        if due is not None and self._free:
            return self._selector.select(max(0.0, due - self._clock()))
        events = self._selector.select(_ANSWER_SECONDS)
        if not events:
            raise TimeoutError(f"no answer for {_ANSWER_SECONDS:.0f} s")
        return events

    def _receive(self, client: Client) -> None:
        try:
            answer = client.receive()
        except ConnectionError:
            self._reconnect(client)
            if client.is_busy:
                # As a gateway does: the same request again, with the same key.
                self._send(client)
            return
        if answer is not None:
            client.is_busy = False
            due, sent, now = client.due, client.sent, self._clock()
            start = self._start
            self._samples.append(
                Sample(client.number, due - start, sent - start, now - start, *answer)
            )
            self._free.append(client)


def main() -> None:
    """Run the plan on standard input; print the samples as JSON."""
    plan = Plan(**json.load(sys.stdin))
    start = time.monotonic()
    end = start + plan.seconds
    arrivals: Arrivals = (
        ClosedLoop(end, plan.count)
        if plan.rate is None
        else OpenLoop(plan.rate, start, end)
    )
    started_at = time.time()
    samples = Load(plan, arrivals, start=start).run()
    rows = [dataclasses.astuple(sample) for sample in samples]
    json.dump({"started_at": started_at, "samples": rows}, sys.stdout)


if __name__ == "__main__":
    main()
