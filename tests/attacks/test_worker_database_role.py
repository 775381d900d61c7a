"""
A thief of the database role of the workers.

The role moves refunds, and writes the ring, stops and seals.  It can stop payments and
show false statuses; it cannot make a payment that no process accepted, or a second one.
"""

from contextlib import closing

import pytest

from signer.model.hold import Hold
from signer.model.refund import Status
from tests.fixtures.ledger import later, now
from tests.fixtures.roles import Processes, Roles
from tests.support.database_attacks import Attacks
from tests.support.ledgers import open_ledger
from tests.support.theft import (
    DELETIONS_OF_EVENTS,
    DENIED,
    DENIED_TO_ALL,
    END_OF_BLOCKS,
    QUEUED_AGAIN,
    REFUSED,
    RESERVED_AGAIN,
    THIEF,
    Thief,
    let_work,
)


# Insert a refund, or ask to cancel one.
ACCEPTANCE = (
    "INSERT INTO refunds DEFAULT VALUES",
    "INSERT INTO refunds SELECT * FROM refunds",
    "UPDATE refunds SET cancel_requested_at = now()",
)
# Choose a key's place, use tokens again, reset limits.
ADMINISTRATION = (
    "UPDATE keys SET key_id = 'thief', version = version + 1",
    "UPDATE keys SET held_until = NULL, version = version + 1",
    "UPDATE keys SET created_at = now()",
    "UPDATE wallets SET first_nonce = 1000000",
    "INSERT INTO used_tokens DEFAULT VALUES",
    "DELETE FROM used_tokens",
    "INSERT INTO rate_counters DEFAULT VALUES",
    "UPDATE rate_counters SET count = 0",
    "DELETE FROM rate_counters",
)


@pytest.fixture
def thief(shipped: Roles) -> Thief:
    """Return a thief of the role hotwallet_worker."""
    return Thief(shipped.worker)


@pytest.fixture
def attacks(processes: Processes, thief: Thief) -> Attacks:
    """Return the attacks that the thief tries with this role."""
    return Attacks(processes, thief)


@pytest.mark.parametrize("statement", [*DENIED_TO_ALL, *ACCEPTANCE, *ADMINISTRATION])
def test_a_denied_statement(processes: Processes, thief: Thief, statement: str) -> None:
    """The role changes no refund's payment, accepts none, and administers nothing."""
    processes.refunds.accepted()

    assert thief.steal(statement) == DENIED


@pytest.mark.parametrize(
    "statement",
    [
        QUEUED_AGAIN,
        "UPDATE refunds SET state = 'assigned', nonce = 9",
        "UPDATE refunds SET state = 'assigned'",
        RESERVED_AGAIN,
    ],
    ids=["queued", "another nonce", "the same nonce", "its transaction"],
)
def test_a_confirmed_refund_is_not_repeated(
    processes: Processes, attacks: Attacks, statement: str
) -> None:
    """A final refund never changes, and neither does its transaction."""
    refund = processes.worker.finish(processes.refunds.accepted())[0]

    assert attacks.repeat(refund, statement) == REFUSED


def test_a_sent_refund_is_not_repeated(processes: Processes, attacks: Attacks) -> None:
    """The refund had a transaction, and gets no other."""
    refund = processes.worker.step(processes.refunds.accepted(), times=3)
    processes.worker.chain.mine()

    assert attacks.repeat(refund, RESERVED_AGAIN, QUEUED_AGAIN) is None
    assert processes.worker.stored(refund).nonce is None


def test_an_invented_reservation(attacks: Attacks) -> None:
    """A transaction that no process reserved pays nothing."""
    attacks.invent_reservation()


def test_a_shared_transaction(attacks: Attacks) -> None:
    """It pays the refund for which it was reserved."""
    attacks.share_transaction()


def test_bytes_of_another_refund(processes: Processes, thief: Thief) -> None:
    """They are not sent for this refund, which gets its own: both are paid once."""
    worker = processes.worker
    refund = worker.step(processes.refunds.accepted())
    other = worker.step(processes.refunds.accepted(amount="7.00"), times=2)
    costs = "max_fee_per_gas, max_priority_fee_per_gas, gas_limit, raw, signed_at"
    stolen = thief.steal(
        "INSERT INTO attempts (tx_hash, attempt, kind, chain_id, sender, nonce,"
        f" {costs}) SELECT 'thief', 0, kind, chain_id, sender, 0, {costs}"
        " FROM attempts",
        "UPDATE transactions SET status = 'signed', tx_hash = 'thief' WHERE nonce = 0",
    )
    let_work(worker, worker.worker)

    assert stolen is None
    paid = [amount for _, amount in worker.chain.payouts()]
    assert paid == [refund.amount, other.amount]
    assert worker.stored(refund).tx_hash != worker.stored(other).tx_hash


@pytest.mark.parametrize("statement", DELETIONS_OF_EVENTS)
def test_new_events_stay(processes: Processes, thief: Thief, statement: str) -> None:
    """The role deletes old events, and cannot hide what happened this week."""
    processes.refunds.accepted()
    processes.stores["worker"].sequence_events(9, later(0), lambda _: True)

    assert thief.steal(statement) == REFUSED


