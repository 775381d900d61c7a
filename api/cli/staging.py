"""A staging deployment that commands test: its URL, a tenant's token, and requests."""

import json
import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import urllib3

from signer import strict_json
from signer.errors import InvalidInputError


SECONDS = 20.0
"""How long an answer may take."""

MAX_ANSWER = 4 * 1024 * 1024
"""How much of an answer is read, in bytes."""

_TRIES = 3

_MAX_WAIT = 60
"""How many seconds to wait at most after too many requests."""

_SUCCESS, _TOO_MANY_REQUESTS = 2, 429


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request; ``document`` is None if it is no JSON object."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Mapping[str, Any]:
        """The body's object; empty if it is none."""
        try:
            found = strict_json.parse(self.body)
        except InvalidInputError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def is_accepted(self) -> bool:
        return self.status // 100 == _SUCCESS


class Deployment:
    """A deployment at *url*, of which one knows the *token* of a tenant."""

    def __init__(self, url: str, token: str, recipient: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise InvalidInputError("must be an http or https URL", field="--staging")
        self.url = url.rstrip("/")
        self.token = token
        self.recipient = recipient
        self.host = parts.hostname
        self.is_secure = parts.scheme == "https"
        self.port = parts.port or (443 if self.is_secure else 80)
        self._pool = urllib3.PoolManager(retries=False, timeout=SECONDS, maxsize=32)

    def require_test_chains(
        self, chain_ids: Collection[int], field: str, token: str
    ) -> None:
        """
        Require that the tenant of *token* is paid on none but *chain_ids*.

        Raises:
            InvalidInputError: The URL does not answer, the token, which the option
                *field* names, is not accepted, or refunds are paid on other chains.
        """
        shown = self._tokens(field, token)
        require_named({each["chain_id"] for each in shown}, chain_ids)

    def _tokens(self, field: str, token: str) -> Sequence[Mapping[str, Any]]:
        try:
            answer = self.ask("GET", "/v1/tokens", token=token)
        except urllib3.exceptions.HTTPError as e:
            problem = f"does not answer ({type(e).__name__})"
            raise InvalidInputError(problem, field="--staging") from None
        shown = answer.document.get("tokens")
        if not shown:
            problem = f"shows no tokens to refund (HTTP {answer.status})"
            raise InvalidInputError(problem, field=field)
        return list(shown)

    @cached_property
    def asset(self) -> Mapping[str, Any]:
        """The first token that may be refunded, as ``GET /v1/tokens`` shows it."""
        return self._tokens("--token-file", self.token)[0]

    @cached_property
    def smallest(self) -> str:
        """The smallest amount that may be refunded."""
        unit = f"0.{'1'.rjust(self.asset['decimals'], '0')}"
        return str(self.asset.get("min_amount") or unit)

    @cached_property
    def refund_id(self) -> str:
        """A refund, which pays ``smallest`` to the recipient."""
        answer = self.pay()
        if not answer.is_accepted:
            raise InvalidInputError(
                f"accepts no refund of the smallest amount (HTTP {answer.status},"
                f" {answer.document.get('code')}): check the recipient and the limits",
                field="--staging",
            )
        return str(answer.document["id"])

    def request(self, **fields: Any) -> dict[str, Any]:
        """Return a valid request of a refund, with other *fields*."""
        return {
            "payment_session_id": f"staging-{secrets.token_hex(8)}",
            "network": self.asset["network"],
            "token": self.asset["token"],
            "recipient": self.recipient,
            "amount": self.smallest,
            **fields,
        }

    def pay(self, key: str | None = None, **fields: Any) -> Answer:
        headers = {"Idempotency-Key": key or secrets.token_hex(16)}
        body = json.dumps(self.request(**fields)).encode()
        return self.ask(
            "POST", "/v1/refunds", token=self.token, body=body, headers=headers
        )

    def ask(
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        is_patient: bool = True,
    ) -> Answer:
        """
        Send one request, follow no redirect, and return the answer.

        A client that sends too much proves nothing about its other requests: if the
        deployment says so, wait and ask again, unless not *is_patient*.

        Raises:
            urllib3.exceptions.HTTPError: There is none.
        """
        given = {"Content-Type": "application/json", **(headers or {})}
        if token is not None:
            given["Authorization"] = f"Bearer {token}"
        for _ in range(_TRIES if is_patient else 1):
            answer = self._send(method, path, body, given)
            if answer.status != _TOO_MANY_REQUESTS:
                break
            if is_patient:
                self._wait(answer)
        return answer

    def _send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Answer:
        response = self._pool.request(
            method,
            self.url + path,
            body=body,
            headers=headers,
            redirect=False,
            preload_content=False,
        )
        try:
            content = response.read(MAX_ANSWER)
        finally:
            response.release_conn()
        return Answer(response.status, response.headers, content)

    def _wait(self, answer: Answer) -> None:
        given = answer.headers.get("Retry-After", "")
        seconds = int(given) if given.isdecimal() else _MAX_WAIT
        time.sleep(min(seconds, _MAX_WAIT))


def require_named(chains: Collection[int], named: Collection[int]) -> None:
    """Raise ``InvalidInputError`` unless all *chains* are *named* as test chains."""
    others = set(chains) - set(named)
    if others:
        problem = (
            f"pays on chain {min(others)}, which is not named: use only a deployment"
            " whose chains are all test chains"
        )
        raise InvalidInputError(problem, field="--chain-id")
