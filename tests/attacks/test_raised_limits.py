"""
A person who can write the configuration files of the hosts, and raises a limit alone.

Helped by a thief of a database role, or of SQLite's file, or by an intruder in the
process that faces the internet; never by a second administrator.
"""

from collections.abc import Callable
from datetime import timedelta

import pytest

from backends.sql import SQLStore
from signer.audit.configurations import Start, record_start
from signer.config.file_limits import dump_limits, read_limits
from signer.errors import ApprovalRequiredError, ConfigurationError
from signer.model.approval import ApprovalState
from signer.model.audit_record import WORKER, Record
from signer.ports.clock import utc_now
from tests.attacks.theft import DENIED, REFUSED, Thief, inserted_record
from tests.fixtures.ledger import FORGED_APPROVAL
from tests.fixtures.roles import PROCESSES, Processes, Roles
from tests.support.ledgers import seal
from tests.support.limits import ALICE, WHY, Hosts, configuration


HIGHER = "999999"

Attack = Callable[..., None]


@pytest.fixture
def writable_url(database_url: str) -> str:
    """The ledger of ``store``."""
    return database_url


@pytest.fixture
def hosts(store: SQLStore) -> Hosts:
    """Hosts on which a worker has started with the limit 1000."""
    hosts = Hosts(store)
    hosts.start("1000")
    return hosts


def _is_refused(hosts: Hosts, amount: str = HIGHER) -> bool:
    """Return whether no process of any kind starts."""
    refused = []
    for process in ("worker", "api", "refunds", "admin"):
        try:
            hosts.start(amount, process)
        except ConfigurationError as e:
            refused.append(e.refusals[0].code)
    return refused == ["limits-raised"] * 4


def test_in_small_steps(hosts: Hosts) -> None:
    assert [_is_refused(hosts, f"1000.{step:06d}") for step in (1, 2)] == [True, True]


def test_by_way_of_the_api(hosts: Hosts) -> None:
    """An API with a lower file does not make an earlier limit a new one."""
    hosts.start("1", "api")
    hosts.start("1", "refunds")

    assert _is_refused(hosts, "1001")


def test_with_an_approval_that_was_used(hosts: Hosts) -> None:
    """Raise, lower, raise again: also while the used approval could be completed."""
    digest = hosts.approve(HIGHER)
    hosts.start(HIGHER)
    hosts.start("1000")

    assert _is_refused(hosts)
    used = hosts.store.find_approval(digest)
    assert used is not None
    assert used.state is ApprovalState.DONE


def test_with_the_approval_of_a_worker_that_died(hosts: Hosts) -> None:
    """It did not raise the limit; then the limit was lowered."""
    hosts.approve(HIGHER)
    proposal = hosts.guard(HIGHER).compare().proposal
    with hosts.approvals().authorize(proposal, WORKER, asks=False):
        pass
    hosts.start("999")

    assert _is_refused(hosts)


def test_with_the_approval_of_a_smaller_raise(hosts: Hosts) -> None:
    hosts.approve("2000")

    assert _is_refused(hosts, "2001")


def test_on_a_host_whose_clock_is_wrong(hosts: Hosts) -> None:
    """A start that looks older or newer than it is hides no lower limit."""
    hosts.approve("5000")
    for days, amount in ((900, "5000"), (-900, "900")):
        other = Hosts(hosts.store, lambda days=days: utc_now() + timedelta(days=days))  # type: ignore[misc]
        guard = other.guard(amount)
        guard.approvals = hosts.approvals()  # Approvals have the ledger's clock.
        guard.accept(WORKER)

    assert _is_refused(hosts, "5000")


def test_an_intruder_in_the_api_invents_a_start(hosts: Hosts) -> None:
    """The process has the MAC key, and may insert audit records."""
    for process in ("worker", "api"):
        start = Start(process, "1", "production")
        record_start(hosts.audit, hosts.store, start, configuration(HIGHER))

    assert _is_refused(hosts)


# What the owner of the tables, or a program that writes SQLite's file, can do.


def _document(amount: str) -> str:
    return dump_limits(read_limits(configuration(amount).document))


@pytest.mark.parametrize("mac", ["mac = mac", "mac = NULL", "mac = 'tests:00'"])
def test_the_row_is_changed(hosts: Hosts, steal: Attack, mac: str) -> None:
    """Nothing starts with it, not even the earlier limits."""
    steal(f"UPDATE accepted_limits SET document = '{_document(HIGHER)}', {mac}")

    assert _is_refused(hosts)
    assert _is_refused(hosts, "1000")


@pytest.mark.parametrize("table", ["accepted_limits", "approvals"])
def test_everything_is_approved_again_after_a_change(
    hosts: Hosts, steal: Attack, table: str
) -> None:
    """Two people repair the row; an approval that was changed approves nothing."""
    steal("UPDATE accepted_limits SET document = '[]'")
    hosts.approve("1000")
    if table == "approvals":
        steal("UPDATE approvals SET decided_by = 'token:carol'")
        assert _is_refused(hosts, "1000")
        return
    hosts.start("1000")

    assert hosts.store.accepted_limits() is not None
    assert _is_refused(hosts)


def test_an_approval_is_forged(hosts: Hosts, steal: Attack) -> None:
    digest = hosts.guard(HIGHER).compare().proposal.digest
    steal(FORGED_APPROVAL.format(digest=digest))

    assert _is_refused(hosts)


