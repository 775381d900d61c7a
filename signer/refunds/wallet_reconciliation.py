"""
Compares a wallet's nonces with the chain; pauses and resumes the wallet.

A wallet is *paused* while the chain has nonces that the ledger does not know: no refund
gets a new nonce, and refunds that have one continue.  The unknown transactions are
recorded one by one, once they are final.  The wallet resumes by itself if all of them
are known then.
A foreign transaction waits for an operator: ``hotwallet nonce repair``.

A transaction with a memo also shows that the ledger was *restored*: it may have
forgotten others, which wait in a node's pool above a gap that no count shows.  So the
wallet stays paused until ``hotwallet restore`` has set its high-water mark, and then
until every nonce below the mark is final.
"""

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace

import structlog

from signer.chain.chain import Chain
from signer.chain.erc20 import read_memo
from signer.chain.vault import End, decode_pay, has_vault_code, read_ends
from signer.errors import (
    ChainUnavailableError,
    EncodingError,
    NotFoundError,
    StaleStateError,
    WalletPausedError,
)
from signer.model.approval import ApprovalUse
from signer.model.payment import PaymentState
from signer.model.refund import Status
from signer.model.transaction import EPOCH, Transaction, TransactionStatus
from signer.model.wallet import NOOP_MEMO, PAID, Pause, UnrecordedTransaction, Wallet
from signer.ports.chain import MinedTransaction
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger
from signer.refunds.batch_ends import end_payment
from signer.refunds.payload import transfer_of


LostItem = tuple[bytes | None, str | None]
"""Memo and end of an item, as ``UnrecordedTransaction`` has them."""

_NOT_PAID: LostItem = (NOOP_MEMO, None)


def read_lost_items(mined: MinedTransaction, chain: Chain) -> Sequence[LostItem]:
    """
    Return the items of a final transaction, in their order; none if it is no batch.

    A restored ledger has lost them.

    Raises:
        ChainUnavailableError: The nodes have no receipt of it in its block.
    """
    try:
        token, items = decode_pay(mined.data)
    except EncodingError:
        return ()
    if not _is_vault(mined.to or "", chain) or not _is_configured(token, chain):
        return ()  # Another contract can emit any event, and a token as well.
    receipt = chain.client.receipts([mined.tx_hash]).get(mined.tx_hash)
    if receipt is None or receipt.block != mined.block:
        raise ChainUnavailableError(f"the nodes have no receipt of {mined.tx_hash}")
    if not receipt.succeeded:
        return (_NOT_PAID,)
    vault = mined.to or ""
    try:
        ends = read_ends(receipt.logs, vault=vault, token=token, items=items)
    except EncodingError:
        # People must decide: it may have been paid, and may not.
        ends = tuple(End(None, has_transfer=False) for _ in items)
    return [_as_lost(item.mark, end) for item, end in zip(items, ends, strict=True)]


def _is_vault(address: str, chain: Chain) -> bool:
    """Return whether *address* is the network's vault, or was one of another time."""
    return address == chain.network.vault or has_vault_code(chain.client.code(address))


def _is_configured(token: str, chain: Chain) -> bool:
    known = (each.address.lower() for each in chain.network.tokens.values())
    return token in known


def _as_lost(mark: bytes, end: End) -> LostItem:
    ended = end_payment(end, EPOCH)
    if ended.state is PaymentState.CONFIRMED:
        return mark, PAID
    if ended.state is PaymentState.QUEUED:
        return _NOT_PAID
    return mark, ended.failure["failure_code"]


MOST_OPEN = 500
"""How many open nonces of a wallet are read, at most."""

MOST_GAPS = 20
"""How many missing nonces of a wallet are read, at most."""


@dataclass(frozen=True, slots=True)
class WalletNonces:
    """
    Nonces below the next one, lowest first.

    ``open`` are those of transactions that are not final, at most ``MOST_OPEN``.
    ``gaps`` are those that none has, and for which later ones wait, at most
    ``MOST_GAPS``.
    """

    open: Sequence[int]
    gaps: Sequence[int]


