"""The gateway as a process: it requests refunds until an event stops it."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path

from tests.crash.gateway_client import Gateway, Order
from tests.crash.journal import Journal


@dataclass(frozen=True, slots=True)
class Load:
    """
    Which refunds to request; *series* begins every idempotency key.

    With *count*, that many, each in *copies* requests at once.  With *per_second*, at
    that rate.  Otherwise *concurrency* refunds are in flight at any time.
    """

    series: str
    concurrency: int = 20
    count: int | None = None
    copies: int = 1
    per_second: float | None = None


def run_gateway(
    port: int, token_key: Path, journal_file: Path, load: Load, stop: Event
) -> None:
    """Request refunds until *stop*, and return when all of them are final."""
    with Journal(journal_file) as journal:
        gateway = Gateway(port, token_key, journal)
        if load.count is not None:
            _request_count(gateway, load, load.count)
        elif load.per_second is not None:
            _request_at_rate(gateway, load, load.per_second, stop)
        else:
            _keep_in_flight(gateway, load, stop)
        journal.write("done")


def submit_at_rate(
    per_second: float, threads: int, stop: Event, work: Callable[[int], None]
) -> None:
    """Call *work* with 0, 1, 2 ... at that rate until *stop*; never queue calls."""
    free = threading.Semaphore(threads)
    began = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        for number in itertools.count():
            due = began + number / per_second
            if stop.wait(max(due - time.monotonic(), 0)):
                break
            free.acquire()
            pool.submit(work, number).add_done_callback(lambda _: free.release())


def _request_count(gateway: Gateway, load: Load, count: int) -> None:
    orders = [Order.numbered(load.series, number) for number in range(count)]
    with (
        ThreadPoolExecutor(load.concurrency) as pool,
        ThreadPoolExecutor(load.concurrency * load.copies) as copies,
    ):

        def pay(order: Order) -> str | None:
            first, *_ = copies.map(gateway.pay, [order] * load.copies)
            return first

        made = list(zip(orders, pool.map(pay, orders), strict=True))
    _watch_all(gateway, made)


def _request_at_rate(
    gateway: Gateway, load: Load, per_second: float, stop: Event
) -> None:
    made = list[tuple[Order, str | None]]()

    def pay(number: int) -> None:
        order = Order.numbered(load.series, number)
        made.append((order, gateway.pay(order)))

    submit_at_rate(per_second, load.concurrency, stop, pay)
    _watch_all(gateway, made)


def _keep_in_flight(gateway: Gateway, load: Load, stop: Event) -> None:
    numbers: Iterator[int] = itertools.count()

    def work(_: int) -> None:
        while not stop.is_set():
            order = Order.numbered(load.series, next(numbers))
            if refund_id := gateway.pay(order):
                gateway.watch(order, refund_id)

    with ThreadPoolExecutor(load.concurrency) as pool:
        for _ in pool.map(work, range(load.concurrency)):
            pass


def _watch_all(gateway: Gateway, made: list[tuple[Order, str | None]]) -> None:
    for order, refund_id in made:
        if refund_id is not None:
            gateway.watch(order, refund_id)
