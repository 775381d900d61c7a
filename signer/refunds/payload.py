"""
What the transaction that pays rows of the ledger does: recipient, coin and calldata.

This is the only place that derives it from the rows.
"""

from dataclasses import dataclass

from signer.chain.erc20 import encode_payment
from signer.chain.vault import Item, encode_pay
from signer.config.networks import Network
from signer.crypto.transactions import AnyTransaction
from signer.model.payment import PaymentPurpose
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


def find_vault(refund: Refund, network: Network) -> str | None:
    """Return the vault that pays *refund*; None if the wallet's own address does."""
    return network.vault if refund.purpose is PaymentPurpose.REFUND else None


def transfer_of(refund: Refund) -> Payload:
    """
    Return what pays *refund* from the address that holds the token or the coin.

    A token's transfer has the refund's memo at its end.  A call is what its client
    chose: nothing may be added to the calldata of an unknown function.
    """
    if refund.calldata is not None:
        return Payload(refund.recipient, refund.amount, refund.calldata)
    if refund.kind is TransactionKind.COIN:
        return Payload(refund.recipient, refund.amount, b"")
    token = refund.token_address
    data = encode_payment(token, refund.recipient, refund.amount, refund.memo)
    return Payload(token, 0, data)


def payload_of(transaction: Transaction) -> Payload:
    """
    Return what makes the payments of *transaction*, of which a batch has all.

    Raises:
        EncodingError: An amount is above what a vault can pay.
        ValueError: It is a filler, or several are paid without a vault.
    """
    if transaction.vault is None:
        return transfer_of(transaction.payment)
    (token,) = {each.token_address for each in transaction.payments}
    return Payload(transaction.vault, 0, encode_pay(token, items_of(transaction)))


def items_of(transaction: Transaction) -> tuple[Item, ...]:
    """Return what a vault pays for a batch, in the order of its events."""
    return tuple(
        Item(each.recipient, each.amount, each.memo) for each in transaction.payments
    )


def pays_by(transaction: Transaction, sent: AnyTransaction | MinedTransaction) -> bool:
    """Return whether *sent* makes exactly the payments of *transaction*."""
    return bool(transaction.payments) and payload_of(transaction).is_of(sent)
