"""What the core reads about refunds."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Protocol

from signer.model.refund import InFlight, Move, Page, Refund, SignedTransaction, Status
from signer.model.signed_request import SignedRequest


class RefundReader(Protocol):
    """Reads refunds; raises ``StoreUnavailableError`` if the database is down."""

    def find(self, tenant: str, idempotency_key: str) -> Refund | None:
        """Return the refund that the tenant created with this key, or None."""

    def signed_request(self, refund_id: str) -> SignedRequest | None:
        """Return the request that was stored with the refund, or None."""

    def find_reference(self, tenant: str, reference: str) -> Refund | None:
        """Return the refund that the tenant created with this reference, or None."""

    def find_nonce(self, chain_id: int, sender: str, nonce: int) -> Refund | None:
        """Return the refund that has this nonce of a wallet, or None."""

    def find_earlier(self, refund: Refund, tenants: Collection[str]) -> Refund | None:
        """
        Return the refund that one of *tenants* created with the key of *refund*.

        Raises:
            IdempotencyMismatchError: One of *tenants* used the key with another
                fingerprint.
            ConflictError: One of *tenants* used the reference with another key.
        """

    def get(self, refund_id: str) -> Refund | None:
        """Return the refund with this id, or None."""

    def find_advanced(
        self, refund_ids: Collection[str], statuses: Collection[Status]
    ) -> Sequence[tuple[Refund, str | None]]:
        """
        Return the refunds that have left *statuses* or are blocked, with their answers.

        *refund_ids* are the refunds in question.  An answer is None as in ``answer``.
        """

    def list(
        self,
        tenant: str,
        *,
        payment_session_id: str | None = None,
        status: Status | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """
        Return the page of a tenant's refunds after *cursor*, newest first.

        Raises:
            InvalidInputError: *limit* or *cursor* is out of range.
        """

    def in_flight(self, limit: int, after: str | None = None) -> Sequence[InFlight]:
        """
        Return up to *limit* refunds that were sent and are not final, oldest first.

        *after* is the id of the last refund of the previous batch.  The cost grows with
        the number of open refunds, not with the size of the ledger.
        """

    def open_calls(self, chain_id: int) -> Sequence[Refund]:
        """Return the calls of a chain that are not final, oldest first."""

    def open_below(
        self, chain_id: int, sender: str, nonce: int, limit: int
    ) -> Sequence[Refund]:
        """Return up to *limit* open refunds of a wallet below *nonce*, lowest first."""

    def transactions(self, refund_id: str) -> Sequence[SignedTransaction]:
        """Return every transaction signed for a refund, oldest first."""

    def recent_max_fees(
        self, chain_id: int, sender: str, since: datetime, limit: int
    ) -> Sequence[int]:
        """
        Return the max fees per gas, in wei, of a wallet's last confirmed transactions.

        At most *limit* transactions count, and only those signed from *since* on.
        """

    def history(self, refund_id: str) -> Sequence[Move]:
        """Return the state changes of a refund, oldest first."""

    def answer(self, refund_id: str) -> str | None:
        """
        Return the stored response to the refund's request, or None.

        A ``PENDING_ANSWER`` counts as None.
        """
