"""
Verifies that a tenant signed the request for a refund.

The API verifies the request that it accepts.  A worker verifies the stored request
again before it reserves the nonce and before it asks for the signature, so that a host
of the API alone, which has the key of the MACs, cannot pay a refund of such a tenant.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from signer import strict_json
from signer.amounts import parse_units
from signer.config.tenants import TenantRegistry
from signer.crypto.http_signatures import accept_signature, verify_request
from signer.errors import RequestError, RequestSignatureError, RowNotAuthenticError
from signer.model.acceptance import METHOD, NO_SIGNATURE, PATH, SignedRequest
from signer.model.refund import AS_REQUESTED, Refund, RefundRequest
from signer.ports.ledger import Ledger
from signer.refunds.request_body import read_refund


MAX_AGE = timedelta(minutes=5)
"""How far the time of a signature may be from the service's time, before or after."""

MAX_STORED_AGE = 2 * MAX_AGE
"""How far the time of a signature may be from that of its row, stored a bit later."""


class SignedRequests:
    """Verifies the requests of tenants that have ``request_keys``."""

    def __init__(self, store: Ledger, tenants: TenantRegistry) -> None:
        self._store = store
        self._tenants = tenants

    def verify(
        self,
        tenant: str,
        idempotency_key: str,
        signed: SignedRequest,
        now: datetime,
    ) -> SignedRequest | None:
        """
        Return *signed*, dated *now*, if *tenant* signs its requests; None if not.

        Raises:
            RequestSignatureError: The tenant signs, and this is not signed by one of
                its keys within ``MAX_AGE``; the message says what to sign.
        """
        if not self._tenants.request_keys(tenant):
            return None
        try:
            signed = replace(signed, at=now)
            self._verify(tenant, idempotency_key, signed, MAX_AGE)
        except RequestSignatureError as e:
            accept = accept_signature(self._tenants.service)
            raise RequestSignatureError(
                f"{e}. Sign {METHOD} {PATH} as RFC 9421 says: {accept}", accept=accept
            ) from e
        return signed

    def require(self, refund: Refund) -> None:
        """
        Require that the tenant of *refund* requested it, if the tenant signs.

        A sweep has no tenant.  A refund with signed bytes passes: a worker verified
        its request before it signed them.  They may be public already, so a refund that
        waits would only block the wallet's later nonces.

        Raises:
            RowNotAuthenticError: There is no signed request of exactly this refund.
        """
        if refund.bound_sender is not None:
            return
        try:
            if self._tenants.request_keys(refund.tenant):
                self._require(refund)
        except RequestError as e:
            raise RowNotAuthenticError(
                f"the tenant {refund.tenant} did not request the refund {refund.id}:"
                f" {e}"
            ) from e

    def _require(self, refund: Refund) -> None:
        # Only workers insert transactions, but an intruder can choose the row's status.
        if self._store.transactions(refund.id):
            return
        signed = self._store.signed_request(refund.id) or NO_SIGNATURE
        self._verify(refund.tenant, refund.idempotency_key, signed, MAX_STORED_AGE)
        requested = read_refund(strict_json.loads(signed.body))
        for name in _find_differences(requested, refund):
            raise RequestSignatureError(f"the signed request has another {name}")

    def _verify(
        self, tenant: str, idempotency_key: str, signed: SignedRequest, age: timedelta
    ) -> None:
        created = verify_request(
            method=METHOD,
            path=PATH,
            headers={
                "Idempotency-Key": idempotency_key,
                "Content-Digest": signed.content_digest,
                "Signature-Input": signed.signature_input,
                "Signature": signed.signature,
            },
            body=signed.body,
            keys=self._tenants.request_keys(tenant),
            service=self._tenants.service,
        )
        _require_near(created, signed.at, age)


def _find_differences(requested: RefundRequest, refund: Refund) -> list[str]:
    """Return the names of the fields of *refund* that are not as *requested*."""
    found = [
        name
        for name in AS_REQUESTED
        if getattr(requested, name) != getattr(refund, name)
    ]
    if parse_units(requested.amount, refund.decimals) != refund.amount:
        found.append("amount")
    if refund.calldata is not None:  # No gateway requests a call.
        found.append("calldata")
    return found


def _require_near(created: datetime, at: datetime, age: timedelta) -> None:
    if abs(at - created) > age:
        minutes = age // timedelta(minutes=1)
        raise RequestSignatureError(
            f"the parameter created is more than {minutes} minutes from the time of"
            " the service"
        )
