"""The names of what may differ between ledger and chain."""

from dataclasses import dataclass
from enum import StrEnum


class Code(StrEnum):
    """The differences; ``docs/how-to/reconcile.md`` explains each."""

    REFUND_WITHOUT_TRANSFER = "refund-without-transfer"
    CONFIRMED_BUT_MISSING = "confirmed-but-missing"
    TRANSFER_WITHOUT_REFUND = "transfer-without-refund"
    COIN_WITHOUT_REFUND = "coin-without-refund"
    UNKNOWN_TRANSACTION = "unknown-transaction"
    FOREIGN_TRANSACTION = "foreign-transaction"
    WRONG_AMOUNT = "wrong-amount"
    WRONG_RECIPIENT = "wrong-recipient"
    WRONG_TOKEN = "wrong-token"  # noqa: S105  A code.
    WRONG_BLOCK = "wrong-block"
    PAID_TWICE = "paid-twice"
    REFUSED_BUT_PAID = "refused-but-paid"
    MINED_BUT_OPEN = "mined-but-open"
    FEE_MISMATCH = "fee-mismatch"
    BALANCE_MISMATCH = "balance-mismatch"
    ROW_CHANGED = "row-changed"
    UNKNOWN_SENDER = "unknown-sender"


@dataclass(frozen=True, slots=True)
class Difference:
    """
    One difference.

    ``expected`` is what the ledger records and ``found`` what the chain shows, as text:
    amounts are decimal strings in whole tokens.  What does not apply is None.
    """

    code: Code
    network: str
    wallet: str
    detail: str
    refund_id: str | None = None
    nonce: int | None = None
    tx_hash: str | None = None
    asset: str | None = None
    expected: str | None = None
    found: str | None = None
