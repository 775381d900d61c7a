"""
Sends alerts to a webhook: each is a JSON document, posted to one URL.

A format makes of it what the receiver takes: PagerDuty, Opsgenie or Slack.  One problem
is one incident there, which ends when the problem does.

Sending never delays the operation that raised the alert.  A document waits in a short
queue, a background thread sends it, and one that cannot be sent is dropped and logged.
The URL is a secret, because it is all that is needed to post there; it is never logged.
"""

import atexit
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from queue import Full, Queue
from threading import Condition, Lock, Thread
from typing import Any, Literal
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

import structlog
from pydantic import SecretStr

from backends.http_client import ExchangeError, HTTPClient
from signer.deadline import Deadlines


_QUEUE_SIZE = 64
_RETRY_DELAYS = (1.0, 4.0)
"""Seconds between attempts; there is one attempt more than delays."""

_CLOSE_SECONDS = 5.0

# The HTTP client does not bound name resolution: an attempt ends this much later.
_SLACK_SECONDS = 0.5

_HEADERS = {"Content-Type": "application/json", "Connection": "close"}

# These may succeed at the next attempt, as may every 5xx; other failures are final.
_TRANSIENT = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})

AlertFormat = Literal["json", "pagerduty", "opsgenie", "slack"]

Document = Mapping[str, Any]

_LONGEST_MESSAGE = 130  # Of Opsgenie, which shortens others itself.


@dataclass(frozen=True, slots=True)
class Message:
    """A request to post; the URL, and often the body, has a secret."""

    url: SecretStr
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


def as_json(url: SecretStr, document: Document) -> Message:
    return Message(url, json.dumps(document).encode())


def pagerduty(url: SecretStr, document: Document) -> Message:
    """
    Return an event of PagerDuty (Events API v2).

    The integration key is the parameter ``routing_key`` of *url*.
    """
    plain, key = _take(url, "routing_key")
    is_end = document["status"] == "resolved"
    event: dict[str, Any] = {
        "routing_key": key,
        "event_action": "resolve" if is_end else "trigger",
        "dedup_key": document["key"],
        "payload": {
            "summary": summary(document),
            "source": document["source"],
            "severity": "critical" if document["severity"] == "page" else "warning",
            "timestamp": document["at"],
            "class": document["alert"],
            "group": document["environment"],
            "custom_details": {**document["facts"], "runbook": document["runbook"]},
        },
    }
    if document["runbook"].startswith("https://"):
        event["links"] = [{"href": document["runbook"], "text": "Runbook"}]
    return as_json(plain, event)


def opsgenie(url: SecretStr, document: Document) -> Message:
    """
    Return a request to Opsgenie's Alert API, at ``https://api.opsgenie.com/v2/alerts``.

    The API key is the parameter ``api_key`` of *url*.
    """
    plain, key = _take(url, "api_key")
    headers = {"Authorization": f"GenieKey {key}"}
    if document["status"] == "resolved":
        alias = quote(document["key"], safe="")
        path = f"{plain.get_secret_value()}/{alias}/close?identifierType=alias"
        body: dict[str, Any] = {"source": document["source"], "note": "resolved"}
        return Message(SecretStr(path), json.dumps(body).encode(), headers)
    body = {
        "message": summary(document)[:_LONGEST_MESSAGE],
        "alias": document["key"],
        "description": f"{summary(document)}\n{document['runbook']}",
        "details": {name: str(fact) for name, fact in document["facts"].items()},
        "source": document["source"],
        "priority": "P1" if document["severity"] == "page" else "P3",
        "tags": [document["environment"], document["severity"]],
    }
    return Message(plain, json.dumps(body).encode(), headers)


def slack(url: SecretStr, document: Document) -> Message:
    """Return a message for an incoming webhook of Slack, whose URL is the secret."""
    if document["status"] == "resolved":
        text = f"resolved: {summary(document)}"
    else:
        text = f"{document['severity']}: {summary(document)}\n{document['runbook']}"
    # Slack's own escapes: a fact must not become a link or a mention.
    for mark, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(mark, escaped)
    return as_json(url, {"text": text})


def summary(document: Document) -> str:
    """Return one line: the environment, the service, the alert and its facts."""
    facts = ", ".join(
        f"{name} {fact}" for name, fact in document["facts"].items() if fact is not None
    )
    named = f"[{document['environment']}] {document['source']}: {document['alert']}"
    return f"{named} ({facts})" if facts else named


