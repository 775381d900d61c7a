"""Alerts reach a real HTTP server, or are dropped without a delay."""

import json
import logging
import multiprocessing
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from backends.alert_webhook import FORMATS, AlertFormat, AlertWebhook, summary
from signer.ports.outside_services import Notifier
from tests.support.waiting import eventually


CANARY = "canary-T0KEN-48213"
DOCUMENT = {"alert": "key-unhealthy", "facts": {"code": "key-unusable"}}


class Receiver(ThreadingHTTPServer):
    """A server that records requests, and responds with *statuses* in turn."""

    daemon_threads = True

    def __init__(self, *statuses: int, seconds: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses = list(statuses)
        self.seconds = seconds
        self.closing = threading.Event()
        self.received: list[tuple[str, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        """The URL of the server."""
        return f"http://127.0.0.1:{self.server_address[1]}/{CANARY}"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.received.append((self.path, headers, body))
        self.server.closing.wait(self.server.seconds)
        statuses = self.server.statuses
        status = statuses.pop(0) if len(statuses) > 1 else statuses[0]
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def receivers() -> Iterator[list[Receiver]]:
    """The receivers of a test, which are stopped after it."""
    started: list[Receiver] = []
    yield started
    for receiver in started:
        receiver.closing.set()
        receiver.shutdown()
        receiver.server_close()


def _started(receivers: list[Receiver], *statuses: int, **how: Any) -> Receiver:
    receiver = Receiver(*statuses, **how)
    threading.Thread(target=receiver.serve_forever, args=(0.005,), daemon=True).start()
    receivers.append(receiver)
    return receiver


def _webhook(url: str, timeout: float = 1.0) -> AlertWebhook:
    return AlertWebhook(SecretStr(url), retry_delays=(0.01, 0.01), timeout=timeout)


def _events(webhook: AlertWebhook, document: dict[str, Any] = DOCUMENT) -> list[Any]:
    with capture_logs() as events:
        webhook.notify(document)
        webhook.close()
    return events


def test_posts_an_alert_as_json(receivers: list[Receiver]) -> None:
    """One document is one POST of JSON to the URL, and nothing is logged."""
    receiver = _started(receivers, 204)
    notifier: Notifier = (webhook := _webhook(receiver.url))

    events = _events(webhook)

    assert notifier is webhook
    assert events == []
    ((path, headers, body),) = receiver.received
    assert path == f"/{CANARY}"
    assert headers["content-type"] == "application/json"
    assert body == b'{"alert": "key-unhealthy", "facts": {"code": "key-unusable"}}'


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_retries_transient_failures(receivers: list[Receiver], status: int) -> None:
    """A receiver that fails twice gets the alert at the third attempt."""
    receiver = _started(receivers, status, status, 200)

    assert _events(_webhook(receiver.url)) == []
    assert len(receiver.received) == 3


def test_drops_an_alert_after_three_attempts(receivers: list[Receiver]) -> None:
    """After three failures the alert is dropped, and the reason is logged."""
    receiver = _started(receivers, 500)

    (event,) = _events(_webhook(receiver.url))

    assert event["event"] == "alert-not-sent"
    assert event["reason"] == "status-500"
    assert len(receiver.received) == 3


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 401, 404])
def test_does_not_retry_redirects_and_client_errors(
    receivers: list[Receiver], status: int
) -> None:
    receiver = _started(receivers, status)

    (event,) = _events(_webhook(receiver.url))

    assert event["reason"] == f"status-{status}"
    assert [path for path, _, _ in receiver.received] == [f"/{CANARY}"]


@pytest.mark.parametrize("url", ["", "nonsense", "ftp://h/canary", "http://[canary"])
def test_malformed_url_does_not_stop_the_thread(url: str) -> None:
    """Each alert for a malformed URL is dropped and logged."""
    webhook = _webhook(url)

    assert len(_events(webhook)) == 1
    assert len(_events(webhook)) == 1


def test_gives_up_a_name_that_is_not_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that hangs delays neither this alert nor the next one."""
    release = threading.Event()

    def hang(*_: object, **__: object) -> list[object]:
        release.wait(120)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    webhook = _webhook("http://alerts.invalid/", timeout=0.1)
    events = [*_events(webhook), *_events(webhook)]
    release.set()

    assert [each["reason"] for each in events] == ["too-slow", "too-slow"]


def test_notify_and_close_wait_a_limited_time(receivers: list[Receiver]) -> None:
    """However slow the receiver is; the queue is bounded."""
    receiver = _started(receivers, 200, seconds=30.0)
    webhook = _webhook(receiver.url, timeout=30.0)
    with capture_logs() as events:
        began = time.monotonic()
        for _ in range(100):
            webhook.notify(DOCUMENT)
        webhook.close(0.1)
        elapsed = time.monotonic() - began
    receiver.closing.set()
    webhook.close(30)

    assert elapsed < 10
    assert {event["reason"] for event in events} == {"queue-full"}
    # The thread may have taken one already.
    assert len(events) in (35, 36)


def test_close_without_alerts_starts_no_thread() -> None:
    """An unused webhook has no thread, and ``close`` returns at once."""
    before = set(threading.enumerate())
    began = time.monotonic()

    _webhook("http://127.0.0.1:9").close()

    assert set(threading.enumerate()) <= before
    assert time.monotonic() - began < 4  # It would wait 5 s for an alert.


def test_drops_a_document_that_is_not_json(receivers: list[Receiver]) -> None:
    """The document is dropped, and the log does not contain it."""
    receiver = _started(receivers, 200)

    (event,) = _events(_webhook(receiver.url), {"alert": object(), "x": CANARY})

    assert event["reason"] == "not-json"
    assert CANARY not in str(event)
    assert receiver.received == []


def test_forked_process_has_its_own_thread(receivers: list[Receiver]) -> None:
    """A process that was forked after the first alert sends its own alerts."""
    receiver = _started(receivers, 200)
    webhook = _webhook(receiver.url)
    _events(webhook)
    child = multiprocessing.get_context("fork").Process(target=_events, args=(webhook,))
    child.start()
    child.join(10)

    assert child.exitcode == 0
    assert eventually(lambda: len(receiver.received) == 2)


def test_process_sends_its_alert_before_it_exits(receivers: list[Receiver]) -> None:
    receiver = _started(receivers, 200)
    program = (
        "import sys; from pydantic import SecretStr;"
        "from backends.alert_webhook import *;"
        "webhook = AlertWebhook(SecretStr(sys.stdin.read()));"
        "webhook.notify({'alert': 'rotation-refused'})"
    )
    subprocess.run(
        [sys.executable, "-c", program],
        input=receiver.url,
        text=True,
        check=True,
        timeout=30,
    )

    assert [body for _, _, body in receiver.received] == [
        b'{"alert": "rotation-refused"}'
    ]


def test_no_log_contains_the_url(
    receivers: list[Receiver], caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the HTTP library's log lines nor a repr contain the URL."""
    urllib3_logger = logging.getLogger("urllib3")
    level = urllib3_logger.level
    urllib3_logger.setLevel(logging.DEBUG)
    with caplog.at_level(logging.DEBUG):
        webhook = _webhook(_started(receivers, 500).url)
        events = _events(webhook)
    urllib3_logger.setLevel(level)

    assert CANARY not in caplog.text + str(events) + repr(webhook) + repr(vars(webhook))


KEY = "hotwallet/eu/node-lagging/local/node-2"
FACTS = {"network": "local", "node": "node-2", "lag": 12, "code": None}
FIRING = {
    "alert": "node-lagging",
    "status": "firing",
    "severity": "ticket",
    "environment": "production",
    "source": "hotwallet/eu",
    "key": KEY,
    "at": "2026-11-24T12:00:00+00:00",
    "facts": FACTS,
    "runbook": "https://docs.example/alarms.html#node-lagging",
}
SUMMARY = "[production] hotwallet/eu: node-lagging (network local, node node-2, lag 12)"


def _posted(
    receivers: list[Receiver], form: AlertFormat, query: str = "", **changes: Any
) -> tuple[str, dict[str, str], Any]:
    """Send ``FIRING`` with *changes*; return the path, the headers and the body."""
    receiver = _started(receivers, 202)
    webhook = AlertWebhook(SecretStr(f"{receiver.url}{query}"), form, timeout=5)
    assert _events(webhook, {**FIRING, **changes}) == []
    ((path, headers, body),) = receiver.received
    return path, headers, json.loads(body)


@pytest.mark.parametrize(
    ("severity", "expected"), [("page", "critical"), ("ticket", "warning")]
)
def test_an_alert_is_an_event_of_pagerduty(
    receivers: list[Receiver], severity: str, expected: str
) -> None:
    """The key is taken from the URL; one problem has one ``dedup_key``."""
    query = f"?routing_key={CANARY}"
    path, _, event = _posted(receivers, "pagerduty", query, severity=severity)

    assert path == f"/{CANARY}"
    assert event == {
        "routing_key": CANARY,
        "event_action": "trigger",
        "dedup_key": KEY,
        "payload": {
            "summary": SUMMARY,
            "source": "hotwallet/eu",
            "severity": expected,
            "timestamp": FIRING["at"],
            "class": "node-lagging",
            "group": "production",
            "custom_details": {**FACTS, "runbook": FIRING["runbook"]},
        },
        "links": [{"href": FIRING["runbook"], "text": "Runbook"}],
    }


def test_the_end_resolves_the_incident_of_pagerduty(receivers: list[Receiver]) -> None:
    """A runbook that is no URL is no link, which PagerDuty would refuse."""
    changes = {"status": "resolved", "runbook": "docs/how-to/alarms.md#node-lagging"}
    _, _, event = _posted(receivers, "pagerduty", "?routing_key=k", **changes)

    assert (event["event_action"], event["dedup_key"]) == ("resolve", KEY)
    assert "links" not in event


@pytest.mark.parametrize(("severity", "priority"), [("page", "P1"), ("ticket", "P3")])
def test_an_alert_is_one_of_opsgenie(
    receivers: list[Receiver], severity: str, priority: str
) -> None:
    """The key goes into a header, as its API wants it."""
    path, headers, alert = _posted(
        receivers, "opsgenie", "?api_key=secret", severity=severity
    )

    assert (path, headers["authorization"]) == (f"/{CANARY}", "GenieKey secret")
    assert alert == {
        "message": SUMMARY,
        "alias": KEY,
        "description": f"{SUMMARY}\n{FIRING['runbook']}",
        "details": {"network": "local", "node": "node-2", "lag": "12", "code": "None"},
        "source": "hotwallet/eu",
        "priority": priority,
        "tags": ["production", severity],
    }


def test_the_end_closes_the_alert_of_opsgenie(receivers: list[Receiver]) -> None:
    path, headers, _ = _posted(
        receivers, "opsgenie", "?api_key=secret", status="resolved"
    )

    alias = KEY.replace("/", "%2F")
    assert path == f"/{CANARY}/{alias}/close?identifierType=alias"
    assert headers["authorization"] == "GenieKey secret"


def test_an_alert_is_a_message_in_slack(receivers: list[Receiver]) -> None:
    """Facts are no markup there; the end is a message too."""
    facts = {"tenant": "<!channel> & co"}
    _, _, firing = _posted(receivers, "slack", facts=facts)
    _, _, resolved = _posted(receivers, "slack", status="resolved")

    assert firing == {
        "text": "ticket: [production] hotwallet/eu: node-lagging"
        f" (tenant &lt;!channel&gt; &amp; co)\n{FIRING['runbook']}"
    }
    assert resolved == {"text": f"resolved: {SUMMARY}"}


def test_an_alert_without_facts_is_summarised() -> None:
    assert summary({**FIRING, "facts": {"code": None}}) == (
        "[production] hotwallet/eu: node-lagging"
    )


def test_a_message_shows_no_secret() -> None:
    url = SecretStr(f"https://pager.example/?routing_key={CANARY}")

    assert CANARY not in repr(FORMATS["pagerduty"](url, FIRING))
