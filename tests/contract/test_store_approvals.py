"""Contract of ``ControlStore``: one row per proposal, changed by compare-and-set."""

from collections.abc import Callable, Sequence
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
from signer.model.approval import Approval, ApprovalState, ApprovalUse, Proposal
from signer.model.audit_record import Actor
from signer.model.hold import Hold, name_of_chain, name_of_tenant
from signer.model.key import KeyState, find_key
from signer.model.wallet import Pause
from tests.fixtures.ledger import OTHER_WALLET, WALLET, now, opened, stopped, unrecorded
from tests.fixtures.races import race
from tests.support.audit import record
from tests.support.keys import key_at, made_active
from tests.support.ledgers import seal
from tests.support.ring import SILENCE


ALICE, BOB = Actor("token:alice"), Actor("token:bob")

CHAIN = 31337

PROPOSAL = Proposal("signing-resume", {"chain_id": str(CHAIN), "version": 0})

PROCESSES = 8

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
    found = store.open_approvals(0, 9)

    is_over = state in _FINAL
    assert [each.requested_at for each in found] == ([] if is_over else times)


def test_lists_in_pages(store: SQLStore) -> None:
    """Rows of one time are ordered by digest, and none is left out."""
    times = [now() + timedelta(minutes=n // 2) for n in range(5)]
    rows = [_new(Proposal("test", {"n": n}), at) for n, at in enumerate(times)]
    for row in rows:
        store.put_approval(None, row, record(at=now()))
    found: list[Approval] = []
    while page := store.open_approvals(len(found), 2):
        found += page

    rows.sort(key=lambda row: (row.requested_at, row.digest))
    assert found == rows


def test_finds_digests_by_their_first_digits(store: SQLStore) -> None:
    new = _new()
    store.put_approval(None, new, record(at=now()))
    store.put_approval(None, _new(Proposal("other", {})), record(at=now()))

    assert store.approvals_like(new.digest[:16], 9) == (new,)
    assert store.approvals_like(new.digest, 9) == (new,)
    assert store.approvals_like(f"{new.digest}0", 9) == ()
    assert store.approvals_like("f" * 16, 9) == ()


def _end_stop(store: SQLStore, use: ApprovalUse) -> bool:
    return store.end_hold(name_of_chain(CHAIN), now(), use=use)


def _end_block(store: SQLStore, use: ApprovalUse) -> bool:
    return store.end_hold(name_of_tenant("shop"), now(), use=use)


def _resume(store: SQLStore, use: ApprovalUse) -> bool:
    (wallet,) = store.wallets()
    foreign = store.foreign_transactions(wallet.chain_id, wallet.sender)
    store.resume(wallet, now(), foreign, use)
    return not store.wallets()[0].is_paused


def _revoke(store: SQLStore, use: ApprovalUse) -> bool:
    key = find_key(store.keys(), WALLET)
    assert key is not None
    return store.block(key, now(), record(at=now()), use).state is KeyState.BLOCKED


def _activate(store: SQLStore, use: ApprovalUse) -> bool:
    pending = find_key(store.keys(), OTHER_WALLET)
    pending = pending or store.begin_rotation(key_at(OTHER_WALLET), now())
    active = store.active_key()
    done = store.activate(pending, now(), record(at=now()), replacing=active, use=use)
    return done.state is KeyState.ACTIVE


CHANGES = [_end_stop, _end_block, _resume, _revoke, _activate]


def _evidence(store: SQLStore) -> object:
    ring = store.keys()
    return (
        store.stops(),
        store.blocks(),
        store.wallets(),
        store.foreign_transactions(CHAIN, WALLET),
        [(key.address, key.state) for key in ring if key.epoch],
    )


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_ends_its_approval(
    store: SQLStore, change: Callable[[SQLStore, ApprovalUse], bool]
) -> None:
    """In one transaction: a change without an approval that stands is not made."""
    made_active(store, key_at(WALLET))
    if change is not _activate:
        made_active(store, key_at(OTHER_WALLET))
    stopped(store, CHAIN)
    store.begin_hold(Hold.of_tenant("shop", now(), "", "cli:tests"))
    store.add_unrecorded(opened(store), [unrecorded()])
    store.pause(store.wallets()[0], Pause.CHAIN_AHEAD, now())
    new = replace(_new(), state=ApprovalState.APPROVED)
    store.put_approval(None, new, record(at=now()))
    done = replace(new, state=ApprovalState.DONE)
    before = _evidence(store)
    seal(store)

    with pytest.raises(StaleStateError):
        change(store, ApprovalUse(replace(new, version=1), done, record(at=now())))
    assert _evidence(store) == before
    assert store.find_approval(new.digest) == new
    assert seal(store) == 0

    assert change(store, ApprovalUse(new, done, record(at=now())))
    assert store.find_approval(new.digest) == replace(done, version=1)
    assert seal(store) == (2 if change in {_revoke, _activate} else 1)


def test_what_is_over_uses_no_approval(store: SQLStore) -> None:
    """Another administrator may have ended the stop or the block meanwhile."""
    new = replace(_new(), state=ApprovalState.APPROVED)
    store.put_approval(None, new, record(at=now()))
    use = ApprovalUse(new, replace(new, state=ApprovalState.DONE), record(at=now()))

    assert [_end_stop(store, use), _end_block(store, use)] == [False, False]
    assert store.find_approval(new.digest) == new


def _approvals(store: SQLStore, late: timedelta = timedelta(0)) -> Approvals:
    audit = AuditLog(SILENCE, journal=store)
    return Approvals(store, audit, Alerts(store), lambda: now() + late, required=True)


def _move(proposal: Proposal, store: SQLStore, index: int) -> bool:
    """Approve, reject, execute, or let the time end; return whether it was executed."""
    approvals = _approvals(store, VALID_FOR if index % 4 == 3 else timedelta(0))
    with suppress(HotWalletError):
        match index % 4:
            case 0:
                approvals.approve(proposal.digest, BOB.because("a test"))
            case 1:
                approvals.reject(proposal.digest, BOB.because("a test"))
            case 2:
                with approvals.authorize(proposal, ALICE) as use:
                    return store.end_hold(name_of_chain(CHAIN), now(), use=use)
            case _:
                approvals.list()
    return False


@pytest.mark.parametrize("is_approved", [True, False])
def test_a_race_has_one_outcome(
    store: SQLStore, database_url: str, *, is_approved: bool
) -> None:
    """Eight processes approve, reject, execute and let it expire at once."""
    stopped(store, CHAIN)
    approvals = _approvals(store)
    with pytest.raises(ApprovalRequiredError), approvals.authorize(PROPOSAL, ALICE):
        pass
    if is_approved:
        approvals.approve(PROPOSAL.digest, BOB.because("a test"))
    executed = race(partial(_move, PROPOSAL), database_url, PROCESSES)
    found = store.find_approval(PROPOSAL.digest)
    finals = [state for state in _states(store) if state in _FINAL]

    assert found is not None
    assert sum(executed) == finals.count("done") <= 1
    assert (store.find_stop(CHAIN) is None) == any(executed)
    assert str(found.state) in _states(store)
    # A rejected or expired proposal may be asked for again by one that executes.
    assert len(finals) <= 1 + _states(store)[1:].count("waiting")


def _states(store: SQLStore) -> Sequence[str]:
    """Return the states of the proposal, from its audit records."""
    while seal(store):
        pass
    fields = [each.record.fields for each in store.sealed(0, 1000)]
    return [each["details"]["state"] for each in fields]
