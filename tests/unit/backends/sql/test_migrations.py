"""The schema: its migrations, and what its constraints reject."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from backends.sql import SQLStore
from backends.sql.tables import HEAD, keys, metadata, refunds
from signer.errors import (
    RowNotAuthenticError,
    StaleStateError,
    StoreError,
)
from signer.model.refund import Status
from signer.ports.audit_journal import Sealing
from signer.row_macs import RowMACs
from tests.fixtures.ledger import (
    OTHER_WALLET,
    WALLET,
    accept,
    accepted,
    filled,
    opened,
    queued,
    queued_call,
    refund_page,
    reserved,
    signed,
    stored,
    unrecorded,
)
from tests.support.audit import record
from tests.support.keys import key_at, made_active
from tests.support.ledgers import DRAFTS, open_ledger


@pytest.fixture
def empty(empty_url: str) -> Iterator[SQLStore]:
    """Return a store on each database in turn, before its first migration."""
    store = open_ledger(empty_url)
    yield store
    store.close()


def _set_revision(store: SQLStore, revision: str) -> None:
    statement = text(f"UPDATE alembic_version SET version_num = '{revision}'")
    store._database.run(lambda c: c.execute(statement))


def test_migrate_reports_what_it_did(empty: SQLStore) -> None:
    """The first migration creates the ledger; a second one changes nothing."""
    created, unchanged = empty.migrate(), empty.migrate()

    assert (created.action, created.before, created.after) == ("created", None, HEAD)
    assert (unchanged.action, unchanged.before) == ("unchanged", HEAD)
    assert created.path == unchanged.path == empty._database.path


def test_the_head_is_alembics() -> None:
    """The revision that ``check`` asks for is the one that ``migrate`` leads to."""
    config = Config()
    config.set_main_option("script_location", "backends.sql:migrations")

    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_the_tables_are_the_migrations(store: SQLStore) -> None:
    """The migrations create exactly the tables, columns and keys in ``schema``."""

    def is_compared(_: object, _name: str, kind: str, *_others: object) -> bool:
        return kind in ("table", "column")

    def differences(connection: Connection) -> object:
        options = {"compare_type": True, "include_object": is_compared}
        context = MigrationContext.configure(connection, opts=options)
        return compare_metadata(context, metadata)

    def primary_keys(connection: Connection) -> dict[str, list[str]]:
        keys = inspect(connection).get_multi_pk_constraint(
            filter_names=[*metadata.tables]
        )
        return {table: key["constrained_columns"] for (_, table), key in keys.items()}

    assert store._database.run(differences) == []
    assert store._database.run(primary_keys) == {
        name: table.primary_key.columns.keys()
        for name, table in metadata.tables.items()
    }


def test_before_the_first_migration(empty: SQLStore, empty_url: str) -> None:
    """A database without tables is not usable; the error names the command."""
    if empty_url.startswith("sqlite"):
        empty._database.migration(lambda _: None, timeout=5)

    with pytest.raises(StoreError, match="hotwallet db upgrade") as caught:
        empty.check()
    assert not caught.value.retryable
    with pytest.raises(StoreError, match="hotwallet db upgrade"):
        accept(empty, queued())


def test_another_revision(empty: SQLStore) -> None:
    """The ledger of another program is refused, left alone, and the error advises."""
    empty.migrate()
    for revision in ("0003", "0012", "9999", ""):
        _set_revision(empty, revision)
        for refused in (empty.check, empty.migrate):
            with pytest.raises(
                StoreError, match=f"revision {revision}.*restore a backup"
            ):
                refused()

    empty._database.run(lambda c: c.execute(text("DELETE FROM alembic_version")))
    with pytest.raises(StoreError, match=r"no revision.*hotwallet db upgrade"):
        empty.check()


def test_the_ledger_of_an_earlier_release_that_runs(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The next release does not upgrade it, or begin to work with it.

    A process of the earlier release would go on, and append records that the next
    release declares forged.  A release that upgrades a ledger must require first that
    no other process has a SQLite file open.
    """
    with closing(open_ledger(empty_url)) as running:
        running.migrate()
        running.append([record(1)])
        with monkeypatch.context() as next_release:
            for module in ("migrate", "store"):
                next_release.setattr(f"backends.sql.{module}.HEAD", "0002")
            with closing(open_ledger(empty_url)) as new:
                for refused in (new.migrate, new.check):
                    with pytest.raises(
                        StoreError, match=r"revision 0001, .* needs revision 0002"
                    ):
                        refused()
        running.append([record(2)])

        running.check()
        assert running.seal(10, DRAFTS.forged) == Sealing(2)


def test_all_or_nothing(empty: SQLStore) -> None:
    """A migration that fails half-way leaves nothing of itself."""
    empty._database.migration(
        lambda c: c.execute(text("CREATE VIEW refund_moves AS SELECT 1")), timeout=5
    )
    with pytest.raises(StoreError):
        empty.migrate()

    assert empty._database.run(lambda c: inspect(c).get_table_names()) == []


