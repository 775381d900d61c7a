"""Rules are applied while the process runs, once they are whole, valid and approved."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from backends.sql import SQLStore
from signer.errors import PolicyViolationError, StoreError, StoreUnavailableError
from signer.model.audit_record import Operation, Purpose, Subject
from signer.policy.facts import Path as Way
from signer.startup.policy_reload import LOOK_SECONDS
from tests.support.limits import Hosts
from tests.support.policy import CASES, decide
from tests.support.policy_reload import Process, compiled, write


ALLOWED = next(case for case in CASES if case.rules.get(Way.REFUND, "").startswith("+"))

OLD = '@id("old") forbid (principal, action, resource) when { context.path == "old" };'
NEW = '@id("new") forbid (principal, action, resource);'
WRONG = '@id("wrong") forbid (principal, action, resource) when { context.nothing };'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file of rules."""
    write(tmp_path / "policy", own=OLD)
    return tmp_path / "policy"


@pytest.fixture
def process(sqlite_store: SQLStore, folder: Path) -> Process:
    """A worker, where one administrator may make every change."""
    return Process(Hosts(sqlite_store, required=False), folder)


@pytest.fixture
def approving(sqlite_store: SQLStore, folder: Path) -> Process:
    """A worker, where two administrators must agree."""
    return Process(Hosts(sqlite_store), folder)


def _alerts(logs: list[Any]) -> list[str]:
    return [each["problem"] for each in logs if each["event"] == "alert"]


def test_a_changed_rule_is_applied(process: Process, folder: Path) -> None:
    """At the second look that finds it."""
    facts = decide(ALLOWED, Way.REFUND).facts
    process.policy.require(facts)
    write(folder, own=NEW)

    assert process.look(1) == compiled({"own.cedar": OLD}).hash
    with capture_logs() as logs:
        assert process.look(1) == compiled({"own.cedar": NEW}).hash
    assert [each["event"] for each in logs] == ["policy-reloaded"]
    with pytest.raises(PolicyViolationError, match="rule new"):
        process.policy.require(facts)


def test_files_that_are_still_written_wait(process: Process, folder: Path) -> None:
    """Each look finds another state; the last one is applied when it has settled."""
    old = process.policy.hash
    write(folder, own=NEW)
    assert process.look(1) == old
    write(folder, own=NEW, second=OLD)
    assert process.look(1) == old
    write(folder, second=OLD)
    assert process.look(1) == old

    assert process.look(1) == compiled({"second.cedar": OLD}).hash


def test_rules_that_came_back_are_not_applied(process: Process, folder: Path) -> None:
    process.look(3)  # Nothing has changed.
    write(folder, own=NEW)
    process.look(1)
    write(folder, own=OLD)
    process.look(3)

    assert len(process.hosts.details("configuration-loaded")) == 1


def test_the_audit_log_has_the_new_rules(process: Process, folder: Path) -> None:
    """As at a start: the document, the change, and its hash in later signatures."""
    write(folder, own=NEW)
    process.look()
    purpose = Purpose(Operation.SELF_TEST, actor="worker")
    intent = process.audit.intent(purpose, Subject("device", "01", "0x")).fields

    _, loaded = process.hosts.details("configuration-loaded")
    (changed,) = process.hosts.details("configuration-changed")
    assert loaded["document"]["policy"] == {"own.cedar": NEW}
    change = {"policy.own.cedar": {"before": OLD, "after": NEW}}
    assert changed["changes"] == change
    assert intent["configuration"] == loaded["hash"][:16]


@pytest.mark.parametrize("rules", [{"own": WRONG}, {"own": "forbid"}, {}])
def test_invalid_rules_leave_those_in_force(
    process: Process, folder: Path, rules: Mapping[str, str]
) -> None:
    """Once two looks agree, an alert has the reason; it repeats every five minutes."""
    old = process.policy.hash
    write(folder, **rules)
    with capture_logs() as early:
        process.look(1)
    with capture_logs() as logs:
        assert process.look(3) == old
        process.clock.advance(seconds=299)
        process.look(1)
        process.clock.advance(seconds=1)
        process.look(1)

    assert _alerts(early) == []
    assert len(_alerts(logs)) == 2
    with capture_logs() as others:
        write(folder, own="permit")
        process.look(3)
    assert len(_alerts(others)) == 1  # Other rules are another alert.
    assert "policy-invalid" in str(process.policy.problem)
    assert {each["code"] for each in logs} == {"policy-invalid"}


