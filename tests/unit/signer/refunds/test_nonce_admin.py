"""Operator commands on nonces, their audit records, and repairs of paused wallets."""

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from backends.sql import SQLStore
from signer.alerts import Alerts
from signer.approvals import Approvals
from signer.audit.log import AuditLog
from signer.chain.chain import Chain
from signer.errors import (
    ApprovalRequiredError,
    ChainUnavailableError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    WalletPausedError,
)
from signer.keys.admin_audit import AdminAudit
from signer.model.audit_record import Actor, Operation
from signer.model.refund import Refund, Status
from signer.model.transaction import TransactionStatus
from signer.model.wallet import Pause, Wallet
from signer.refunds.nonce_admin import NonceAdmin, RepairResult, repair_wallets
from tests.fixtures.ledger import stopped
from tests.support.ledgers import seal
from tests.support.refunds import NETWORK, SECOND, World, altered_chain
from tests.support.ring import SILENCE


ALICE = Actor("cli:alice")
ADMIN, BOB = Actor("token:alice"), Actor("token:bob")


class System:
    """A wallet, its ``NonceAdmin``, and the audit records."""

    def __init__(self, store: SQLStore) -> None:
        self.store = store
        self.world = World(store)
        other = NETWORK.model_copy(update={"chain_id": 999})
        self.chains = {**self.world.chains, "other": Chain(other, self.world.chain)}

    def admin(
        self, store: Any = None, approvals: Approvals | None = None
    ) -> NonceAdmin:
        """Return the ``NonceAdmin`` of a command that starts now."""
        audit = AuditLog(SILENCE, journal=self.store)
        admin_audit = AdminAudit(audit, Operation.ADMINISTRATION, approvals=approvals)
        return NonceAdmin(
            store or self.store, self.chains, admin_audit, self.world.clock
        )

    def approvals(self) -> Approvals:
        """Return new ``Approvals``, which are required."""
        audit = AuditLog(SILENCE, journal=self.store)
        clock = self.world.clock
        return Approvals(self.store, audit, Alerts(), clock, required=True)

    def revoke(self) -> str:
        """Revoke the first key, which has paid once; return its address."""
        self.world.paid()
        self.world.rotate(block=True)
        return self.world.signer.address

    @property
    def records(self) -> list[tuple[str, str, Mapping[str, Any]]]:
        """Event, outcome and details of alice's commands, in order."""
        seal(self.store)
        fields = [each.record.fields for each in self.store.sealed(0, 1000)]
        return [
            (each["event"], each["outcome"], each["details"])
            for each in fields
            if each.get("actor") == ALICE.name
            if each["operation"] == "administration"
        ]

    @property
    def outcomes(self) -> list[tuple[str, str]]:
        """Event and outcome of alice's commands, in order."""
        return [(event, outcome) for event, outcome, _ in self.records]


@pytest.fixture
def system(sqlite_store: SQLStore) -> System:
    """A system without history."""
    return System(sqlite_store)


def test_an_unknown_network_is_audited(system: System) -> None:
    """The command is refused, and the attempt is recorded."""
    with pytest.raises(NotFoundError):
        system.admin().repair("mainnet", ALICE)

    assert system.records == [
        ("nonce-repair-requested", "success", {"network": "mainnet"}),
        ("nonce-repair-refused", "not-found", {"network": "mainnet"}),
    ]


def test_accepted_foreign_transactions_are_audited(system: System) -> None:
    """Each transaction with the operator's name, and the outcome."""
    system.world.use_key_elsewhere(2)
    (found,) = system.admin().repair("local", ALICE)
    intent, *accepted, outcome = system.records

    assert (found.resumed, found.is_open) == (True, False)
    assert intent == ("nonce-repair-requested", "success", {"network": "local"})
    assert accepted == [
        (
            "foreign-transaction-accept-succeeded",
            "success",
            {
                "network": "local",
                "address": system.world.signer.address,
                "nonce": transaction.nonce,
                "tx_hash": transaction.tx_hash,
            },
        )
        for transaction in found.accepted
    ]
    assert [facts["nonce"] for _, _, facts in accepted] == [1, 2]
    assert system.world.step(system.world.accepted()).nonce == 3
    assert outcome == (
        "nonce-repair-succeeded",
        "success",
        {"network": "local", "resumed": 1, "still_paused": 0},
    )


def test_a_repair_that_cannot_resume_is_audited(system: System) -> None:
    """The outcome is why the wallet stays paused, and nothing is accepted."""
    system.world.use_key_elsewhere(1, blocks=0)
    (found,) = system.admin().repair("local", ALICE)
    _, outcome = system.records

    assert (found.resumed, found.is_open, found.accepted) == (False, True, ())
    assert outcome == (
        "nonce-repair-refused",
        "wallet-paused",
        {"network": "local", "resumed": 0, "still_paused": 1},
    )


