"""
Thieves of each process's database role, without MAC and signing keys.

What no role may do, and what the roles that write rows of others cannot: those of the
worker and of administrators.  They can stop payments and show false statuses; they
cannot make a payment that no process accepted, or a second one.

``test_<role>_database_role.py`` have what one role alone can try.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack

import pytest

from tests.attacks.database_attacks import ON_WALLETS, Attacks
from tests.attacks.theft import (
    DELETIONS_OF_EVENTS,
    DENIED,
    DENIED_TO_ALL,
    REFUSED,
    THIEF,
    Thief,
)
from tests.fixtures.roles import Processes, Roles


_COMMON = (*DENIED_TO_ALL, *DELETIONS_OF_EVENTS)

STATEMENTS: Mapping[str, Sequence[str]] = {
    "refunds": (
        *_COMMON,
        # Move a refund, sign, or pause.
        "UPDATE refunds SET state = 'confirmed'",
        "UPDATE refunds SET state = 'queued', nonce = NULL, version = version + 1",
        "UPDATE transactions SET status = 'reserved'",
        "UPDATE transactions SET due_at = now()",
        "INSERT INTO transactions DEFAULT VALUES",
        "DELETE FROM transactions",
        "INSERT INTO transaction_payments DEFAULT VALUES",
        "DELETE FROM transaction_payments",
        "UPDATE refunds SET due_at = now()",
        "UPDATE refunds SET blocked_by = NULL, attempts = 0",
        "UPDATE refunds SET failure_code = 'thief'",
        # Call a contract, which only JSON-RPC accepts.
        "INSERT INTO refunds (id, calldata) VALUES ('rf_1', '\\x00')",
        "UPDATE refunds SET calldata = '\\x00'",
        "INSERT INTO attempts DEFAULT VALUES",
        "INSERT INTO wallets DEFAULT VALUES",
        "UPDATE wallets SET paused_by = NULL, paused_at = NULL",
        "INSERT INTO unrecorded_transactions DEFAULT VALUES",
        "UPDATE unrecorded_transactions SET accepted_at = now()",
        "INSERT INTO spendings DEFAULT VALUES",
        "UPDATE spendings SET amount = 0",
        # The version that a worker would write next.
        "INSERT INTO refund_moves (refund_id, version) SELECT id, 1 FROM refunds",
        # Announce a payment, or choose what a tenant receives.
        "INSERT INTO events (id, version) VALUES ('evt_1', 3)",
        "INSERT INTO events (id, tx_hash) VALUES ('evt_1', '0x1')",
        "UPDATE events SET sequence = 1",
        "INSERT INTO webhook_deliveries DEFAULT VALUES",
        "UPDATE webhook_deliveries SET state = 'delivered'",
        # Choose a key, lift a stop or a block, or say that the key signs.
        "INSERT INTO keys DEFAULT VALUES",
        "UPDATE keys SET state = 'active', version = version + 1",
        "UPDATE keys SET key_id = 'thief', version = version + 1",
        "UPDATE keys SET proved_at = now()",
        "INSERT INTO workers SELECT 'thief', now(), now(), ''",
        "UPDATE workers SET passed_at = now()",
        "DELETE FROM workers",
        "INSERT INTO holds DEFAULT VALUES",
        "UPDATE holds SET ended_at = at, version = version + 1",
        "INSERT INTO used_tokens DEFAULT VALUES",
        "DELETE FROM used_tokens",
        "UPDATE audit_records SET sequence = 1, hash = ''",
        "INSERT INTO audit_checkpoints DEFAULT VALUES",
    ),
    "worker": (
        *DENIED_TO_ALL,  # It deletes old events.
        # Insert a refund, or ask to cancel one.
        "INSERT INTO refunds DEFAULT VALUES",
        "INSERT INTO refunds SELECT * FROM refunds",
        "UPDATE refunds SET cancel_requested_at = now()",
        # Choose a key's place, use tokens again, reset limits.
        "UPDATE keys SET key_id = 'thief', version = version + 1",
        "UPDATE keys SET held_until = NULL, version = version + 1",
        "UPDATE keys SET created_at = now()",
        "UPDATE wallets SET first_nonce = 1000000",
        "INSERT INTO used_tokens DEFAULT VALUES",
        "DELETE FROM used_tokens",
        "INSERT INTO rate_counters DEFAULT VALUES",
        "UPDATE rate_counters SET count = 0",
        "DELETE FROM rate_counters",
    ),
    "admin": (
        *_COMMON,
        # Sign, record or finish a refund; hide what was spent.
        "INSERT INTO attempts DEFAULT VALUES",
        "UPDATE transactions SET status = 'reserved'",
        "UPDATE transactions SET tx_hash = 'thief'",
        "UPDATE transactions SET block_number = 1, block_hash = 'thief'",
        "UPDATE refunds SET failure_code = 'thief', failure_detail = 'thief'",
        "INSERT INTO spendings DEFAULT VALUES",
        "UPDATE spendings SET amount = 0",
        "UPDATE wallets SET first_nonce = 1000000",
        # Vouch for a key.
        "UPDATE keys SET proved_at = now()",
        "INSERT INTO workers SELECT 'thief', now(), now(), ''",
        "UPDATE workers SET passed_at = now()",
        "DELETE FROM workers",
        "UPDATE keys SET created_at = now()",
    ),
    "sign": (
        *_COMMON,
        # Move, cancel or finish a refund.
        "UPDATE refunds SET state = 'confirmed'",
        "UPDATE refunds SET nonce = 7",
        "UPDATE transactions SET status = 'reserved'",
        "INSERT INTO transactions DEFAULT VALUES",
        "DELETE FROM transactions",
        "INSERT INTO transaction_payments DEFAULT VALUES",
        "DELETE FROM transaction_payments",
        "UPDATE refunds SET cancel_requested_at = now()",
        "UPDATE refunds SET calldata = '\\x00'",
        "INSERT INTO attempts DEFAULT VALUES",
        # Choose a key, lift a stop, a block or a pause, approve, read signed requests.
        "INSERT INTO keys DEFAULT VALUES",
        "UPDATE keys SET state = 'active'",
        "UPDATE holds SET ended_at = now()",
        "UPDATE wallets SET paused_by = NULL",
        "UPDATE approvals SET state = 'approved'",
        "UPDATE accepted_limits SET document = ''",
        "SELECT * FROM request_signatures",
        "SELECT * FROM used_tokens",
        "SELECT * FROM webhook_deliveries",
        # Number audit records.
        "UPDATE audit_records SET sequence = 1",
        "INSERT INTO audit_checkpoints DEFAULT VALUES",
    ),
}


@pytest.fixture(scope="module")
def refund_in_ledger(shipped: Roles) -> Iterator[None]:
    """A ledger with a refund, which no denied statement changes."""
    shipped.clear()
    with ExitStack() as opened:
        Processes(shipped, opened).refunds.accepted()
        yield


@pytest.mark.usefixtures("refund_in_ledger")
@pytest.mark.parametrize("role", STATEMENTS)
def test_denied_statements(thief: Thief, role: str) -> None:
    """No role changes what a refund pays; each has a part of the rest."""
    refusals = {each: thief.steal(each) for each in STATEMENTS[role]}

    assert refusals == dict.fromkeys(STATEMENTS[role], DENIED)


both_roles = pytest.mark.parametrize("role", ["worker", "admin"])


@pytest.mark.parametrize("role", ["refunds", "admin"])
@pytest.mark.parametrize("kind", ["refund", "sweep"])
def test_an_inserted_refund(attacks: Attacks, kind: str) -> None:
    """One that no process accepted is not paid, and stops no other."""
    attacks.insert_refund(is_sweep=kind == "sweep")


@both_roles
@pytest.mark.parametrize(
    "attack",
    [
        *ON_WALLETS,
        Attacks.invent_reservation,
        Attacks.share_transaction,
        Attacks.lift_stop,
        Attacks.seal_record,
    ],
)
def test_what_the_thief_does_not_gain(
    attacks: Attacks, attack: Callable[[Attacks], None]
) -> None:
    """No payment, no end of a stop or of a pause, and no record that readers accept."""
    attack(attacks)


@both_roles
@pytest.mark.parametrize("put_back", [Attacks.put_back_key, Attacks.put_back_wallet])
def test_an_old_row(
    attacks: Attacks, put_back: Callable[[Attacks], str | None]
) -> None:
    """A copy of a row with its valid MAC cannot replace a newer version of it."""
    assert put_back(attacks) == REFUSED


CHANGE = "UPDATE keys SET version = version + 1, "
INSERT_PENDING = (
    "INSERT INTO keys (backend, key_id, address, state, created_at, updated_at,"
    f" version) VALUES ('device', 'x', '{THIEF}', 'pending', now(), now(), 0)"
)
INSERT_ACTIVE = (
    "INSERT INTO keys (backend, key_id, address, state, created_at, updated_at, epoch,"
    f" version) SELECT backend, 'thief', '{THIEF}', 'active', now(), now(), 9, 0"
    " FROM keys LIMIT 1"
)
RETIRE = f"{CHANGE} state = 'retired' WHERE state = 'active'"
DRAIN = f"{CHANGE} state = 'draining' WHERE state = 'blocked'"
ACTIVATE = f"{CHANGE} state = 'active', epoch = 9 WHERE state = 'blocked'"


@pytest.mark.parametrize(
    ("role", "statements"),
    [
        ("admin", (f"{CHANGE} key_id = 'thief' WHERE state = 'active'",)),
        ("admin", (DRAIN,)),
        ("admin", (RETIRE, ACTIVATE)),
        ("admin", (INSERT_PENDING,)),
        ("worker", (RETIRE, INSERT_ACTIVE)),
        ("worker", (RETIRE, ACTIVATE)),
        ("worker", (DRAIN,)),
        ("worker", (f"{CHANGE} mac = NULL WHERE state = 'active'",)),
    ],
)
def test_a_chosen_key(attacks: Attacks, statements: Sequence[str]) -> None:
    """A changed row of the ring stops every signature, with an alert."""
    attacks.choose_key(*statements)


@pytest.mark.parametrize("role", ["worker", "admin", "refunds"])
def test_an_inserted_audit_record(attacks: Attacks) -> None:
    """Readers leave out the record that no process wrote, and no other."""
    attacks.insert_record()


@both_roles
@pytest.mark.parametrize("sequence", [2**63 - 1, 7, 3])
def test_a_renumbered_audit_record(attacks: Attacks, sequence: int) -> None:
    """No statement can end the sealing, leave a gap, or seal with a wrong hash."""
    assert attacks.renumber_record(sequence) == REFUSED
