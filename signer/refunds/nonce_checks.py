"""
Checks that the ledger matches the chain before refunds get nonces, which SQL assigns.

It also recognises refunds that were paid already: by transactions that a restored
ledger has lost, which ``wallet_reconciliation`` finds, and by earlier transactions of a
refund that is queued again (``EarlierTransactions``).
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import structlog

from signer.chain.chain import Chain
from signer.chain.erc20 import read_memo
from signer.chain.vault import decode_pay, read_ends
from signer.config.networks import Network
from signer.config.tenants import TenantRegistry
from signer.crypto.transactions import SignedBytes
from signer.errors import (
    AuditLogUnwritableError,
    ChainError,
    EncodingError,
    HotWalletError,
    RowNotAuthenticError,
    StaleStateError,
    TokenStoppedError,
)
from signer.keys.keyring import ActiveKey, KeyRing
from signer.keys.signer import Signer
from signer.model.key import find_key
from signer.model.payment import PaymentPurpose, PaymentState
from signer.model.refund import Refund
from signer.model.spending_limits import NO_LIMITS, Limits
from signer.model.transaction import Transaction, TransactionStatus
from signer.model.wallet import Pause, UnrecordedTransaction
from signer.ports.chain import Receipt
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger
from signer.ports.refund_store import Reservation
from signer.refunds.former_wallets import FormerWallets
from signer.refunds.payload import pays_by
from signer.refunds.sweep_policy import Objection, build_objection
from signer.refunds.wallet_reconciliation import WalletReconciler


_REMEMBERED = 1024
"""Of how many final transactions is remembered what they have paid."""

_Nonce = tuple[int, str, int]
"""Chain, sender and nonce."""


class EarlierTransactions:
    """
    Counts the transactions of a queued refund that have not paid it.

    A vault skips payments of a batch, for example above the cap of the day: they are
    queued again, and get another transaction.  Another program may queue a refund again
    as well, also one that was paid, and change how its transaction ended.  So rows do
    not decide that: before each further nonce, final blocks must show that none has
    paid it.
    """

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


class NonceManager:
    """Assigns the nonces of the active key, or of the key that a sweep empties."""

    def __init__(
        self, store: Ledger, ring: KeyRing, clock: Clock, tenants: TenantRegistry
    ) -> None:
        self._tenants = tenants
        self._store = store
        self._ring = ring
        self._clock = clock
        self._log = structlog.get_logger("nonces")
        self.wallets = WalletReconciler(store, clock)
        self._former = FormerWallets(store, self.wallets, clock)
        self._earlier = EarlierTransactions(store)

    def select_key(self, refund: Refund) -> ActiveKey:
        """Return the key whose nonce *refund* gets; raises as ``KeyRing.active``."""
        if refund.bound_sender is not None:
            return self._ring.former(refund.bound_sender)
        return self._ring.active()

    def check_against_chain(self, chain: Chain, address: str, counted: int) -> None:
        """
        Require that the ledger knows all that the keys of the ring have sent.

        *counted* is the next nonce of *address* on *chain*, pending transactions
        included.  Nothing may be decided about a queued refund before this check: a
        restored ledger may have lost that the refund is paid.

        Raises:
            WalletPausedError: It does not, or an operator paused the wallet.
            RowNotAuthenticError: Another program changed a wallet.
        """
        # In a sweep from a former key's address, the active key is one of the others.
        self.require_other_wallets_known(chain, address)
        wallet = self.wallets.get_or_open(chain, address, counted)
        if not wallet.is_paused and counted > wallet.next_nonce:
            wallet = self.wallets.pause(wallet, Pause.CHAIN_AHEAD)
        if wallet.is_paused:
            raise wallet.error()

    def require_other_wallets_known(
        self, chain: Chain, address: str, *, if_restored: bool = False
    ) -> None:
        """
        Call ``FormerWallets.require_known`` for all keys other than *address*.

        With *if_restored*, restored wallets of earlier keys may be paused.  A refund
        that has a nonce of *address* gets another one only when that key is revoked,
        and then of a later key: so the earlier wallets do not wait for the later ones
        and these for them.
        """
        keys = self._ring.cached_keys()
        own = find_key(keys, address)
        own_epoch = 0 if own is None else own.epoch or 0
        for key in keys:
            if key.epoch and key.address != address:
                may_pause = if_restored and key.epoch < own_epoch
                self._former.require_known(chain, key, if_restored=may_pause)

    def count_earlier(self, refund: Refund, chain: Chain) -> int:
        """Return ``Reservation.earlier``; as ``EarlierTransactions.count_unpaid``."""
        return self._earlier.count_unpaid(refund, chain)

    def assign_nonces(
        self,
        reservations: Sequence[Reservation],
        *,
        counted: int,
        active: ActiveKey,
        network: Network,
    ) -> Sequence[Transaction | HotWalletError]:
        """
        Give queued refunds their nonces for life, and record the intents to sign.

        *counted* is what ``check_against_chain`` checked for the *active* key.  Returns
        as ``RefundStore.reserve_all``.
        """
        reserved = self._store.reserve_all(
            reservations,
            sender=active.key.address,
            key_id=active.key.key_id,
            counted=counted,
            at=self._clock(),
            window=network.window,
            per_batch=network.per_batch,
        )
        return _log_intents(reserved, active.signer)

    def find_token_objection(self, transaction: Transaction) -> Objection | None:
        """
        Return why a no-op must replace *transaction*, if it moves a token that is held.

        Otherwise its nonce would hold up those of other tokens.

        Raises:
            RowNotAuthenticError: Another program changed the stop, which ends nothing.
        """
        stop = self._store.find_stop(transaction.chain_id, transaction.named)
        if stop is None or not stop.token:
            return None  # What stops everything or a chain forbids a no-op as well.
        if not stop.is_authentic:
            raise stop.error()
        return build_objection(TokenStoppedError.code, str(stop.error()))

    def is_any_stopped(self, transactions: Sequence[Transaction]) -> bool:
        """Return whether a stop forbids one of *transactions*, which share a chain."""
        named = " ".join(each.named for each in transactions)
        return self._store.find_stop(transactions[0].chain_id, named) is not None

    def require_running(self, transaction: Transaction) -> None:
        """
        Require that no stop of everything or its chain forbids *transaction* now.

        Raises:
            SigningStoppedError: One does.
            RowNotAuthenticError: Another program changed one, perhaps to end it.
        """
        stop = self._store.find_stop(transaction.chain_id)
        if stop is not None:
            raise stop.error()

    def adopt_earlier_payment(self, refund: Refund, chain: Chain) -> Refund | None:
        """
        Save that a queued *refund* was paid before the ledger lost it, and return it.

        A final transaction with the refund's memo has paid it, so a repeated request
        does not pay twice.  Return None if no such transaction is recorded.

        Raises:
            StaleStateError: Another process changed the refund, or the key that paid
                is not in the ring.
            RowNotAuthenticError: Another program changed the record of the transaction.
        """
        payment = self._find_payment(refund)
        return None if payment is None else self.adopt(refund, payment, chain)

    def adopt_batches(
        self,
        refunds: Sequence[Refund],
        chain: Chain,
        payments: Mapping[bytes, UnrecordedTransaction] | None = None,
    ) -> Mapping[str, Refund | HotWalletError]:
        """
        Give queued *refunds* the final batches that they were in; return them by id.

        The ledger has lost them, or a revocation took their reservation back.  A batch
        of which *refunds* are a part is left to ``adopt``.  *payments* are the recorded
        transactions by memo, which are read if it is None.

        The refunds of a batch that cannot be adopted have its error: they may be paid.
        It is a ``ChainError`` if the nodes do not answer, a ``StaleStateError`` as for
        ``adopt_earlier_payment``, or a ``RowNotAuthenticError`` if another program
        changed the record of the transaction.
        """
        queued = {each.memo: each for each in refunds}
        if payments is None:
            payments = self._store.find_unrecorded(chain.network.chain_id, [*queued])
        lost: defaultdict[tuple[str, int], list[bytes]] = defaultdict(list)
        for memo, payment in payments.items():
            if payment.item_end is not None and not payment.is_held:
                lost[payment.sender, payment.nonce].append(memo)
        adopted: dict[str, Refund | HotWalletError] = {}
        for memos in lost.values():
            try:
                ends = self._adopt_batch(payments[memos[-1]], queued, chain)
                adopted.update((each.id, each) for each in ends)
            except HotWalletError as e:
                # It must not hold up the refunds of others.
                for memo in memos:
                    adopted.setdefault(queued[memo].id, e)
        return adopted

    def _adopt_batch(
        self,
        payment: UnrecordedTransaction,
        queued: Mapping[bytes, Refund],
        chain: Chain,
    ) -> Sequence[Refund]:
        """Save that the batch of *payment* has its refunds, and return them."""
        payment.require_authentic()
        batch = self._compose(payment, queued, chain)
        if batch is None:
            return ()
        self._store.adopt_batch([queued[each.memo] for each in batch.payments], batch)
        for each in batch.payments:
            named = {"refund_id": each.id, "nonce": payment.nonce}
            self._log.warning("refund-adopted", **named)
        return batch.payments

    def _compose(
        self,
        payment: UnrecordedTransaction,
        queued: Mapping[bytes, Refund],
        chain: Chain,
    ) -> Transaction | None:
        """Return the batch of *payment*, if *queued* has all that it was to pay."""
        mined = chain.client.find_transaction(
            payment.sender, payment.nonce, payment.tx_hash
        )
        if mined is None or mined.tx_hash != payment.tx_hash:
            return None
        _, items = decode_pay(mined.data)
        if not all(item.mark in queued for item in items):
            return None
        refunds = [queued[item.mark] for item in items]
        draft = self._draft(refunds, payment, vault=mined.to)
        batch = draft.paying(
            each.assigned(draft, position) for position, each in enumerate(refunds)
        )
        return batch if pays_by(batch, mined) else None

    def adopt(
        self, refund: Refund, payment: UnrecordedTransaction, chain: Chain
    ) -> Refund:
        """Save that *payment* paid a queued *refund*; as ``adopt_earlier_payment``."""
        payment.require_authentic()
        self._log.warning("refund-adopted", refund_id=refund.id, nonce=payment.nonce)
        if payment.is_held or payment.item_end is not None:
            # The transaction is another row's, or that of several refunds.
            after = refund.with_state(
                PaymentState.REFUSED, self._clock(), **describe_end(payment, chain)
            )
            self._store.save(refund, after)
            return after
        after = refund.assigned(self._draft([refund], payment))
        return self._store.adopt(refund, after)

    def _draft(
        self,
        refunds: Sequence[Refund],
        payment: UnrecordedTransaction,
        vault: str | None = None,
    ) -> Transaction:
        """Return the transaction of *payment*, which pays *refunds*."""
        return Transaction.draft(
            refunds,
            self._clock(),
            sender=payment.sender,
            key_id=self._key_id(payment.sender),
            nonce=payment.nonce,
            gas_limit=payment.gas_limit,
            vault=vault,
            status=TransactionStatus.MINED,
            tx_hash=payment.tx_hash,
            block_number=payment.block_number,
            block_hash=payment.block_hash,
        )

    def find_other_payment(
        self, transaction: Transaction, chain: Chain
    ) -> Objection | None:
        """
        Return why *transaction* ends if a final one has paid the same; else None.

        A restored ledger may have assigned a second nonce before it knew that one.

        Raises:
            ChainError: A node did not say how the final one ended.
            RowNotAuthenticError: Another program changed the record of the transaction.
        """
        own = transaction.sender, transaction.nonce
        memos = [each.memo for each in transaction.payments]
        found = self._store.find_unrecorded(transaction.chain_id, memos)
        for earlier in found.values():
            if (earlier.sender, earlier.nonce) != own:
                earlier.require_authentic()
                return describe_end(earlier, chain)
        return None

    def limits(self, refund: Refund, chain: Chain) -> Limits:
        """Return the limits that bound *refund*; a sweep has none."""
        if refund.purpose is PaymentPurpose.SWEEP:
            return NO_LIMITS
        tenant = self._tenants.limits(refund.tenant)
        if refund.purpose is PaymentPurpose.CALL:
            return Limits.for_calls(tenant, refund.network, chain.network)
        return Limits.for_tenant(tenant, refund.network, chain.network, refund.token)

    def _find_payment(self, refund: Refund) -> UnrecordedTransaction | None:
        found = self._store.find_unrecorded(refund.chain_id, [refund.memo])
        return found.get(refund.memo)

    def _key_id(self, address: str) -> str:
        key = self._ring.cached_key(address)
        if key is None:
            raise StaleStateError(f"the key of {address}, which paid, left the ring")
        return key.key_id


def _log_intents(
    outcomes: Sequence[Transaction | HotWalletError], signer: Signer
) -> Sequence[Transaction | HotWalletError]:
    """Return *outcomes*, each without its intent if the line cannot be written."""
    logged: dict[str, Transaction] = {}  # The payments of a batch have the same one.
    for each in outcomes:
        if isinstance(each, Transaction) and each.id not in logged:
            logged[each.id] = _log_intent(each, signer)
    return [
        logged[each.id] if isinstance(each, Transaction) else each for each in outcomes
    ]


def _log_intent(reserved: Transaction, signer: Signer) -> Transaction:
    if reserved.intent is not None:
        try:
            signer.log_intent(reserved.intent)
        except AuditLogUnwritableError:
            # The nonce stays.  It is signed once a new intent has its line.
            return replace(reserved, intent=None)
    return reserved


def describe_end(earlier: UnrecordedTransaction, chain: Chain) -> Objection:
    """Return why a refund ends for which *earlier* was sent; raises ``ChainError``."""
    tx_hash = earlier.tx_hash
    if earlier.item_end is not None:
        if earlier.has_paid:
            return paid_earlier(tx_hash)
        detail = f"the vault did not pay it in transaction {tx_hash}"
        return build_objection(earlier.item_end, detail)
    receipt = chain.client.receipts([tx_hash]).get(tx_hash)
    if receipt is not None and not receipt.succeeded:
        # As the ledger said before it was restored: the customer was not paid.
        detail = f"transaction {tx_hash} was sent for it and reverted"
        return build_objection("reverted", detail)
    return paid_earlier(tx_hash)


def paid_earlier(tx_hash: str) -> Objection:
    """Return why a refund ends that *tx_hash* has paid."""
    return build_objection("already-paid", f"transaction {tx_hash} has already paid it")
