"""
Tells somebody outside of alerts: one JSON document, posted to one URL.

It never stands in the way of what it tells of: a document waits in a short queue, a
thread of its own sends it, and what cannot be sent is dropped with a line in the log.
The URL is a secret, since whoever knows it may post there; no line shows it.
"""

import atexit
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from queue import Full, Queue
from threading import Condition, Lock, Thread

import structlog
import urllib3
from pydantic import SecretStr

from signer.deadline import Deadlines


_WAITING = 64
_PAUSES = (1.0, 4.0)
"""Seconds between the attempts, of which there is one more."""

_CLOSING_SECONDS = 5.0

# urllib3 bounds each read: a name that nobody resolves, or an answer that comes a byte
# at a time, it would wait for without end.
_SLACK_SECONDS = 0.5

# What may work the next time; anything else that is no success never will.
_PASSING = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})


@dataclass(slots=True)
class _Here:
    """What one process owns: what waits, and the thread that sends it."""

    queue: Queue[bytes] = field(default_factory=lambda: Queue(_WAITING))
    unsent: int = 0
    changed: Condition = field(default_factory=Condition)
    deadlines: Deadlines = field(default_factory=lambda: Deadlines(1 + len(_PAUSES)))


class Webhook:
    """
    A ``Notifier`` that posts each document to a URL, as ``application/json``.

    It may be made before a fork: queue and thread are of the process that uses it.
    A redirect is refused, so that alerts go where they were sent.
    """

    def __init__(
        self,
        url: SecretStr,
        *,
        timeout: float = 3.0,
        pauses: tuple[float, ...] = _PAUSES,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """
        Remember *url*, and open nothing.

        *timeout* is in seconds, for one attempt, and *pauses* are those between two.
        """
        self._url = url
        self._timeout = urllib3.Timeout(total=timeout)
        self._patience = timeout + _SLACK_SECONDS
        self._pauses = pauses
        self._sleep = sleep
        self._processes: dict[int, _Here] = {}
        self._lock = Lock()
        self._log = structlog.get_logger("webhook")

    def notify(self, document: Mapping[str, object]) -> None:
        """Send *document* in a while, or drop it; never waits, never raises."""
        try:
            body = json.dumps(document).encode()
        except (TypeError, ValueError):
            self._dropped("not-json")
            return
        try:
            here = self._here()
        except RuntimeError:  # The system has no thread to give.
            self._dropped("no-thread")
            return
        with here.changed:
            try:
                here.queue.put_nowait(body)
            except Full:
                self._dropped("queue-full")
            else:
                here.unsent += 1

    def close(self, seconds: float = _CLOSING_SECONDS) -> None:
        """Wait until everything is sent or dropped, for *seconds* at most."""
        here = self._processes.get(os.getpid())
        if here is not None:
            with here.changed:
                here.changed.wait_for(lambda: here.unsent == 0, seconds)

    def _here(self) -> _Here:
        with self._lock:
            here = self._processes.get(os.getpid())
            if here is None:
                here = _Here()
                Thread(
                    target=self._send_all, args=(here,), name="webhook", daemon=True
                ).start()
                self._processes[os.getpid()] = here
                # A command that ends with an alert must not end before it is sent.
                atexit.register(self.close)
            return here

    def _send_all(self, here: _Here) -> None:
        _silence_urllib3()
        pool = urllib3.PoolManager(num_pools=1, retries=False)
        while True:
            body = here.queue.get()
            problem = self._sent(pool, here.deadlines, body)
            if problem is not None:
                self._dropped(problem)
            with here.changed:
                here.unsent -= 1
                here.changed.notify_all()

    def _sent(
        self, pool: urllib3.PoolManager, deadlines: Deadlines, body: bytes
    ) -> str | None:
        """Send *body*, in a few attempts; return what the last one failed with."""
        for pause in (*self._pauses, None):
            attempt = deadlines.start(
                partial(self._attempt, pool, body), name="webhook"
            )
            if attempt.wait(self._patience):
                problem, passing = attempt.result()
            else:
                problem, passing = "too-slow", True
            if problem is None or not passing or pause is None:
                return problem
            self._sleep(pause)
        return problem

    def _attempt(
        self, pool: urllib3.PoolManager, body: bytes
    ) -> tuple[str | None, bool]:
        """Return what went wrong, if it did, and whether that may pass."""
        try:
            response = pool.request(
                "POST",
                self._url.get_secret_value(),
                body=body,
                headers={
                    "Content-Type": "application/json",
                    "User-Agent": "hotwallet",
                },
                timeout=self._timeout,
                redirect=False,
                preload_content=False,  # Of the answer only the status counts.
            )
            response.close()
        except Exception as e:  # noqa: BLE001  The thread must outlive every bug.
            return type(e).__name__, True
        status = response.status
        if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            return None, False
        passing = status in _PASSING or status >= HTTPStatus.INTERNAL_SERVER_ERROR
        return f"status-{status}", passing

    def _dropped(self, reason: str) -> None:
        self._log.error("alert-not-sent", reason=reason)


def _silence_urllib3() -> None:
    # It logs whole URLs: paths at DEBUG, and everything at WARNING.
    logger = logging.getLogger("urllib3")
    logger.setLevel(max(logger.level, logging.ERROR))
