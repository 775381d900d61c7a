"""
Builds, judges and signs the transactions of one refund.

A refund may have several, all with its one nonce: the transfer, replacements of it
at a higher price, and a no-op in its place when it can never be paid.
"""

from dataclasses import dataclass

from signer.audit import Operation, Purpose
from signer.errors import KeyUnusableError, RecoveryError
from signer.networks import Network
from signer.ports import Clock
from signer.refunds.erc20 import transfer_calldata
from signer.refunds.policy import NOOP_GAS, check_noop, check_transfer
from signer.refunds.refund import Kind, Refund, SignedTransaction
from signer.signing import Signer
from signer.transactions import (
    AnyTransaction,
    LegacyTransaction,
    SignedBytes,
    Transaction,
)


@dataclass(frozen=True, slots=True)
class Actor:
    """On whose behalf something is done; the audit log asks."""

    name: str
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """
    What a transaction does, and the most it pays for that, in wei per gas.

    ``attempt`` counts the offers for one nonce from 0.  A legacy one has a gas price,
    which is both of its fees.
    """

    kind: Kind
    attempt: int
    max_fee: int
    priority_fee: int
    is_legacy: bool


def calldata(refund: Refund) -> bytes:
    """Return the transfer, and behind it the mark by which it can be told later."""
    return transfer_calldata(refund.recipient, refund.amount, refund.mark)


class Payer:
    """Signs for refunds with the key that their nonces belong to."""

    def __init__(self, signer: Signer, clock: Clock) -> None:
        self._signer = signer
        self._clock = clock
        self.address = signer.address
        self.key_id = signer.key_id

    def sign(
        self, refund: Refund, offer: Offer, network: Network, actor: Actor
    ) -> SignedTransaction:
        """
        Return a signed transaction that makes *offer* for the nonce of *refund*.

        Raises:
            KeyUnusableError: The refund's nonce belongs to another key.
            PolicyViolationError: The transaction is not what the refund asks for.
            SigningError: The device did not sign, or signed something else.
        """
        if refund.sender != self.address:
            raise KeyUnusableError("the refund's nonce belongs to another key")
        transaction = _transaction(refund, offer)
        _judge(transaction, refund, offer.kind, network)
        signature = self._signer.sign_digest(
            transaction.signing_digest(),
            Purpose(
                Operation.TRANSACTION_SIGNING,
                network=refund.network,
                actor=actor.name,
                request_id=actor.request_id,
                refund_id=refund.id,
            ),
        )
        signed = SignedBytes.decode(transaction.serialise(signature))
        # What leaves is judged by its bytes, not by what we think we built.
        _judge(signed.transaction, refund, offer.kind, network)
        if signed.sender() != self._signer.public_key:
            raise RecoveryError("the signed bytes are not the wallet's")
        return self._record(refund, offer, signed)

    def _record(
        self, refund: Refund, offer: Offer, signed: SignedBytes
    ) -> SignedTransaction:
        transaction = signed.transaction
        return SignedTransaction(
            tx_hash=signed.tx_hash,
            refund_id=refund.id,
            attempt=offer.attempt,
            kind=offer.kind,
            chain_id=transaction.chain_id,
            sender=self.address,
            nonce=transaction.nonce,
            max_fee_per_gas=transaction.max_fee_per_gas,
            max_priority_fee_per_gas=transaction.max_priority_fee_per_gas,
            gas_limit=transaction.gas,
            raw=signed.raw,
            signed_at=self._clock(),
        )


def _transaction(refund: Refund, offer: Offer) -> AnyTransaction:
    sender, nonce, gas_limit = refund.reservation()
    is_transfer = offer.kind is Kind.TRANSFER
    chain_id, value = refund.chain_id, 0
    gas = gas_limit if is_transfer else NOOP_GAS
    to = refund.token_address if is_transfer else sender
    data = calldata(refund) if is_transfer else b""
    if offer.is_legacy:
        return LegacyTransaction(
            chain_id=chain_id,
            nonce=nonce,
            gas_price=offer.max_fee,
            gas=gas,
            to=to,
            value=value,
            data=data,
        )
    return Transaction(
        chain_id=chain_id,
        nonce=nonce,
        max_priority_fee_per_gas=offer.priority_fee,
        max_fee_per_gas=offer.max_fee,
        gas=gas,
        to=to,
        value=value,
        data=data,
    )


def _judge(
    transaction: AnyTransaction, refund: Refund, kind: Kind, network: Network
) -> None:
    judge = check_transfer if kind is Kind.TRANSFER else check_noop
    judge(transaction, refund, network)
