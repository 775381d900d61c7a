"""Processes start with lower limits, and with higher ones after an approval."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from backends.sql import SQLStore
from signer.approvals import VALID_FOR
from signer.audit.configurations import Start, record_start
from signer.config.file_limits import Files, read_approvers, read_limits
from signer.config.networks import Network
from signer.errors import (
    ApprovalRequiredError,
    ConfigurationError,
    InvalidInputError,
    StaleStateError,
    StoreUnavailableError,
)
from signer.model.approval import ApprovalState
from signer.model.approvers import Approvers
from signer.model.audit_record import WORKER
from signer.model.worker_row import AcceptedLimits
from signer.startup.policy_approval import LimitsDifference, describe
from tests.api.support import SettableClock
from tests.fixtures.ledger import forge
from tests.support.approvers import AnyKey, SSHKey, text_of
from tests.support.approvers import document_of as file_of
from tests.support.ledgers import seal
from tests.support.limits import ALICE, BOB, WHY, Hosts, configuration
from tests.support.refunds import altered


MAX_AMOUNT = "networks.local.tokens.TUSD.max_amount"


@pytest.fixture
def clock() -> SettableClock:
    clock = SettableClock()
    clock.now = datetime(2026, 11, 26, 12, tzinfo=UTC)
    return clock


@pytest.fixture
def hosts(sqlite_store: SQLStore, clock: SettableClock) -> Hosts:
    """Hosts with an empty ledger, where two people must agree."""

    def tick() -> datetime:
        clock.now += timedelta(milliseconds=1)
        return clock.now

    return Hosts(sqlite_store, tick)


def _refused(hosts: Hosts, amount: str, process: str = "worker") -> str:
    with pytest.raises(ConfigurationError) as raised:
        hosts.start(amount, process)
    (refusal,) = raised.value.refusals
    assert (refusal.code, refusal.is_transient) == ("limits-raised", False)
    return refusal.message


def _accepted(hosts: Hosts) -> AcceptedLimits:
    row = hosts.store.accepted_limits()
    assert row is not None
    return row


def test_a_new_ledger_needs_no_approval(hosts: Hosts) -> None:
    hosts.start("1000", "api")
    hosts.start("1000")

    (accepted,) = hosts.details("limits-accept-succeeded")
    assert accepted == {"changes": {}, "version": "0"}
    assert _accepted(hosts).version == 0


@pytest.mark.parametrize("process", ["worker", "api", "refunds", "admin"])
def test_a_raised_limit_is_refused(hosts: Hosts, process: str) -> None:
    """The refusal has the difference and the command; nothing was changed."""
    hosts.start("1000")
    message = _refused(hosts, "5000", process)

    assert f"{MAX_AMOUNT}: 1000 -> 5000" in message
    assert "hotwallet limits raise" in message
    assert _accepted(hosts).version == 0
    assert hosts.approvals().list().approvals == []


@pytest.mark.parametrize("process", ["worker", "api", "sign"])
def test_before_a_worker_has_started(hosts: Hosts, process: str) -> None:
    """The audit record of the last start is compared: the ledger may be upgraded."""
    hosts.start("1000", "api")
    _refused(hosts, "5000", process)
    hosts.start("900", "api")

    assert hosts.store.accepted_limits() is None
    assert f"{MAX_AMOUNT}: 900 -> 5000" in _refused(hosts, "5000", process)


def test_a_lower_limit_needs_no_approval(hosts: Hosts) -> None:
    """A worker's becomes the accepted one; others leave it as it is."""
    hosts.start("1000")
    hosts.start("900", "api")
    version = _accepted(hosts).version
    hosts.start("800")

    assert (version, _accepted(hosts).version) == (0, 1)
    _refused(hosts, "900", "api")
    change = {MAX_AMOUNT: {"before": "1000", "after": "800"}}
    accepted = {"changes": change, "version": "1"}
    assert accepted in hosts.details("limits-accept-succeeded")


def test_an_approved_raise(hosts: Hosts) -> None:
    """A worker that starts uses the approval up, once; then every process starts."""
    hosts.start("1000")
    assert hosts.guard("900").request(ALICE.because(WHY)).raised == {}
    hosts.approvals().reject(hosts.ask("5000"), BOB.because(WHY))
    _refused(hosts, "5000")
    digest = hosts.approve("5000")
    hosts.start("1000")  # The old file is the accepted one; the approval stays.
    assert list(hosts.guard("5000").request(ALICE.because(WHY)).raised) == [MAX_AMOUNT]
    hosts.start("5000", "api")
    open_before = [each.state for each in hosts.approvals().list().approvals]
    hosts.start("5000")
    hosts.start("5000")
    hosts.start("5000", "refunds")

    assert open_before == [ApprovalState.APPROVED]
    assert hosts.approvals().list().approvals == []
    change = {MAX_AMOUNT: {"before": "1000", "after": "5000"}}
    (raised,) = hosts.details("limits-raise-succeeded")
    assert raised == {"approval": digest, "changes": change, "version": "1"}


