"""A thief of one process's database role, and one who can write every row."""

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from backends.sql import SQLStore
from tests.attacks.database_attacks import Attacks
from tests.attacks.theft import Thief
from tests.fixtures.roles import Processes, Roles
from tests.support.audit import overruled
from tests.support.ledgers import open_ledger
from tests.support.refunds import World


@pytest.fixture
def thief(shipped: Roles, role: str) -> Thief:
    """Return a thief of the role that the module or the test names."""
    return Thief(shipped.of(role))


@pytest.fixture
def attacks(processes: Processes, thief: Thief) -> Attacks:
    """Return the attacks that the thief tries with the role."""
    worlds = processes.worker, processes.refunds, processes.admin
    return Attacks(*worlds, thief.steal)


@pytest.fixture
def world(writable_url: str) -> Iterator[World]:
    """Return a process of the service, of whose ledger a thief can write every row."""
    with closing(open_ledger(writable_url)) as store:
        yield World(store)


@pytest.fixture
def steal(writable_url: str) -> Callable[..., None]:
    """Return what executes statements without triggers."""
    return lambda *statements: overruled(writable_url, *statements)


@pytest.fixture
def other_ledger(database_url: str) -> Iterator[SQLStore]:
    """The ledger of ``store``, as another process opens it."""
    with closing(open_ledger(database_url)) as store:
        yield store
