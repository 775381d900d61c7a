"""Attacks on the rows of wallets and of their unrecorded transactions."""

from collections.abc import Callable
from dataclasses import replace

from signer.alerts import Alert
from signer.model.refund import Refund, Status
from signer.model.wallet import Pause, UnrecordedTransaction, Wallet
from tests.attacks.theft import let_work
from tests.support.refunds import AMOUNT, CUSTOMER, World


END_PAUSE = (
    "UPDATE wallets SET paused_by = NULL, paused_at = NULL, version = version + 1"
)

ACCEPT = "UPDATE unrecorded_transactions SET accepted_at = seen_at"


class WalletAttacks:
    """
    What a thief tries who can write the rows.

    *steal* executes statements as the thief, and returns the refusal or None.
    """

    def __init__(
        self,
        worker: World,
        refunds: World,
        admin: World,
        steal: Callable[..., str | None],
    ) -> None:
        self._worker = worker
        self._refunds = refunds
        self._admin = admin
        self._steal = steal

    def end_pause(self) -> None:
        """End the pause after a foreign transaction: the wallet stays paused."""
        self._pause()
        refund, worker = self._refunds.accepted(), self._worker.worker
        assert self._steal(END_PAUSE) is None
        let_work(self._worker, worker)
        self._require_unpaid(refund)
        self._admin.state_marks()
        let_work(self._worker, worker)
        assert self._worker.wallet.pause_reason == Pause.RESTORED
        self.repair(refund)

    def accept_transaction(self) -> None:
        """Accept a foreign transaction: the wallet stays paused."""
        self._pause()
        refund, worker = self._refunds.accepted(), self._worker.worker
        assert self._steal(ACCEPT) is None
        let_work(self._worker, worker)
        self._require_unpaid(refund)

    def hide_transaction(self) -> None:
        """Send with a stolen key, and insert the transaction as accepted."""
        self._pay()
        tx_hash = self._worker.chain.mine_foreign(self._worker.signer.address)
        refund, worker = self._refunds.accepted(), self._worker.worker
        seen = self._unrecorded(nonce=1, tx_hash=tx_hash)
        accepted = replace(seen, accepted_at=seen.seen_at)
        assert self._steal(inserted_unrecorded(accepted, self._is_sqlite)) is None
        let_work(self._worker, worker)
        self._require_unpaid(refund)
        assert self._worker.stored(refund).moving.blocked_by == "row-not-authentic"

    def invent_payment(self) -> None:
        """Insert a transaction with the memo of a refund: it does not count as paid."""
        self._pay()
        refund, worker = self._refunds.accepted(), self._worker.worker
        paid = self._unrecorded(nonce=1, memo=refund.memo)
        assert self._steal(inserted_unrecorded(paid, self._is_sqlite)) is None
        let_work(self._worker, worker)
        self._require_unpaid(refund)
        assert self._worker.stored(refund).moving.blocked_by == "row-not-authentic"

    def move_first_nonce(self) -> None:
        """Skip nonces: a restored wallet assigns the right one."""
        self._pay()
        refund, worker = self._refunds.accepted(), self._worker.worker
        move = "UPDATE wallets SET first_nonce = 1000000, version = version + 1"
        assert self._steal(move) is None
        let_work(self._worker, worker)
        self._require_unpaid(refund)
        self._admin.state_marks()
        self._worker.finish(refund)
        assert self._worker.stored(refund).nonce == 1
        assert self._worker.wallet.first_nonce == 0

    def delete(self, *statements: str) -> None:
        """Delete rows after a pause: what was deleted comes back from the chain."""
        self._pause()
        refund, worker = self._refunds.accepted(), self._worker.worker
        assert self._steal(*statements) is None
        let_work(self._worker, worker)
        let_work(self._worker, worker)
        assert self._worker.wallet.is_paused
        assert self._worker.stored(refund).nonce is None
        self.repair(refund)

    def put_back_wallet(self) -> str | None:
        """Put back the row from before a pause, with its MAC; return the refusal."""
        self._pay()
        before = self._worker.wallet
        self._pause()
        return self._steal(
            "UPDATE wallets SET paused_by = NULL, paused_at = NULL,"
            f" version = {before.version}, mac = '{before.mac}'"
        )

    def repair(self, refund: Refund) -> None:
        """Accept what is foreign, as an operator does: *refund* is paid."""
        worker = self._worker
        status = worker.wallets.status(worker.chains["local"], worker.signer.address)
        assert [each.nonce for each in status.foreign] == [1]
        worker.wallets.resume(status, worker.chains["local"])
        worker.finish(refund)
        assert worker.stored(refund).status is Status.CONFIRMED

    def _pay(self) -> None:
        """Pay a refund with nonce 0, unless one was paid."""
        if not self._worker.chain.payouts():
            self._worker.finish(self._refunds.accepted())

    def _pause(self) -> Wallet:
        """Send with a stolen key, until the wallet is paused and nonce 1 recorded."""
        self._pay()
        self._worker.chain.mine_foreign(self._worker.signer.address)
        self._worker.chain.mine_empty(self._worker.network.confirmations)
        status = self._worker.reconcile()
        assert [each.nonce for each in status.foreign] == [1]
        assert status.wallet.is_paused
        return status.wallet

    def _require_unpaid(self, refund: Refund) -> None:
        """Require that *refund* has no nonce, the wallet is paused, and an alert."""
        assert self._worker.stored(refund).status is Status.QUEUED
        assert self._worker.stored(refund).nonce is None
        assert self._worker.wallet.is_paused
        assert self._worker.chain.payouts() == [(CUSTOMER, AMOUNT)]
        assert self._has_alarm()

    def _has_alarm(self) -> bool:
        return self._worker.store.alert_counts().get(str(Alert.ROW_CHANGED), 0) > 0

    @property
    def _is_sqlite(self) -> bool:
        return self._worker.store._database.dialect == "sqlite"  # type: ignore[attr-defined, no-any-return]

    def _unrecorded(
        self, *, nonce: int, tx_hash: str = "0xf0", memo: bytes | None = None
    ) -> UnrecordedTransaction:
        return UnrecordedTransaction(
            chain_id=self._worker.network.chain_id,
            sender=self._worker.signer.address,
            nonce=nonce,
            tx_hash=tx_hash,
            memo=memo,
            gas_limit=21_000,
            block_number=1,
            block_hash="0x01",
            seen_at=self._worker.clock(),
        )


def inserted_unrecorded(row: UnrecordedTransaction, is_sqlite: bool) -> str:
    """Return the statement that inserts *row*."""
    blob = "x'{}'" if is_sqlite else "'\\x{}'"
    texts = {
        name: f"'{value.isoformat(timespec='microseconds')}'"
        for name in ("seen_at", "accepted_at")
        if (value := getattr(row, name)) is not None
    }
    if row.memo is not None:
        texts["memo"] = blob.format(row.memo.hex())
    for name in ("chain_id", "nonce", "position", "gas_limit", "block_number"):
        texts[name] = str(getattr(row, name))
    for name in ("sender", "tx_hash", "block_hash"):
        texts[name] = f"'{getattr(row, name)}'"
    texts["mac"] = "'tests:00'"
    names, values = ", ".join(texts), ", ".join(texts.values())
    return f"INSERT INTO unrecorded_transactions ({names}) VALUES ({values})"
