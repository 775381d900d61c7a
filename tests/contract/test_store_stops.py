"""Contract of ``ControlStore``: a stop forbids every commit that precedes a payment."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from threading import Event

import pytest
from sqlalchemy import Connection

from backends.sql import SQLStore
from backends.sql.advisory_locks import lock_keys
from backends.sql.database import Database
from signer.errors import (
    RowNotAuthenticError,
    SigningStoppedError,
    StaleStateError,
    StoreError,
)
from signer.model.audit_record import Record
from signer.model.hold import EVERYTHING, Hold, name_of_chain
from signer.model.key import SIGNING, SigningCondition
from signer.model.refund import Refund, Status
from signer.ports.control_store import ControlStore
from tests.fixtures.ledger import (
    WALLET,
    accepted,
    broadcast,
    forge,
    forged_end,
    mined,
    moved,
    now,
    opened,
    reserved,
    save,
    signed,
    step_to,
    stopped,
    transaction,
)
from tests.fixtures.races import race
from tests.support.keys import key_at, made_active
from tests.support.ledgers import open_ledger, seal


CHAIN = 31337
OTHER_CHAIN = 7

FORGED = (
    "INSERT INTO holds (name, at, reason, requested_by, version)"
    " VALUES ('network {chain_id}', '{at}', 'forged', 'thief', {version})"
)

BOTH = pytest.mark.parametrize("chain_id", [EVERYTHING, CHAIN])


def test_fits_the_port(store: SQLStore) -> None:
    """The tables are a ``ControlStore``, which mypy verifies here."""
    fits: ControlStore = store

    assert fits.stops() == ()


def test_the_first_stop_stays_until_it_is_resumed(store: SQLStore) -> None:
    """A second one changes nothing; after a resume, a new one replaces it (R27)."""
    first = stopped(store, CHAIN)
    again = Hold.of_chain(CHAIN, now(), "another reason", "token:mallory")
    later = now() + timedelta(hours=1)

    assert not store.begin_hold(again)
    assert (store.find_stop(CHAIN), list(store.stops())) == (first, [first])
    assert store.end_hold(name_of_chain(CHAIN), later)
    assert not store.end_hold(name_of_chain(CHAIN), later)
    assert store.find_stop(CHAIN) is None
    assert [stop.ended_at for stop in store.stops()] == [later]
    assert store.begin_hold(again)
    assert store.find_stop(CHAIN) == replace(again, version=2)


def test_a_stop_of_everything_is_found_for_each_chain(store: SQLStore) -> None:
    """The two kinds are ended separately."""
    chain, everything = stopped(store, CHAIN), stopped(store, EVERYTHING)

    assert store.find_stop(CHAIN) == store.find_stop(OTHER_CHAIN) == everything
    assert list(store.stops()) == [everything, chain]
    store.end_hold(name_of_chain(EVERYTHING), now())
    assert store.find_stop(CHAIN) == chain
    assert store.find_stop(OTHER_CHAIN) is None


@BOTH
def test_nothing_is_reserved(store: SQLStore, chain_id: int) -> None:
    """Until signing is resumed, also for wallets that are not opened yet (R27)."""
    refund = accepted(store)
    stopped(store, chain_id)

    with pytest.raises(SigningStoppedError):
        reserved(store, refund)
    store.end_hold(name_of_chain(chain_id), now())
    assert reserved(store, refund).nonce == 0


@BOTH
def test_no_signed_bytes_are_recorded(store: SQLStore, chain_id: int) -> None:
    """Bytes that a device signed when the stop came are not sent (R27)."""
    first = reserved(store, accepted(store))
    sent = broadcast(store)
    stopped(store, chain_id)

    with pytest.raises(StaleStateError):
        signed(store, first)
    again = transaction(sent, attempt=1)
    replaced = step_to(sent, Status.SIGNED, now(), tx_hash=again.tx_hash)
    with pytest.raises(StaleStateError):
        save(store, sent, replaced, again)
    assert (store.get(first.id), store.get(sent.id)) == (first, sent)
    assert len(store.transactions(sent.id)) == 1


@BOTH
def test_what_was_sent_is_still_confirmed(store: SQLStore, chain_id: int) -> None:
    """A stop changes nothing for refunds whose transactions nodes have (R27)."""
    sent = broadcast(store)
    stopped(store, chain_id)

    done = moved(store, mined(store, sent), Status.CONFIRMED)

    assert store.get(sent.id) == done


@pytest.mark.parametrize(
    ("stopped_by", "chain_id", "is_refused"),
    [
        (CHAIN, CHAIN, True),
        (CHAIN, EVERYTHING, True),
        (CHAIN, OTHER_CHAIN, False),
        (EVERYTHING, EVERYTHING, True),
        (EVERYTHING, CHAIN, False),
        (None, EVERYTHING, False),
    ],
)
def test_no_intent_to_sign_is_recorded(
    store: SQLStore, stopped_by: int | None, chain_id: int, is_refused: bool
) -> None:
    """A transaction's, a message's and a self-test's intent, in this order (R27)."""
    key = key_at(WALLET)
    made_active(store, key)
    stopped(store, chain_id)
    condition = SigningCondition(WALLET, key.key_id, SIGNING, stopped_by=stopped_by)
    intent = Record.of({"event": "intent"}, now())

    if is_refused:
        with pytest.raises(SigningStoppedError, match="`hotwallet resume`"):
            store.append([intent], condition=condition)
    else:
        store.append([intent], condition=condition)
    seal(store)
    assert [each.record for each in store.sealed(0, 9)] == [intent][is_refused:]


