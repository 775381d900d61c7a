"""
A client of a treasury: another ``hotwallet`` service, which tops up this wallet.

The bearer token is read from its file for each request, since it lives for minutes.
Redirects are not followed, so that no other host gets it.
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Protocol, TypeVar
from urllib.parse import urlencode

from pydantic import (
    AwareDatetime,
    BaseModel,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
)
from pydantic.dataclasses import dataclass as checked_dataclass

from api.container import Container
from api.extras.top_ups import open_treasury
from api.metrics.workers import read_failing_top_ups
from backends.http_client import ExchangeError, HTTPClient, Response, is_secure
from signer.alerts import Alert
from signer.diagnostics import EXPLAIN, Check, Finding
from signer.errors import ConfigurationError, Refusal, TreasuryError
from signer.model.refund import RefundRequest, Status
from signer.private_files import is_private


@dataclass(frozen=True, slots=True)
class TreasuryToken:
    """A token that the treasury pays, by the names of its network and symbol there."""

    network: str
    symbol: str


@checked_dataclass(frozen=True)
class TopUp:
    """A refund of the treasury to this service, as the treasury reports it."""

    id: Annotated[str, Field(pattern=r"^rf_[0-9a-f]{32}$")]  # A part of a header.
    status: Status
    created_at: AwareDatetime
    block_number: int | None = None


class Treasury(Protocol):
    """Asks a treasury, whose answers may be false; raises ``TreasuryError``."""

    def find_token(self, chain_id: int, address: str) -> TreasuryToken | None:
        """Return the treasury's name of the token contract *address*."""

    def newest_top_up(self, session_id: str) -> TopUp | None:
        """Return this service's newest refund of the payment session *session_id*."""

    def request(self, request: RefundRequest, idempotency_key: str) -> TopUp:
        """
        Request a refund, or return the one with the same key.

        Raises:
            TreasuryError: There is no answer, so the treasury may pay.  Or it refused
                (``is_refusal``), and pays nothing.
        """


TIMEOUT = 10.0
"""Seconds for one request and its whole response."""

MAX_BYTES = 1024 * 1024
"""Bytes of an answer; each token of the treasury takes about 1 KiB."""

_MOST_OF_TOKEN = 16 * 1024
_BEARER = re.compile(rb"[A-Za-z0-9._~+/=-]{1,%d}" % _MOST_OF_TOKEN)  # RFC 6750.

_HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}

# Others, such as 401 and 429, may be over at the next request.
_REFUSALS = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.CONFLICT,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    }
)

_Code = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")]


class _TreasuryToken(BaseModel):
    network: str
    chain_id: int
    token: str
    address: str


class _Tokens(BaseModel):
    tokens: list[_TreasuryToken]


class _Page(BaseModel):
    refunds: list[TopUp]


class _Problem(BaseModel):
    code: _Code


T = TypeVar("T")


def doctor_checks(container: Container) -> Iterator[Check]:
    """Yield the check whether the treasury answers, and top-ups do not fail."""
    needs = ("networks", "database")
    yield Check("top-ups", partial(_check, container), EXPLAIN, needs)


def _check(container: Container) -> Finding:
    failing = read_failing_top_ups(container.store.workers(), container.ledger_clock())
    problems = [f"{each} is low and is not topped up" for each in failing]
    treasury = open_treasury(container)
    answer = "no treasury is configured (TREASURY_URL)"
    if treasury is not None:
        answer = "the treasury answers"
        problems += [
            f"the treasury has no token at the address of {symbol} on {name}"
            for name, network in container.networks.items()
            for symbol, token in network.topped_up.items()
            if treasury.find_token(network.chain_id, token.address) is None
        ]
    if problems:
        return Finding("; ".join(problems), EXPLAIN, Alert.TOP_UP_FAILING)
    return Finding(answer)


