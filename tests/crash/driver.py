"""
The gateway's process: asks for refunds until its standard input ends.

::

    python -m tests.crash.driver --port 8080 --journal j --token-key k --series a

It keeps ``--concurrency`` refunds in flight: each is asked for until it is answered,
and then watched until it is final.  With ``--count`` it asks for so many, each in
``--copies`` requests at once, and watches them afterwards.  It ends when its refunds
have: all that it asked for are final.  With ``--per-second`` it asks at that rate, and
watches when it has been told to end.
"""

import argparse
import itertools
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.crash.gateway import Gateway, Order, Tokens
from tests.crash.journal import Journal


def main(arguments: Sequence[str] | None = None) -> None:
    """Drive the service."""
    options = _parser().parse_args(arguments)
    tokens = Tokens(options.token_key.read_text(encoding="utf-8"))
    with Journal(options.journal) as journal:
        gateway = Gateway(options.port, tokens, journal)
        if options.per_second is not None:
            _ask_steadily(gateway, options)
        elif options.count is None:
            _keep_in_flight(gateway, options)
        else:
            _ask_for(gateway, options)
        journal.write("done")


def _keep_in_flight(gateway: Gateway, options: argparse.Namespace) -> None:
    stop, numbers = threading.Event(), itertools.count()
    threading.Thread(target=_await_end, args=(stop,), daemon=True).start()

    def work(_: int) -> None:
        while not stop.is_set():
            order = Order.numbered(options.series, next(numbers))
            if refund_id := gateway.pay(order):
                gateway.watch(order, refund_id)

    with ThreadPoolExecutor(options.concurrency) as pool:
        for _ in pool.map(work, range(options.concurrency)):
            pass


def _ask_steadily(gateway: Gateway, options: argparse.Namespace) -> None:
    """Ask at a rate, whatever the answers take; watch when there is no more to ask."""
    stop, made = threading.Event(), list[tuple[Order, str | None]]()
    threading.Thread(target=_await_end, args=(stop,), daemon=True).start()

    free = threading.Semaphore(options.concurrency)

    def pay(order: Order) -> None:
        made.append((order, gateway.pay(order)))
        free.release()

    began = time.monotonic()
    with ThreadPoolExecutor(options.concurrency) as pool:
        for number in itertools.count():
            due = began + number / options.per_second
            if stop.wait(max(due - time.monotonic(), 0)):
                break
            free.acquire()  # Who cannot be served at this rate is not piled up.
            pool.submit(pay, Order.numbered(options.series, number))
    for order, refund_id in made:
        if refund_id is not None:
            gateway.watch(order, refund_id)


def _ask_for(gateway: Gateway, options: argparse.Namespace) -> None:
    orders = [Order.numbered(options.series, n) for n in range(options.count)]
    with (
        ThreadPoolExecutor(options.concurrency) as pool,
        ThreadPoolExecutor(options.concurrency * options.copies) as crowd,
    ):

        def pay(order: Order) -> str | None:
            first, *_ = crowd.map(gateway.pay, [order] * options.copies)
            return first

        made = list(pool.map(pay, orders))
    for order, refund_id in zip(orders, made, strict=True):
        if refund_id is not None:
            gateway.watch(order, refund_id)


def _await_end(stop: threading.Event) -> None:
    sys.stdin.buffer.read()
    stop.set()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.driver")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--token-key", type=Path, required=True)
    parser.add_argument("--series", required=True, help="begins every key")
    parser.add_argument("--count", type=int)
    parser.add_argument("--per-second", type=float, help="a rate, at which to ask")
    parser.add_argument("--concurrency", type=int, default=20)
    parser.add_argument("--copies", type=int, default=1)
    return parser


if __name__ == "__main__":
    main()