def test_an_approval_fits_one_difference(hosts: Hosts) -> None:
    hosts.start("1000")
    hosts.approve("5000")

    _refused(hosts, "5001")
    _refused(hosts, "4999")
    hosts.start("5000")


def test_an_approval_is_used_once(hosts: Hosts, clock: SettableClock) -> None:
    """Raise, lower, raise again: the second raise is another proposal."""
    hosts.start("1000")
    first = hosts.approve("5000")
    hosts.start("5000")
    hosts.start("1000")
    _refused(hosts, "5000")
    second = hosts.approve("5000")
    hosts.start("5000")

    assert first != second
    for lower in ("4000", "1"):
        hosts.approve("9000")
        hosts.start(lower)  # It ends the approval, and so does the time.
        _refused(hosts, "9000")
    hosts.approve("9000")
    clock.now += VALID_FOR + timedelta(seconds=1)
    _refused(hosts, "9000")


def test_it_is_approved_while_it_is_asked_for(hosts: Hosts) -> None:
    """The change is not made then, and a worker that starts makes it."""
    hosts.start("1000")
    digest = hosts.ask("5000")
    answers = iter([False])

    guard = hosts.guard("5000")
    approvals: Any = guard.approvals  # To answer as it was a moment before.
    is_approved = approvals.is_approved
    approvals.is_approved = lambda proposal: next(answers, is_approved(proposal))
    hosts.approvals().approve(digest, BOB.because(WHY))
    guard.request(ALICE.because(WHY))
    hosts.start("5000")

    assert _accepted(hosts).version == 1


def test_without_approvals_every_start_is_accepted(sqlite_store: SQLStore) -> None:
    """Outside production; a later start with approvals is compared all the same."""
    free = Hosts(sqlite_store, required=False)
    for amount in ("1000", "5000"):
        free.start(amount)
    free.guard("9000").request(ALICE.because(WHY))

    assert _accepted(free).version == 1
    _refused(Hosts(sqlite_store), "9000")
    (raised,) = free.details("limits-raise-succeeded")
    assert "approval" not in raised


def _accepting(hosts: Hosts, amounts: list[str]) -> Any:
    """Return a store in which workers of other hosts start just before a change."""

    def accept(
        before: AcceptedLimits | None, after: AcceptedLimits, *others: Any
    ) -> None:
        if amounts:
            hosts.start(amounts.pop(0))
        hosts.store.accept_limits(before, after, *others)

    return altered(hosts.store, accept_limits=accept)


def test_another_worker_starts_at_once(hosts: Hosts) -> None:
    """With the same file; or with lower limits, with which the raise is compared."""
    hosts.start("100")
    hosts.approve("1000")
    hosts.guard("1000", _accepting(hosts, ["1000"])).accept(WORKER)
    assert (_accepted(hosts).version, hosts.approvals().list().approvals) == (1, [])
    hosts.approve("5000")
    with pytest.raises(ConfigurationError, match="900 -> 5000"):
        hosts.guard("5000", _accepting(hosts, ["900"])).accept(WORKER)

    assert _accepted(hosts).version == 2


def test_workers_with_different_files_start_without_end(hosts: Hosts) -> None:
    hosts.start("1000")
    amounts = [str(900 - number) for number in range(10)]
    with pytest.raises(StaleStateError, match="try again"):
        hosts.guard("500", _accepting(hosts, amounts)).accept(WORKER)


def test_the_approval_ends_before_it_is_used(hosts: Hosts) -> None:
    """Nothing is accepted, and nothing is asked for by a process."""
    hosts.start("1000")
    digest = hosts.approve("5000")
    guard = hosts.guard("5000")
    approvals: Any = guard.approvals  # To end the approval between two steps.
    is_approved = approvals.is_approved
    rejects = [digest]

    def end(proposal: Any) -> bool:
        answer: bool = is_approved(proposal)
        if rejects:
            hosts.approvals().reject(rejects.pop(), BOB.because(WHY))
        return answer

    approvals.is_approved = end
    with pytest.raises(ConfigurationError, match="limits-raised"):
        guard.accept(WORKER)

    assert _accepted(hosts).version == 0
    assert hosts.approvals().list().approvals == []