def test_the_problem_ends_with_the_old_or_with_valid_rules(
    process: Process, folder: Path
) -> None:
    for text, event in ((OLD, "policy-in-force"), (NEW, "policy-reloaded")):
        write(folder, own=WRONG)
        process.look(3)
        problems = [process.policy.problem]
        write(folder, own=text)
        with capture_logs() as logs:
            process.look()
        problems.append(process.policy.problem)

        assert [each is None for each in problems] == [False, True]
        assert event in [each["event"] for each in logs]


def test_unapproved_rules_wait_for_the_second_person(
    approving: Process, folder: Path
) -> None:
    """They are applied at the first look after the approval, also without a change."""
    old = approving.policy.hash
    write(folder, own=NEW)
    with capture_logs() as logs:
        assert approving.look(3) == old
    rules = {"own.cedar": NEW}
    approving.hosts.approve("1000", rules)

    assert approving.look(1) == compiled(rules).hash
    (alert,) = _alerts(logs)
    assert alert.startswith("limits-raised: more is allowed")
    assert 'policy."own.cedar"' in alert
    assert approving.policy.problem is None
    assert approving.hosts.details("limits-raise-succeeded") != []


@pytest.mark.parametrize("kind", ["api", "refunds", "admin", "sign"])
def test_every_process_waits_for_the_approval(
    approving: Process, folder: Path, kind: str
) -> None:
    """It may be the first, or follow a worker that has used the approval up."""
    first, second = (Process(approving.hosts, folder, kind) for _ in range(2))
    old, rules = approving.policy.hash, {"own.cedar": NEW}
    write(folder, own=NEW)
    assert {first.look(), second.look(), approving.look()} == {old}
    approving.hosts.approve("1000", rules)

    looks = [first.look(1), approving.look(1), second.look(1)]
    assert set(looks) == {compiled(rules).hash}


def test_limits_of_an_old_file_are_not_put_back(
    approving: Process, folder: Path
) -> None:
    """Another worker has started with a raised limit; this one has not restarted."""
    hosts, rules = approving.hosts, {"own.cedar": NEW}
    old = {"own.cedar": OLD}
    hosts.approve("5000", old)
    hosts.start("5000", "worker", old)
    hosts.approve("1000", rules)
    write(folder, own=NEW)
    with capture_logs() as logs:
        approving.look(3)

    (alert,) = _alerts(logs)
    assert alert.startswith("limits-differ: ")
    assert "max_amount: 5000 -> 1000" in alert
    assert "policy" not in alert
    row = hosts.store.accepted_limits()
    assert row is not None
    assert '"5000"' in row.document


def test_a_worker_that_dies_before_it_applies_them(
    approving: Process, folder: Path
) -> None:
    """It has recorded them: the others, and its successor, apply them all the same."""
    hosts, rules = approving.hosts, {"own.cedar": NEW}
    hosts.approve("1000", rules)
    write(folder, own=NEW)
    hosts.start("1000", "worker", rules, is_reload=True)

    assert Process(hosts, folder).policy.hash == compiled(rules).hash
    assert approving.look() == compiled(rules).hash


def _broken(*_: object) -> Any:
    raise StoreUnavailableError("down")


def test_without_the_ledger_nothing_is_applied(process: Process, folder: Path) -> None:
    """The process tries again at the next look."""
    old = process.policy.hash
    accept = process.reload.accept
    process.reload.accept = _broken
    write(folder, own=NEW)
    process.look(1)
    with pytest.raises(StoreError):
        process.look(1)
    assert process.policy.hash == old
    process.reload.accept = accept

    assert process.look(1) == compiled({"own.cedar": NEW}).hash


def _run(process: Process, looks: int) -> list[Any]:
    waited: list[float] = []

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        return len(waited) > looks

    with capture_logs() as logs:
        process.reload.run(wait)
    assert set(waited) == {LOOK_SECONDS}
    return logs


@pytest.mark.parametrize(
    ("fail", "event"),
    [(_broken, "policy-reload-delayed"), (lambda: 1 // 0, "policy-reload-delayed")],
    ids=["no ledger", "a bug"],
)
def test_the_thread_goes_on(process: Process, fail: Any, event: str) -> None:
    process.reload.read = fail

    logs = _run(process, 2)
    assert [each["event"] for each in logs] == [event] * 2