ASSIGNED = {"state": "assigned", "sender": WALLET, "nonce": 0, "position": 0}
SIGNED = {"status": "signed", "tx_hash": "0x01"}
MINED = {**SIGNED, "status": "mined", "block_number": 1, "block_hash": "0x02"}


IMPOSSIBLE: dict[str, list[dict[str, object]]] = {
    "refunds": [
        {"state": "paid"},
        {"amount": f"{0:078d}"},
        {"chain_id": 0},
        {"decimals": -1},
        {"version": -1},
        {"tenant": None},
        {"due_at": None},
        {"attempts": None},
        {"nonce": 7},
        ASSIGNED,
        {**ASSIGNED, "state": "queued"},
        {**ASSIGNED, "state": "cancelled"},
        {**ASSIGNED, "nonce": -1},
        {**ASSIGNED, "nonce": None},
        {**ASSIGNED, "sender": None},
        {**ASSIGNED, "position": None},
        {**ASSIGNED, "position": -1},
        {"state": "failed"},
    ],
    "transactions": [
        {"status": "paid"},
        {"status": None},
        {"kind": "gift"},
        {"chain_id": 0},
        {"nonce": 7},
        {"gas_limit": 0},
        {"key_id": None},
        {"version": -1},
        {"due_at": None},
        {**SIGNED, "tx_hash": None},
        {**MINED, "block_hash": None},
        {**MINED, "block_number": None},
        {**MINED, "block_number": -1},
    ],
    "attempts": [
        {"nonce": 7},
        {"kind": "gift"},
        {"attempt": -1},
        {"nonce": -1},
        {"max_fee_per_gas": f"{0:078d}"},
    ],
    "wallets": [{"paused_by": "chain-ahead"}, {"first_nonce": -1}, {"chain_id": 0}],
    "unrecorded_transactions": [{"nonce": -1}, {"sender": OTHER_WALLET}],
}


def _is_refused(store: SQLStore, statement: str, **given: object) -> bool:
    """Whether a constraint or trigger refuses *statement*."""
    try:
        store._database.write(lambda c: c.execute(text(statement), given))
    except StoreError as e:
        return "a constraint is violated" in str(e)
    return False


def _is_impossible(store: SQLStore, table: str, change: dict[str, object]) -> bool:
    columns = ", ".join(f"{name} = :{name}" for name in change)
    return _is_refused(store, f"UPDATE {table} SET {columns}", **change)


@pytest.mark.parametrize("table", IMPOSSIBLE)
def test_impossible_rows(store: SQLStore, table: str) -> None:
    """The constraints reject every statement that makes a row invalid."""
    refund = accepted(store)
    store.add_unrecorded(opened(store), [unrecorded()])
    if table in {"transactions", "attempts"}:
        refund = reserved(store, refund)
    if table == "attempts":
        refund = signed(store, refund)
    changes = IMPOSSIBLE[table]

    assert [each for each in changes if not _is_impossible(store, table, each)] == []
    assert store.get(refund.id) == refund


@pytest.mark.parametrize("change", [SIGNED, MINED, {"status": "failed"}])
def test_possible_transactions(store: SQLStore, change: dict[str, object]) -> None:
    """The valid rows, which the table makes invalid, are accepted."""
    refund = reserved(store, accepted(store))

    assert not _is_impossible(store, "transactions", change)
    assert stored(store, refund).status == change["status"]


def test_two_refunds_never_share_a_nonce(store: SQLStore) -> None:
    """A nonce that is already used is a ``StaleStateError``, not a duplicate."""
    first = reserved(store, accepted(store))
    second = accepted(store)

    with pytest.raises(StoreError, match="a constraint is violated"):
        filled(store, [queued(status=Status.RESERVED, nonce=first.nonce)])
    with pytest.raises(StaleStateError):
        _run(store, f"UPDATE refunds SET {_ASSIGNMENT} WHERE id = '{second.id}'")
    assert first == store.get(first.id)
    assert second == store.get(second.id)


_ASSIGNMENT = f"state = 'assigned', sender = '{WALLET}', nonce = 0, position = 0"


TIME = "'2026-11-26T00:00:00.000000+00:00'"


def test_a_changed_wallet_is_not_trusted_later(store: SQLStore) -> None:
    """An upgrade of the current revision gives it no MAC."""
    store.add_unrecorded(opened(store), [unrecorded()])
    _run(store, "UPDATE wallets SET first_nonce = 0, version = version + 1")
    _run(store, f"UPDATE unrecorded_transactions SET accepted_at = {TIME}")
    store.migrate()

    (wallet,) = store.wallets()
    assert not wallet.is_authentic
    store.open_wallet(wallet)
    (wallet,) = store.wallets()
    assert not wallet.is_authentic  # For the transaction.


def test_an_upgrade_trusts_no_changed_key(store: SQLStore) -> None:
    """An upgrade gives no MAC to a key of the ring that another program changed."""
    made_active(store, key_at(WALLET))
    change = text("UPDATE keys SET key_id = 'x', version = version + 1")
    store._database.write(lambda c: c.execute(change))

    with pytest.raises(RowNotAuthenticError):
        store.migrate()