def test_a_resumed_stop_forbids_nothing(store: SQLStore) -> None:
    made_active(store, key_at(WALLET))
    stopped(store, EVERYTHING)
    store.end_hold(name_of_chain(EVERYTHING), now())
    refund = signed(store, reserved(store, accepted(store)))

    assert store.get(refund.id) == refund


@BOTH
def test_a_changed_stop_is_in_force(store: SQLStore, chain_id: int) -> None:
    """It refuses its scope, is listed as not authentic, and can be replaced (R27)."""
    key = key_at(WALLET)
    made_active(store, key)
    stopped(store, chain_id)
    forged_end(store)
    condition = SigningCondition(WALLET, key.key_id, SIGNING, stopped_by=CHAIN)

    (listed,) = store.stops()
    assert (listed.in_force, listed.is_authentic) == (True, False)
    assert store.find_stop(CHAIN) == listed
    with pytest.raises(RowNotAuthenticError, match=f"stop --chain-id {chain_id}`"):
        store.append([Record.of({"event": "intent"}, now())], condition=condition)
    with pytest.raises(RowNotAuthenticError):
        store.end_hold(name_of_chain(chain_id), now())

    again = Hold.of_chain(chain_id, now(), "another reason", "cli:alice")
    assert store.begin_hold(again)
    assert store.find_stop(CHAIN) == replace(again, version=2)
    assert store.end_hold(name_of_chain(chain_id), now())
    assert store.find_stop(CHAIN) is None


def test_a_forged_stop_of_another_chain(store: SQLStore) -> None:
    """A row with an invented chain id prevents nothing, and survives an upgrade."""
    opened(store)
    at = now().isoformat(timespec="microseconds")
    forge(store, FORGED.format(chain_id=999_999, at=at, version=0))

    assert store.find_stop(CHAIN) is None
    assert store.migrate().action == "unchanged"
    assert reserved(store, accepted(store)).nonce == 0
    assert [stop.is_authentic for stop in store.stops()] == [False]
    assert store.begin_hold(Hold.of_chain(999_999, now(), "forged", "cli:alice"))
    assert store.end_hold(name_of_chain(999_999), now())
    assert [stop.in_force for stop in store.stops()] == [False]


