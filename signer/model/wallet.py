"""
A wallet on one chain, its pauses, and transactions that the ledger has no record of.

The ledger knows a nonce by the refund that holds it, or by an *unrecorded
transaction*: a final transaction that the chain had and the ledger did not.  Either a
backup of the ledger was restored, or someone else has the key.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from signer.errors import RowNotAuthenticError, WalletPausedError
from signer.model.sealed_fields import NotStored, PrimaryKey, Small, sealed


NOOP_MEMO = bytes(16)
"""The memo of a no-op that a restored ledger has forgotten; no refund has it."""

PAID = "paid"
"""The end of an item that a vault has paid."""


class Pause(StrEnum):
    """Why a wallet assigns no new nonces; refunds that have one continue."""

    UNKNOWN_HISTORY = "unknown-history"
    CHAIN_AHEAD = "chain-ahead"
    FOREIGN_TRANSACTION = "foreign-transaction"
    RESTORED = "restored"


@sealed("wallet")
@dataclass(frozen=True)
class Wallet:
    """
    One address on one chain.

    ``next_nonce`` is one more than the highest nonce in the ledger, and at least
    ``first_nonce``, where the ledger starts.  ``version`` counts the changes: each is a
    compare-and-set on it.

    ``high_water`` is one more than the highest nonce that the wallet may have signed
    before its ledger was restored.  The wallet resumes when every nonce below is final.
    A wallet that is paused as ``RESTORED`` without it waits for ``hotwallet restore``.

    ``is_authentic`` is not stored: it is False if the MAC of the stored row is not
    valid, or that of its transaction or unrecorded transaction with the highest nonce.
    No other field can be trusted then.
    """

    chain_id: PrimaryKey[int]
    sender: PrimaryKey[str]
    first_nonce: int
    next_nonce: NotStored[int]
    paused_by: Pause | None = None
    paused_at: datetime | None = None
    version: Small = 0
    high_water: int | None = None
    mac: str | None = field(default=None, compare=False, repr=False)
    is_authentic: NotStored[bool] = True

    @property
    def is_paused(self) -> bool:
        """Whether it assigns no new nonces: another program cannot end a pause."""
        return self.paused_by is not None or not self.is_authentic

    @property
    def pause_reason(self) -> str | None:
        """Why it is paused; None if it is not."""
        return self.paused_by if self.is_authentic else RowNotAuthenticError.code

    def error(self) -> WalletPausedError | RowNotAuthenticError:
        """Return the error of refunds that get no nonce while it is paused."""
        if not self.is_authentic:
            return RowNotAuthenticError(
                f"another program changed the row of wallet {self.sender} of chain"
                f" {self.chain_id} (`wallets`), or of its last transaction"
                " (`transactions`, `unrecorded_transactions`), or MAC_KEY_FILE has"
                " other keys: `hotwallet restore` opens a changed wallet again; the"
                " owner of the tables must delete an invented transaction"
            )
        return WalletPausedError(
            f"the wallet is paused ({self.paused_by}): run `hotwallet nonce repair` if"
            " it does not resume by itself"
        )


@sealed("unrecorded transaction")
@dataclass(frozen=True)
class UnrecordedTransaction:
    """
    A final transaction of one of our wallets that the ledger did not know.

    ``memo`` names the refund that it paid (``Refund.memo``); None means that it is
    *foreign*: this service did not make it.  A foreign transaction keeps the wallet
    paused until an operator accepts it.  ``is_held``: the ledger has a transaction with
    the same nonce, which can never be mined.  ``is_authentic`` is not stored: it is
    False if the MAC of the stored row is not valid.

    A batch has a row for each of its items, by ``position``.  ``item_end`` is ``PAID``,
    or the failure code of a refund that the vault did not pay for good.  An item that
    may still be paid has the memo of a no-op.
    """

    chain_id: PrimaryKey[int]
    sender: PrimaryKey[str]
    nonce: PrimaryKey[int]
    tx_hash: str
    memo: bytes | None
    gas_limit: int
    block_number: int
    block_hash: str
    seen_at: datetime
    accepted_at: datetime | None = None
    position: PrimaryKey[int] = 0
    item_end: str | None = None
    mac: str | None = field(default=None, compare=False, repr=False)
    is_held: NotStored[bool] = False
    is_authentic: NotStored[bool] = True

    @property
    def is_unaccepted(self) -> bool:
        """Whether it is foreign, and no operator has accepted it."""
        return self.memo is None and self.accepted_at is None

    @property
    def has_paid(self) -> bool:
        """Whether the refund with its memo got the money, unless it reverted."""
        return self.memo is not None and self.item_end in {None, PAID}

    def require_authentic(self) -> None:
        if not self.is_authentic:
            raise RowNotAuthenticError(
                f"another program changed the row of nonce {self.nonce} of wallet"
                f" {self.sender} of chain {self.chain_id} (`unrecorded_transactions`),"
                " or MAC_KEY_FILE has other keys: the owner of the tables must delete"
                " the row; a worker then records what the chain has"
            )