def _take(url: SecretStr, name: str) -> tuple[SecretStr, str]:
    """Return *url* without its query, and the parameter *name* of that."""
    parts = urlsplit(url.get_secret_value())
    (value,) = parse_qs(parts.query).get(name) or [""]
    return SecretStr(urlunsplit(parts._replace(query=""))), value


FORMATS: Mapping[AlertFormat, Callable[[SecretStr, Document], Message]] = {
    "json": as_json,
    "pagerduty": pagerduty,
    "opsgenie": opsgenie,
    "slack": slack,
}


@dataclass(slots=True)
class _Sender:
    """The queue of one process, which one thread empties."""

    queue: Queue[Message] = field(default_factory=lambda: Queue(_QUEUE_SIZE))
    unsent: int = 0
    changed: Condition = field(default_factory=Condition)
    deadlines: Deadlines = field(
        default_factory=lambda: Deadlines(1 + len(_RETRY_DELAYS))
    )


class AlertWebhook:
    """
    A ``Notifier`` that posts each document to a URL, as JSON in the format *form*.

    It may be built before a fork: each process that uses it has its own queue and
    thread.  Redirects are refused, so that alerts reach only the configured URL.
    """

    def __init__(
        self,
        url: SecretStr,
        form: AlertFormat = "json",
        *,
        timeout: float = 3.0,
        retry_delays: tuple[float, ...] = _RETRY_DELAYS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """
        Store the options; no connection is opened.

        *timeout* bounds one attempt, and *retry_delays* separate the attempts; all
        are in seconds.
        """
        self._url = url
        self._format = FORMATS[form]
        self._timeout = timeout
        self._retry_delays = retry_delays
        self._sleep = sleep
        self._senders: dict[int, _Sender] = {}
        self._lock = Lock()
        self._log = structlog.get_logger("webhook")

    def notify(self, document: Mapping[str, object]) -> None:
        """Queue *document* for sending, or drop it; never waits, never raises."""
        try:
            message = self._format(self._url, document)
        except (TypeError, ValueError):
            self._log_dropped("not-json")
            return
        try:
            sender = self._get_sender()
        except RuntimeError:  # The system cannot start another thread.
            self._log_dropped("no-thread")
            return
        with sender.changed:
            try:
                sender.queue.put_nowait(message)
            except Full:
                self._log_dropped("queue-full")
            else:
                sender.unsent += 1

    def close(self, seconds: float = _CLOSE_SECONDS) -> None:
        """Wait at most *seconds* until every document is sent or dropped."""
        sender = self._senders.get(os.getpid())
        if sender is not None:
            with sender.changed:
                sender.changed.wait_for(lambda: sender.unsent == 0, seconds)

    def _get_sender(self) -> _Sender:
        with self._lock:
            sender = self._senders.get(os.getpid())
            if sender is None:
                sender = _Sender()
                Thread(
                    target=self._run, args=(sender,), name="webhook", daemon=True
                ).start()
                self._senders[os.getpid()] = sender
                # A command that raises an alert and exits must send it first.
                atexit.register(self.close)
            return sender

    def _run(self, sender: _Sender) -> None:
        while True:
            problem = self._send(sender.deadlines, sender.queue.get())
            if problem is not None:
                self._log_dropped(problem)
            with sender.changed:
                sender.unsent -= 1
                sender.changed.notify_all()

    def _send(self, deadlines: Deadlines, message: Message) -> str | None:
        """Send *message*, with retries; return the last attempt's problem, if any."""
        for delay in (*self._retry_delays, None):
            attempt = deadlines.start(partial(self._attempt, message), name="webhook")
            problem: str | None = "too-slow"
            is_transient = True
            if attempt.wait(self._timeout + _SLACK_SECONDS):
                problem, is_transient = attempt.result()
            if problem is None or not is_transient or delay is None:
                return problem
            self._sleep(delay)
        return problem

    def _attempt(self, message: Message) -> tuple[str | None, bool]:
        """Return the problem, if there is one, and whether a retry may help."""
        try:
            headers = {**_HEADERS, **message.headers}
            with HTTPClient(
                message.url, timeout=self._timeout, headers=headers
            ) as client:
                status = client.exchange("POST", message.body).status
        except ExchangeError as e:
            return e.reason, True
        except Exception as e:  # noqa: BLE001  The thread must survive every bug.
            return type(e).__name__, True
        if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            return None, False
        is_transient = (
            status in _TRANSIENT or status >= HTTPStatus.INTERNAL_SERVER_ERROR
        )
        return f"status-{status}", is_transient

    def _log_dropped(self, reason: str) -> None:
        self._log.error("alert-not-sent", reason=reason)
