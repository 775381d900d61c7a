"""
Databases are lost and restored from a backup, and no refund is paid twice.

Each drill pays, backs up, goes on, loses the database, and follows
``docs/how-to/restore.md``.  Those of one database follow each other in one laboratory,
so a later one restores what an earlier one has restored.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.crash.backups import PostgreSQLBackup, SQLiteBackup
from tests.crash.conftest import SEED
from tests.crash.killer import Killer
from tests.crash.laboratory import Laboratory, Size
from tests.crash.restores import Restores
from tests.fixtures.roles import Roles


Drill = Callable[[Restores], Iterator[Sequence[str]]]
"""
What happens after the backup, and after the restore.

It yields the arguments of ``hotwallet restore`` when the database is lost.
"""

_NETWORK = ("--network", "local")
_WHY = ("--reason", "a drill")


def kills(restores: Restores) -> Iterator[Sequence[str]]:
    """Processes are killed while they pay."""
    killer = Killer(restores.lab.supervisor, SEED)
    restores.customers.request(8)
    for _ in range(6):
        killer.kill()
        # Not a wait for a condition: the next kill is at a random moment.
        restores.lab.sleep(killer.wait(0.2))
    yield restores.logs


def cancellations(restores: Restores) -> Iterator[Sequence[str]]:
    """Some of the refunds that wait while the network is stopped are cancelled."""
    restores.run("stop", *_NETWORK, *_WHY)
    cases = restores.customers.request(6)
    restores.customers.wait()
    restores.customers.cancel(cases[::2])
    restores.customers.wait()
    restores.run("resume", *_NETWORK, *_WHY)
    restores.await_sent(cases[1::2])
    yield restores.logs
    assert sum(case.is_cancelled for case in cases) == len(cases[::2])


def replacements(restores: Restores) -> Iterator[Sequence[str]]:
    """Fees rise, and transactions are signed again."""
    restores.miner.pause()
    before = restores.count_replacements()
    restores.await_sent(restores.customers.request(4))
    restores.miner.base_fee *= 4
    restores.miner.resume()
    replaced = restores.lab.wait(lambda: restores.count_replacements() > before, 30)
    assert replaced, restores.lab.explain("nothing was replaced")
    yield restores.logs


def rotation(restores: Restores) -> Iterator[Sequence[str]]:
    """The wallet is rotated to another key, which pays."""
    restores.customers.request(3)
    new = restores.rotate()
    restores.await_sent(restores.customers.request(3))
    yield (*restores.logs, "--key", new.name)
    assert restores.key_states()[new.address.lower()] == "active"


def compromise(restores: Restores) -> Iterator[Sequence[str]]:
    """
    The wallet's key is revoked while its transactions wait in the pool.

    All refunds that have nonces are sent before.  A nonce that was not signed for is
    never used by a revoked key, and the transactions above it would wait forever.
    """
    old = restores.active_address()
    restores.miner.pause()
    restores.customers.request(2)
    restores.await_sent(
        [each for each in restores.customers.cases if not each.is_cancelled]
    )
    restores.run("stop", *_NETWORK, *_WHY)
    cases = restores.customers.request(3)
    new = restores.rotate(compromised=True, activeAddress=old)
    restores.miner.resume()
    restores.run("resume", *_NETWORK, *_WHY)
    restores.await_sent(cases)
    yield (*restores.logs, "--key", new.name)
    assert restores.key_states()[new.address.lower()] == "active"
    assert restores.key_states()[old] == "blocked"


def stop(restores: Restores) -> Iterator[Sequence[str]]:
    """The network is stopped, and stays stopped until an operator resumes it."""
    restores.await_sent(restores.customers.request(3))
    restores.run("stop", *_NETWORK, *_WHY)
    restores.customers.request(2)
    restores.customers.wait()
    yield restores.logs
    listed = restores.hotwallet("stops")
    assert (listed.status, "a drill" in listed.out) == (1, True)
    restores.run("resume", *_NETWORK, *_WHY)


def block(restores: Restores) -> Iterator[Sequence[str]]:
    """A tenant is blocked, and stays blocked until an operator unblocks it."""
    restores.await_sent(restores.customers.request(2, "another"))
    restores.customers.request(2, "another")
    restores.customers.wait()
    restores.run("tenants", "block", "another", "--yes")
    restores.await_sent(restores.customers.request(2))
    yield restores.logs
    again = restores.hotwallet("tenants", "block", "another", "--dry-run")
    assert again.out == "another: already-blocked\n"
    restores.run("tenants", "unblock", "another", "--yes")


def gap(restores: Restores) -> Iterator[Sequence[str]]:
    """Transactions wait in the pool above a nonce that the network has dropped."""
    restores.make_gap()
    yield restores.logs


def high_water(restores: Restores) -> Iterator[Sequence[str]]:
    """The log is lost too, and there is a gap."""
    restores.make_gap()
    yield restores.marks()
    # Nothing fills the nonces of a revoked key up to a mark that was too high.
    for address, state in restores.key_states().items():
        if state == "blocked":
            restores.run("nonce", "abandon", address, "--yes")


def unlogged(restores: Restores) -> Iterator[Sequence[str]]:
    """The log is lost too."""
    restores.await_sent(restores.customers.request(5))
    yield restores.marks()


ON_POSTGRESQL: Sequence[Drill] = (
    cancellations,
    replacements,
    rotation,
    compromise,
    stop,
    block,
    gap,
    high_water,
)
ON_SQLITE: Sequence[Drill] = (kills, unlogged)


@pytest.fixture(scope="module")
def restores(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Restores]:
    """A laboratory on the database that the test names."""
    home = tmp_path_factory.mktemp("restores")
    with ExitStack() as stack:
        if request.param == "sqlite":
            yield _open_on_sqlite(home, stack)
        else:
            yield _open_on_postgresql(
                request.getfixturevalue("shipped"),
                request.getfixturevalue("postgresql").programs,
                home,
                stack,
            )


def _open_on_sqlite(home: Path, stack: ExitStack) -> Restores:
    url = f"sqlite:///{home / 'hotwallet.db'}"
    lab = _open_laboratory(url, home, stack)
    return stack.enter_context(Restores(lab, SQLiteBackup(url, home)))


def _open_on_postgresql(
    roles: Roles, programs: Path, home: Path, stack: ExitStack
) -> Restores:
    """Operators' commands use the database roles that are shipped for them."""
    lab = _open_laboratory(roles.superuser, home, stack)
    backup = PostgreSQLBackup(roles, programs, home)
    return stack.enter_context(
        Restores(lab, backup, command_url=roles.admin, owner_url=roles.owner)
    )


