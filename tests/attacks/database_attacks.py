"""Attacks by a thief of a database role with what the role may execute."""

from dataclasses import replace

from backends.sql.tables import HELD
from signer.alerts import Alert
from signer.model.audit_record import Record
from signer.model.hold import name_of_chain
from signer.model.payment import PaymentState
from signer.model.refund import Refund, Status
from signer.model.transaction import compose
from signer.ports.audit_journal import Sealing
from signer.row_macs import RowMACs
from tests.attacks.theft import (
    THIEF,
    Thief,
    inserted_record,
    inserted_refund,
    left_out,
    let_work,
    sealing,
)
from tests.fixtures.ledger import bound, queued, stopped
from tests.fixtures.roles import Processes
from tests.fixtures.scripted_chain import CHAIN_ID
from tests.support.keys import key_at, made_active
from tests.support.ledgers import DRAFTS, seal
from tests.support.refunds import AMOUNT, CUSTOMER, SECOND


class Attacks:
    """Attacks that a thief of the worker's or the administrator's role can try."""

    def __init__(self, processes: Processes, thief: Thief) -> None:
        self._worker = processes.worker
        self._refunds = processes.refunds
        self._store = processes.stores["worker"]
        self._admin = processes.stores["admin"]
        self._thief = thief

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
            assert self._thief.steal(inserted_refund(invented)) is None
            let_work(self._worker, worker)
            assert (
                self._worker.stored(invented).moving.blocked_by == "row-not-authentic"
            )
        assert self._worker.chain.payouts() == [(CUSTOMER, AMOUNT)]
        assert self._store.alert_counts()[str(Alert.ROW_CHANGED)] >= 1

    def repeat(self, refund: Refund, *statements: str) -> str | None:
        """
        Execute *statements* on *refund*, which is sent or confirmed; let a worker work.

        Return the refusal of the last one.  The chain pays the refund once.
        """
        worker = self._worker.worker
        refusal = None
        for statement in statements:
            refusal = self._thief.steal(statement)
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
        refusal = self._thief.steal(
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
        refusal = self._thief.steal(
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
        assert self._store.alert_counts()[str(Alert.ROW_CHANGED)] >= 1

    def choose_key(self, *statements: str) -> None:
        """Change the ring after a revocation: a worker then signs nothing."""
        made_active(self._admin, key_at(SECOND.address), block=True)
        refund, worker = self._refunds.accepted(), self._worker.worker
        assert self._thief.steal(*statements) is None
        let_work(self._worker, worker)
        assert self._worker.chain.broadcasts == []
        assert self._worker.stored(refund).status is Status.QUEUED
        alerts = self._store.alert_counts()
        assert alerts[str(Alert.ROW_CHANGED)] >= 1

    def put_back_key(self) -> str | None:
        """Put back a row of the ring with its valid MAC; return the refusal."""
        (old,) = self._store.keys()
        made_active(self._admin, key_at(SECOND.address), block=True)
        return self._thief.steal(
            "UPDATE keys SET state = 'draining', version = version + 1"
            " WHERE state = 'active'",
            f"UPDATE keys SET state = 'active', epoch = 9, version = {old.version},"
            f" mac = '{old.mac}' WHERE address = '{old.address}'",
        )

    def lift_stop(self) -> None:
        """End a stop: it stays in force until an operator ends it."""
        refund, worker = self._refunds.accepted(), self._worker.worker
        stopped(self._admin, at=self._worker.clock())
        end = "UPDATE holds SET ended_at = at, version = version + 1"
        end = f"{end} WHERE name <> 'register'"
        assert self._thief.steal(end) is None
        let_work(self._worker, worker)
        assert self._worker.chain.payouts() == []
        stopped(self._admin, at=self._worker.clock())
        self._admin.end_hold(name_of_chain(CHAIN_ID), self._worker.clock())
        let_work(self._worker, worker)
        assert self._worker.stored(refund).status is Status.CONFIRMED

    def insert_record(self) -> None:
        """Insert a record that looks like a declaration: readers leave it out."""
        ours = DRAFTS.forged(["other"])
        self._store.append([ours])
        lie = DRAFTS.forged([ours.id])
        assert self._thief.steal(inserted_record("au_0", lie.body)) is None
        assert self._store.seal(10, DRAFTS.forged) == Sealing(2, ("au_0",))
        assert left_out(self._store) == ["au_0"]

    def seal_record(self) -> None:
        """Insert a record and seal it with its right hash: it is declared forged."""
        ours = DRAFTS.forged(["ours"])
        self._store.append([ours])
        seal(self._store)
        forged = Record("au_0", DRAFTS.forged([ours.id]).body)
        insert = inserted_record(forged.id, forged.body, "'tests:00'")
        assert self._thief.steal(insert, sealing(self._store, forged)) is None
        self._store.append([DRAFTS.forged(["later"])])
        assert self._store.seal(10, DRAFTS.forged) == Sealing(1, ("au_0",))
        assert left_out(self._store) == ["au_0"]

    def renumber_record(self, sequence: int) -> str | None:
        """Give a record a sequence that is not the next; return the refusal."""
        for number in range(3):
            self._store.append([DRAFTS.forged([str(number)])])
        seal(self._store, 2)
        refusal = self._thief.steal(
            f"UPDATE audit_records SET sequence = {sequence}, hash = '\\x00'"
            " WHERE sequence IS NULL"
        )
        self._store.append([DRAFTS.forged(["later"])])
        assert seal(self._store) == 2
        assert [each.sequence for each in self._store.sealed(0, 10)] == [1, 2, 3, 4]
        return refusal