def read_nonces(
    ledger: Ledger, wallet: Wallet, chain_nonce: int | None
) -> WalletNonces:
    """
    Return the nonces of *wallet*; *chain_nonce* is the next one on the chain, if known.

    A nonce that the chain has not used is open, or missing.  To read all nonces of a
    wallet takes a second if it has a million, so only a suspicion is followed.
    """
    where, end = (wallet.chain_id, wallet.sender), wallet.next_nonce
    rows = ledger.open_below(*where, end, MOST_OPEN)
    found = [each.nonce for each in rows]
    if len(found) == MOST_OPEN:
        end = max(found)
    first = min(found, default=end) if chain_nonce is None else chain_nonce
    first = max(first, wallet.first_nonce)
    expected = max(0, end - first)
    if len([each for each in found if first <= each < end]) == expected:
        return WalletNonces(found, ())
    return WalletNonces(found, ledger.unknown_nonces(*where, end, MOST_GAPS))


HISTORY = 1000
"""How many nonces back a new ledger looks if its wallet is already in use."""

_RECORDED_PER_PASS = 20

_MAX_OPEN = 100

_RESTORED = "the ledger was restored from a backup: run `hotwallet restore`"


@dataclass(frozen=True, slots=True)
class WalletStatus:
    """
    A wallet in the ledger, beside what the chain reports about it.

    ``chain_nonce`` is the chain's next nonce, pending transactions included.
    ``foreign`` are final transactions of this key that this service did not make and no
    operator accepted yet.  ``gaps`` counts nonces below the ledger's next one that
    nothing in the ledger has: refunds were queued again when their key was revoked.
    """

    wallet: Wallet
    chain_nonce: int
    foreign: tuple[UnrecordedTransaction, ...]
    gaps: int = 0

    @property
    def unknown_count(self) -> int:
        """How many of the chain's nonces the ledger does not know yet."""
        return max(0, self.chain_nonce - self.wallet.next_nonce) + self.gaps

    @property
    def is_reconciled(self) -> bool:
        """Whether chain and ledger agree, and the wallet is not paused."""
        return not self.wallet.is_paused and self.unknown_count == 0


