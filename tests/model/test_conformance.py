"""An audit log is accepted as a trace of the nonce lifecycle, or a rule is named."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from signer.audit.actions import AuditAction
from signer.model.audit_record import Actor, Operation, Purpose, Record
from tests.support.audit import START
from tests.support.conformance.check import check_conformance
from tests.support.conformance.history import SKEW
from tests.support.conformance.verdict import Rule
from tests.support.ledgers import DRAFTS
from tests.support.signings import DIGEST, SUBJECT, log_at
from tests.support.traces import MUTATIONS, Mutation, Recorder, address_of


def _rules(recorder: Recorder) -> list[Rule]:
    return [each.rule for each in check_conformance(recorder.records).violations]


def _paid(recorder: Recorder, *refunds: int, key: int = 0) -> None:
    """Record refunds that are accepted, reserved and signed together."""
    for refund in refunds:
        recorder.accept(refund)
    for refund in refunds:
        recorder.reserve(refund, key)
    for refund in refunds:
        recorder.sign(refund, key, nonce=refund)


def test_a_trace_of_the_service_is_accepted() -> None:
    """Replacements, cancellations, crashes, revocations and stops (I2, I3)."""
    trace = Recorder()
    _paid(trace, 0, 1)
    trace.intend(0, attempt=1)
    trace.sign(0, attempt=1)
    trace.intend(0, attempt=2, kind="noop")
    trace.sign(0, attempt=2, kind="noop")
    trace.intend(1, worker=1, nonce=1, attempt=1)  # This worker dies.
    trace.accept(2)
    trace.cancel(2)
    trace.stop("local")
    trace.stop(None, chain_id="5")  # Not a network of ours.
    trace.resume("local")
    trace.accept(3)
    trace.reserve(3)
    trace.sign(3, nonce=3, outcome="backend-unavailable")
    trace.rotate(0, 1, compromised=True)
    trace.reserve(3, key=1)
    trace.sign(3, key=1, nonce=0)

    found = check_conformance(trace.records)

    assert found.violations == []
    assert (found.refunds, found.signatures, found.unfinished) == (4, 5, 1)


def test_batches_are_accepted() -> None:
    """A refund that a vault skipped is in another one, or is cancelled (I2, I3)."""
    trace = Recorder()
    for refund in range(4):
        trace.accept(refund)
    trace.batch(0, 1, 2)
    trace.batch(1, 3, nonce=1)
    trace.cancel(2)

    found = check_conformance(trace.records)

    assert found.violations == []
    assert (found.signatures, found.unfinished) == (2, 0)


def _cancelled_in_a_batch(trace: Recorder) -> None:
    trace.cancel(0)
    trace.batch(0)


def _other_batch(trace: Recorder) -> None:
    trace.accept(1)
    trace.batch(0)
    trace.batch(0, 1)


@pytest.mark.parametrize(
    ("play", "rule"),
    [
        (_cancelled_in_a_batch, Rule.CANCELLED_IS_FINAL),
        (_other_batch, Rule.ONE_OWNER),
        (lambda trace: trace.batch(0, 9), Rule.ACCEPTED_FIRST),
        (lambda trace: trace.batch(0, composition="00"), Rule.SAME_PAYMENT),
        (lambda trace: trace.batch(0, key=1), Rule.ACTIVE_KEY_RESERVES),
    ],
)
def test_a_batch_breaks_a_rule(play: Callable[[Recorder], None], rule: Rule) -> None:
    trace = Recorder()
    trace.rotate(None, 0)
    trace.accept(0)
    play(trace)

    assert rule in _rules(trace)


def test_an_approved_refund_is_accepted() -> None:
    """A replacement and a no-op need no further approval."""
    trace = Recorder()
    trace.accept(0)
    trace.propose(0)
    trace.use_approval(0)
    trace.reserve(0)
    trace.sign(0)
    trace.accept(1)
    trace.reserve(1)
    trace.propose(1)  # The amount was lowered.
    trace.intend(1, nonce=1, kind="noop")
    trace.sign(1, nonce=1, kind="noop")
    _paid(trace, 2)
    trace.propose(2)
    trace.intend(2, nonce=2, attempt=1)

    assert _rules(trace) == []


@pytest.mark.parametrize("state", ["executing", "done", None])
def test_an_unapproved_refund_is_refused(state: str | None) -> None:
    """Its approval is missing, is not complete, or comes later."""
    trace = Recorder()
    trace.accept(0)
    trace.propose(0)
    if state == "executing":
        trace.use_approval(0, state)
    trace.reserve(0)
    if state == "done":
        trace.use_approval(0)

    assert _rules(trace) == [Rule.APPROVED_FIRST]


@pytest.mark.parametrize("proposal", [None, 7, "{", "[]", "[" * 99_999, "{}"])
def test_an_odd_proposal_breaks_no_rule(proposal: object) -> None:
    """It is of another action, or not one of the service."""
    trace = Recorder()
    trace.accept(0)
    record = DRAFTS.result(
        AuditAction.APPROVAL_REQUEST,
        Operation.ADMINISTRATION,
        Actor("token:alice"),
        proposal=proposal,  # type: ignore[arg-type]
        digest="00",
    )
    trace.records.append(record)
    trace.reserve(0)

    assert _rules(trace) == []


def test_a_late_outcome_of_a_revoked_key_is_accepted() -> None:
    """The refund got the nonce of another key; the old signature was not used."""
    trace = Recorder()
    trace.accept(0)
    trace.reserve(0)
    trace.rotate(0, 1)
    trace.revoke(0)
    trace.reserve(0, key=1)
    trace.sign(0, key=1, nonce=7)
    trace.sign(0, nonce=0)

    assert _rules(trace) == []


def test_a_requeued_refund_may_be_cancelled() -> None:
    """Its nonce was that of a revoked key."""
    trace = Recorder()
    trace.accept(0)
    trace.reserve(0)
    trace.rotate(0, 1)
    trace.revoke(0)
    trace.cancel(0)

    assert _rules(trace) == []


def _revoked_and_reinstated() -> Recorder:
    """Return a trace: refund 0 lost its nonce, and refund 1 was signed before."""
    trace = Recorder()
    for refund in (0, 1):
        trace.accept(refund)
        trace.reserve(refund)
    trace.sign(1, nonce=1)
    trace.rotate(0, 1, compromised=True)
    trace.reserve(0, key=1)
    trace.sign(0, key=1, nonce=0)
    trace.reinstate(0)
    return trace


def test_a_reinstated_key_finishes_its_refunds() -> None:
    """
    It replaces what it had signed.

    A process that slept since the reservation signs once more, and commits nothing.
    """
    trace = _revoked_and_reinstated()
    trace.intend(1, nonce=1, attempt=1)
    trace.sign(1, nonce=1, attempt=1)
    trace.intend(0, nonce=0)
    trace.sign(0, nonce=0)

    assert _rules(trace) == []


def test_a_reinstated_key_may_be_active_again() -> None:
    """The nonce that refund 0 lost then belongs to another refund."""
    trace = _revoked_and_reinstated()
    trace.sign(0, nonce=0)  # Recorded late, and not used.
    trace.rotate(1, 0)
    trace.accept(2)
    trace.reserve(2)
    trace.sign(2, nonce=0)
    trace.intend(0, nonce=0, worker=1)
    trace.sign(0, nonce=0, worker=1)  # Of a process that slept.
    trace.intend(2, nonce=0, attempt=1)

    assert _rules(trace) == []


def _revoke_again(trace: Recorder) -> None:
    trace.revoke(0)
    trace.intend(1, nonce=1, attempt=1)


def _take_a_nonce(trace: Recorder) -> None:
    trace.rotate(1, 0)
    trace.accept(2)
    trace.reserve(2)
    trace.sign(2, nonce=1)


def _reserve(trace: Recorder) -> None:
    trace.accept(2)
    trace.reserve(2)


@pytest.mark.parametrize(
    ("play", "rule"),
    [
        (_revoke_again, Rule.REVOKED_KEY_IS_SILENT),
        (_take_a_nonce, Rule.ONE_OWNER),
        (_reserve, Rule.ACTIVE_KEY_RESERVES),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_reinstated_key_breaks_a_rule(
    play: Callable[[Recorder], None], rule: Rule
) -> None:
    trace = _revoked_and_reinstated()
    play(trace)

    assert _rules(trace) == [rule]


def test_a_key_is_revoked_until_it_is_reinstated() -> None:
    trace = Recorder()
    trace.accept(0)
    trace.reserve(0)
    trace.sign(0)
    trace.rotate(0, 1)
    trace.revoke(0)
    trace.intend(0, attempt=1)
    trace.reinstate(0)
    trace.intend(0, attempt=1)
    trace.revoke(0)
    trace.reinstate(0)
    trace.intend(0, attempt=1)

    assert _rules(trace) == [Rule.REVOKED_KEY_IS_SILENT]


def test_other_signatures_need_an_intent_too() -> None:
    """Messages and self-tests have no refund; old refunds have no attempt."""
    signed = [
        record
        for purpose in (_message(None), _message("rf_1"))
        for record in (
            log_at(0).intent(purpose, SUBJECT, DIGEST),
            log_at(1).outcome(
                purpose, SUBJECT, digest=DIGEST, outcome="success", seconds=1
            ),
        )
    ]

    accepted, refused = check_conformance(signed), check_conformance(signed[1:])

    assert (accepted.violations, accepted.signatures) == ([], 2)
    assert [each.rule for each in refused.violations] == [Rule.INTENT_FIRST]


def test_a_sweep_to_the_active_key_is_accepted() -> None:
    """It needs no acceptance, and no reservation by the active key."""
    trace = Recorder()
    trace.rotate(0, 1)
    trace.intend(0, operation=Operation.KEY_SWEEP, recipient=address_of(1))

    assert _rules(trace) == []


def test_each_rotation_counts() -> None:
    """A nonce is reserved for the last key that was activated."""
    trace = Recorder()
    trace.rotate(0, 1)
    trace.rotate(1, 2)
    trace.accept(0)
    trace.reserve(0, key=2)
    trace.accept(1)
    trace.reserve(1, key=1)

    assert _rules(trace) == [Rule.ACTIVE_KEY_RESERVES]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: each.name)
def test_a_changed_trace_is_refused(mutation: Mutation) -> None:
    """The rule is named, and the record that breaks it."""
    trace = Recorder()
    _paid(trace, 0, 1, 2)

    found = check_conformance(mutation.apply(trace.records)).violations

    assert mutation.rule in {each.rule for each in found}
    assert all(str(each).startswith(f"record {each.sequence}: ") for each in found)


def _second_key(trace: Recorder) -> None:
    trace.reserve(0)
    trace.rotate(0, 1)
    trace.intend(0, nonce=3)
    trace.intend(0, key=1, nonce=3)


def _transfer_after_noop(trace: Recorder) -> None:
    trace.reserve(0)
    trace.sign(0, kind="noop")
    trace.intend(0, attempt=1)


def _sign_while_stopped(trace: Recorder) -> None:
    trace.stop("local")
    trace.reserve(0)


def _sign_after_another_resumed(trace: Recorder) -> None:
    trace.stop(None)
    trace.resume("local")
    trace.reserve(0)


def _sweep_to_a_former_key(trace: Recorder) -> None:
    trace.rotate(0, 1)
    trace.intend(0, operation=Operation.KEY_SWEEP, recipient=address_of(0))


def _first_rotation(trace: Recorder) -> None:
    trace.rotate(None, 1)
    trace.reserve(0)


@pytest.mark.parametrize(
    ("play", "rule"),
    [
        (_second_key, Rule.ONE_NONCE),
        (_transfer_after_noop, Rule.ATTEMPT_ORDER),
        (_sign_while_stopped, Rule.STOP_IS_SILENT),
        (_sign_after_another_resumed, Rule.STOP_IS_SILENT),
        (_sweep_to_a_former_key, Rule.SWEEP_PAYS_ACTIVE_KEY),
        (_first_rotation, Rule.ACTIVE_KEY_RESERVES),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_rule_is_broken(play: Callable[[Recorder], None], rule: Rule) -> None:
    """After an acceptance."""
    trace = Recorder()
    trace.accept(0)
    play(trace)

    assert rule in _rules(trace)


def test_records_that_were_sealed_together_may_be_out_of_order() -> None:
    """A record is drafted before its commit, and clocks differ."""
    trace = Recorder(apart=timedelta(milliseconds=1))
    trace.reserve(0)
    trace.accept(0)
    trace.sign(0)
    trace.rotate(0, 1)
    trace.revoke(0)
    trace.stop(None)
    trace.accept(1)
    trace.reserve(1)

    assert _rules(trace) == []


def test_later_records_are_not() -> None:
    """An acceptance long after the reservation is none."""
    trace = Recorder(apart=SKEW * 2)
    trace.accept(9)
    trace.reserve(0)
    trace.accept(0)

    assert _rules(trace) == [Rule.ACCEPTED_FIRST]


def test_refunds_from_before_acceptances_were_audited() -> None:
    """Their ids show their age; old records have old names."""
    trace = Recorder(apart=timedelta(minutes=1))
    trace.reserve(0)
    trace.sign(0)
    trace.accept(1)
    trace.intend(0, attempt=1)
    renamed = [
        _renamed(each, {"digest-sign-requested": "signing-intent"})
        for each in trace.records
    ]
    old = [_renamed(each, {"digest-sign-succeeded": "signing"}) for each in renamed]
    rotation = Record.of({"event": "rotation", "outcome": "not-found"}, START)

    found = check_conformance([*old, rotation])

    assert found.violations == []
    assert found.signatures == 1


def test_old_refusals_and_unknown_refunds() -> None:
    """A refusal needs an intent too; an id without a time must be accepted."""
    trace = Recorder()
    trace.accept(1)
    trace.sign(0, outcome="backend-unavailable")
    old = [_renamed(each, {"digest-sign-refused": "signing"}) for each in trace.records]
    intent = _named(trace, "rf_1")

    rules = [each.rule for each in check_conformance([*old, intent]).violations]

    assert rules == [Rule.INTENT_FIRST, Rule.ACCEPTED_FIRST]


def test_forged_records_do_not_count() -> None:
    """The sealer has declared them."""
    trace = Recorder()
    _paid(trace, 0)
    forged = _named(trace, trace.refund_id(5))

    before = check_conformance([*trace.records, forged])
    after = check_conformance([*trace.records, forged, DRAFTS.forged([forged.id])])

    assert [each.rule for each in before.violations] == [Rule.ACCEPTED_FIRST]
    assert after.is_good


@pytest.mark.parametrize(
    "record",
    [
        Record("au_x", '{"event":"refund-accept-succeeded"}'),
        Record("au_" + "f" * 32, '{"event":"refund-accept-succeeded"}'),
        Record("au_" + "0" * 32, '{"event": "refund-accept-succeeded"}'),
        Record("au_" + "0" * 32, '{"details":7,"event":"refund-accept-succeeded"}'),
        Record("au_" + "0" * 32, '{"event":"digest-sign-requested","node":"\\u001b"}'),
        Record("au_" + "0" * 32, '{"event":"digest-sign-requested","pid":"1"}'),
    ],
)
def test_a_malformed_record_is_refused(record: Record) -> None:
    """No process of the service wrote it."""
    (found,) = check_conformance([record]).violations

    assert found.rule is Rule.WELL_FORMED


def _renamed(record: Record, names: dict[str, str]) -> Record:
    body = record.body
    for new, old in names.items():
        body = body.replace(f'"event":"{new}"', f'"event":"{old}"')
    return Record(record.id, body)


def _named(trace: Recorder, refund_id: str) -> Record:
    """Return an intent to sign a refund with *refund_id*."""
    trace.reserve(8)
    last = trace.records.pop()
    return Record(last.id, last.body.replace(trace.refund_id(8), refund_id))


def _message(refund_id: str | None) -> Purpose:
    return Purpose(Operation.MESSAGE_SIGNING, actor="gateway", refund_id=refund_id)
