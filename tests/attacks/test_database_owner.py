"""A thief of everything in the database, also of what it says of its own schema."""

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from api.backend_factories import open_store, upgrade_database
from backends.sql import SQLStore, holds
from backends.sql.tables import HEAD
from signer.alerts import Alert
from signer.config.networks import AutomaticStopRules
from signer.config.settings import Settings
from signer.errors import (
    ConfigurationError,
    HotWalletError,
    RowNotAuthenticError,
    StoreError,
)
from signer.model.audit_record import Actor, Record
from signer.model.hold import EVERYTHING, Hold
from signer.model.refund import Status
from signer.row_macs import RowMACs
from tests.attacks.database_attacks import ON_WALLETS, Attacks
from tests.attacks.theft import (
    QUEUED_AGAIN,
    RESERVED_AGAIN,
    THIEF,
    inserted_record,
    let_work,
)
from tests.fixtures.ledger import WALLET, accept, accepted, filled, opened, queued
from tests.fixtures.scripted_chain import CHAIN_ID
from tests.support.keys import key_at, made_active
from tests.support.ledgers import open_ledger, write_mac_key
from tests.support.refunds import AMOUNT, CUSTOMER, SECOND, World, altered


OPERATOR = Actor("cli:alice")

Attack = Callable[..., None]

END_OF_HOLDS = (
    "UPDATE holds SET ended_at = at, version = version + 1 WHERE name <> 'register'"
)

ASSIGNED_AGAIN = "UPDATE refunds SET state = 'assigned'"


@pytest.fixture
def attacks(world: World, steal: Attack) -> Attacks:
    """Return the attacks that need no role."""
    return Attacks(world, world, world, steal)


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
    """Redirect or enlarge a queued refund: it waits, and an alert is raised."""
    refund, other = world.accepted(), world.accepted()
    if status is Status.RESERVED:
        refund = world.step(refund)
    worker = world.worker
    number = "amount + 1"
    if world.store._database.dialect == "sqlite":  # type: ignore[attr-defined]
        number = f"'{AMOUNT + 1:078d}'"  # Numbers are texts there.
    change = change.replace("amount = amount", f"amount = {number}")

    steal(f"UPDATE refunds SET {change} WHERE id = '{refund.id}'")
    let_work(world, worker)

    assert set(world.chain.payouts()) <= {(CUSTOMER, AMOUNT)}
    assert world.stored(other).status is Status.CONFIRMED or status is Status.RESERVED
    assert world.stored(refund).status is status
    assert world.stored(refund).moving.blocked_by == "row-not-authentic"
    assert world.store.alert_counts()[str(Alert.ROW_CHANGED)] >= 1


@pytest.mark.parametrize("mac", [None, "copied", "of another key"])
def test_an_inserted_refund(world: World, writable_url: str, mac: str | None) -> None:
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
    with closing(SQLStore(writable_url)) as thieves:
        filled(thieves, [replace(invented, mac=macs.get(mac or ""))])

    let_work(world, worker)

    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]
    assert world.stored(invented).moving.blocked_by == "row-not-authentic"


@pytest.mark.parametrize(
    "statements",
    [
        (QUEUED_AGAIN,),
        (
            f"{ASSIGNED_AGAIN}, nonce = 9",
            "UPDATE transactions SET nonce = 9",
            RESERVED_AGAIN,
        ),
        (ASSIGNED_AGAIN, RESERVED_AGAIN),
    ],
    ids=["queued", "another nonce", "the same nonce"],
)
def test_a_confirmed_refund_is_not_repeated(
    world: World, steal: Attack, statements: tuple[str, ...]
) -> None:
    """A confirmed refund gets no second nonce, so the chain pays it once."""
    world.paid()
    worker = world.worker

    steal(*statements)
    let_work(world, worker)

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
    """A changed row of the ring stops every signature."""
    world.rotate(SECOND, block=True)
    refund, worker = world.accepted(), world.worker

    steal(
        "UPDATE keys SET state = 'retired' WHERE state = 'active'",
        f"UPDATE keys SET {change} WHERE address = '{world.signer.address}'",
    )
    let_work(world, worker)

    assert world.chain.broadcasts == []
    assert world.stored(refund).status is Status.QUEUED
    with pytest.raises(RowNotAuthenticError):
        world.store.keys()


@pytest.mark.parametrize("id_", ["au_0", "au_0 x", "password=x", "au_0 {ours}"])
@pytest.mark.parametrize("body", [None, '{"event":"digest-sign-requested"}'])
def test_an_inserted_audit_record(attacks: Attacks, id_: str, body: str | None) -> None:
    """With any id, readers leave out the record that no process wrote, and no other."""
    attacks.insert_record(id_, body)


