"""Which connections threads use, and the half that those of one tenant have."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from contextvars import ContextVar
from threading import Event

import pytest

from backends.sql import SQLStore
from signer.errors import StoreUnavailableError
from tests.support.ledgers import open_ledger
from tests.support.waiting import eventually


_tenant = ContextVar[str | None]("tenant", default=None)


@pytest.fixture
def store(sqlite_url: str) -> Iterator[SQLStore]:
    """A ledger with four connections, for which nothing waits long."""
    store = open_ledger(sqlite_url, pool_size=4, timeout=0.2, tenant=_tenant.get)
    yield store
    store.close()


def test_another_tenant_has_a_connection_when_one_has_its_share(
    store: SQLStore,
) -> None:
    """So does a thread that works for none."""
    released = Event()

    def hold(tenant: str) -> None:
        _tenant.set(tenant)
        store._database.run(lambda _: released.wait())

    def read(tenant: str | None) -> None:
        _tenant.set(tenant)
        store.check()

    with ThreadPoolExecutor() as pool, ExitStack() as stack:
        stack.callback(released.set)
        held = [pool.submit(hold, "mallory") for _ in range(2)]
        assert eventually(lambda: store.connections() == (2, 4), 10)
        refused = pool.submit(read, "mallory")
        assert isinstance(refused.exception(), StoreUnavailableError)
        for other in ("alice", None):
            pool.submit(read, other).result()
        released.set()
        for each in held:
            each.result()
        pool.submit(read, "mallory").result()


def test_a_lone_thread_uses_one_connection_again(database_url: str) -> None:
    """The others have neither the pages nor the statements that it has just used."""
    with closing(open_ledger(database_url, pool_size=3)) as store:

        def used() -> int:
            return store._database.run(lambda c: id(c.connection.dbapi_connection))

        store._database.run(lambda _: used())  # Two are open now.

        assert len({used() for _ in range(3)}) == 1
