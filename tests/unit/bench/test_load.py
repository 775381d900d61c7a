"""The load generator: when requests are due, and what a lost connection does."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from bench.arrivals import ClosedLoop, OpenLoop
from bench.load import Load, Plan


ANSWER = b'{"tx_hash": "0x1"}'


class Ticks:
    """A clock that advances by *step* at each look."""

    def __init__(self, step: float) -> None:
        self._step, self.now = step, 0.0

    def __call__(self) -> float:
        self.now += self._step
        return self.now


def test_an_open_loop_is_due_at_a_fixed_rate() -> None:
    """Nothing is due early, and what is taken late keeps its time."""
    arrivals = OpenLoop(rate=10, start=100.0, end=100.3)

    assert arrivals.next_due() == 100.0
    assert arrivals.take(99.9) is None
    assert arrivals.take(100.0) == 100.0
    assert arrivals.take(100.05) is None
    assert [arrivals.take(107.0), arrivals.take(107.0)] == [100.1, 100.2]
    assert arrivals.take(107.0) is None
    assert arrivals.next_due() is None
    closed = ClosedLoop(end=10.0, count=2)  # Due when a client is free.
    assert [closed.take(now) for now in (1.0, 9.0, 9.5)] == [1.0, 9.0, None]
    assert ClosedLoop(end=10.0).take(10.0) is None


@contextmanager
def _server(answer: Callable[[int], bytes | None]) -> Iterator[tuple[int, list[str]]]:
    """Answer requests, one connection at a time; None closes the connection."""
    heard: list[str] = []

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                while data := connection.recv(1000):
                    heard.append(data.decode().rpartition(" ")[2])
                    content = answer(len(heard))
                    if content is None:
                        break
                    connection.sendall(
                        b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n%b"
                        % (len(content), content)
                    )

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield listener.getsockname()[1], heard
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def _plan(port: int, clients: int = 1) -> Plan:
    return Plan("127.0.0.1", port, clients, "number %08d", first=7, seconds=1.0)


def test_the_latency_counts_from_the_due_time() -> None:
    """One client for requests that are due at once: each waits for those before it."""
    with _server(lambda _: ANSWER) as (port, heard):
        samples = Load(_plan(port), OpenLoop(1000, 0.0, 0.003), Ticks(1.0)).run()

    assert heard == ["00000007", "00000008", "00000009"]
    assert [sample.due for sample in samples] == pytest.approx([0.0, 0.001, 0.002])
    waits = [sample.answered - sample.due for sample in samples]
    assert waits == sorted(waits)
    assert waits[2] > waits[0] + 2
    assert all(sample.status == 201 and sample.has_hash for sample in samples)


def test_a_lost_answer_is_asked_for_again() -> None:
    """The same request is repeated, and counts from its first due time."""
    with _server(lambda n: None if n == 1 else b"{}") as (port, heard):
        samples = Load(_plan(port), ClosedLoop(1e9, count=2), Ticks(1.0)).run()

    assert heard == ["00000007", "00000007", "00000008"]
    assert [sample.number for sample in samples] == [7, 8]
    assert samples[0].answered - samples[0].due > 1
    assert not samples[0].has_hash