def test_an_approval_is_put_back(hosts: Hosts, steal: Attack) -> None:
    """The row with its valid MAC, after it was used and the limit was lowered."""
    digest = hosts.approve(HIGHER)
    old = hosts.store.find_approval(digest)
    assert old is not None
    hosts.start(HIGHER)
    hosts.start("1000")
    steal(
        f"UPDATE approvals SET state = 'approved', version = {old.version},"
        f" mac = '{old.mac}' WHERE digest = '{digest}'"
    )

    assert _is_refused(hosts)


def test_the_row_is_deleted(hosts: Hosts, steal: Attack) -> None:
    """The audit record of the last worker's start has the limits as well."""
    steal("DELETE FROM accepted_limits")

    assert _is_refused(hosts)


def test_the_row_and_the_records_are_deleted(hosts: Hosts, steal: Attack) -> None:
    """What is left of the audit log shows that processes have started."""
    hosts.store.append([hosts.audit.forged(["any"])])
    while seal(hosts.store):
        pass
    steal(
        "DELETE FROM accepted_limits",
        "DELETE FROM audit_records WHERE body LIKE '%configuration-loaded%'",
    )

    assert _is_refused(hosts)
    assert _is_refused(hosts, "1000")


def test_records_of_starts_are_forged(hosts: Hosts, steal: Attack) -> None:
    """With any number of them, the row decides."""
    start = Record.of(
        {
            "event": "configuration-loaded",
            "details": {
                "process": "worker",
                "document": dict(configuration(HIGHER).document),
                "hash": configuration(HIGHER).hash,
            },
        },
        utc_now(),
    )
    steal(*(inserted_record(f"au_z{n}", start.body) for n in range(20)))

    assert _is_refused(hosts)


# What the roles of the processes can do on PostgreSQL.


@pytest.fixture
def shipped_hosts(processes: Processes) -> Hosts:
    """Hosts on which a worker has started, with its own database role."""
    hosts = Hosts(processes.stores["worker"])
    hosts.start("1000")
    return hosts


@pytest.mark.parametrize("process", PROCESSES)
def test_each_process_starts_with_its_role(
    processes: Processes, shipped_hosts: Hosts, process: str
) -> None:
    """Each compares; only a worker accepts a raise, which an administrator asks for."""
    admin = Hosts(processes.stores["admin"])
    other = Hosts(processes.stores[process])
    with pytest.raises(ConfigurationError, match="limits-raised"):
        other.start("5000", process)
    admin.approve("5000")
    other.start("5000", process)
    shipped_hosts.start("5000")
    row = other.store.accepted_limits()

    assert row is not None
    assert row.version == 1
    assert _raised_by(admin) == ["worker"]


def _raised_by(hosts: Hosts) -> list[str]:
    assert hosts.details("limits-raise-succeeded")
    records = [each.record.fields for each in hosts.store.sealed(0, 1000)]
    return [
        each["actor"] for each in records if each["event"] == "limits-raise-succeeded"
    ]


STOLEN = (
    ("refunds", "UPDATE accepted_limits SET document = '[]'", DENIED),
    ("admin", "UPDATE accepted_limits SET document = '[]'", DENIED),
    ("refunds", "INSERT INTO accepted_limits SELECT * FROM accepted_limits", DENIED),
    ("admin", "INSERT INTO accepted_limits SELECT * FROM accepted_limits", DENIED),
    ("refunds", "UPDATE approvals SET state = 'approved'", DENIED),
    ("worker", "UPDATE approvals SET decided_by = 'token:bob'", REFUSED),
    ("worker", "UPDATE accepted_limits SET id = 2", DENIED),
    ("worker", "DELETE FROM accepted_limits", DENIED),
    ("worker", "UPDATE accepted_limits SET document = '[]'", REFUSED),
    ("worker", "UPDATE approvals SET state = 'approved'", REFUSED),
)


def test_a_stolen_role_is_refused(
    shipped: Roles, processes: Processes, shipped_hosts: Hosts
) -> None:
    Hosts(processes.stores["admin"]).ask(HIGHER)

    for role, statement, refusal in STOLEN:
        assert Thief(shipped.of(role)).steal(statement) == refusal, (role, statement)
    assert _is_refused(shipped_hosts)


def test_a_stolen_worker_role_changes_the_row(
    shipped: Roles, shipped_hosts: Hosts
) -> None:
    """It may, to the next version; without the MAC key nothing starts with that."""
    row = shipped_hosts.store.accepted_limits()
    assert row is not None
    statement = (
        f"UPDATE accepted_limits SET document = '{_document(HIGHER)}',"
        f" version = version + 1, mac = '{row.mac}'"
    )

    assert Thief(shipped.worker).steal(statement) is None
    assert _is_refused(shipped_hosts)


def test_a_raise_is_asked_for_again_and_again(
    hosts: Hosts, other_ledger: SQLStore
) -> None:
    """One proposal waits; a process that is refused asks for nothing."""
    for _ in range(3):
        assert _is_refused(Hosts(other_ledger))
        with pytest.raises(ApprovalRequiredError):
            hosts.guard(HIGHER).request(ALICE.because(WHY))

    assert len(hosts.approvals().list().approvals) == 1