def test_a_repair_without_work_is_audited(system: System) -> None:
    """The request is recorded, too."""
    system.world.broadcast()
    system.admin().repair(None, ALICE)
    outcomes = [(event, facts) for event, _, facts in system.records]

    assert outcomes[1] == (
        "nonce-repair-succeeded",
        {"network": "local", "resumed": 0, "still_paused": 0},
    )
    assert [event for event, _ in outcomes] == [
        "nonce-repair-requested",
        "nonce-repair-succeeded",
    ] * 2


def test_abandon_ends_the_wait_for_a_pending_transaction(system: System) -> None:
    """
    An intruder's pending transaction delays all refunds until an operator abandons the
    nonces (O8).
    """
    address, refund = _with_a_pending_transaction(system)
    world = system.world
    before = world.blocked(refund)

    changed = system.admin().abandon(address.lower(), "local", ALICE)
    world.work(after=timedelta(seconds=31))
    after = world.stored(refund)
    intent, accepted, outcome = system.records

    assert before == (Status.QUEUED, "wallet-paused")
    assert changed == {"local": True}
    assert (after.status, after.sender) == (Status.BROADCAST, SECOND.address)
    details = {"network": "local", "address": address}
    assert intent == ("nonce-abandon-requested", "success", details)
    assert (accepted[0], accepted[2]["nonce"]) == (
        "foreign-transaction-accept-succeeded",
        1,
    )
    assert outcome == (
        "nonce-abandon-succeeded",
        "success",
        details | {"changed": True},
    )


def test_mined_transactions_are_not_abandoned(system: System) -> None:
    """One may be our payment, and will be known once it is final (O8, R24)."""
    address = system.revoke()
    system.world.chain.mine_foreign(address)
    with pytest.raises(WalletPausedError, match="when it is final"):
        system.admin().abandon(address, "local", ALICE)

    assert system.outcomes == [
        ("nonce-abandon-requested", "success"),
        ("nonce-abandon-refused", "wallet-paused"),
    ]


def test_abandon_without_a_pause_changes_nothing(system: System) -> None:
    """If the wallet is not paused, or never paid, there is nothing to abandon."""
    address = system.revoke()
    system.world.work()

    assert system.admin().abandon(address, None, ALICE) == {
        "local": False,
        "other": False,
    }


def test_what_waits_is_shown_before_it_is_abandoned(system: System) -> None:
    """By network; neither the wallet nor the audit changes."""
    address, admin = system.revoke(), system.admin()
    paused = system.world.wallet

    waiting = admin.waiting(address.lower(), None)

    assert paused.is_paused
    assert waiting == {"local": True, "other": False}
    assert admin.waiting(address, "other") == {"other": False}
    assert (system.world.wallet, system.records) == (paused, [])
    with pytest.raises(NotFoundError):
        admin.waiting(address, "mainnet")
    with pytest.raises(ConflictError, match="no key with this address is revoked"):
        admin.waiting(SECOND.address, None)


@pytest.mark.parametrize(
    ("address", "network", "error"),
    [
        (None, "local", ConflictError),
        ("0x12", "local", InvalidInputError),
        (None, "mainnet", NotFoundError),
    ],
)
def test_only_revoked_keys_are_abandoned(
    system: System, address: str | None, network: str, error: type[Exception]
) -> None:
    """Another key's nonces are kept, and the refusal is recorded."""
    system.world.broadcast()
    with pytest.raises(error):
        system.admin().abandon(address or system.world.signer.address, network, ALICE)

    assert [event for event, _, _ in system.records] == [
        "nonce-abandon-requested",
        "nonce-abandon-refused",
    ]


def _with_a_pending_transaction(system: System) -> tuple[str, Refund]:
    """Return a revoked address that sends another transaction, and what it delays."""
    address, world = system.revoke(), system.world
    world.chain.mine_foreign(address)
    world.chain.mine_empty(2)
    world.chain.send_foreign(address)
    refund = world.accepted()
    for _ in range(5):
        world.work(after=timedelta(seconds=31))
    return address, refund


def test_abandoning_nonces_takes_two(system: System) -> None:
    address, _ = _with_a_pending_transaction(system)
    with pytest.raises(ApprovalRequiredError) as refused:
        system.admin(approvals=system.approvals()).abandon(address, "local", ADMIN)
    system.approvals().approve(refused.value.digest, BOB.because("not ours"))
    done = system.admin(approvals=system.approvals()).abandon(address, "local", ADMIN)

    assert done == {"local": True}


