"""The port to a treasury: another ``hotwallet`` service, which tops up this wallet."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from signer.model.refund import RefundRequest, Status


@dataclass(frozen=True, slots=True)
class TreasuryToken:
    """A token that the treasury pays, by the names of its network and symbol there."""

    network: str
    symbol: str


@dataclass(frozen=True, slots=True)
class TopUp:
    """A refund of the treasury to this service, as the treasury reports it."""

    id: str
    status: Status
    created_at: datetime
    block_number: int | None = None


class Treasury(Protocol):
    """
    Asks a treasury.  What it answers may be false.

    Methods raise ``TreasuryError`` if there is no usable answer.
    """

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