def test_a_worker_uses_the_approval_while_another_process_starts(hosts: Hosts) -> None:
    """The API read the old row, and then finds the approval used up."""
    hosts.start("1000")
    hosts.approve("5000")
    old = hosts.store.accepted_limits()
    rows = [old]

    def read() -> AcceptedLimits | None:
        if rows:
            hosts.start("5000")
            return rows.pop()
        return hosts.store.accepted_limits()

    hosts.guard("5000", altered(hosts.store, accepted_limits=read)).require_approved()

    assert rows == []


def test_a_worker_dies_between_its_steps(hosts: Hosts) -> None:
    """The next start completes the change, or finds it made."""
    hosts.start("1000")
    hosts.approve("5000")

    def die(*_: object) -> None:
        raise StoreUnavailableError("killed")

    with pytest.raises(StoreUnavailableError):
        hosts.guard("5000", altered(hosts.store, accept_limits=die)).accept(WORKER)
    (begun,) = hosts.approvals().list().approvals
    hosts.start("5000")

    assert begun.state is ApprovalState.APPROVED
    assert _accepted(hosts).version == 1
    assert hosts.approvals().list().approvals == []


def test_an_upgraded_ledger(hosts: Hosts) -> None:
    """It has records of starts, and no row: the last worker's limits are compared."""
    for amount, process in (("1000", "worker"), ("9000", "api")):
        start = Start(process, "1", "production")
        record_start(hosts.audit, hosts.store, start, configuration(amount))

    assert f"{MAX_AMOUNT}: 1000 -> 2000" in _refused(hosts, "2000")
    hosts.approve("2000")
    hosts.start("2000")
    assert _accepted(hosts).version == 0


def test_a_ledger_whose_records_show_no_start(hosts: Hosts) -> None:
    """Something was sealed, so processes have started: all limits need an approval."""
    hosts.store.append([hosts.audit.forged(["other"])])
    seal(hosts.store)

    assert "networks.local is new" in _refused(hosts, "1")
    hosts.approve("1")
    hosts.start("1")


def test_a_refusal_names_a_few_differences(hosts: Hosts) -> None:
    raised: dict[str, Any] = {
        "confirmations": 1,
        "max_fee_per_gas_gwei": 1000,
        "base_fee_multiple": 3,
        "max_fee_factor": 0,
    }
    before, after = (
        read_limits(configuration("1000", **changes).document)
        for changes in ({}, raised)
    )
    found = LimitsDifference(None, before, after)

    assert "base_fee_multiple: 2 -> 3; " in found.refusal().message
    assert "; and 1 more; " in found.refusal().message
    assert "max_fee_per_gas_gwei" not in found.refusal().message


def test_changes_for_people() -> None:
    long = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAJrQLj5P"
    changes: dict[str, dict[str, Any]] = {
        "networks.new": {"after": {"chain_id": 1}},
        "tenants.shop.subjects.a": {"after": True},
        "tenants.a.request_keys.a": {"after": long},
        "tenants.shop.max_open_refunds": {"before": 5},
    }

    assert list(describe(changes)) == [
        "networks.new is new",
        "tenants.shop.subjects.a is added",
        f"tenants.a.request_keys.a: none -> {long[:26]} {long[27:40]}...",
        "tenants.shop.max_open_refunds: 5 -> none",
    ]


def test_another_program_changed_the_row(hosts: Hosts) -> None:
    """Every limit then needs an approval, which makes the row authentic again."""
    hosts.start("1000")
    row = replace(_accepted(hosts), is_authentic=False)
    forged = altered(hosts.store, accepted_limits=lambda: row)
    difference = hosts.guard("1", forged).compare()

    assert difference.refusal().message.startswith("another program changed the row")
    with pytest.raises(ApprovalRequiredError):
        hosts.guard("1", forged).request(ALICE.because(WHY))


def test_accepted_limits_are_kept(hosts: Hosts) -> None:
    """Until the raise is approved, a process has what the last worker had."""

    def files(amount: str) -> Files:
        network = configuration(amount).document["networks"]["local"]
        urls = {"rpc_urls": ["http://127.0.0.1:9"]}
        return Files({"local": Network.model_validate({**network, **urls})}, None)

    raised = files("5000")
    new = hosts.guard("5000").keep(raised)
    hosts.start("1000")
    kept = hosts.guard("5000").keep(raised)
    same = hosts.guard("1000").keep(files("1000"))
    hosts.approve("5000")

    assert (new, same) == (None, None)
    assert kept == files("1000")
    assert hosts.guard("5000").keep(raised) is None
    # What another program wrote was accepted by no one.
    forge(hosts.store, "UPDATE accepted_limits SET version = version + 1")
    assert hosts.guard("9000").keep(Files({}, None)) is None


