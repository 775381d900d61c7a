"""
A thief of the database: of the service's role, or of everything in it.

The role can change rows as far as grants and triggers allow.  The owner of the tables
can also switch the triggers off, and on SQLite that is every program that can write the
file.  Only the keys of signatures and MACs are out of reach of both.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import psycopg
import pytest

from backends.sql import SQLStore
from signer.alerts import Alert
from signer.audit.forgeries import Forgeries
from signer.audit.hash_chain import link
from signer.config.networks import AutomaticStop
from signer.errors import ConfigurationError, RowNotAuthenticError
from signer.keys.admin_audit import AdminAudit
from signer.model.audit_record import Actor, Operation, Record
from signer.model.refund import Status
from signer.model.tenant_block import TenantBlock
from signer.ports import Sealing
from signer.refunds.tenant_admin import TenantAdmin
from signer.refunds.worker import Worker
from signer.row_macs import RowMACs
from tests.fixtures.ledger import filled, queued, stopped
from tests.fixtures.roles import Roles
from tests.fixtures.scripted_chain import CHAIN_ID, Sent
from tests.support.audit import overruled
from tests.support.devices import recording
from tests.support.keys import key_at
from tests.support.ledgers import DRAFTS, open_ledger, seal
from tests.support.refunds import AMOUNT, CUSTOMER, SECOND, World


THIEF = "0x90F79bf6EB2c4f870365E785982E1f101E93b906"

OPERATOR = Actor("cli:alice")

Attack = Callable[..., bool]

RESERVATION = ("nonce", "sender", "key_id", "gas_limit")


@pytest.fixture(params=["service role", "owner", "sqlite file"])
def thief(request: pytest.FixtureRequest, shipped: Roles) -> str:
    """Return who changes rows, in turn."""
    return str(request.param)


@pytest.fixture
def url(thief: str, shipped: Roles, sqlite_url: str) -> str:
    """Return the URL of the ledger that the service uses."""
    if thief == "sqlite file":
        return sqlite_url
    tables = ("refund_moves", "transactions", "refunds", "spendings", "sightings")
    others = (
        "wallets",
        "stops",
        "tenant_blocks",
        "keys",
        "audit_records",
        "alerts",
        "attempts",
    )
    overruled(shipped.superuser, *(f"DELETE FROM {each}" for each in tables + others))
    return shipped.service


@pytest.fixture
def world(url: str) -> Iterator[World]:
    """Return a process of the service."""
    with closing(open_ledger(url)) as store:
        yield World(store)


@pytest.fixture
def steal(thief: str, url: str, shipped: Roles) -> Attack:
    """Return what executes a statement as the thief; False if it was refused."""

    def execute(*statements: str) -> bool:
        if thief != "service role":
            overruled(url if thief == "sqlite file" else shipped.superuser, *statements)
            return True
        try:
            with psycopg.connect(url) as connection:
                for statement in statements:
                    connection.execute(statement.encode())
        except psycopg.Error:
            return False
        return True

    return execute


def _work(world: World, worker: Worker) -> None:
    """Run *worker* and mine blocks for some minutes."""
    for _ in range(6):
        world.clock.advance(seconds=31)
        worker.work()
        world.mine_deep()


@pytest.mark.parametrize(
    "change",
    [
        f"recipient = '{THIEF}'",
        "amount = amount",
        "token_address = '0x0000000000000000000000000000000000000001'",
        "tenant = 'thief'",
        "reference = 'thief'",
        "created_at = '2026-01-01T00:00:00.000000+00:00'",
        "mac = NULL",
    ],
)
@pytest.mark.parametrize("status", [Status.QUEUED, Status.RESERVED])
def test_a_changed_refund(
    world: World, steal: Attack, status: Status, change: str
) -> None:
    """Redirect or enlarge a queued refund: refused, or it waits and alerts."""
    refund, other = world.accepted(), world.accepted()
    if status is Status.RESERVED:
        refund = world.step(refund)
    worker = world.worker
    number = "amount + 1"
    if world.store._database.dialect == "sqlite":  # type: ignore[attr-defined]
        number = f"'{AMOUNT + 1:078d}'"  # Numbers are texts there.
    change = change.replace("amount = amount", f"amount = {number}")

    done = steal(f"UPDATE refunds SET {change} WHERE id = '{refund.id}'")
    _work(world, worker)

    paid = world.chain.payouts()
    assert set(paid) <= {(CUSTOMER, AMOUNT)}
    assert world.stored(other).status is Status.CONFIRMED or status is Status.RESERVED
    if done:
        assert world.stored(refund).status is status
        assert world.stored(refund).blocked_by == "row-not-authentic"
        assert world.store.alert_counts()[str(Alert.ROW_CHANGED)] >= 1
    else:
        assert paid == [(CUSTOMER, AMOUNT)] * 2


@pytest.mark.parametrize("mac", [None, "copied", "of another key"])
def test_an_inserted_refund(
    world: World, url: str, steal: Attack, mac: str | None
) -> None:
    """A refund that no process accepted is not paid, with any MAC."""
    accepted, worker = world.accepted(), world.worker
    macs = {
        "copied": accepted.mac,
        "of another key": RowMACs({"tests": b"thief" * 8}).compute(accepted),
    }
    invented = queued(
        recipient=THIEF,
        token_address=accepted.token_address,
        created_at=world.clock(),
        updated_at=world.clock(),
        due_at=world.clock(),
    )
    with closing(SQLStore(url)) as thieves:
        filled(thieves, [replace(invented, mac=macs.get(mac or ""))])

    _work(world, worker)

    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]
    assert world.stored(invented).blocked_by == "row-not-authentic"


@pytest.mark.parametrize(
    "change",
    [
        f"status = 'queued', {' = NULL, '.join(RESERVATION)} = NULL",
        "status = 'reserved', nonce = 9",
        "status = 'reserved'",
    ],
    ids=["queued", "another nonce", "the same nonce"],
)
def test_a_confirmed_refund_is_not_repeated(
    world: World, steal: Attack, change: str
) -> None:
    """A confirmed refund gets no second nonce, so the chain pays it once."""
    refund, worker = world.paid(), world.worker

    forget = "tx_hash = NULL, block_number = NULL, block_hash = NULL"
    steal(f"UPDATE refunds SET {change}, {forget} WHERE id = '{refund.id}'")
    _work(world, worker)

    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]


@pytest.mark.parametrize(
    "change",
    [
        "state = 'active', epoch = 9",
        f"state = 'active', epoch = 9, address = '{THIEF}'",
        "state = 'draining', version = version + 1",
        "key_id = 'ff', version = version + 1",
    ],
)
def test_a_chosen_key(world: World, steal: Attack, change: str) -> None:
    """A changed row of the ring is refused, or stops every signature with an alert."""
    world.rotate(SECOND, block=True)
    before = world.store.keys()
    refund, worker = world.accepted(), world.worker

    done = steal(
        "UPDATE keys SET state = 'retired' WHERE state = 'active'",
        f"UPDATE keys SET {change} WHERE address = '{world.signer.address}'",
    )
    _work(world, worker)

    senders = {Sent.read(raw).sender for raw in world.chain.broadcasts}
    assert senders <= {SECOND.address}
    if done:
        assert senders == set()
        assert world.stored(refund).status is Status.QUEUED
        with pytest.raises(RowNotAuthenticError):
            world.store.keys()
    else:
        assert world.store.keys() == before


def test_an_old_row_of_the_ring(world: World, steal: Attack, thief: str) -> None:
    """A copy of a row with its valid MAC cannot replace a newer version of it."""
    world.store.enrol(key_at(world.signer.address))
    (old,) = world.store.keys()
    world.rotate(SECOND, block=True)

    done = steal(
        "UPDATE keys SET state = 'retired' WHERE state = 'active'",
        f"UPDATE keys SET state = 'active', epoch = 1, version = {old.version},"
        f" mac = '{old.mac}' WHERE address = '{old.address}'",
    )

    # The owner of the tables can put back a whole old ring: as a restored backup does.
    assert done == (thief != "service role")


INVENTED = '{"event":"digest-sign-requested"}'


def _insert(id_: str, body: str = INVENTED, mac: str = "NULL") -> str:
    values = f"'{id_}', '{body}', {mac}"
    return f"INSERT INTO audit_records (id, body, mac) VALUES ({values})"


def _place(world: World, record: Record) -> str:
    """Return the statement that seals *record* next, with its right hash."""
    size, head = world.store.head()
    seal_ = link(head, size + 1, record).hex()
    is_sqlite = world.store._database.dialect == "sqlite"  # type: ignore[attr-defined]
    blob = f"x'{seal_}'" if is_sqlite else f"'\\x{seal_}'"
    return (
        f"UPDATE audit_records SET sequence = {size + 1}, hash = {blob}"
        f" WHERE id = '{record.id}'"
    )


def _found(world: World) -> tuple[list[str], list[str]]:
    """Return the ids of all sealed records, and of those that readers accept."""
    sealed = [each.record for each in world.store.sealed(0, 100)]
    forgeries = Forgeries()
    read = list(forgeries.watch(sealed))
    genuine = forgeries.without_forged(read)
    return [each.id for each in sealed], [each.id for each in genuine]


@pytest.mark.parametrize("id_", ["au_0", "au_0 x", "password=x", "au_0 {ours}"])
@pytest.mark.parametrize("is_declaration", [False, True])
def test_an_inserted_audit_record(
    world: World, steal: Attack, id_: str, is_declaration: bool
) -> None:
    """With any id, readers leave out the record that no process wrote, and no other."""
    ours = DRAFTS.forged(["other"])
    world.store.append([ours])
    id_ = id_.format(ours=ours.id)
    lie = DRAFTS.forged([ours.id])
    assert steal(_insert(id_, lie.body if is_declaration else INVENTED))

    done = world.store.seal(10, DRAFTS.forged)

    assert done == Sealing(2, (id_,))
    everything, accepted = _found(world)
    assert set(everything) - set(accepted) == {id_}
    assert ours.id in accepted


@pytest.mark.parametrize("mac", ["NULL", "'tests:00'"])
def test_a_record_that_the_thief_sealed(world: World, steal: Attack, mac: str) -> None:
    """A right hash needs no key; the MAC is verified before the chain goes on."""
    ours, later = DRAFTS.forged(["ours"]), DRAFTS.forged(["later"])
    world.store.append([ours])
    seal(world.store)
    forged = Record("au_0", DRAFTS.forged([ours.id]).body)
    assert steal(_insert(forged.id, forged.body, mac), _place(world, forged))

    world.store.append([later])
    done = world.store.seal(10, DRAFTS.forged)

    assert done == Sealing(1, ("au_0",))
    everything, accepted = _found(world)
    assert set(everything) - set(accepted) == {"au_0"}
    # Another process finds the declaration, and does not repeat it.
    world.store._verified = None  # type: ignore[attr-defined]
    world.store.append([DRAFTS.forged(["last"])])
    assert world.store.seal(10, DRAFTS.forged) == Sealing(1)


def test_an_invented_start_up_record(world: World, steal: Attack) -> None:
    """The last configuration is one that a process recorded."""
    start = Record.of(
        {"event": "configuration-loaded", "details": {"process": "worker"}},
        world.clock(),
    )
    world.store.append([start])
    assert steal(*(_insert(f"au_z{n}", start.body) for n in range(25)))

    assert world.store.last_configuration("worker") == start


@pytest.mark.parametrize("sequence", [2**63 - 1, 7, 3])
def test_a_renumbered_audit_record(world: World, steal: Attack, sequence: int) -> None:
    """No statement of the role can end the sealing, or leave a gap in the chain."""
    for number in range(3):
        world.store.append([DRAFTS.forged([str(number)])])
    seal(world.store, 2)

    blob = "'\\x00'" if world.store._database.dialect != "sqlite" else "x'00'"  # type: ignore[attr-defined]
    done = steal(
        f"UPDATE audit_records SET sequence = {sequence}, hash = {blob}"
        " WHERE sequence IS NULL"
    )
    world.store.append([DRAFTS.forged(["later"])])

    if done:
        return  # The owner can do anything; a kept checkpoint shows it.
    assert seal(world.store) == 2
    assert [each.sequence for each in world.store.sealed(0, 10)] == [1, 2, 3, 4]


def test_a_row_needs_the_mac_key(url: str) -> None:
    """A process without MAC_KEY_FILE accepts nothing."""
    with closing(SQLStore(url)) as store, pytest.raises(ConfigurationError) as caught:
        store.accept(queued())

    assert caught.value.refusals[0].code == "mac-key-missing"


@pytest.mark.parametrize("scope", ["stop", "block"])
def test_a_lifted_stop(world: World, steal: Attack, thief: str, scope: str) -> None:
    """A thief cannot end a stop or the block of a tenant: an operator must."""
    refund, worker = world.accepted(), world.worker
    at = world.clock()
    if scope == "stop":
        stopped(world.store, at=at)
        if thief == "service role":
            assert not steal("DELETE FROM stops")
        steal("UPDATE stops SET resumed_at = at, version = version + 1")
    else:
        world.store.block_tenant(TenantBlock("gateway", at, "cli:tests"))
        steal("UPDATE tenant_blocks SET ended_at = at, version = version + 1")

    _work(world, worker)
    while_changed = world.chain.payouts()
    if scope == "stop":
        stopped(world.store, at=at)
        world.store.resume_signing(CHAIN_ID, at)
    else:
        world.store.block_tenant(TenantBlock("gateway", at, "cli:tests"))
        world.store.unblock_tenant("gateway", at)
    _work(world, worker)

    assert while_changed == []
    assert world.stored(refund).status is Status.CONFIRMED


def test_a_forged_stop(world: World, steal: Attack, thief: str) -> None:
    """A stop of a chain that no network has stops nothing, and commands repair it."""
    at = "2026-11-26T00:00:00.000000+00:00"
    insert = (
        "INSERT INTO stops (chain_id, at, reason, requested_by, version)"
        f" VALUES ({{}}, '{at}', 'forged', 'thief', {{}})"
    )
    rules = AutomaticStop(max_refunds=100)
    world.network = world.network.model_copy(update={"automatic_stop": rules})
    refund, worker, switch = world.accepted(), world.worker, world.kill_switch

    if thief == "service role":
        # The version of a replacement would be too large for the column.
        assert not steal(insert.format(999_999, 2**31 - 1))
    assert steal(insert.format(999_999, 0))
    _work(world, worker)

    assert world.stored(refund).status is Status.CONFIRMED
    assert [stop.is_authentic for stop in switch.stops()] == [False]
    stops = switch.stop(None, "forged", OPERATOR, chain_id=999_999).stops
    assert [stop.is_authentic for stop in stops] == [True]
    assert switch.resume(None, "forged", OPERATOR, chain_id=999_999).stops == []


@pytest.mark.parametrize("chain_id", [0, CHAIN_ID])
def test_a_forged_end_of_a_stop(world: World, steal: Attack, chain_id: int) -> None:
    """It alerts, and an operator's commands end the stop."""
    rules = AutomaticStop(max_refunds=100)
    world.network = world.network.model_copy(update={"automatic_stop": rules})
    refund, worker, switch = world.accepted(), world.worker, world.kill_switch
    network = None if chain_id == 0 else "local"
    switch.stop(network, "odd refunds", OPERATOR)

    assert steal("UPDATE stops SET resumed_at = at, version = version + 1")
    _work(world, worker)

    assert world.chain.payouts() == []
    assert world.store.alert_counts()[str(Alert.ROW_CHANGED)] >= 1
    assert [stop.is_authentic for stop in switch.stops()] == [False]
    with pytest.raises(RowNotAuthenticError):
        switch.resume(network, "explained", OPERATOR)
    assert switch.stop(network, "again", OPERATOR).changed
    assert switch.resume(network, "explained", OPERATOR).stops == []
    _work(world, worker)
    assert world.stored(refund).status is Status.CONFIRMED


def test_a_forged_end_of_a_block(world: World, steal: Attack) -> None:
    """The tenant stays blocked; an operator's commands end the block."""
    refund, worker = world.accepted(), world.worker
    audit = AdminAudit(recording()[0], Operation.ADMINISTRATION)
    admin = TenantAdmin(world.store, world.tenants, audit, world.clock)
    admin.block("gateway", OPERATOR)

    assert steal("UPDATE tenant_blocks SET ended_at = at, version = version + 1")
    _work(world, worker)

    assert world.chain.payouts() == []
    assert [each.name for each in admin.list()] == ["gateway"]
    with pytest.raises(RowNotAuthenticError):
        admin.unblock("gateway", OPERATOR)
    assert admin.block("gateway", OPERATOR)
    assert admin.unblock("gateway", OPERATOR)
    _work(world, worker)
    assert world.stored(refund).status is Status.CONFIRMED
