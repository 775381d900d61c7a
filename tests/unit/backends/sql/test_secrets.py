"""The store's error messages contain no secrets."""

import logging
import traceback
from collections.abc import Callable

import pytest

from backends.sql import SQLStore
from signer.errors import ConfigurationError, HotWalletError, StoreError
from tests.fixtures.ledger import (
    accept,
    accepted,
    queued,
)
from tests.support.ledgers import open_ledger


CANARY = "canary-Ledger"


def _shown(work: Callable[[], object]) -> str:
    """Return the traceback and the repr of the error of *work*."""
    with pytest.raises(HotWalletError) as caught:
        work()
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None
    lines = traceback.TracebackException.from_exception(error, capture_locals=False)
    return "".join(lines.format()) + repr(error)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://{CANARY}:{CANARY}@127.0.0.1:1/{CANARY}",
        f"postgresql://{CANARY}:{CANARY}@/{CANARY}?host=/{CANARY}",
        f"sqlite:////{CANARY}/{CANARY}.db",
    ],
)
def test_an_unreachable_database_is_not_named(url: str) -> None:
    """No error contains host, user, password, database or path."""
    store = open_ledger(url, timeout=0.5)

    assert CANARY not in _shown(store.check)
    assert CANARY not in _shown(lambda: store.get("rf_0"))
    assert CANARY not in repr(store)
    assert CANARY not in repr(store._database)


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://{CANARY}@{CANARY}/",
        f"postgresql+asyncpg://{CANARY}@{CANARY}/",
        f"{CANARY}",
        f"postgresql://{CANARY}:port/",
        f"sqlite:///file:{CANARY}?mode=memory&uri=true",
        f"sqlite:///{CANARY}.db?timeout=1",
        "sqlite://",
        "sqlite:///:memory:",
        "",
    ],
)
def test_an_invalid_url_is_refused(url: str) -> None:
    """The refusal has a code, and omits the URL."""
    with pytest.raises(ConfigurationError) as caught:
        open_ledger(url)

    assert [refusal.code for refusal in caught.value.refusals] == [
        "database-misconfigured"
    ]
    assert CANARY not in _shown(lambda: open_ledger(url))


def test_a_failed_statement_shows_no_values(
    store: SQLStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the error nor a debug log contains them."""
    caplog.set_level(logging.DEBUG, "sqlalchemy.engine")
    invalid = queued(reason=CANARY, amount=0, reference=CANARY)

    assert CANARY not in _shown(lambda: accept(store, invalid))
    assert "INSERT INTO refunds" in caplog.text
    assert CANARY not in caplog.text


def test_a_number_that_no_column_holds_is_a_store_error(store: SQLStore) -> None:
    invalid = queued(chain_id=2**63 + 4242, reason=CANARY)

    with pytest.raises(StoreError) as caught:
        accept(store, invalid)
    assert str(invalid.chain_id) not in str(caught.value)
    assert CANARY not in _shown(lambda: accept(store, invalid))


def test_the_password_is_not_in_the_repr(postgresql_url: str) -> None:
    store = open_ledger(postgresql_url.replace("tests@", f"tests:{CANARY}@"))
    accepted(store)

    assert CANARY not in repr(store)
    assert CANARY not in repr(store._database)
    store.close()
