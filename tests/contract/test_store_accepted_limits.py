"""Contract of ``ControlStore``: one row, changed by compare-and-set."""

from dataclasses import replace
from functools import partial

import pytest

from backends.sql import SQLStore
from signer.errors import ConfigurationError, HotWalletError, StaleStateError
from signer.model.worker_row import THE_ROW, AcceptedLimits
from tests.fixtures.ledger import forge, now
from tests.fixtures.races import race
from tests.support.audit import record
from tests.support.ledgers import seal
from tests.support.limits import Hosts


PROCESSES = 3


def _new(document: str = "[]") -> AcceptedLimits:
    return AcceptedLimits(THE_ROW, document, now())


def test_the_row_and_its_record_are_stored_together(store: SQLStore) -> None:
    new, other = _new(), _new('[["networks"],1]')
    store.accept_limits(None, new, record(at=now()))
    store.accept_limits(new, other, record(at=now()))

    assert store.accepted_limits() == replace(other, version=1)
    assert seal(store) == 2


def test_another_version_is_not_replaced(store: SQLStore) -> None:
    """Nor is a row that another process inserted; no record is left."""
    new = _new()
    store.accept_limits(None, new, record(at=now()))
    for before in (None, replace(new, version=1)):
        with pytest.raises(StaleStateError):
            store.accept_limits(before, new, record(at=now()))

    assert store.accepted_limits() == new
    assert seal(store) == 1


def test_a_changed_row_is_replaced(store: SQLStore) -> None:
    """It is not authentic, and its version rises all the same."""
    store.accept_limits(None, _new(), record(at=now()))
    forge(store, "UPDATE accepted_limits SET document = '[1]', version = 1")
    forged = store.accepted_limits()
    assert forged is not None
    store.accept_limits(forged, _new(), record(at=now()))
    found = store.accepted_limits()

    assert not forged.is_authentic
    assert found is not None
    assert (found.is_authentic, found.version) == (True, 2)


SECOND_ROW = (
    "INSERT INTO accepted_limits SELECT 2, document, accepted_at, 0, mac"
    " FROM accepted_limits"
)


def test_an_old_row_cannot_be_put_back(store: SQLStore) -> None:
    """Triggers refuse every change but that to the next version."""
    new = _new()
    store.accept_limits(None, new, record(at=now()))
    for statement in (
        "DELETE FROM accepted_limits",
        "UPDATE accepted_limits SET version = version",
        "UPDATE accepted_limits SET version = version + 2",
        SECOND_ROW,
    ):
        with pytest.raises(HotWalletError):
            forge(store, statement)

    found = store.accepted_limits()
    assert found == new
    assert found.is_authentic


def _start(store: SQLStore, index: int, *, amounts: tuple[str, ...]) -> bool:
    """Start a worker with one of *amounts*; return whether it started."""
    try:
        Hosts(store).start(amounts[index % len(amounts)])
    except (ConfigurationError, StaleStateError):
        return False
    return True


def test_workers_start_at_once_with_different_files(
    store: SQLStore, database_url: str
) -> None:
    """A raise is made once, and only with the approval of that raise."""
    hosts = Hosts(store)
    hosts.start("1000")
    hosts.approve("5000")
    amounts = ("5000", "9000", "1000")
    started = race(partial(_start, amounts=amounts), database_url, PROCESSES)
    raises = hosts.details("limits-raise-succeeded")

    assert not any(started[1::3])  # 9000 was not approved.
    assert len(raises) <= 1
    assert bool(raises) is any(started[0::3])


def test_workers_start_at_once_with_the_same_file(
    store: SQLStore, database_url: str
) -> None:
    hosts = Hosts(store)
    hosts.start("1000")
    hosts.approve("5000")
    started = race(partial(_start, amounts=("5000",)), database_url, PROCESSES)
    (raised,) = hosts.details("limits-raise-succeeded")

    assert all(started)
    assert raised["version"] == "1"
