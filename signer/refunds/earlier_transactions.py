"""
Asks the chain whether the earlier transactions of a queued refund have paid it.

A vault skips payments of a batch, for example above the cap of the day.  They are
queued again, and get another transaction.  Another program may queue a refund again as
well, also one that was paid, and change how its transaction ended.  So rows do not
decide that: before each further nonce, final blocks must show that none has paid it.
"""

from collections.abc import Iterator

from signer.chain.chain import Chain
from signer.chain.erc20 import read_memo
from signer.chain.vault import decode_pay, read_ends
from signer.crypto.transactions import SignedBytes
from signer.errors import (
    ChainError,
    EncodingError,
    HotWalletError,
    RowNotAuthenticError,
)
from signer.model.refund import Refund
from signer.model.transaction import Transaction
from signer.ports.chain import Receipt
from signer.ports.ledger import Ledger


_REMEMBERED = 1024
"""Of how many final transactions is remembered what they have paid."""

_Nonce = tuple[int, str, int]
"""Chain, sender and nonce."""


class EarlierTransactions:
    """Counts the transactions of a refund that have not paid it."""

    def __init__(self, store: Ledger) -> None:
        self._store = store
        # All payments of a batch that are queued again ask about the same nonce.
        self._paid: dict[_Nonce, frozenset[bytes]] = {}

    def count_unpaid(self, refund: Refund, chain: Chain) -> int:
        """
        Return how many transactions a queued *refund* was given, of which none paid it.

        Raises:
            ChainError: The nodes do not show yet how one of them ended.
            RowNotAuthenticError: One may have paid it: another program queued it again.
        """
        if refund.updated_at == refund.created_at:
            return 0  # The reservation refuses a false row.
        nonces = self._store.earlier_nonces(refund.id)
        for nonce in nonces:
            is_here = nonce[0] == refund.chain_id
            if not is_here or refund.memo in self._find_paid(nonce, chain):
                _, sender, number = nonce
                raise RowNotAuthenticError(
                    f"the refund {refund.id} is queued again, but nonce {number} of"
                    f" {sender} may have paid it: another program changed its row"
                )
        return len(nonces)

    def _find_paid(self, nonce: _Nonce, chain: Chain) -> frozenset[bytes]:
        """Return the memos of what the final transaction with *nonce* has paid."""
        paid = self._paid.get(nonce)
        if paid is None:
            data, to, receipt = self._find_final(nonce, chain)
            paid = frozenset(_read_paid(data, to, receipt))
            if len(self._paid) == _REMEMBERED:
                self._paid.clear()
            self._paid[nonce] = paid
        return paid

    def _find_final(self, nonce: _Nonce, chain: Chain) -> tuple[bytes, str, Receipt]:
        """Return calldata, recipient and receipt of the transaction with *nonce*."""
        transaction = self._store.find_transaction(*nonce)
        signed = {
            each.tx_hash: each.transaction for each in self._signed(nonce, transaction)
        }
        receipts = chain.client.receipts([*signed])
        for tx_hash, receipt in receipts.items():
            own = signed[tx_hash]
            block = chain.client.block(receipt.block.number)
            if block == receipt.block and chain.is_final(receipt):
                return own.data, own.to or "", receipt
        # Nodes find a transaction by its nonce for a limited time.  A restored ledger
        # has the hash of one that it had lost, and no bytes.
        _, sender, number = nonce
        known = None if transaction is None else transaction.tx_hash
        mined = (
            None
            if receipts
            else chain.client.find_transaction(sender, number, tx_hash=known)
        )
        if mined is None or not chain.is_final(mined):
            raise ChainError(
                f"the nodes have no final transaction with nonce {number} of {sender}"
            )
        found = chain.client.receipts([mined.tx_hash]).get(mined.tx_hash)
        if found is None:
            raise ChainError(f"the nodes have no receipt of {mined.tx_hash}")
        return mined.data, mined.to or "", found

    def _signed(
        self, nonce: _Nonce, transaction: Transaction | None
    ) -> Iterator[SignedBytes]:
        """Yield what the sender has signed with *nonce*; rows may have other bytes."""
        for attempt in () if transaction is None else self._store.attempts(transaction):
            try:
                signed = SignedBytes.decode(attempt.raw)
                key = signed.signature.recover(signed.transaction.signing_digest())
            except HotWalletError:
                continue
            sent = signed.transaction
            if (sent.chain_id, key.address, sent.nonce) == nonce:
                yield signed


def _read_paid(data: bytes, to: str, receipt: Receipt) -> set[bytes]:
    """Return the memos in calldata, but those that *receipt* shows as unpaid."""
    if not receipt.succeeded:
        return set()
    try:
        token, items = decode_pay(data)
    except EncodingError:
        memo = read_memo(data)
        return set() if memo is None else {memo}
    try:
        ends = read_ends(receipt.logs, vault=to, token=token, items=items)
    except EncodingError:
        return {item.mark for item in items}
    return {
        item.mark
        for item, end in zip(items, ends, strict=True)
        if end.reason is None or end.has_transfer
    }
