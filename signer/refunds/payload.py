"""
What the transaction that pays a row of the ledger does: recipient, coin and calldata.

This is the only place that derives it from the row.
"""

from dataclasses import dataclass

from signer.chain.erc20 import encode_transfer
from signer.crypto.transactions import AnyTransaction
from signer.model.refund import Refund
from signer.model.transaction import Transaction, TransactionKind
from signer.ports.chain import MinedTransaction


@dataclass(frozen=True, slots=True)
class Payload:
    """The fields of a transaction that do not depend on nonce, gas and fees."""

    to: str
    value: int
    data: bytes

    def is_of(self, transaction: AnyTransaction | MinedTransaction) -> bool:
        """Return whether *transaction* does exactly this."""
        found = transaction.to, transaction.value, transaction.data
        return found == (self.to, self.value, self.data)


def payload_of(refund: Refund) -> Payload:
    """
    Return what pays *refund*.

    A token's transfer has the refund's memo at its end.  A call is what its client
    chose: nothing may be added to the calldata of an unknown function.
    """
    if refund.calldata is not None:
        return Payload(refund.recipient, refund.amount, refund.calldata)
    if refund.kind is TransactionKind.COIN:
        return Payload(refund.recipient, refund.amount, b"")
    data = encode_transfer(refund.recipient, refund.amount, refund.memo)
    return Payload(refund.token_address, 0, data)


def pays_by(transaction: Transaction, sent: AnyTransaction | MinedTransaction) -> bool:
    """Return whether *sent* makes exactly the payment of *transaction*."""
    payments = transaction.payments
    return len(payments) == 1 and payload_of(payments[0]).is_of(sent)
