"""Changes that need two administrators: asking, deciding, using, and races."""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from api.views.administration import approval_lines
from backends.sql import SQLStore
from signer.alerts import Alerts
from signer.approvals import (
    MAX_LISTED,
    MAX_READ,
    SHOWN_DIGITS,
    VALID_FOR,
    Approvals,
    OpenApprovals,
)
from signer.audit.actions import AuditAction
from signer.audit.log import AuditLog
from signer.errors import (
    ApprovalRequiredError,
    ConflictError,
    HotWalletError,
    InvalidInputError,
    NotFoundError,
    SamePersonError,
    StaleStateError,
    StoreUnavailableError,
    UnidentifiedOperatorError,
)
from signer.model.approval import Approval, ApprovalState, Proposal
from signer.model.approvers import Approvers
from signer.model.audit_record import Actor
from signer.model.hold import Hold, name_of_chain
from tests.api.support import SettableClock
from tests.fixtures.ledger import FORGED_APPROVAL, forge
from tests.support.audit import record
from tests.support.devices import recording
from tests.support.ledgers import seal
from tests.support.refunds import altered
from tests.support.ring import SILENCE


ALICE, BOB = Actor("token:alice", "req_1", "jti_1"), Actor("token:bob")
OPERATOR = Actor("cli:alice")
CHAIN = 31337
RESUME = Proposal(AuditAction.SIGNING_RESUME, {"chain_id": "31337", "version": 0})
LATER = Proposal(AuditAction.SIGNING_RESUME, {"chain_id": "31337", "version": 2})
WHY = "checked with the gateway"


class System:
    """The approvals of a ledger, and its audit records."""

    def __init__(self, store: SQLStore) -> None:
        self.store = store
        self.clock = SettableClock()
        self.clock.now = datetime(2026, 11, 24, 12, tzinfo=UTC)
        self.done: list[str] = []
        self.approvers: Approvers | None = None

    def approvals(self, store: Any = None, *, required: bool = True) -> Approvals:
        """Return the approvals of a process that starts now."""
        store = store or self.store
        return Approvals(
            store,
            AuditLog(SILENCE, journal=store),
            Alerts(self.store),
            self.clock,
            required=required,
            approvers=self.approvers,
        )

    def make(
        self, proposal: Proposal = RESUME, actor: Actor = ALICE, store: Any = None
    ) -> None:
        """Request the change of *proposal*: to end a stop, which is in force."""
        at = self.clock()
        self.store.begin_hold(Hold.of_chain(CHAIN, at, "a test", "cli:tests"))
        approvals = self.approvals(store)
        with approvals.authorize(proposal, actor.because("odd refunds")) as use:
            assert self.store.end_hold(name_of_chain(CHAIN), at, use=use)
        self.done.append(actor.name)

    def ask(self, proposal: Proposal = RESUME, actor: Actor = ALICE) -> str:
        """Request the change, which is not approved; return the digest."""
        with pytest.raises((ApprovalRequiredError, UnidentifiedOperatorError)):
            self.make(proposal, actor)
        return proposal.digest

    @property
    def listed(self) -> Sequence[Approval]:
        """What waits, of a complete list without changed rows."""
        found = self.approvals().list()
        assert found == OpenApprovals(found.approvals, 0)
        return found.approvals

    @property
    def state(self) -> ApprovalState:
        """The state of the first proposal."""
        found = self.store.find_approval(RESUME.digest)
        assert found is not None
        return found.state

    @property
    def events(self) -> list[tuple[str, str]]:
        """Event and actor of each record, in order."""
        while seal(self.store):
            pass
        fields = [each.record.fields for each in self.store.sealed(0, 1000)]
        return [(each["event"], each["actor"]) for each in fields]


@pytest.fixture
def system(sqlite_store: SQLStore) -> System:
    """A ledger without approvals."""
    return System(sqlite_store)


def test_a_change_is_made_after_another_administrator_approved(system: System) -> None:
    with capture_logs() as logs:
        digest = system.ask()
    (listed,) = system.listed
    system.approvals().approve(digest, BOB.because(WHY))
    assert system.done == []
    system.make()

    assert system.done == ["token:alice"]
    assert (listed.digest, listed.reason) == (RESUME.digest, "odd refunds")
    assert listed.expires_at == system.clock.now + VALID_FOR
    assert system.listed == []
    assert system.state is ApprovalState.DONE
    assert [each["alert"] for each in logs if each["event"] == "alert"] == [
        "approval-requested"
    ]
    assert system.events == [
        ("approval-request-succeeded", "token:alice"),
        ("approval-grant-succeeded", "token:bob"),
        ("approval-use-succeeded", "token:alice"),
    ]