@pytest.mark.parametrize(
    "spelled", [f"0{CHAIN}", f"-0{CHAIN}", "0", "", "-", "9" * 20, "9" * 5000]
)
def test_a_forged_stop_with_another_spelling(store: SQLStore, spelled: str) -> None:
    """It does not stand in the way of the stop of the chain, which can be ended."""
    opened(store)
    stopped(store, CHAIN)
    at = now().isoformat(timespec="microseconds")
    forge(store, FORGED.format(chain_id=spelled, at=at, version=0))

    assert [stop.chain_id for stop in store.stops()] == [CHAIN]
    assert store.end_hold(name_of_chain(CHAIN), now())
    assert [stop.in_force for stop in store.stops()] == [False]


@pytest.mark.parametrize("version", [1, 2**31 - 1])
def test_the_first_version_is_0(store: SQLStore, version: int) -> None:
    """Otherwise the version of a replacement could be too large."""
    at = now().isoformat(timespec="microseconds")
    with pytest.raises(StoreError):
        forge(store, FORGED.format(chain_id=7, at=at, version=version))

    assert store.stops() == ()


@pytest.mark.parametrize("at", ["infinity", "0044-03-15 BC", "20000-01-01"])
def test_times_that_cannot_be_read(postgresql_url: str, at: str) -> None:
    """PostgreSQL has times that Python cannot represent: the triggers refuse them."""
    with closing(open_ledger(postgresql_url)) as store:
        store.migrate()
        stopped(store, CHAIN)
        before = store.stops()
        for statement in (
            FORGED.format(chain_id=7, at=at, version=0),
            f"UPDATE holds SET ended_at = '{at}', version = version + 1",
        ):
            with pytest.raises(StoreError):
                forge(store, statement)

        assert store.stops() == before


def test_a_transaction_that_hangs_does_not_delay_a_stop_or_a_block(
    postgresql_url: str,
) -> None:
    """A host that is frozen in a reservation holds the lock that they wait for."""
    with closing(open_ledger(postgresql_url, timeout=0.2)) as hurried:
        hurried.check()
        hanging = Database(postgresql_url, pool_size=1, timeout=30.0)
        locked, released = Event(), Event()

        def hang(connection: Connection) -> None:
            lock_keys(connection, shared=True)
            locked.set()
            assert released.wait(30)

        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(hanging.transaction, hang)
            assert locked.wait(30)
            stopped(hurried, EVERYTHING)
            assert hurried.begin_hold(Hold.of_tenant("shop", now(), "", "cli:alice"))
            in_force = hurried.find_stop(CHAIN), hurried.find_block("shop")
            released.set()
            done.result()
        hanging.close()

    assert None not in in_force


def _reserve_until_stopped(store: SQLStore, index: int) -> int:
    """Reserve until a stop; the first process stops after ten reservations."""
    count = 0
    while store.find_stop(CHAIN) is None:
        refund = accepted(store)
        if index == 0 and count == 10:
            stopped(store, EVERYTHING)
            # No other process commits a reservation from here on.
            return sum(row.nonce is not None for row in _all(store))
        try:
            reserved(store, refund)
        except (SigningStoppedError, StaleStateError):
            break  # The stop came before the transaction, or during it.
        count += 1
    return -1


def _all(store: SQLStore) -> list[Refund]:
    page = store.list("gateway", limit=1000)
    return list(page.refunds)


def test_no_process_reserves_after_the_stop_returned(
    database_url: str, store: SQLStore
) -> None:
    """Four processes race; none has reserved more when all have ended (R27)."""
    opened(store)
    made_active(store, key_at(WALLET))
    seen = max(race(_reserve_until_stopped, database_url, 4))

    assert seen >= 10
    assert sum(row.nonce is not None for row in _all(store)) == seen


def _stop_each(store: SQLStore, index: int) -> int:
    """Stop 25 networks that have no stop yet; return how many this process stopped."""
    stops = [
        Hold.of_chain(chain_id, now(), "race", f"cli:{index}")
        for chain_id in range(1, 26)
    ]
    return sum(store.begin_hold(stop) for stop in stops)


def test_of_many_first_stops_one_counts(database_url: str, store: SQLStore) -> None:
    """Of processes that stop a network at the same time, one makes the stop."""
    assert sum(race(_stop_each, database_url, 6)) == 25
    assert len(store.stops()) == 25
