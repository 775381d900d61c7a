"""The store's error messages contain no secrets."""

import logging
import traceback
from collections.abc import Callable

import pytest

from backends.sql import SQLStore
from signer.errors import ConfigurationError, HotWalletError, StoreError
from tests.fixtures.ledger import accepted, queued


CANARY = "Kanarienvogel"


def _said(work: Callable[[], object]) -> str:
    """Return all that a careless logger could make of the error of *work*."""
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
def test_unreachable(url: str) -> None:
    """Neither host, user, password, database nor path is in an error."""
    store = SQLStore(url, timeout=0.5)

    assert CANARY not in _said(store.check)
    assert CANARY not in _said(lambda: store.get("rf_0"))
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
def test_unknown_databases(url: str) -> None:
    """A URL for no database of ours is refused by a code, and not repeated."""
    with pytest.raises(ConfigurationError) as caught:
        SQLStore(url)

    assert [refusal.code for refusal in caught.value.refusals] == [
        "database-misconfigured"
    ]
    assert CANARY not in _said(lambda: SQLStore(url))


def test_values(store: SQLStore, caplog: pytest.LogCaptureFixture) -> None:
    """A failed statement shows none of its values, not even in a debug log."""
    caplog.set_level(logging.DEBUG, "sqlalchemy.engine")
    spoilt = queued(reason=CANARY, amount=0, reference=CANARY)

    assert CANARY not in _said(lambda: store.accept(spoilt))
    assert "INSERT INTO refunds" in caplog.text
    assert CANARY not in caplog.text


def test_values_that_do_not_fit(store: SQLStore) -> None:
    """A number that no column holds is an error of the store, without the number."""
    spoilt = queued(chain_id=2**63 + 4242, reason=CANARY)

    with pytest.raises(StoreError) as caught:
        store.accept(spoilt)
    assert str(spoilt.chain_id) not in str(caught.value)
    assert CANARY not in _said(lambda: store.accept(spoilt))


def test_unknown_password(postgresql_url: str) -> None:
    """The password of a working URL is not in the store's ``repr``."""
    store = SQLStore(postgresql_url.replace("tests@", f"tests:{CANARY}@"))
    accepted(store)

    assert CANARY not in repr(store)
    assert CANARY not in repr(store._database)
    store.close()