def test_the_audit_says_what_was_approved_and_why(system: System) -> None:
    digest = system.ask()
    system.approvals().approve(digest, BOB.because(WHY))
    seal(system.store)
    details = [each.record.fields["details"] for each in system.store.sealed(0, 9)]

    common = {"digest": digest, "requested_by": "token:alice"}
    assert details == [
        {
            **common,
            "state": "waiting",
            "reason": "odd refunds",
            "proposal": RESUME.text,
        },
        {**common, "state": "approved", "reason": WHY},
    ]


def test_an_approval_fits_one_change(system: System) -> None:
    """A later stop is another change, although all commands are the same."""
    system.approvals().approve(system.ask(), BOB.because(WHY))
    system.ask(LATER)
    system.make()
    system.ask(LATER)
    system.ask()  # It is used up.

    assert system.done == ["token:alice"]
    assert system.state is ApprovalState.WAITING


def test_asking_again_changes_nothing(system: System) -> None:
    """The time runs from the first request, and the first reason stays."""
    system.ask()
    system.clock.advance(3600)
    system.ask(actor=BOB)
    (listed,) = system.listed

    assert (listed.requested_by, listed.version) == ("token:alice", 0)
    assert len(system.events) == 1


def test_who_asked_cannot_approve(system: System) -> None:
    """Neither with another token or in other letters, nor from another host."""
    digest = system.ask()
    again = Actor(ALICE.name, "req_2", "jti_2")

    for same in (again, Actor("token:ALICE")):
        with pytest.raises(SamePersonError):
            system.approvals().approve(digest, same.because(WHY))
    with pytest.raises(ApprovalRequiredError):
        system.make(actor=again)
    assert system.state is ApprovalState.WAITING


def test_a_first_half_that_cannot_be_completed(system: System) -> None:
    """It is refused at once, also when it is repeated, and wakes no one."""
    with system.approvals(required=False).authorize(RESUME, OPERATOR) as use:
        assert use is None  # Where none is required.
    assert system.store.find_approval(RESUME.digest) is None

    for _ in range(2):
        with (
            capture_logs() as logs,
            pytest.raises(UnidentifiedOperatorError, match=r"break-glass [0-9a-f]{16}"),
        ):
            system.make(actor=OPERATOR)
        assert [each for each in logs if each["event"] == "alert"] == []
    (waiting,) = system.approvals().list().approvals

    assert not waiting.can_be_approved
    assert "only break-glass or reject" in "".join(approval_lines([waiting]))


@pytest.mark.parametrize(("asks", "approves"), [(OPERATOR, BOB), (ALICE, OPERATOR)])
def test_a_user_name_of_a_host_proves_nothing(
    system: System, asks: Actor, approves: Actor
) -> None:
    """One person may have a token and several user names."""
    digest = system.ask(actor=asks)

    with pytest.raises(UnidentifiedOperatorError):
        system.approvals().approve(digest, approves.because(WHY))
    assert system.state is ApprovalState.WAITING


def test_a_request_with_a_token_replaces_one_without(system: System) -> None:
    """Otherwise a user of a host could keep it from being approved."""
    system.ask(actor=OPERATOR)
    digest = system.ask(actor=ALICE)
    system.ask(actor=OPERATOR)
    system.approvals().approve(digest, BOB.because(WHY))
    system.make()

    assert system.done == ["token:alice"]


@pytest.mark.parametrize("actor", [ALICE, OPERATOR])
def test_an_emergency_needs_one_person_and_is_loud(
    system: System, actor: Actor
) -> None:
    digest = system.ask(actor=actor)
    with capture_logs() as logs:
        system.approvals().break_glass(digest, actor.because(WHY))
    system.make(actor=actor)

    assert system.done == [actor.name]
    assert [each["alert"] for each in logs if each["event"] == "alert"] == [
        "break-glass"
    ]
    assert ("approval-break-glass-succeeded", actor.name) in system.events