class TreasuryClient:
    """Asks one treasury; build it after the fork."""

    def __init__(
        self,
        url: SecretStr | None,
        token_file: Path | None,
        *,
        allow_http: bool,
        timeout: float = TIMEOUT,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """
        Check *url*, the address of the service, and *token_file*; nothing is sent.

        *allow_http* allows plain HTTP to a loopback address.

        Raises:
            ConfigurationError: ``treasury-misconfigured``; the message omits the URL.
        """
        if url is None or token_file is None:
            raise _refused("TREASURY_URL and TREASURY_TOKEN_FILE need each other")
        base = url.get_secret_value()
        if not is_secure(base, allow_http=allow_http) or "?" in base or "#" in base:
            raise _refused(
                "TREASURY_URL must be an https URL with a host, and without a user name"
                " and a query"
            )
        self._token_file = token_file
        try:
            self._read_token()
        except (OSError, ValueError) as e:
            # Do not show the path: it may be a secret in the wrong variable.
            why = str(e) if isinstance(e, ValueError) else type(e).__name__
            raise _refused(f"TREASURY_TOKEN_FILE: {why}") from None
        self._client = HTTPClient(
            SecretStr(f"{base.rstrip('/')}/v1"),
            timeout=timeout,
            headers=_HEADERS,
            max_bytes=MAX_BYTES,
            tls=tls,
        )

    def __repr__(self) -> str:
        return "TreasuryClient(...)"

    def find_token(self, chain_id: int, address: str) -> TreasuryToken | None:
        found = self._exchange(_Tokens, "GET", "/tokens").tokens
        wanted = chain_id, address.lower()
        return next(
            (
                TreasuryToken(each.network, each.token)
                for each in found
                if (each.chain_id, each.address.lower()) == wanted
            ),
            None,
        )

    def newest_top_up(self, session_id: str) -> TopUp | None:
        query = urlencode({"payment_session_id": session_id, "limit": 1})
        page = self._exchange(_Page, "GET", f"/refunds?{query}")
        return page.refunds[0] if page.refunds else None

    def request(self, request: RefundRequest, idempotency_key: str) -> TopUp:
        given = {name: value for name, value in asdict(request).items() if value}
        headers = {"Idempotency-Key": idempotency_key, "Prefer": "respond-async"}
        body = json.dumps(given).encode()
        return self._exchange(TopUp, "POST", "/refunds", body, headers)

    def _exchange(
        self,
        kind: type[T],
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> T:
        try:
            token = self._read_token()
        except (OSError, ValueError):
            raise TreasuryError("token-file-unusable") from None
        sent = {"Authorization": f"Bearer {token}", **(headers or {})}
        try:
            response = self._client.exchange(method, body, headers=sent, path=path)
        except ExchangeError as e:
            raise TreasuryError(e.reason) from None
        if response.status not in {HTTPStatus.OK, HTTPStatus.CREATED}:
            raise _read_refusal(response)
        try:
            return TypeAdapter(kind).validate_json(response.body)
        except ValidationError:  # Its message quotes the answer.
            pass
        raise TreasuryError("answer-invalid")

    def _read_token(self) -> str:
        """Return the token; ``OSError`` or ``ValueError`` if it is unusable."""
        with self._token_file.open("rb") as file:
            if not is_private(file.fileno()):
                raise ValueError("other users can access the file: chmod 600")
            token = file.read(_MOST_OF_TOKEN + 1).strip()
        if not _BEARER.fullmatch(token):
            raise ValueError("the file must have one bearer token")
        return token.decode()


def _read_refusal(response: Response) -> TreasuryError:
    """Return the error of a status: a code of the treasury's, or the status."""
    try:
        reason = _Problem.model_validate_json(response.body).code
    except ValidationError:
        reason = f"status-{response.status}"
    return TreasuryError(reason, is_refusal=response.status in _REFUSALS)


def _refused(message: str) -> ConfigurationError:
    return ConfigurationError(Refusal("treasury-misconfigured", message))