@pytest.mark.parametrize("mac", ["NULL", "'tests:00'"])
def test_a_record_that_the_thief_sealed(attacks: Attacks, mac: str) -> None:
    """A right hash needs no key; the MAC is verified before the chain goes on."""
    attacks.seal_record(mac)


def test_an_invented_start_up_record(world: World, steal: Attack) -> None:
    """The last configuration is one that a process recorded."""
    start = Record.of(
        {"event": "configuration-loaded", "details": {"process": "worker"}},
        world.clock(),
    )
    world.store.append([start])
    steal(*(inserted_record(f"au_z{n}", start.body) for n in range(25)))

    assert world.store.last_configuration("worker") == start


def test_a_row_needs_the_mac_key(writable_url: str) -> None:
    """A process without MAC_KEY_FILE accepts nothing."""
    with (
        closing(SQLStore(writable_url)) as store,
        pytest.raises(ConfigurationError) as caught,
    ):
        accept(store, queued())

    assert caught.value.refusals[0].code == "mac-key-missing"


def test_a_forged_stop(world: World, steal: Attack) -> None:
    """A stop of a chain that no network has stops nothing, and commands repair it."""
    at = "2026-11-26T00:00:00.000000+00:00"
    insert = (
        "INSERT INTO holds (name, at, reason, requested_by, version)"
        f" VALUES ('network {{}}', '{at}', 'forged', 'thief', {{}})"
    )
    rules = AutomaticStopRules(max_refunds=100)
    world.network = world.network.model_copy(update={"automatic_stop": rules})
    refund, worker, switch = world.accepted(), world.worker, world.holds

    steal(insert.format(999_999, 0))
    let_work(world, worker)

    assert world.stored(refund).status is Status.CONFIRMED
    assert [stop.is_authentic for stop in switch.stops()] == [False]
    stops = switch.stop(None, OPERATOR.because("forged"), chain_id=999_999).stops
    assert [stop.is_authentic for stop in stops] == [True]
    assert switch.resume(None, OPERATOR.because("forged"), chain_id=999_999).stops == []


@pytest.mark.parametrize("chain_id", [0, CHAIN_ID])
def test_a_forged_end_of_a_stop(world: World, steal: Attack, chain_id: int) -> None:
    """It alerts, and an operator's commands end the stop."""
    rules = AutomaticStopRules(max_refunds=100)
    world.network = world.network.model_copy(update={"automatic_stop": rules})
    refund, worker, switch = world.accepted(), world.worker, world.holds
    network = None if chain_id == 0 else "local"
    switch.stop(network, OPERATOR.because("odd refunds"))

    steal(END_OF_HOLDS)
    let_work(world, worker)

    assert world.chain.payouts() == []
    assert world.store.alert_counts()[str(Alert.ROW_CHANGED)] >= 1
    assert [stop.is_authentic for stop in switch.stops()] == [False]
    with pytest.raises(RowNotAuthenticError):
        switch.resume(network, OPERATOR.because("explained"))
    assert switch.stop(network, OPERATOR.because("again")).changed
    assert switch.resume(network, OPERATOR.because("explained")).stops == []
    let_work(world, worker)
    assert world.stored(refund).status is Status.CONFIRMED


def test_a_forged_end_of_a_block(world: World, steal: Attack) -> None:
    """The tenant stays blocked; an operator's commands end the block."""
    refund, worker = world.accepted(), world.worker
    admin = world.holds
    admin.block("gateway", OPERATOR)

    steal(END_OF_HOLDS)
    let_work(world, worker)

    assert world.chain.payouts() == []
    assert [each.name for each in admin.tenants()] == ["gateway"]
    with pytest.raises(RowNotAuthenticError):
        admin.unblock("gateway", OPERATOR)
    assert admin.block("gateway", OPERATOR)
    assert admin.unblock("gateway", OPERATOR)
    let_work(world, worker)
    assert world.stored(refund).status is Status.CONFIRMED


def _put_back(where: str) -> tuple[str, ...]:
    """Return the statements that put the kept rows back: older ones with their MACs."""
    return (
        f"DELETE FROM holds WHERE {where}",
        f"INSERT INTO holds SELECT * FROM kept_holds WHERE {where}",
    )


ALL_STOPS = "name LIKE 'network %' OR name = 'everything'"

ALL_TOKEN_STOPS = "name LIKE 'token %'"

ALL_BLOCKS = "name LIKE 'tenant %'"

ALL_HOLDS = "name <> 'register'"

