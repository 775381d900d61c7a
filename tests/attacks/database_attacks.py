"""Attacks by a thief who can write rows of the database, but has no key."""

from collections.abc import Callable
from dataclasses import replace

from backends.sql.tables import HELD
from signer.alerts import Alert
from signer.model.audit_record import Record
from signer.model.hold import name_of_chain
from signer.model.payment import PaymentState
from signer.model.refund import Refund, Status
from signer.model.transaction import compose
from signer.model.wallet import Pause, UnrecordedTransaction, Wallet
from signer.ports.audit_journal import Sealing
from signer.row_macs import RowMACs
from tests.attacks.theft import (
    THIEF,
    inserted_record,
    inserted_refund,
    left_out,
    let_work,
    sealing,
)
from tests.fixtures.ledger import bound, queued, stopped
from tests.fixtures.scripted_chain import CHAIN_ID
from tests.support.keys import key_at, made_active
from tests.support.ledgers import DRAFTS, seal
from tests.support.refunds import AMOUNT, CUSTOMER, SECOND, World


END_PAUSE = (
    "UPDATE wallets SET paused_by = NULL, paused_at = NULL, version = version + 1"
)

ACCEPT = "UPDATE unrecorded_transactions SET accepted_at = seen_at"


class Attacks:
    """
    What a thief tries who can write rows, as a role or as the owner of the tables.

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

    def insert_refund(self, *, is_sweep: bool) -> None:
        """Insert refunds with any MAC that a thief has: they wait, unpaid."""
        accepted, worker = self._refunds.accepted(), self._worker.worker
        other = RowMACs({"tests": b"thief" * 8})
        for mac in ("tests:00", accepted.mac, None):
            invented = queued(recipient=THIEF, token_address=accepted.token_address)
            if is_sweep:
                sender = self._worker.signer.address
                invented = replace(invented, **bound(sender))
            invented = replace(invented, mac=mac or other.compute(invented))
            assert self._steal(inserted_refund(invented)) is None
            let_work(self._worker, worker)
            assert (
                self._worker.stored(invented).moving.blocked_by == "row-not-authentic"
            )
        assert self._worker.chain.payouts() == [(CUSTOMER, AMOUNT)]
        assert self._worker.store.alert_counts()[str(Alert.ROW_CHANGED)] >= 1

    def repeat(self, refund: Refund, *statements: str) -> str | None:
        """
        Execute *statements* on *refund*, which is sent or confirmed; let a worker work.

        Return the refusal of the last one.  The chain pays the refund once.
        """
        worker = self._worker.worker
        refusal = None
        for statement in statements:
            refusal = self._steal(statement)
        let_work(self._worker, worker)
        assert self._worker.chain.payouts() == [(CUSTOMER, AMOUNT)]
        return refusal

    def invent_reservation(self) -> None:
        """Insert a transaction for a queued refund: it waits, unpaid."""
        first = self._worker.step(self._refunds.accepted())
        refund = self._refunds.accepted(amount="7.00")
        copied = (
            "network, kind, '{}', key_id, gas_limit, created_at, vault, mac,"
            " 'reserved', now()"
        )
        names = ", ".join(HELD[:-4])
        refusal = self._steal(
            f"INSERT INTO transactions ({names}, version, due_at) SELECT chain_id,"
            f" sender, 1, {copied.format(compose([refund.id]))}, 0, now()"
            " FROM transactions",
            "INSERT INTO transaction_payments SELECT"
            f" '{refund.id}', chain_id, sender, 1, 0 FROM transaction_payments",
            f"UPDATE refunds SET state = 'assigned', sender = '{first.sender}',"
            f" nonce = 1, position = 0 WHERE id = '{refund.id}'",
        )
        assert refusal is None
        let_work(self._worker, self._worker.worker)
        assert self._worker.chain.payouts() == [(CUSTOMER, AMOUNT)]
        assert self._worker.stored(refund).moving.blocked_by == "row-not-authentic"

    def share_transaction(self) -> None:
        """Point a refund to the transaction of another: it waits, the other goes on."""
        refund = self._worker.step(self._refunds.accepted())
        other = self._refunds.accepted(amount="7.00")
        refusal = self._steal(
            "INSERT INTO transaction_payments SELECT"
            f" '{other.id}', chain_id, sender, nonce, 1 FROM transaction_payments",
            f"UPDATE refunds SET state = 'assigned', sender = '{refund.sender}',"
            f" nonce = 0, position = 1 WHERE id = '{other.id}'",
        )
        assert refusal is None
        let_work(self._worker, self._worker.worker)
        assert self._worker.chain.payouts() == [(CUSTOMER, AMOUNT)]
        assert self._worker.stored(refund).status is Status.CONFIRMED
        assert self._worker.stored(other).state is PaymentState.ASSIGNED
        assert self._worker.store.alert_counts()[str(Alert.ROW_CHANGED)] >= 1

    def choose_key(self, *statements: str) -> None:
        """Change the ring after a revocation: a worker then signs nothing."""
        made_active(self._admin.store, key_at(SECOND.address), block=True)
        refund, worker = self._refunds.accepted(), self._worker.worker
        assert self._steal(*statements) is None
        let_work(self._worker, worker)
        assert self._worker.chain.broadcasts == []
        assert self._worker.stored(refund).status is Status.QUEUED
        alerts = self._worker.store.alert_counts()
        assert alerts[str(Alert.ROW_CHANGED)] >= 1

    def put_back_key(self) -> str | None:
        """Put back a row of the ring with its valid MAC; return the refusal."""
        (old,) = self._worker.store.keys()
        made_active(self._admin.store, key_at(SECOND.address), block=True)
        return self._steal(
            "UPDATE keys SET state = 'draining', version = version + 1"
            " WHERE state = 'active'",
            f"UPDATE keys SET state = 'active', epoch = 9, version = {old.version},"
            f" mac = '{old.mac}' WHERE address = '{old.address}'",
        )

    def lift_stop(self) -> None:
        """End a stop: it stays in force until an operator ends it."""
        refund, worker = self._refunds.accepted(), self._worker.worker
        stopped(self._admin.store, at=self._worker.clock())
        end = "UPDATE holds SET ended_at = at, version = version + 1"
        end = f"{end} WHERE name <> 'register'"
        assert self._steal(end) is None
        let_work(self._worker, worker)
        assert self._worker.chain.payouts() == []
        stopped(self._admin.store, at=self._worker.clock())
        self._admin.store.end_hold(name_of_chain(CHAIN_ID), self._worker.clock())
        let_work(self._worker, worker)
        assert self._worker.stored(refund).status is Status.CONFIRMED

    def insert_record(self, id_: str = "au_0", body: str | None = None) -> None:
        """Insert a record, as a declaration without *body*: readers leave it out."""
        ours = DRAFTS.forged(["other"])
        self._worker.store.append([ours])
        id_ = id_.format(ours=ours.id)
        lie = body or DRAFTS.forged([ours.id]).body
        assert self._steal(inserted_record(id_, lie)) is None
        assert self._worker.store.seal(10, DRAFTS.forged) == Sealing(2, (id_,))
        assert left_out(self._worker.store) == [id_]

    def seal_record(self, mac: str = "'tests:00'") -> None:
        """Insert a record and seal it with its right hash: it is declared forged."""
        store = self._worker.store
        ours = DRAFTS.forged(["ours"])
        store.append([ours])
        seal(store)
        forged = Record("au_0", DRAFTS.forged([ours.id]).body)
        insert = inserted_record(forged.id, forged.body, mac)
        assert self._steal(insert, sealing(store, forged)) is None
        store.append([DRAFTS.forged(["later"])])
        assert store.seal(10, DRAFTS.forged) == Sealing(1, ("au_0",))
        assert left_out(store) == ["au_0"]
        # Another process finds the declaration, and does not repeat it.
        store._verified = None  # type: ignore[attr-defined]
        store.append([DRAFTS.forged(["last"])])
        assert store.seal(10, DRAFTS.forged) == Sealing(1)

    def renumber_record(self, sequence: int) -> str | None:
        """Give a record a sequence that is not the next; return the refusal."""
        for number in range(3):
            self._worker.store.append([DRAFTS.forged([str(number)])])
        seal(self._worker.store, 2)
        refusal = self._steal(
            f"UPDATE audit_records SET sequence = {sequence}, hash = '\\x00'"
            " WHERE sequence IS NULL"
        )
        self._worker.store.append([DRAFTS.forged(["later"])])
        assert seal(self._worker.store) == 2
        assert [each.sequence for each in self._worker.store.sealed(0, 10)] == [
            1,
            2,
            3,
            4,
        ]
        return refusal

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


ON_WALLETS = (
    Attacks.end_pause,
    Attacks.accept_transaction,
    Attacks.hide_transaction,
    Attacks.invent_payment,
)
"""Attacks after which a wallet is paused, and pays nothing."""