def test_the_upgrade_renews_macs(empty_url: str) -> None:
    """After a rotation of the MAC key, ring and wallets do not need the old one."""
    old, new = {"old": b"\x01" * 32}, {"new": b"\x02" * 32}
    with closing(SQLStore(empty_url, RowMACs(old))) as before:
        before.migrate()
        active = made_active(before, key_at(WALLET))
        before.add_unrecorded(opened(before), [unrecorded()])
    with closing(SQLStore(empty_url, RowMACs(new | old))) as both:
        both.migrate()
        both.migrate()

    with closing(SQLStore(empty_url, RowMACs(new))) as after:
        found = after.active_key()
        (wallet,) = after.wallets()
    with closing(SQLStore(empty_url)) as keyless:
        assert keyless.migrate().action == "unchanged"
    assert found == replace(active, version=active.version + 1)
    assert (wallet.is_authentic, wallet.version) == (True, 2)


REQUEST = "UPDATE refunds SET cancel_requested_at = {at}"
LATER = "'2026-11-27T00:00:00.000000+00:00'"


def _run(store: SQLStore, statement: str) -> None:
    store._database.write(lambda c: c.execute(text(statement)))


def test_a_request_to_cancel_is_made_once(store: SQLStore) -> None:
    """No statement changes or withdraws it, or makes it once the refund has moved."""
    asked = accepted(store)
    _run(store, REQUEST.format(at=TIME))
    moved_on = reserved(store, accepted(store))
    for at in (LATER, "NULL"):
        with pytest.raises(StoreError, match="a constraint is violated"):
            _run(store, f"{REQUEST.format(at=at)} WHERE id = '{asked.id}'")
    with pytest.raises(StoreError, match="a constraint is violated"):
        _run(store, f"{REQUEST.format(at=TIME)} WHERE id = '{moved_on.id}'")

    assert store.cancellation_requests(10) == (store.get(asked.id),)
    assert store.get(moved_on.id) == moved_on


def _copied(**changes: str) -> str:
    """Return the statement that copies a refund, with *changes*."""
    given = dict.fromkeys(("id", "idempotency_key", "reference"), "'x'") | changes
    names = [each.name for each in refunds.c]
    copied = ", ".join(given.get(name, name) for name in names)
    return f"INSERT INTO refunds ({', '.join(names)}) SELECT {copied} FROM refunds"


def test_only_the_proof_needs_no_new_version(store: SQLStore) -> None:
    """A change of any other column of a key, even to the same value, needs one."""
    store.enrol(key_at(WALLET))
    before = store.keys()
    _run(store, f"UPDATE keys SET proved_at = {TIME}")
    change = f"UPDATE keys SET proved_at = {LATER}, {{0}} = {{0}}"
    names = [each.name for each in keys.c if each.name != "proved_at"]

    assert all(_is_refused(store, change.format(name)) for name in names)
    assert store.keys() == before
    for name in {*names} - {"version"}:
        _run(store, f"{change.format(name)}, version = version + 1")


UNREADABLE = [
    *(f"UPDATE refunds SET {each} = 'infinity'" for each in ("due_at", "updated_at")),
    "UPDATE refunds SET due_at = '-infinity'",
    "UPDATE refunds SET cancel_requested_at = '4000-01-01 BC'",
    "UPDATE refunds SET cancel_requested_at = 'infinity'",
    "UPDATE transactions SET due_at = 'infinity'",
    "UPDATE transactions SET updated_at = '-infinity'",
    "UPDATE keys SET proved_at = '20000-01-01'",
    _copied(amount="'NaN'"),
    _copied(created_at="'infinity'"),
    _copied(due_at="'infinity'"),
]


def test_rows_that_python_cannot_read(postgresql_url: str) -> None:
    """PostgreSQL refuses them: one of them would end the reading of all others."""
    with closing(open_ledger(postgresql_url)) as store:
        refund, paid = accepted(store), reserved(store, accepted(store))

        assert [each for each in UNREADABLE if not _is_refused(store, each)] == []
        assert [stored(store, each) for each in (refund, paid)] == [refund, paid]


def test_the_calldata_of_a_row_stays(store: SQLStore) -> None:
    """Neither a call nor a transfer becomes the other, or calls something else."""
    call, _ = accept(store, queued_call())
    values = ["NULL", "x''", "x'f00e'"]
    if store._database.dialect != "sqlite":
        values = [each.replace("x'", "'\\x") for each in values]
    change = "UPDATE refunds SET calldata = {}"

    assert all(_is_refused(store, change.format(each)) for each in values)
    assert store.get(call.id) == call


NOT_NEW = [
    _copied(state="'refused'"),
    _copied(state="'assigned'", sender="'x'", nonce="999", position="0"),
    _copied(version="2147483647"),
    _copied(attempts="2147483647"),
    _copied(cancel_requested_at=TIME),
]


def test_a_new_refund_is_queued(store: SQLStore) -> None:
    """A row that takes a nonce, or a number that no worker can add to, is refused."""
    refund = accepted(store)

    assert [each for each in NOT_NEW if not _is_refused(store, each)] == []
    _run(store, _copied())
    assert len(refund_page(store, "gateway").refunds) == 2
    assert reserved(store, refund).nonce == 0