class WalletReconciler:
    """
    Compares wallets with their chains, and pauses and resumes them.

    Methods that change a wallet raise ``StaleStateError`` if another process changed it
    first.
    """

    def __init__(self, store: Ledger, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._log = structlog.get_logger("nonces")

    def status(self, chain: Chain, address: str) -> WalletStatus:
        """Compare chain and ledger; raises ``NotFoundError`` if there is no wallet."""
        chain_id = chain.network.chain_id
        # Read the chain first: the ledger knows our own new nonces before the chain.
        chain_nonce = chain.client.pending_count(address)
        wallet = self._store.wallet(chain_id, address)
        if wallet is None:
            raise NotFoundError("the wallet has not paid on this network yet")
        foreign = tuple(self._store.foreign_transactions(chain_id, address))
        gaps = 0
        if wallet.is_paused:
            gaps = len(self._find_gaps(wallet, chain_nonce))
        return WalletStatus(wallet, chain_nonce, foreign, gaps)

    def reconcile(self, chain: Chain, address: str) -> WalletStatus:
        """Pause, record and resume as needed; return the ``status`` afterwards."""
        status = self.status(chain, address)
        if status.is_reconciled:
            return status
        wallet = self.get_or_open(chain, address, status.chain_nonce)
        if not wallet.is_paused:
            wallet = self.pause(wallet, Pause.CHAIN_AHEAD)
        self.record_unknown(wallet, status.chain_nonce, chain)
        status = self.status(chain, address)
        if status.unknown_count or status.foreign or self._contested(chain, address):
            return status
        if not self.is_restored(status.wallet):
            return status
        self.resume(status, chain)
        return self.status(chain, address)

    def reconcile_former(self, chain: Chain, address: str) -> bool:
        """
        Reconcile the wallet of a former key; return whether chain and ledger agree.

        The wallet is opened if the ledger does not have it: a restored ledger may have
        lost all that the wallet paid.
        """
        chain_nonce = chain.client.pending_count(address)
        chain_id = chain.network.chain_id
        if chain_nonce == 0 and self._store.wallet(chain_id, address) is None:
            return True
        self.get_or_open(chain, address, chain_nonce)
        return self.reconcile(chain, address).is_reconciled

    def is_known(self, chain: Chain, wallet: Wallet, below: int) -> bool:
        """Return whether the ledger knows all nonces of *wallet* under *below*."""
        unknown = self._store.unknown_nonces(wallet.chain_id, wallet.sender, below, 1)
        return not (unknown or self._contested(chain, wallet.sender))

    def is_restored(self, wallet: Wallet) -> bool:
        """Return whether no transaction that a restored ledger lost can be mined."""
        if wallet.paused_by is not Pause.RESTORED:
            return True
        mark = wallet.high_water
        return mark is not None and not self._store.open_below(
            wallet.chain_id, wallet.sender, mark, 1
        )

    def open_fillers(self, wallet: Wallet) -> tuple[Transaction, ...]:
        """Return those of the first open transactions of *wallet* that pay nothing."""
        end = max(wallet.next_nonce, wallet.high_water or 0)
        found = self._store.open_below(wallet.chain_id, wallet.sender, end, _MAX_OPEN)
        return tuple(each for each in found if not each.payments)

    def accept_and_resume(
        self,
        wallet: Wallet,
        foreign: Sequence[UnrecordedTransaction],
        use: ApprovalUse | None = None,
    ) -> None:
        """
        Accept *foreign*, all foreign transactions of *wallet*, and resume it.

        *use* is that of an administrator's approval.
        """
        self._store.resume(wallet, self._clock(), foreign, use)
        self._log.warning(
            "wallet-resumed",
            chain_id=wallet.chain_id,
            accepted=[transaction.tx_hash for transaction in foreign],
        )

    def resume(
        self, status: WalletStatus, chain: Chain, use: ApprovalUse | None = None
    ) -> None:
        """
        Resume the wallet, and accept the foreign transactions of *status*.

        Raises as ``require_resumable``.
        """
        self.require_resumable(status, chain)
        self.accept_and_resume(status.wallet, status.foreign, use)

    def require_resumable(self, status: WalletStatus, chain: Chain) -> None:
        """
        Require that the ledger knows everything that the wallet has sent.

        Raises:
            WalletPausedError: The ledger does not know all of the chain's transactions
                yet, or a refund's nonce is used by an unknown one; or the ledger was
                restored, and a nonce below its high-water mark is not final.
            RowNotAuthenticError: Another program changed the wallet, or invented a
                transaction of a nonce that the ledger does not know.
        """
        if not status.wallet.is_authentic:
            raise status.wallet.error()
        if status.unknown_count:
            self._require_no_invented(status)
            raise WalletPausedError(
                f"{status.unknown_count} of the chain's transactions are not final yet,"
                " or not recorded: wait for a worker, then run the command again"
            )
        if contested := self._contested(chain, status.wallet.sender):
            first = contested[0]
            refunds = " ".join(f"refund {each.id}" for each in first.payments)
            raise WalletPausedError(
                f"nonce {first.nonce} of {refunds or 'a filler'} is used by a"
                " transaction that the ledger does not know: wait for a worker to find"
                " it"
            )
        if not self.is_restored(status.wallet):
            mark = status.wallet.high_water
            raise WalletPausedError(
                _RESTORED
                if mark is None
                else f"not every nonce below its high-water mark {mark} is final yet:"
                " wait for a worker"
            )

    def pause(
        self, wallet: Wallet, reason: Pause, high_water: int | None = None
    ) -> Wallet:
        """Stop assigning nonces of *wallet*, and log that."""
        self._store.pause(wallet, reason, self._clock(), high_water)
        paused = self._get(wallet.chain_id, wallet.sender)
        self._log_pause(paused)
        return paused

    def get_or_open(self, chain: Chain, address: str, chain_nonce: int) -> Wallet:
        """
        Return the wallet of *address*; open it if the ledger does not have it.

        *chain_nonce* is the chain's next nonce, pending transactions included.

        Raises:
            RowNotAuthenticError: Another program changed the wallet.
        """
        chain_id = chain.network.chain_id
        wallet = self._store.wallet(chain_id, address)
        if wallet is not None and not wallet.is_authentic:
            raise wallet.error()
        if wallet is not None:
            return wallet
        # A ledger that was lost looks like a new one.  Record what the wallet paid
        # before the gateway can request the same refunds again.
        first = max(0, chain_nonce - HISTORY)
        reason = Pause.UNKNOWN_HISTORY if chain_nonce else None
        paused_at = self._clock() if reason else None
        self._store.open_wallet(
            Wallet(chain_id, address, first, first, reason, paused_at)
        )
        opened = self._get(chain_id, address)
        if opened.is_paused:
            self._log_pause(opened)
        return opened

    def record_unknown(self, wallet: Wallet, chain_nonce: int, chain: Chain) -> None:
        """
        Record final transactions below *chain_nonce* that the ledger does not know.

        One call records a limited number, lowest nonces first.
        """
        unrecorded = list(self._find_unrecorded(wallet, chain_nonce, chain))
        for transaction in unrecorded:
            if transaction.position:
                continue  # Another item of the same batch.
            self._log.error(
                "unrecorded-transaction-found",
                chain_id=transaction.chain_id,
                nonce=transaction.nonce,
                tx_hash=transaction.tx_hash,
                foreign=transaction.memo is None,
            )
        if not unrecorded:
            return
        self._store.add_unrecorded(wallet, unrecorded)
        if wallet.paused_by is not Pause.RESTORED and any(
            transaction.memo is not None for transaction in unrecorded
        ):
            wallet = self._get(wallet.chain_id, wallet.sender)
            self.pause(wallet, Pause.RESTORED, wallet.high_water)

    def record_nonce_taken(
        self, transaction: Transaction, mined: MinedTransaction, chain: Chain
    ) -> Sequence[UnrecordedTransaction]:
        """
        Record that *mined* has the nonce, and pause the wallet.

        It is foreign, or the ledger was restored: anyone can copy a memo.  Return what
        was recorded, of a batch each item.
        """
        wallet = self._get(transaction.chain_id, mined.sender)
        unrecorded = self._build_unrecorded(wallet, mined, chain)
        self._store.add_unrecorded(wallet, unrecorded)
        if not wallet.is_paused:
            is_foreign = any(each.memo is None for each in unrecorded)
            reason = Pause.FOREIGN_TRANSACTION if is_foreign else Pause.RESTORED
            # Above the mark of a restore, that one cannot have lost it.
            is_marked = mined.nonce < (wallet.high_water or 0)
            mark = wallet.high_water if is_marked and not is_foreign else None
            wallet = self._get(transaction.chain_id, mined.sender)
            self.pause(wallet, reason, mark)
        return unrecorded

    def _find_gaps(self, wallet: Wallet, chain_nonce: int) -> Sequence[int]:
        """Return nonces that the chain or the mark shows, and nothing here has."""
        below = min(chain_nonce, wallet.next_nonce)
        below = max(below, wallet.high_water or 0)
        return self._store.unknown_nonces(
            wallet.chain_id, wallet.sender, below, HISTORY
        )

    def _require_no_invented(self, status: WalletStatus) -> None:
        """Raise ``RowNotAuthenticError`` if an invented row has an unknown nonce."""
        wallet = status.wallet
        for nonce in self._find_gaps(wallet, status.chain_nonce)[:_RECORDED_PER_PASS]:
            found = self._store.find_transaction(wallet.chain_id, wallet.sender, nonce)
            if found is not None:
                self._store.require_authentic(found)

    def _contested(self, chain: Chain, address: str) -> Sequence[Transaction]:
        """Return open transactions whose nonce an unknown one uses."""
        # It may be another refund's transaction that the ledger has lost.  It must be
        # recorded before the gateway can request that refund again.
        count = chain.client.transaction_count(address)
        chain_id = chain.network.chain_id
        below = self._store.open_below(chain_id, address, count, _MAX_OPEN)
        mined = TransactionStatus.MINED
        hashes = {
            each.nonce: {signed.tx_hash for signed in self._store.attempts(each)}
            for each in below
            if each.status is not mined
        }
        receipts = chain.client.receipts(sorted(set().union(*hashes.values())))
        unmined = (each for each in below if each.status is not mined)
        return [each for each in unmined if not hashes[each.nonce] & receipts.keys()]

    def _get(self, chain_id: int, address: str) -> Wallet:
        wallet = self._store.wallet(chain_id, address)
        if wallet is None:
            raise StaleStateError("the ledger does not have the wallet any more")
        return wallet

    def _log_pause(self, wallet: Wallet) -> None:
        self._log.error(
            "wallet-paused",
            chain_id=wallet.chain_id,
            reason=wallet.paused_by,
            next_nonce=wallet.next_nonce,
        )

    def _find_unrecorded(
        self, wallet: Wallet, chain_nonce: int, chain: Chain
    ) -> Iterator[UnrecordedTransaction]:
        unknown = self._store.unknown_nonces(
            wallet.chain_id, wallet.sender, chain_nonce, _RECORDED_PER_PASS
        )
        found = set[bytes]()
        for nonce in unknown:
            mined = chain.client.find_transaction(wallet.sender, nonce)
            if mined is None or not chain.is_final(mined):
                return
            unrecorded = self._build_unrecorded(wallet, mined, chain, found)
            found |= {each.memo for each in unrecorded if each.memo is not None}
            yield from unrecorded

    def _build_unrecorded(
        self,
        wallet: Wallet,
        mined: MinedTransaction,
        chain: Chain,
        found: Container[bytes] = (),
    ) -> Sequence[UnrecordedTransaction]:
        """Return a row for *mined*, or for each item of a batch."""
        items = read_lost_items(mined, chain)
        if not items:
            memo = read_memo(mined.data) or self._find_call(wallet, mined, found)
            if mined.nonce < (wallet.high_water or 0) and _is_noop(mined):
                memo = NOOP_MEMO
            items = [(memo, None)]
        first = UnrecordedTransaction(
            chain_id=wallet.chain_id,
            sender=mined.sender,
            nonce=mined.nonce,
            tx_hash=mined.tx_hash,
            memo=None,
            gas_limit=mined.gas_limit,
            block_number=mined.block.number,
            block_hash=mined.block.hash,
            seen_at=self._clock(),
        )
        return [
            replace(first, position=position, memo=memo, item_end=end)
            for position, (memo, end) in enumerate(items)
        ]

    def _find_call(
        self, wallet: Wallet, mined: MinedTransaction, found: Container[bytes]
    ) -> bytes | None:
        """
        Return the memo of an open call that *mined* has made, or None.

        A call has no memo on the chain, so its content identifies it.  Of equal calls,
        each transaction is of one: *found* are the memos of others.
        """
        memos = {
            each.memo: each
            for each in self._store.open_calls(wallet.chain_id)
            if each.status is not Status.MINED and transfer_of(each).is_of(mined)
        }
        if not memos:
            return None
        known = self._store.find_unrecorded(wallet.chain_id, list(memos))
        for memo, call in memos.items():
            if memo not in known and memo not in found:
                self._store.require_authentic(call)
                return memo
        return None


def _is_noop(mined: MinedTransaction) -> bool:
    return mined.to == mined.sender and not mined.data
