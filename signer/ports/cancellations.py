"""Requests to cancel refunds: the API stores them, and a worker carries them out."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from signer.model.audit_record import Record
from signer.model.refund import Refund


class Cancellations(Protocol):
    """
    The requests to cancel refunds that have no nonce.

    A request changes neither the version nor the due time.  Once it is stored, the
    refund gets no nonce: ``Store.reserve`` fails, also if the worker read it before.
    """

    def request_cancellation(
        self, refund: Refund, at: datetime, record: Record
    ) -> bool:
        """
        Store that a caller asked at *at* to cancel *refund*, unless it is too late.

        *record*, the audit record of the request, is written in the same transaction if
        the request is stored.

        Returns:
            Whether this call stored it.  If not, the refund has a nonce or has ended,
            or the first request stays as it is.

        Raises:
            RowNotAuthenticError: As ``Store.require_authentic``.
        """

    def cancellation_requests(
        self, limit: int, after: str | None = None
    ) -> Sequence[Refund]:
        """
        Return up to *limit* refunds that a caller asked to cancel, oldest first.

        *after* is the id of the last refund of the previous batch.  A worker that
        cannot cancel some reads on after them, so that they hold up no others.
        """
