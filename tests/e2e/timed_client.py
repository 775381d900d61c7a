"""A client that sends every kind of request at once, and measures each answer."""

import http.client
import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from eth_utils.address import to_checksum_address

from api.auth.dev_tokens import mint
from api.auth.jwt_verifier import Role
from signer.config.settings import Settings


WAIT = 2
"""The N of ``Prefer: wait=N``, in seconds."""

_PATIENCE = 60.0
_SCOPES = ("keys:rotate", "keys:read", "metrics:read")

_REFUNDS = "/v1/refunds"
_ONE = "/v1/refunds/{id}"
_WAITING = " with `Prefer: wait=N`"


@dataclass(frozen=True)
class Answer:
    """
    The answer to one request.

    ``request`` is its name in the table of time limits (``docs/reference/api.md``), and
    ``seconds`` is how long the client waited.
    """

    request: str
    status: int
    seconds: float
    body: Any


@dataclass(frozen=True)
class Submission:
    """A request of a refund, which may or may not have been accepted."""

    key: str
    body: Mapping[str, str]


@dataclass
class TimedClient:
    """
    A gateway, an administrator and a stranger.

    Args:
        port: The port of the service.
        settings: The settings of the service, to mint tokens with.
        other_key: The ARN of a key that is not in the ring.
    """

    port: int
    settings: Settings
    other_key: str
    submissions: list[Submission] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._merchant = self._bearer(["merchant"], "gateway")

    def submit(self, amount: str = "1.25", **headers: str) -> Answer:
        """Request a refund to a new recipient."""
        submission = Submission(secrets.token_hex(8), _refund(amount))
        self.submissions.append(submission)
        return self.repeat(submission, **headers)

    def repeat(self, submission: Submission, **headers: str) -> Answer:
        """Request a refund, again if it was requested before."""
        name = f"`POST {_REFUNDS}`" + (_WAITING if headers else "")
        sent = self._merchant | {"Idempotency-Key": submission.key} | headers
        return self._send(name, "POST", _REFUNDS, sent, submission.body)

    def get(self, refund_id: str, **headers: str) -> Answer:
        name = f"`GET {_ONE}`" + (_WAITING if headers else "")
        path = f"{_REFUNDS}/{refund_id}"
        return self._send(name, "GET", path, self._merchant | headers)

    def find(self, submission: Submission) -> Answer:
        """List the refunds of the submission's payment."""
        session = submission.body["payment_session_id"]
        path = f"{_REFUNDS}?payment_session_id={session}"
        return self._send(f"`GET {_REFUNDS}`", "GET", path, self._merchant)

    def cancel(self, refund_id: str) -> Answer:
        path = f"{_REFUNDS}/{refund_id}/cancel"
        return self._send(f"`POST {_ONE}/cancel`", "POST", path, self._merchant)

    def ready(self) -> Answer:
        return self._send("`GET /readyz`", "GET", "/readyz", {})

    def raise_alert(self) -> Answer:
        """Fail over to a key that does not exist."""
        head, _, key = self.other_key.rpartition("/")
        return self._administer("failover", newKeyId=f"{head}/{'0' * len(key)}")

    def send_all(self, paid: str, queued: str) -> Sequence[Answer]:
        """Send each kind of request at once, concerning a paid and a queued refund."""
        requests = list(self._requests(paid, queued))
        with ThreadPoolExecutor(len(requests)) as threads:
            return list(threads.map(lambda send: send(), requests))

    def _requests(self, paid: str, queued: str) -> "Iterator[Any]":
        wait = {"Prefer": f"wait={WAIT}"}
        earlier = self.submissions[0]
        yield self.submit
        yield partial(self.submit, **wait)
        yield partial(self.repeat, earlier)
        yield partial(self.get, paid)
        yield partial(self.get, queued, **wait)
        yield partial(self.find, earlier)
        yield partial(
            self._send,
            f"`GET {_ONE}/explain`",
            "GET",
            f"{_REFUNDS}/{queued}/explain",
            self._merchant,
        )
        yield partial(
            self._send,
            f"`POST {_REFUNDS}/preview`",
            "POST",
            f"{_REFUNDS}/preview",
            self._merchant,
            _refund("1.25"),
        )
        yield partial(
            self._send, "`GET /v1/tokens`", "GET", "/v1/tokens", self._merchant
        )
        yield partial(self.cancel, queued)
        yield partial(self._administer, "rotate", newKeyId=self.other_key, dryRun=True)
        for path in ("/v1/admin/keys", "/metrics"):
            token = self._administrator()
            yield partial(self._send, f"`GET {path}`", "GET", path, token)
        for path in (_REFUNDS, "/v1/admin/keys"):
            yield partial(
                self._send, "a request without a valid token", "GET", path, {}
            )
        yield self.ready
        yield partial(self._send, "`GET /healthz`", "GET", "/healthz", {})

    def _administer(self, action: str, **body: object) -> Answer:
        path = f"/v1/admin/kms/{action}"
        return self._send(f"`POST {path}`", "POST", path, self._administrator(), body)

    def _administrator(self) -> Mapping[str, str]:
        # Each request has a subject of its own, so that no rate limit applies.
        subject = f"administrator-{secrets.token_hex(4)}"
        return self._bearer(["admin", "devops"], subject, *_SCOPES)

    def _bearer(
        self, roles: Sequence[Role], subject: str, *scopes: str
    ) -> dict[str, str]:
        token = mint(self.settings, subject=subject, roles=roles, scopes=scopes)
        return {"Authorization": f"Bearer {token}"}

    def _send(
        self,
        name: str,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: object = None,
    ) -> Answer:
        sent = None if body is None else json.dumps(body)
        all_headers = {"Content-Type": "application/json", **headers}
        start = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, _PATIENCE)
        try:
            connection.request(method, path, sent, all_headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        seconds = time.monotonic() - start
        is_json = "json" in (answer.getheader("Content-Type") or "")
        parsed = json.loads(text) if is_json else text
        return Answer(name, answer.status, seconds, parsed)


def _refund(amount: str) -> Mapping[str, str]:
    return {
        "payment_session_id": f"ps_{secrets.token_hex(8)}",
        "network": "local",
        "token": "TUSD",
        "recipient": to_checksum_address(secrets.token_bytes(20)),
        "amount": amount,
    }