def _open_laboratory(url: str, home: Path, stack: ExitStack) -> Laboratory:
    return stack.enter_context(
        Laboratory(
            home,
            url,
            seed=SEED,
            size=Size(hosts=1, web_workers=1, workers=2),
            spares=2,
            stuck_after=1,
            settings={"RATE_LIMIT_ADMIN": "10000"},
        )
    )


@pytest.mark.parametrize(
    ("restores", "drill"),
    [
        *(("postgresql", drill) for drill in ON_POSTGRESQL),
        *(("sqlite", drill) for drill in ON_SQLITE),
    ],
    indirect=["restores"],
    scope="module",
)
def test_a_restored_database_pays_once(restores: Restores, drill: Drill) -> None:
    """Each refund is paid once, or never if it was cancelled, and all are final."""
    restores.customers.request(4)
    # Not a wait for a condition: the backup is taken at a random moment of a payment.
    restores.lab.sleep(random.Random(drill.__name__).uniform(0, 0.6))
    restores.back_up()
    steps = drill(restores)
    arguments = next(steps)
    restores.lose()
    restores.restore(*arguments)
    restores.lab.start_hosts()
    assert next(steps, None) is None
    restores.settle()


@pytest.mark.parametrize("restores", ["postgresql"], indirect=True, scope="module")
def test_another_administrator_approves_a_restore(restores: Restores) -> None:
    """Before that nothing changes, and the one who asks cannot approve it."""
    restores.back_up()
    restores.make_gap()
    restores.lose()
    command = ("restore", *restores.logs)
    planned = restores.run(*command, "--dry-run", "--json").json
    asking = restores.as_administrator("alice", "nonces:repair")
    asked = restores.hotwallet(*command, "--yes", **asking)
    (waiting,) = restores.hotwallet("approvals", "list", "--json").json["approvals"]
    approve = ("approvals", "approve", waiting["digest"], *_WHY, "--yes")
    own = restores.hotwallet(
        *approve, **restores.as_administrator("alice", "approvals:decide")
    )
    same = restores.run(*command, "--dry-run", "--json").json

    assert "error: approval-required: " in asked.err
    assert (waiting["proposal"]["action"], own.status) == ("ledger-restore", 1)
    assert "you asked for the change" in own.err
    for each in ("wallets", "refunds"):
        assert planned[each] == same[each] != []

    restores.run(*approve, **restores.as_administrator("bob", "approvals:decide"))
    asking = restores.as_administrator("alice", "nonces:repair")
    assert restores.run(*command, "--yes", "--json", **asking).json["done"]
    restores.lab.start_hosts()
    restores.settle()


def test_without_the_command_a_refund_is_paid_twice(tmp_path: Path) -> None:
    """The wallet pauses as soon as the chain shows what waited above the gap."""
    with ExitStack() as stack:
        restores = _open_on_sqlite(tmp_path, stack)
        restores.back_up()
        case, *_ = restores.make_gap()
        restores.lose()
        restores.lab.start_hosts()
        restores.customers.repeat([case])

        def count_payments() -> int:
            recipient = case.order.recipient.lower()
            return sum(
                each.recipient == recipient for each in restores.read_transfers()
            )

        def show() -> str:
            return restores.hotwallet("nonce", "repair", "--dry-run").out

        explain = restores.lab.explain
        assert restores.lab.wait(lambda: count_payments() > 1, 30), explain(show())
        assert restores.lab.wait(lambda: "paused by restored" in show(), 90)
        assert count_payments() == 2
        assert "run `hotwallet restore`" in show()