def test_an_invented_event(processes: Processes, thief: Thief) -> None:
    """An event that no process wrote is neither listed nor delivered."""
    refund = processes.refunds.accepted()
    store, at = processes.stores["worker"], later(0)
    store.sequence_events(9, at, lambda _: True)
    columns = "tenant, refund_id, status, at, mac"
    lie = f"INSERT INTO events (id, version, {columns}) SELECT"
    assert (
        thief.steal(
            f"{lie} 'evt_lie', 1, tenant, refund_id, 'confirmed', at, mac FROM events",
            "UPDATE events SET sequence = 7 WHERE id = 'evt_lie'",
            "INSERT INTO webhook_deliveries SELECT 'evt_lie', tenant, refund_id, 7,"
            " 'pending', 0, due_at, NULL, updated_at, 0 FROM webhook_deliveries",
        )
        is None
    )

    found = store.events(refund.tenant, 0, 9, at).events
    assert [event.status for event, _ in found] == [Status.QUEUED]
    claimed = store.claim_deliveries({refund.tenant: 9}, 9, later(1), later(60))
    assert [(each.delivery.event_id, each.event) for each in claimed] == [
        ("evt_lie", None)
    ]


def test_a_nonce_that_the_thief_chose(processes: Processes, thief: Thief) -> None:
    """A queued refund with an invented reservation is not paid from another wallet."""
    refund, worker = processes.refunds.accepted(), processes.worker.worker

    thief.steal(
        f"INSERT INTO transactions SELECT chain_id, '{THIEF}', 7, 'transfer', '',"
        " 'thief', 21000, now(), 'reserved', now(), 0, now() FROM refunds",
        f"UPDATE refunds SET state = 'assigned', nonce = 7, sender = '{THIEF}',"
        " position = 0",
    )
    let_work(processes.worker, worker)

    assert processes.worker.chain.broadcasts == []
    assert processes.worker.stored(refund).status is Status.RESERVED


INSERT_KEY = (
    "INSERT INTO keys (backend, key_id, address, state, created_at, updated_at, epoch,"
    f" version) SELECT backend, 'thief', '{THIEF}', 'active', now(), now(), 9, 0"
    " FROM keys LIMIT 1"
)
RETIRE = (
    "UPDATE keys SET state = 'retired', version = version + 1 WHERE state = 'active'"
)


CHANGE = "UPDATE keys SET version = version + 1, "


@pytest.mark.parametrize(
    "statements",
    [
        (RETIRE, INSERT_KEY),
        (RETIRE, f"{CHANGE} state = 'active', epoch = 9 WHERE state = 'blocked'"),
        (f"{CHANGE} state = 'draining' WHERE state = 'blocked'",),
        (f"{CHANGE} mac = NULL WHERE state = 'active'",),
    ],
    ids=["inserted", "revoked", "draining", "without a MAC"],
)
def test_a_chosen_key(attacks: Attacks, statements: tuple[str, ...]) -> None:
    """A changed row of the ring stops every signature, with an alert."""
    attacks.choose_key(*statements)


def test_an_old_row_of_the_ring(attacks: Attacks) -> None:
    """A copy of a row with its valid MAC cannot replace a newer version of it."""
    assert attacks.put_back_key() == REFUSED


def test_a_lifted_stop(attacks: Attacks) -> None:
    """Only an operator ends a stop."""
    attacks.lift_stop()


def test_a_lifted_block(attacks: Attacks, thief: Thief, shipped: Roles) -> None:
    """A worker blocks tenants by its rules; its role cannot unblock one."""
    with closing(open_ledger(shipped.admin)) as admin:
        admin.hold(Hold.of_tenant("shop", now(), "", "cli:alice"))
        assert thief.steal(END_OF_BLOCKS) is None
        assert admin.find_block("shop") is not None


def test_a_stop_that_no_command_could_replace(thief: Thief) -> None:
    """The version of its replacement would be too large for the column."""
    insert = (
        "INSERT INTO holds (name, at, reason, requested_by, version)"
        " VALUES ('network 9', {}, 'forged', 'thief', {})"
    )

    assert thief.steal(insert.format("now()", 2**31 - 1)) == REFUSED
    assert thief.steal(insert.format("'infinity'", 0)) == REFUSED


def test_an_inserted_audit_record(attacks: Attacks) -> None:
    """Readers leave out the record that no process wrote, and no other."""
    attacks.insert_record()


def test_a_record_that_the_thief_sealed(attacks: Attacks) -> None:
    """A right hash needs no key; the MAC is verified before the chain goes on."""
    attacks.seal_record()


@pytest.mark.parametrize("sequence", [2**63 - 1, 7, 3])
def test_a_renumbered_audit_record(attacks: Attacks, sequence: int) -> None:
    """No statement can end the sealing, leave a gap, or seal with a wrong hash."""
    assert attacks.renumber_record(sequence) == REFUSED