def test_a_rejected_change_is_not_made(system: System) -> None:
    digest = system.ask()
    rejected = system.approvals().reject(digest, BOB.because(WHY))

    assert (rejected.state, rejected.decided_by) == (ApprovalState.REJECTED, BOB.name)
    with pytest.raises(ConflictError):
        system.approvals().approve(digest, BOB.because(WHY))
    system.ask()
    assert system.state is ApprovalState.WAITING
    assert system.done == []


@pytest.mark.parametrize("is_approved", [True, False])
@pytest.mark.parametrize("is_listed", [True, False])
def test_an_approval_ends_with_its_time(
    system: System, *, is_approved: bool, is_listed: bool
) -> None:
    """Its end is in the audit, once, whether a list or a decision finds it."""
    digest = system.ask()
    if is_approved:
        system.approvals().approve(digest, BOB.because(WHY))
    system.clock.now += VALID_FOR
    if is_listed:
        assert [system.listed for _ in range(2)] == [[], []]
    else:
        with pytest.raises(ConflictError, match="time"):
            system.approvals().approve(digest, BOB.because(WHY))
    assert system.state is ApprovalState.EXPIRED
    assert [event for event, actor in system.events if actor == "clock"] == [
        "approval-expire-succeeded"
    ]
    with pytest.raises(ConflictError):
        system.approvals().approve(digest, BOB.because(WHY))
    system.ask()
    assert system.done == []


def test_a_change_whose_process_died_can_be_repeated(system: System) -> None:
    """Nothing was changed, so it can be rejected as well."""
    digest = system.ask()
    system.approvals().approve(digest, BOB.because(WHY))
    for _ in range(2):
        with suppress(RuntimeError), system.approvals().authorize(RESUME, ALICE):
            raise RuntimeError("killed")
        assert system.state is ApprovalState.APPROVED
    system.make(actor=BOB)
    with pytest.raises(ConflictError, match="done"):
        system.approvals().reject(digest, BOB.because(WHY))

    assert system.done == ["token:bob"]
    assert system.state is ApprovalState.DONE


def test_an_approval_of_a_failed_change_ends(system: System) -> None:
    """It cannot be used months later, and a failed try does not extend its time."""
    system.approvals().approve(system.ask(), BOB.because(WHY))
    system.clock.now += VALID_FOR - timedelta(seconds=1)
    with suppress(RuntimeError), system.approvals().authorize(RESUME, ALICE):
        raise RuntimeError("failed")
    system.clock.advance(1)
    system.ask()

    assert system.done == []
    assert system.state is ApprovalState.WAITING


@pytest.mark.parametrize("decide", ["reject", "use"])
def test_what_comes_first_excludes_the_other(system: System, decide: str) -> None:
    """The change is rolled back if its approval was rejected or used meanwhile."""
    digest = system.ask()
    system.approvals().approve(digest, BOB.because(WHY))

    def change() -> None:
        with system.approvals().authorize(RESUME, ALICE) as use:
            if decide == "reject":
                system.approvals().reject(digest, BOB.because(WHY))
            else:
                system.make(actor=BOB)
            system.store.begin_hold(
                Hold.of_chain(CHAIN, system.clock(), "a test", "cli:tests")
            )
            system.store.end_hold(name_of_chain(CHAIN), system.clock(), use=use)

    with pytest.raises(StaleStateError):
        change()
    assert system.store.find_stop(CHAIN) is not None
    assert system.done == ([] if decide == "reject" else ["token:bob"])
    uses = [each for each in system.events if each[0] == "approval-use-succeeded"]
    assert len(uses) == len(system.done)


def test_a_change_that_is_made_does_not_fail_afterwards(system: System) -> None:
    """The line for the log cannot be looked up; the caller must not repeat it."""
    system.approvals().approve(system.ask(), BOB.because(WHY))
    finds = iter([system.store.find_approval])

    def find(digest: str) -> Any:
        return next(finds, _fail)(digest)

    system.make(store=altered(system.store, find_approval=find))

    assert system.done == ["token:alice"]
    assert system.state is ApprovalState.DONE


def _fail(*_: Any) -> None:
    raise StoreUnavailableError("gone")