LIFTS = {
    "delete the stop": (f"DELETE FROM holds WHERE {ALL_STOPS}",),
    "delete the token's stop": (f"DELETE FROM holds WHERE {ALL_TOKEN_STOPS}",),
    "delete the block": (f"DELETE FROM holds WHERE {ALL_BLOCKS}",),
    "delete all": ("DELETE FROM holds",),
    "delete the register": ("DELETE FROM holds WHERE name = 'register'",),
    "change the register": (
        f"DELETE FROM holds WHERE {ALL_HOLDS}",
        "UPDATE holds SET reason = '{}' WHERE name = 'register'",
    ),
    "an older stop": _put_back(ALL_STOPS),
    "an older stop of the token": _put_back(ALL_TOKEN_STOPS),
    "an older block": _put_back(ALL_BLOCKS),
    "all as it was": _put_back("TRUE"),
    "all as it was, behind records that count nothing": (
        *_put_back("TRUE"),
        *(
            "INSERT INTO audit_records (id, body, mac)"
            f""" VALUES ('zz{each:04}', '{{"hold_changes": 0}}', '')"""
            for each in range(250)
        ),
    ),
}


def test_a_stop_that_is_put_back_at_once(
    world: World, steal: Attack, writable_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A thief undoes it before a worker or the command itself has read it.

    The audit log counts the change, so the worker stops soon; the command shows it.
    """
    refund, worker, switch = world.accepted(), world.worker, world.holds
    assert switch.stop("local", OPERATOR.because("a test")).changed
    assert switch.resume("local", OPERATOR.because("a test")).changed
    steal("CREATE TABLE kept_holds AS SELECT * FROM holds")

    with closing(open_ledger(writable_url)) as store:

        def hold(new: Hold) -> bool:
            done = store.begin_hold(new)
            steal(*_put_back("TRUE"), "DROP TABLE kept_holds")
            return done

        other = World(store)
        other.store = altered(store, begin_hold=hold)
        shown = other.holds.stop("local", OPERATOR.because("odd refunds")).stops
    monkeypatch.setattr(holds, "_READ_AGAIN_SECONDS", 0)
    let_work(world, worker)

    assert {each.chain_id for each in shown} == {EVERYTHING, CHAIN_ID}
    assert not any(each.is_authentic for each in shown)
    assert world.chain.payouts() == []
    assert world.stored(refund).status is Status.QUEUED
    assert world.store.alert_counts()[str(Alert.ROW_CHANGED)] >= 1


@pytest.mark.parametrize("has_restarted", [False, True], ids=["running", "restarted"])
@pytest.mark.parametrize("lift", LIFTS)
def test_a_hold_that_is_deleted_or_older(
    world: World, steal: Attack, writable_url: str, lift: str, has_restarted: bool
) -> None:
    """It is in force while its row is missing, or is not the last one."""
    refund, switch = world.accepted(), world.holds
    admin = world.holds
    token = "TUSD" if "token" in lift else None
    switch.stop("local", OPERATOR.because("odd refunds"), token=token)
    admin.block("gateway", OPERATOR)
    switch.resume("local", OPERATOR.because("explained"), token=token)
    admin.unblock("gateway", OPERATOR)
    steal("CREATE TABLE kept_holds AS SELECT * FROM holds")
    if "stop" in lift:
        switch.stop("local", OPERATOR.because("again"), token=token)
    elif "block" in lift:
        admin.block("gateway", OPERATOR)
    else:
        switch.stop("local", OPERATOR.because("again"))
        admin.block("gateway", OPERATOR)

    steal(*LIFTS[lift], "DROP TABLE kept_holds")
    with closing(open_ledger(writable_url)) as other:
        if has_restarted:
            world.store = other
        let_work(world, world.worker)

        assert world.chain.payouts() == []
        assert world.stored(refund).status is Status.QUEUED


def test_a_new_register(world: World, steal: Attack) -> None:
    """Commands repair what was deleted: a stop of everything, and then each hold."""
    refund, worker, switch = world.accepted(), world.worker, world.holds
    admin = world.holds
    admin.block("gateway", OPERATOR)
    steal("DELETE FROM holds WHERE name NOT LIKE 'tenant %'")

    assert [stop.chain_id for stop in switch.stops()] == [EVERYTHING]
    with pytest.raises(RowNotAuthenticError, match="`hotwallet stop` begins a new one"):
        admin.block("gateway", OPERATOR)
    switch.stop(None, OPERATOR.because("the register was deleted"))
    with pytest.raises(RowNotAuthenticError):
        admin.unblock("gateway", OPERATOR)
    assert admin.block("gateway", OPERATOR)
    assert (
        switch.resume(None, OPERATOR.because("compared with the audit log")).stops == []
    )
    assert admin.unblock("gateway", OPERATOR)
    let_work(world, worker)
    assert world.stored(refund).status is Status.CONFIRMED


@pytest.mark.parametrize("attack", [*ON_WALLETS, Attacks.move_first_nonce])
def test_attacks_on_wallets(
    attacks: Attacks, attack: Callable[[Attacks], None]
) -> None:
    """The wallet stays paused, until it is restored and an operator accepts."""
    attack(attacks)


@pytest.mark.parametrize(
    "statements",
    [
        ("DELETE FROM unrecorded_transactions",),
        ("DELETE FROM unrecorded_transactions", "DELETE FROM wallets"),
    ],
    ids=["transaction", "wallet"],
)
def test_deleted_rows_of_a_wallet(
    attacks: Attacks, statements: tuple[str, ...]
) -> None:
    """The chain has them still: the wallet is paused until an operator accepts."""
    attacks.delete(*statements)


# A thief who changes what the database says of its own schema.

CLAIMS = {
    "the last development revision": [
        "UPDATE alembic_version SET version_num = '0012'"
    ],
    "a revision from before MACs": ["UPDATE alembic_version SET version_num = '0003'"],
    "a newer revision": ["UPDATE alembic_version SET version_num = '9999'"],
    "an empty revision": ["UPDATE alembic_version SET version_num = ''"],
    "another revision beside ours": ["INSERT INTO alembic_version VALUES ('0003')"],
    "no revision": ["DELETE FROM alembic_version"],
    "no table of revisions": ["DROP TABLE alembic_version"],
    "no revision, and few tables": ["DELETE FROM alembic_version", "DROP TABLE holds"],
}


def _forge(url: str, claim: str) -> None:
    """Forge rows without MACs in an empty ledger, which then makes *claim*."""
    with closing(open_ledger(url)) as store:
        accepted(store)
        made_active(store, key_at(WALLET))
        opened(store)
        for statement in (
            "UPDATE wallets SET first_nonce = 7, mac = NULL, version = version + 1",
            (f"UPDATE keys SET key_id = '{THIEF}', mac = NULL, version = version + 1"),
            *CLAIMS[claim],
        ):
            _execute(store, statement)


def _execute(store: SQLStore, statement: str) -> None:
    store._database.write(lambda c: c.execute(text(statement)))


def _require_nothing_trusted(store: SQLStore) -> None:
    """Require the forged rows as they were, and that no process works with them."""
    for table in ("keys", "wallets"):
        (found,) = store._database.rows(text(f"SELECT mac FROM {table}"))
        assert found == (None,)
    with pytest.raises(StoreError, match="hotwallet db upgrade"):
        store.check()
    with pytest.raises(HotWalletError):
        store.active_key()


@pytest.mark.parametrize("claim", CLAIMS)
def test_the_owner_or_the_file(empty_url: str, claim: str) -> None:
    """The owner of the tables, or who writes SQLite's file: the ledger is refused."""
    with closing(open_ledger(empty_url)) as store:
        store.migrate()
    _forge(empty_url, claim)
    with closing(open_ledger(empty_url)) as store:
        for _ in range(2):
            with pytest.raises(
                StoreError, match=r"has (no )?revision.*restore a backup"
            ):
                store.migrate()

        _require_nothing_trusted(store)


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_backups_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sqlite_url: str, claim: str
) -> None:
    """A forged backup in place of the file: the command, and a process that starts."""
    Path(sqlite_url.removeprefix("sqlite:///")).chmod(0o600)
    _forge(sqlite_url, claim)
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    monkeypatch.setenv("MAC_KEY_FILE", str(write_mac_key(tmp_path)))
    monkeypatch.setenv("APP_ENV", "test")
    settings = Settings.from_env(os.environ)

    with pytest.raises(HotWalletError, match="its rows could be forged"):
        upgrade_database(settings, create=False)  # As `hotwallet db upgrade`.
    with pytest.raises(HotWalletError, match="its rows could be forged"):
        open_store(settings)
    with closing(open_ledger(sqlite_url)) as store:
        _require_nothing_trusted(store)


def test_rows_of_our_revision(empty_url: str) -> None:
    """Our own revision is no reason to give a MAC to a row without one."""
    with closing(open_ledger(empty_url)) as store:
        store.migrate()
        accepted(store)
        opened(store)
        _execute(store, "UPDATE wallets SET mac = NULL, version = version + 1")

        assert store.migrate().after == HEAD
        (wallet,) = store.wallets()
        assert not wallet.is_authentic