def test_foreign_transactions_are_accepted_by_two(system: System) -> None:
    """The approval names each of them: one more needs another approval."""
    system.world.use_key_elsewhere(2)
    (asked,) = system.admin(approvals=system.approvals()).repair("local", ADMIN)
    (proposal,) = system.approvals().list().approvals
    system.approvals().approve(proposal.digest, BOB.because("ours, by hand"))
    system.world.chain.mine_foreign(system.world.signer.address)
    system.world.chain.mine_empty(2)
    system.world.work()
    (again,) = system.admin(approvals=system.approvals()).repair("local", ADMIN)
    _, second = system.approvals().list().approvals
    system.approvals().approve(second.digest, BOB.because("ours, by hand"))
    (done,) = system.admin(approvals=system.approvals()).repair("local", ADMIN)

    assert (asked.code, again.code) == ("approval-required", "approval-required")
    assert [
        [each["nonce"] for each in json.loads(found.proposal)["accepted"]]
        for found in (proposal, second)
    ] == [[1, 2], [1, 2, 3]]
    assert (done.resumed, len(done.accepted)) == (True, 3)


def test_a_wallet_that_has_nothing_foreign_needs_no_approval(system: System) -> None:
    system.world.broadcast()
    wallet = system.world.wallet
    system.store.pause(wallet, Pause.CHAIN_AHEAD, system.world.clock())
    system.world.mine_deep()
    (done,) = system.admin(approvals=system.approvals()).repair("local", ADMIN)

    assert (done.is_open, system.approvals().list().approvals) == (False, [])


def _repair(world: World, *, apply: bool) -> list[RepairResult]:
    return list(repair_wallets(world.store, world.chains, world.clock, apply=apply))


def test_without_apply_nothing_changes(world: World) -> None:
    """It reports what would be accepted, and the wallet stays paused."""
    world.use_key_elsewhere(1)
    before = world.store.wallets()

    (found,) = _repair(world, apply=False)

    assert (found.is_open, found.resumed, found.problem) == (True, False, None)
    assert [transaction.nonce for transaction in found.wallet_status.foreign] == [1]
    assert found.wallet_status.unknown_count == 0
    assert world.store.wallets() == before


def test_open_fillers_are_listed(world: World) -> None:
    """With the error that delays them, until they are final."""
    world.ring.active()
    world.wallets.get_or_open(world.chains["local"], world.signer.address, 0)
    world.fill(0)
    world.step(world.accepted())
    world.chain.fail("fees", ChainUnavailableError("gone"))
    world.work()

    ((filler,),) = [each.fillers for each in _repair(world, apply=False)]
    world.finish_nonce(0)

    assert (filler.nonce, filler.status) == (0, TransactionStatus.RESERVED)
    assert filler.blocked_by == "chain-unavailable"
    assert [each.fillers for each in _repair(world, apply=False)] == [()]


def test_apply_records_any_number_of_transactions(world: World) -> None:
    """It runs as many passes as needed."""
    world.use_key_elsewhere(50)

    (found,) = _repair(world, apply=True)

    assert (found.resumed, found.wallet_status.wallet.next_nonce) == (True, 51)


def test_a_transaction_that_is_not_final_prevents_the_repair(world: World) -> None:
    """The problem says how many to wait for, and nothing is accepted."""
    world.use_key_elsewhere(25, blocks=0)

    (found,) = _repair(world, apply=True)

    assert (found.is_open, found.resumed) == (True, False)
    assert found.wallet_status.unknown_count == 2
    assert str(found.problem).startswith("2 of the chain's transactions are not final")
    assert world.wallet.paused_by is Pause.CHAIN_AHEAD


def test_our_own_transactions_resume_without_acceptance(world: World) -> None:
    """Once they are recorded, nothing is left to accept."""
    refund = world.broadcast()
    world.store.pause(world.wallet, Pause.CHAIN_AHEAD, world.clock())
    counts = iter([3, 3])
    world.client = altered_chain(
        world.chain, pending_count=lambda address: next(counts, 1)
    )

    (found,) = _repair(world, apply=True)

    assert (found.is_open, found.resumed, found.problem) == (False, True, None)
    assert world.stored(refund).status is Status.BROADCAST


def test_a_wallet_on_a_removed_network_is_skipped(world: World) -> None:
    """No node knows it."""
    world.store.open_wallet(Wallet(999, world.signer.address, 0, 0))
    world.broadcast()

    assert [found.network for found in _repair(world, apply=True)] == ["local"]


def test_a_refund_on_a_stopped_network_can_be_cancelled(world: World) -> None:
    """It has no nonce, so nothing is paid (R26, R27)."""
    stopped(world.store, at=world.clock())
    refund = world.accepted()

    cancelled = world.cancel(refund)

    assert cancelled.status is Status.CANCELLED


def test_a_wallet_that_is_behind_the_chain_is_open_to_repair(world: World) -> None:
    """Also before a worker has paused it."""
    world.use_key_elsewhere(1, work=False)

    (seen,) = _repair(world, apply=False)
    (done,) = _repair(world, apply=True)

    assert (seen.is_open, seen.wallet_status.wallet.paused_by) == (True, None)
    assert (done.is_open, done.resumed) == (False, True)
    assert world.step(world.accepted()).nonce == 2