@pytest.mark.parametrize("is_used", [True, False])
def test_a_use_is_logged_once_it_is_stored(system: System, *, is_used: bool) -> None:
    """A rotation may have to wait for funds, and keeps its approval."""
    system.approvals().approve(system.ask(), BOB.because(WHY))
    audit, events = recording(clock=system.clock, journal=system.store)
    alerts = Alerts(system.store)
    approvals = Approvals(system.store, audit, alerts, system.clock, required=True)
    with approvals.authorize(RESUME, ALICE) as use:
        if is_used:
            system.store.end_hold(name_of_chain(CHAIN), system.clock(), use=use)

    assert [each["event"] for each in events] == ["approval-use-succeeded"] * is_used
    assert (system.state is ApprovalState.DONE) == is_used


@pytest.mark.parametrize("reason", ["", "  ", "x" * 201, "two\nlines"])
@pytest.mark.parametrize("decide", ["approve", "reject", "break_glass"])
def test_a_decision_needs_a_reason(system: System, decide: str, reason: str) -> None:
    digest = system.ask()

    with pytest.raises(InvalidInputError):
        getattr(system.approvals(), decide)(digest, BOB.because(reason))
    assert system.state is ApprovalState.WAITING


def test_inserted_rows_with_its_first_digits_hide_no_proposal(system: System) -> None:
    """All 64 digits still find it."""
    digest = system.ask()
    for number in range(100):
        inserted = f"{digest[:SHOWN_DIGITS]}{number:048}"
        forge(system.store, FORGED_APPROVAL.format(digest=inserted))

    with pytest.raises(InvalidInputError, match="all 64 digits"):
        system.approvals().approve(digest[:SHOWN_DIGITS], BOB.because(WHY))
    system.approvals().approve(digest, BOB.because(WHY))
    system.make()
    assert system.done == ["token:alice"]


def _with_text(proposal: str) -> dict[str, str]:
    """Return the columns of a proposal with that text."""
    digest = hashlib.sha256(proposal.encode()).hexdigest()
    return {"proposal": proposal, "digest": digest}


@pytest.mark.parametrize(
    "changes",
    [
        {"proposal": LATER.text},
        _with_text("no JSON"),
        _with_text("[" * 100_000),
        _with_text("[]"),
        {"action": "refund-pay"},
        {"digest": "0" * 64},
    ],
    ids=["another", "no JSON", "deep", "a list", "action", "digest"],
)
def test_a_row_shows_its_own_proposal(system: System, changes: dict[str, str]) -> None:
    """Also with a valid MAC: what is approved is what is shown."""
    now = system.clock()
    asked = Approval.of(
        RESUME, reason=WHY, requested_by=ALICE.name, at=now, expires_at=now + VALID_FOR
    )
    shown = replace(asked, **changes)  # type: ignore[arg-type]
    system.store.put_approval(None, shown, record())
    listed = system.approvals().list()

    assert (listed.approvals, listed.changed) == ([], 1)
    with pytest.raises(NotFoundError):
        system.approvals().approve(shown.digest, BOB.because(WHY))


def test_a_digest_may_be_cut(system: System) -> None:
    digest = system.ask()
    system.ask(LATER)
    approved = system.approvals().approve(digest[:SHOWN_DIGITS], BOB.because(WHY))

    assert approved.digest == digest
    with pytest.raises(InvalidInputError):
        system.approvals().approve(digest[: SHOWN_DIGITS - 1], BOB.because(WHY))
    with pytest.raises(NotFoundError):
        system.approvals().approve("f" * SHOWN_DIGITS, BOB.because(WHY))
    with pytest.raises(ConflictError):
        system.approvals().approve(digest, BOB.because(WHY))


FORGERIES = {
    "approved": "UPDATE approvals SET state = 'approved', version = version + 1",
    "done, then asked again": (
        "UPDATE approvals SET state = 'approved', decided_by = 'token:bob',"
        " version = version + 1"
    ),
    "another asked": (
        "UPDATE approvals SET requested_by = 'token:mallory', version = version + 1"
    ),
    "never ends": (
        "UPDATE approvals SET expires_at = '9999-01-01T00:00:00.000000+00:00',"
        " version = version + 1"
    ),
    "inserted": FORGED_APPROVAL.format(digest=RESUME.digest),
}