KEYS: dict[str, AnyKey] = {name: SSHKey() for name in ("alice", "bob", "mallory")}

FILE = file_of(alice=KEYS["alice"], bob=KEYS["bob"])

WITH_MALLORY = file_of(**KEYS)


def _with_approvers(hosts: Hosts, *files: dict[str, Any]) -> None:
    """Let a worker start with the first file, and enrol the next, with their keys."""
    hosts.start("1000")
    hosts.approvers = files[0]
    with pytest.raises(ConfigurationError, match="limits-raised"):
        hosts.start("1000")
    digest, hosts.approvers = hosts.ask("1000"), {}
    hosts.approvals().approve(digest, BOB.because(WHY))  # No key is accepted yet.
    hosts.approvers = files[0]
    hosts.start("1000")
    for file in files[1:]:
        _sign(hosts, file, "alice", "bob")
        hosts.start("1000")


def _sign(hosts: Hosts, file: dict[str, Any], *names: str) -> None:
    """Ask with *file*, and let people sign; those who decide have the accepted one."""
    accepted, hosts.approvers = hosts.approvers, file
    digest = hosts.ask("1000")
    hosts.approvers = accepted
    for name in names:
        approvals = hosts.approvals()
        assert approvals.approvers is not None
        text = text_of(approvals.approvers, approvals.find(digest), name)
        approvals.approve(digest, BOB.because(WHY), KEYS[name].sign(text))
    hosts.approvers = file


@pytest.mark.parametrize(
    "file", [WITH_MALLORY, {}, {**FILE, "deployment": "another"}, {**FILE, "page": ""}]
)
def test_another_file_of_approvers_needs_the_keys_of_before(
    hosts: Hosts, file: dict[str, Any]
) -> None:
    """Two tokens, one key, or a new key with an old one enrol no person."""
    _with_approvers(hosts, FILE)
    _sign(hosts, file, "alice")
    with pytest.raises(ConfigurationError, match="limits-raised"):
        hosts.start("1000")
    hosts.approvers = WITH_MALLORY  # The keys of the new file do not decide about it.
    row = hosts.approvals().list().approvals[0]
    text = text_of(Approvers.parse(WITH_MALLORY), row, "mallory")
    signature = KEYS["mallory"].sign(text)
    approved = hosts.approvals().approve(row.digest, BOB.because(WHY), signature)
    assert approved.state is ApprovalState.APPROVED
    hosts.approvers = file
    with pytest.raises(ConfigurationError, match="limits-raised"):
        hosts.start("1000")


@pytest.mark.parametrize("file", [WITH_MALLORY, {}])
def test_two_people_enrol_another_one_or_end_it(
    hosts: Hosts, file: dict[str, Any]
) -> None:
    _with_approvers(hosts, FILE, file)
    hosts.start("1000", "api")

    assert _accepted(hosts).version == 2


def test_a_removed_approver_needs_no_approval(hosts: Hosts) -> None:
    """They are enrolled again as a new one is."""
    _with_approvers(hosts, WITH_MALLORY)
    hosts.approvers = FILE
    hosts.start("1000")
    hosts.approvers = WITH_MALLORY
    with pytest.raises(ConfigurationError, match=r"approvers\.people\.mallory\.keys"):
        hosts.start("1000")


def test_a_changed_row_of_the_limits_does_not_end_the_signatures(hosts: Hosts) -> None:
    """The keys are then those of the last start, which the audit log has."""
    _with_approvers(hosts, FILE)
    forge(
        hosts.store, "UPDATE accepted_limits SET document = '[]', version = version + 1"
    )
    with pytest.raises(ConfigurationError, match="another program changed the row"):
        hosts.start("1000")
    digest = hosts.ask("1000")
    with pytest.raises(InvalidInputError, match="people approve with keys"):
        hosts.approvals().approve(digest, BOB.because(WHY))
    _sign(hosts, FILE, "alice", "bob")
    hosts.start("1000")

    assert _accepted(hosts).is_authentic


def test_groups_are_read_back_from_the_accepted_limits() -> None:
    person = {"keys": {"first": KEYS["bob"].line}, "groups": ["night", "finance"]}
    file = file_of(alice=KEYS["alice"], bob=person)
    limits = read_limits(configuration("1", approvers=file).document)
    found = Approvers.parse(read_approvers(limits) or {})

    assert found.groups == Approvers.parse(file).groups
    assert found.keys.keys() == Approvers.parse(file).keys.keys()
    assert read_approvers(read_limits(configuration("1").document)) is None
