"""
The requests by which alerts reach pagers: PagerDuty, Opsgenie and Slack.

Each format makes of an alert's document what the receiver's API takes, so that one
problem is one incident there, which ends when the problem does.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

from pydantic import SecretStr


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
    """Return the document as it is."""
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