@pytest.mark.parametrize("statement", FORGERIES.values(), ids=FORGERIES)
def test_a_changed_row_approves_nothing(system: System, statement: str) -> None:
    """The MAC covers every column; the administrator asks again."""
    digest = RESUME.digest
    if not statement.startswith("INSERT"):
        system.ask()
    forge(system.store, statement)

    with capture_logs() as logs:
        listed = system.approvals().list()
    assert listed == OpenApprovals([], 1)
    assert [each["alert"] for each in logs] == ["row-not-authentic"]
    with pytest.raises(NotFoundError):
        system.approvals().approve(digest, ALICE.because(WHY))
    system.ask()
    (waiting,) = system.listed
    system.approvals().approve(digest, BOB.because(WHY))
    system.make()
    assert (waiting.requested_by, waiting.proposal) == ("token:alice", RESUME.text)
    assert system.done == ["token:alice"]


def test_an_old_approval_cannot_be_put_back(system: System) -> None:
    """A used row had a valid MAC: the version in it is too low."""
    system.approvals().approve(system.ask(), BOB.because(WHY))
    approved = system.store.find_approval(RESUME.digest)
    assert approved is not None
    system.make()

    for statement in (
        f"UPDATE approvals SET state = 'approved', version = 1, mac = '{approved.mac}'",
        "DELETE FROM approvals",
    ):
        with pytest.raises(HotWalletError):
            forge(system.store, statement)
    system.ask()
    assert system.done == ["token:alice"]


@pytest.mark.parametrize("move", ["ask", "approve"])
def test_a_failed_commit_changes_nothing(system: System, move: str) -> None:
    """As if the process had died there: what was approved stays approved."""
    broken = altered(system.store, put_approval=StoreUnavailableError("killed"))
    if move == "ask":
        with pytest.raises(StoreUnavailableError):
            system.make(store=broken)
        assert system.listed == []
        return
    digest = system.ask()
    with pytest.raises(StoreUnavailableError):
        system.approvals(broken).approve(digest, BOB.because(WHY))
    assert system.state is ApprovalState.WAITING


def test_constant_changes_are_an_error(system: System) -> None:
    """A caller that always loses the race is asked to try again."""
    stale = altered(system.store, put_approval=StaleStateError("again"))

    with pytest.raises(StaleStateError):
        system.make(store=stale)


def test_old_inserted_rows_hide_no_proposal(system: System) -> None:
    """They are read past, and one alert says that there are any."""
    digest = system.ask()
    for number in range(MAX_LISTED + 1):
        forge(system.store, FORGED_APPROVAL.format(digest=f"{number:064}"))
    approvals = system.approvals()
    with capture_logs() as logs:
        listed, _ = approvals.list(), approvals.list()

    assert [each.digest for each in listed.approvals] == [digest]
    assert (listed.changed, listed.is_complete) == (MAX_LISTED + 1, True)
    assert [(each["alert"], each["subject"]) for each in logs] == [
        ("row-not-authentic", "approvals")
    ]


def test_a_list_reads_so_many_rows(system: System) -> None:
    """It says that it is not complete, and does not fail."""
    system.ask()
    (row,) = system.store.open_approvals(0, 9)
    forged = replace(row, is_authentic=False)
    flood = altered(system.store, open_approvals=lambda _, limit: [forged] * limit)

    assert system.approvals(flood).list() == OpenApprovals([], MAX_READ, MAX_READ)


def test_so_many_proposals_are_listed(system: System) -> None:
    """The oldest first; the list says that there are more."""
    (proposals) = [Proposal("test", {"n": n}) for n in range(MAX_LISTED + 1)]
    for proposal in proposals:
        system.ask(proposal)
        system.clock.advance(1)
    listed = system.approvals().list()

    assert [each.digest for each in listed.approvals] == [
        each.digest for each in proposals[:MAX_LISTED]
    ]
    assert (listed.changed, listed.is_complete) == (0, False)
    (last,) = system.approvals().list(MAX_LISTED).approvals
    assert (listed.following, last.digest) == (MAX_LISTED, proposals[-1].digest)


def test_the_only_approver_is_named() -> None:
    """A name may contain what stands between the names of several."""
    at = datetime(2026, 1, 2, tzinfo=UTC)
    proposal = Proposal("refund-approve", {"refund_id": "rf_1"})
    waiting = Approval.of(
        proposal, reason="", requested_by="token:alice", at=at, expires_at=at
    )
    approved = replace(
        waiting, state=ApprovalState.APPROVED, decided_by="token:bob token:eve"
    )

    assert (waiting.needed, waiting.approvers) == (1, ())
    assert approved.approvers == ("token:bob token:eve",)
    assert replace(approved, state=ApprovalState.REJECTED).approvers == ()
