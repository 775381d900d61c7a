"""A used nonce of a wallet: its rows, its transaction, and what left the wallet."""

from collections.abc import Sequence
from dataclasses import dataclass

from signer.chain.erc20 import read_mark
from signer.model.refund import COIN_ADDRESS
from signer.ports.book_reader import Attempt, NonceEntry
from signer.ports.chain_history import Settled, TokenTransfer


NO_NONCE = -1
"""The nonce of a transfer that another account's transaction made."""


@dataclass(frozen=True, slots=True)
class Payment:
    """An amount that left a wallet, in base units; the coin is ``COIN_ADDRESS``."""

    asset: str
    recipient: str
    amount: int


@dataclass(frozen=True, slots=True)
class UsedNonce:
    """
    One used nonce: its rows, its transaction, and what left the wallet in that.

    ``settled`` is None if no transaction was found.  ``precedes_ledger`` is whether the
    nonce was used before this service had the wallet.
    """

    wallet: str
    entry: NonceEntry
    settled: Settled | None
    payments: tuple[Payment, ...] = ()
    precedes_ledger: bool = False

    @property
    def attempt(self) -> Attempt | None:
        """The signed transaction that was mined, if the ledger has it."""
        return next(
            (
                each
                for each in self.entry.attempts
                if self.settled and each.tx_hash == self.settled.tx_hash
            ),
            None,
        )

    @property
    def is_own(self) -> bool:
        """Whether the transaction is one of the refund that has the nonce."""
        refund, settled = self.entry.refund, self.settled
        if refund is None or settled is None:
            return False
        return self.attempt is not None or refund.tx_hash == settled.tx_hash

    @property
    def kind(self) -> str:
        """What used the nonce: refund, sweep, filler, other, or earlier."""
        refund = self.entry.refund
        if self.precedes_ledger:
            return "earlier"
        if refund is None or not self.is_own:
            return "other"
        if refund.swept_from is not None:
            return "sweep"
        return "filler" if refund.is_filler else "refund"

    @property
    def is_accepted(self) -> bool:
        """Whether an operator accepted the foreign transaction that used the nonce."""
        seen = self.entry.unrecorded
        return seen is not None and seen.accepted_at is not None

    @property
    def mark(self) -> bytes | None:
        """The mark in the calldata of a transaction that no row of a refund has."""
        if self.is_own or self.settled is None:
            return None
        return read_mark(self.settled.data)


def read_payments(
    settled: Settled | None, transfers: Sequence[TokenTransfer]
) -> tuple[Payment, ...]:
    """Return what left a wallet: *transfers*, and the coin of its own *settled*."""
    moved = [Payment(each.token, each.recipient, each.amount) for each in transfers]
    if settled is None:
        return tuple(moved)
    if settled.succeeded and settled.value and settled.to != settled.sender:
        moved.append(Payment(COIN_ADDRESS, str(settled.to), settled.value))
    return tuple(moved)
