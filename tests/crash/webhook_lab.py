"""Webhooks under failure: a receiver that fails, and workers that are killed."""

import json
import logging
import random
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import structlog
from standardwebhooks.webhooks import Webhook as Reference

from api.views.refunds import event_document
from backends.webhook_client import WebhookClient
from signer.alerts import Alerts
from signer.config.tenants import Webhook
from signer.errors import StoreUnavailableError
from signer.model.event import DeliveryState
from signer.model.refund import Status
from signer.ports.clock import utc_now
from signer.ports.event_store import DeliveryFilter, EventStore
from signer.webhooks.dispatcher import WebhookDispatcher
from signer.webhooks.endpoint import LOOPBACK, Endpoint
from tests.fixtures.ledger import accepted, moved, now
from tests.fixtures.races import start_process
from tests.support.ledgers import open_ledger
from tests.support.servers import LocalHandler, LocalServer
from tests.support.waiting import eventually
from tests.support.webhooks import KEY, SECRET


TENANTS = ("alpha", "beta", "gateway")

# Short enough that what a killed worker had claimed is sent again within the test, and
# longer than a request takes.
_CLAIM = timedelta(seconds=1.5)
_TIMEOUT = 0.4
_DELAYS = (0.05,) * 10_000

# Each takes as long as the store waits for a lock; the workers may have it meanwhile.
_TRIES = 20

T = TypeVar("T")


class FailingReceiver(LocalServer):
    """
    Fails a third of the requests: with an error, without a response, or too late.

    It verifies every signature with the reference library, and notes the events in the
    order in which it accepted each for the first time.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(_Handler)
        self.random = random.Random(seed)
        self.lock = threading.Lock()
        self.accepted: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.ids: set[str] = set()
        self.requests = 0
        self.problems: list[str] = []
        self.closing = threading.Event()

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        super().__exit__()

    def accept(self, headers: dict[str, str], body: bytes) -> None:
        """Verify a message, and note it unless it was accepted before."""
        try:
            Reference(SECRET.format()).verify(body, headers)
        except Exception as e:  # noqa: BLE001  It must appear in the test's result.
            self.problems.append(repr(e))
            return
        message = json.loads(body)
        with self.lock:
            if message["id"] not in self.ids:
                self.ids.add(message["id"])
                self.accepted[message["data"]["id"]].append(message)


class _Handler(LocalHandler):
    server: FailingReceiver

    def respond(self) -> None:
        body = self.read_body()
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.server.lock:
            self.server.requests += 1
            drawn = self.server.random.random()
        if drawn < 0.15:
            self.send_error(503)
        elif drawn < 0.3:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif drawn < 0.33:
            self.server.closing.wait(2 * _TIMEOUT)
        else:
            self.server.accept(headers, body)
            self.answer(204)


def deliver_forever(urls: str, line: Connection) -> None:
    """
    Sequence and deliver events, as a worker does, until the process is killed.

    *urls* are those of the database and of the receiver.
    """
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL)
    )
    database, url = urls.split()
    store = open_ledger(database)
    endpoint = Endpoint(Webhook(url=url), (KEY, SECRET))
    dispatcher = WebhookDispatcher(
        store,
        WebhookClient(LOOPBACK, allow_http=True, timeout=_TIMEOUT),
        dict.fromkeys(TENANTS, endpoint),
        document=event_document,
        alerts=Alerts(),
        clock=utc_now,
        delays=_DELAYS,
        claim=_CLAIM,
    )
    line.send("running")
    dispatcher.run(lambda: False)


def make_events(database: str, refunds: int, changes: int = 2) -> None:
    """Make refunds of all tenants, each with two events or, on request, more."""
    with closing(open_ledger(database)) as store:
        for number in range(refunds):
            tenant = TENANTS[number % len(TENANTS)]
            refund = _patiently(partial(accepted, store, tenant=tenant))
            waits = (Status.AWAITING_APPROVAL, Status.QUEUED) * ((changes - 2) // 2)
            for status in (*waits, Status.CANCELLED):
                refund = _patiently(partial(moved, store, refund, status))


def _patiently(work: Callable[[], T]) -> T:
    """Return what *work* returns; repeat it while SQLite is busy for the workers."""
    for _ in range(_TRIES):
        with suppress(StoreUnavailableError):
            return work()
    return work()


@contextmanager
def killed_workers(urls: str, kills: int, seed: int, most: float) -> Iterator[None]:
    """
    Run two workers, kill one of them *kills* times, and run two until the end.

    A new worker replaces each that is killed, up to *most* seconds after the last kill.
    """
    chosen = random.Random(seed)
    workers = [_start(urls), _start(urls)]
    for _ in range(kills):
        workers[0].join(chosen.uniform(0, most))
        _kill(workers.pop(chosen.randrange(2)))
        workers.append(_start(urls))
    yield
    for worker in workers:
        _kill(worker)


def _start(urls: str) -> BaseProcess:
    worker, line = start_process(deliver_forever, urls)
    assert line.recv() == "running"
    return worker


def _kill(worker: BaseProcess) -> None:
    worker.kill()
    worker.join()


def wait_until_delivered(database: str, patience: float) -> None:
    """Wait until nothing is left to sequence or to deliver."""
    with closing(open_ledger(database)) as store:
        eventually(lambda: not _patiently(partial(_is_waiting, store)), patience)


def _is_waiting(store: EventStore) -> bool:
    pending = store.deliveries(1, DeliveryFilter(state=DeliveryState.PENDING))
    if pending:
        return True
    done = store.sequence_events(1, now(), lambda _: True)
    return done is None or done.count > 0
