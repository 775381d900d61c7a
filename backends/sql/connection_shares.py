"""Leaves half of a process's database connections to other tenants."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Semaphore

import sqlalchemy as sa
from sqlalchemy.exc import TimeoutError as PoolTimeoutError


class ConnectionShares:
    """
    Opens connections of *engine*, which has *most* of them; threads share an instance.

    Threads that work for the same *tenant* hold at most half of the connections.  Other
    threads of that tenant wait, up to *timeout* seconds, so its slow statements keep no
    other tenant from the database.
    """

    def __init__(
        self,
        engine: sa.Engine,
        most: int,
        timeout: float,
        tenant: Callable[[], str | None],
    ) -> None:
        self._engine = engine
        self._share = max(1, most // 2)
        self._timeout = timeout
        self._tenant = tenant
        self._free = dict[str, Semaphore]()

    @contextmanager
    def connect(self) -> Iterator[sa.Connection]:
        """
        Return a connection for the context.

        Raises:
            sqlalchemy.exc.TimeoutError: None became free in time.
        """
        tenant = self._tenant()
        if tenant is None:
            with self._engine.connect() as connection:
                yield connection
            return
        free = self._free.setdefault(tenant, Semaphore(self._share))
        if not free.acquire(timeout=self._timeout):
            raise PoolTimeoutError("the tenant's share of the connections is in use")
        try:
            with self._engine.connect() as connection:
                yield connection
        finally:
            free.release()
