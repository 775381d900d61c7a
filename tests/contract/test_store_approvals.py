"""Contract of ``ApprovalStore``: one row per proposal, changed by compare-and-set."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

import pytest

from backends.sql import SQLStore
from signer.alerts import Alerts
from signer.approvals import VALID_FOR, Approvals
from signer.audit.log import AuditLog
from signer.errors import ApprovalRequiredError, HotWalletError, StaleStateError
from signer.model.approval import Approval, ApprovalState, Proposal
from signer.model.audit_record import Actor
from signer.ports import ApprovalStore
from tests.fixtures.ledger import now
from tests.fixtures.races import race
from tests.support.audit import record
from tests.support.ledgers import seal
from tests.support.ring import SILENCE


ALICE, BOB = Actor("token:alice"), Actor("token:bob")

PROPOSAL = Proposal("signing-resume", {"chain_id": "31337", "version": 0})

PROCESSES = 16

_FINAL = {"done", "rejected", "expired"}


def _new(proposal: Proposal = PROPOSAL, at: datetime | None = None) -> Approval:
    at = at or now()
    return Approval.of(
        proposal,
        reason="a test",
        requested_by=ALICE.name,
        at=at,
        expires_at=at + VALID_FOR,
    )


def test_fits_the_port(store: SQLStore) -> None:
    """The tables are an ``ApprovalStore``, which mypy verifies here."""
    fits: ApprovalStore = store

    assert fits.open_approvals(1) == ()


def test_a_row_and_its_record_are_stored_together(store: SQLStore) -> None:
    new = _new()
    store.put_approval(None, new, record(at=now()))
    approved = replace(
        new, state=ApprovalState.APPROVED, decided_by=BOB.name, decided_at=now()
    )
    store.put_approval(new, approved, record(at=now()))
    found = store.find_approval(new.digest)

    assert found == replace(approved, version=1)
    assert seal(store) == 2


def test_another_version_is_not_replaced(store: SQLStore) -> None:
    """Nor is a row that another process inserted; no record is left."""
    new = _new()
    store.put_approval(None, new, record(at=now()))
    for before in (None, replace(new, version=1)):
        with pytest.raises(StaleStateError):
            store.put_approval(before, new, record(at=now()))

    assert store.find_approval(new.digest) == new
    assert seal(store) == 1


@pytest.mark.parametrize("state", ApprovalState)
def test_lists_what_is_not_over(store: SQLStore, state: ApprovalState) -> None:
    times = [now(), now() + timedelta(minutes=1)]
    for at in reversed(times):
        new = _new(Proposal("test", {"at": str(at)}), at)
        store.put_approval(None, new, record(at=now()))
        store.put_approval(new, replace(new, state=state), record(at=now()))
    found = store.open_approvals(9)

    is_over = state in _FINAL
    assert [each.requested_at for each in found] == ([] if is_over else times)


def _approvals(store: SQLStore, late: timedelta = timedelta(0)) -> Approvals:
    audit = AuditLog(SILENCE, journal=store)
    return Approvals(store, audit, Alerts(store), lambda: now() + late, required=True)


def _move(proposal: Proposal, store: SQLStore, index: int) -> bool:
    """Approve, reject, execute, or let the time end; return whether it was executed."""
    approvals = _approvals(store, VALID_FOR if index % 4 == 3 else timedelta(0))
    with suppress(HotWalletError):
        match index % 4:
            case 0:
                approvals.approve(proposal.digest, BOB, "a test")
            case 1:
                approvals.reject(proposal.digest, BOB, "a test")
            case 2:
                with approvals.authorize(proposal, ALICE):
                    return True
            case _:
                approvals.list()
    return False


@pytest.mark.parametrize("is_approved", [True, False])
def test_a_race_has_one_outcome(
    store: SQLStore, database_url: str, *, is_approved: bool
) -> None:
    """Sixteen processes approve, reject, execute and let it expire at once."""
    approvals = _approvals(store)
    with pytest.raises(ApprovalRequiredError), approvals.authorize(PROPOSAL, ALICE):
        pass
    if is_approved:
        approvals.approve(PROPOSAL.digest, BOB, "a test")
    executed = race(partial(_move, PROPOSAL), database_url, PROCESSES)
    found = store.find_approval(PROPOSAL.digest)
    finals = [state for state in _states(store) if state in _FINAL]

    assert found is not None
    assert any(executed) == ("done" in finals)
    # A rejected or expired proposal may be asked for again by one that executes.
    assert len(finals) <= 1 + _states(store)[1:].count("waiting")


def _states(store: SQLStore) -> Sequence[str]:
    """Return the states of the proposal, from its audit records."""
    while seal(store):
        pass
    fields = [each.record.fields for each in store.sealed(0, 1000)]
    return [each["details"]["state"] for each in fields]
