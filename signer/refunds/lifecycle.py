"""
One refund, one step at a time: reserve, sign, record, broadcast, confirm.

Every step reads the refund, does one thing to the outside world, and commits one
compare-and-set.  A process may die between any two lines, and any number of
processes may take the same step at once: the store decides whose step counts,
and whatever was not recorded was not sent.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import structlog

from signer.audit import Operation, Purpose
from signer.errors import (
    BroadcastRejectedError,
    ConfigurationError,
    ExecutionRevertedError,
    InsufficientFundsError,
    KeyUnusableError,
    RecoveryError,
    Refusal,
)
from signer.networks import Network
from signer.ports import Call, ChainClient, Clock, Receipt, Store
from signer.refunds.erc20 import balance_calldata, transfer_calldata, transferred
from signer.refunds.fees import gas_limit, quote
from signer.refunds.policy import check_transaction
from signer.refunds.refund import Refund, SignedTransaction, Status
from signer.signing import Signer
from signer.transactions import (
    AnyTransaction,
    LegacyTransaction,
    SignedBytes,
    Transaction,
)


REBROADCAST_AFTER = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Chain:
    """A configured network, and the way to it."""

    network: Network
    client: ChainClient


@dataclass(frozen=True, slots=True)
class Actor:
    """On whose behalf a step is taken; the audit log asks."""

    name: str
    request_id: str | None = None


class Lifecycle:
    """Takes refunds from one state to the next."""

    def __init__(
        self, store: Store, chains: Mapping[str, Chain], signer: Signer, clock: Clock
    ) -> None:
        self._store = store
        self._chains = chains
        self._signer = signer
        self._clock = clock
        self._log = structlog.get_logger("refunds")
        self._steps = {
            Status.QUEUED: self._reserve,
            Status.RESERVED: self._sign,
            Status.SIGNED: self._broadcast,
            Status.BROADCAST: self._track,
            Status.MINED: self._confirm,
        }

    def step(self, refund: Refund, actor: Actor) -> Refund:
        """
        Take the next step, and return the refund as it stands then.

        The same refund comes back when there is nothing to do yet.

        Raises:
            StaleStateError: Somebody else moved the refund meanwhile.
            HotWalletError: The step failed, and left the refund where it was.
        """
        chain = self._chains.get(refund.network)
        if chain is None:
            raise ConfigurationError(
                Refusal("networks-misconfigured", "a refund's network is gone")
            )
        return self._steps[refund.status](refund, chain, actor)

    def _reserve(self, refund: Refund, chain: Chain, actor: Actor) -> Refund:
        sender = self._signer.address
        call = Call(sender, refund.token_address, _calldata(refund))
        try:
            estimate = chain.client.estimate_gas(call)
        except ExecutionRevertedError as e:
            self._require_funds(refund, chain)
            # No nonce is spent on a transfer that the token would turn down.
            return self._move(refund, Status.REFUSED, **_failure(e.code, str(e)))
        return self._store.reserve(
            refund,
            sender=sender,
            key_id=self._signer.key_id,
            gas_limit=gas_limit(estimate),
            floor=chain.client.transaction_count(sender),
            at=self._clock(),
        )

    def _require_funds(self, refund: Refund, chain: Chain) -> None:
        """Tell an empty wallet, which somebody will fill, from a token's refusal."""
        owned = balance_calldata(self._signer.address)
        call = Call(None, refund.token_address, owned)
        if int.from_bytes(chain.client.call(call), "big") < refund.amount:
            raise InsufficientFundsError("the wallet holds less than the refund")

    def _sign(self, refund: Refund, chain: Chain, actor: Actor) -> Refund:
        if refund.sender != self._signer.address:
            raise KeyUnusableError("the refund's nonce belongs to another key")
        signed = self._signed(refund, chain, actor)
        transaction = signed.transaction
        record = SignedTransaction(
            tx_hash=signed.tx_hash,
            refund_id=refund.id,
            attempt=0,
            kind="transfer",
            chain_id=transaction.chain_id,
            sender=self._signer.address,
            nonce=transaction.nonce,
            max_fee_per_gas=transaction.max_fee_per_gas,
            max_priority_fee_per_gas=transaction.max_priority_fee_per_gas,
            gas_limit=transaction.gas,
            raw=signed.raw,
            signed_at=self._clock(),
        )
        after = refund.moved(Status.SIGNED, record.signed_at, tx_hash=record.tx_hash)
        self._store.save(refund, after, record)
        return after

    def _signed(self, refund: Refund, chain: Chain, actor: Actor) -> SignedBytes:
        transaction = _transaction(refund, chain)
        check_transaction(transaction, refund, chain.network)
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
        check_transaction(signed.transaction, refund, chain.network)
        if signed.sender() != self._signer.public_key:
            raise RecoveryError("the signed bytes are not the wallet's")
        return signed

    def _broadcast(self, refund: Refund, chain: Chain, actor: Actor) -> Refund:
        raw = self._store.transactions(refund.id)[-1].raw
        try:
            chain.client.broadcast(raw)
        except BroadcastRejectedError:
            # The node may say no because the bytes are mined already.
            mined = self._track(refund, chain, actor)
            if mined is refund:
                raise
            return mined
        return self._move(refund, Status.BROADCAST)

    def _track(self, refund: Refund, chain: Chain, actor: Actor) -> Refund:
        receipt = self._receipt(refund, chain)
        if receipt is not None:
            return self._move(
                refund,
                Status.MINED,
                tx_hash=receipt.tx_hash,
                block_number=receipt.block.number,
                block_hash=receipt.block.hash,
            )
        if (
            refund.status is Status.BROADCAST
            and self._clock() - refund.updated_at >= REBROADCAST_AFTER
        ):
            # Nodes forget.  The same bytes can only ever pay once, and the move
            # before them makes sure that nobody sends them in a storm.
            refund = self._move(refund, Status.BROADCAST)
            chain.client.broadcast(self._store.transactions(refund.id)[-1].raw)
        return refund

    def _confirm(self, refund: Refund, chain: Chain, actor: Actor) -> Refund:
        receipt = self._receipt(refund, chain)
        if receipt is None or receipt.block.hash != refund.block_hash:
            # A reorganisation took the block away: the bytes are pending again.
            return self._move(
                refund, Status.BROADCAST, block_number=None, block_hash=None
            )
        depth = chain.client.latest_block().number - receipt.block.number + 1
        if depth < chain.network.confirmations:
            return refund
        if chain.client.block(receipt.block.number) != receipt.block:
            return refund
        return self._settle(refund, receipt)

    def _settle(self, refund: Refund, receipt: Receipt) -> Refund:
        if not receipt.succeeded:
            return self._move(
                refund,
                Status.FAILED,
                **_failure("reverted", "the token reverted the transfer on chain"),
            )
        paid = transferred(
            receipt.logs,
            token=refund.token_address,
            sender=str(refund.sender),
            recipient=refund.recipient,
            amount=refund.amount,
        )
        if not paid:
            return self._move(
                refund,
                Status.FAILED,
                **_failure(
                    "transfer-mismatch",
                    "mined, and the token's Transfer event does not say what was asked",
                ),
            )
        return self._move(refund, Status.CONFIRMED)

    def _receipt(self, refund: Refund, chain: Chain) -> Receipt | None:
        for transaction in reversed(self._store.transactions(refund.id)):
            receipt = chain.client.receipt(transaction.tx_hash)
            if receipt is not None:
                return receipt
        return None

    def _move(self, refund: Refund, status: Status, **changes: object) -> Refund:
        after = refund.moved(status, self._clock(), **changes)
        self._store.save(refund, after)
        if status.is_final:
            tell = self._log.error if status is Status.FAILED else self._log.info
            tell(
                "refund-ended",
                refund_id=after.id,
                status=str(status),
                code=after.failure_code,
            )
        return after


def _transaction(refund: Refund, chain: Chain) -> AnyTransaction:
    fees = chain.client.fees()
    max_fee, priority_fee = quote(fees, chain.network)
    fields = {
        "chain_id": refund.chain_id,
        "nonce": _reserved(refund.nonce),
        "gas": _reserved(refund.gas_limit),
    }
    data = _calldata(refund)
    if fees.base_fee is None:
        return LegacyTransaction(
            **fields, gas_price=max_fee, to=refund.token_address, value=0, data=data
        )
    return Transaction(
        **fields,
        max_priority_fee_per_gas=priority_fee,
        max_fee_per_gas=max_fee,
        to=refund.token_address,
        value=0,
        data=data,
    )


def _calldata(refund: Refund) -> bytes:
    return transfer_calldata(refund.recipient, refund.amount)


def _failure(code: str, detail: str) -> dict[str, object]:
    return {"failure_code": code, "failure_detail": detail}


def _reserved(number: int | None) -> int:
    if number is None:
        raise ValueError("the refund is not reserved")
    return number
