"""Reconciliation of audit records with CloudTrail, in both directions (K15)."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from api.extras.cloudtrail.reconciliation import Reconciliation, read_trail, reconcile
from signer.errors import InvalidInputError
from signer.model.audit_record import Operation, Purpose, Record, Subject
from tests.support.audit import START
from tests.support.cloudtrail import ARN, OTHER_ARN, other_event, sign_event, trail_file
from tests.support.signings import (
    DIGEST,
    SUBJECT,
    at,
    batch_purpose,
    intent,
    log_at,
    outcome,
    purpose_of,
    trail_of,
)


def _reconcile(
    tmp_path: Path, records: Sequence[Record], *events: dict[str, Any]
) -> Reconciliation:
    return reconcile(records, trail_of(tmp_path, *events))


def _matching(events: int, *, records: int) -> Reconciliation:
    """Return the result if this many events and records all match."""
    return Reconciliation(events, (), (), (), 0, 0, records, 0, 0)


def _intruders(found: Reconciliation) -> list[str]:
    return [event.request_id for event in found.intruders]


def test_both_sides_agree(tmp_path: Path) -> None:
    """A signature is matched by request id, even if the clocks differ."""
    records = [intent(0), outcome(1, "a"), intent(5), outcome(6, "b", "c")]
    events = [sign_event(name, at(2)) for name in "abc"]
    found = _reconcile(tmp_path, records, *events)

    assert found == _matching(3, records=len(records))
    assert found.is_good


def test_reports_signatures_without_a_record(tmp_path: Path) -> None:
    """A signature that no record requested is reported, near to ours in time or not."""
    records = [intent(0), outcome(1, "a")]
    events = [sign_event("a", at(1)), sign_event("x", at(1)), sign_event("y", at(9))]
    found = _reconcile(tmp_path, records, *events)

    assert _intruders(found) == ["x", "y"]
    assert not found.is_good


def test_every_kind_of_record_counts(tmp_path: Path) -> None:
    records = []
    for number, operation in enumerate(Operation):
        purpose = Purpose(operation, actor="guard")
        records.append(log_at(number).intent(purpose, SUBJECT, DIGEST))
        records.append(
            log_at(number).outcome(
                purpose,
                SUBJECT,
                digest=DIGEST,
                outcome="success",
                seconds=0.1,
                device_request_ids=[operation.value],
            )
        )
    events = [sign_event(operation.value, at(0)) for operation in Operation]
    found = _reconcile(tmp_path, records, *events)

    assert found == _matching(len(Operation), records=len(records))


def test_reports_signatures_that_cloudtrail_lacks(tmp_path: Path) -> None:
    records = [outcome(0, "a"), outcome(1, "b", refund_id="rf_2")]
    found = _reconcile(tmp_path, records, sign_event("a", at(0)))

    assert [each.request_id for each in found.missing] == ["b"]
    assert not found.is_good


def test_missing_events_near_the_ends_of_the_files_do_not_count(tmp_path: Path) -> None:
    """Near the ends of the files and outside, a missing event proves nothing."""
    moments = (-3600, -2701, 2701, 3600, 7200)
    records = [
        outcome(second, f"r{second}", refund_id=f"rf_{second}")
        for second in (*moments, -2699, 2699)
    ]
    found = _reconcile(tmp_path, records)

    assert found.outside == len(moments)
    assert sorted(each.request_id for each in found.missing) == ["r-2699", "r2699"]


def test_refused_calls_sign_nothing(tmp_path: Path) -> None:
    """An event with an error is not a signature, and its record is not a success."""
    records = [
        outcome(0, "a", outcome="backend-access-denied"),
        outcome(1, "b", refund_id="rf_2"),
    ]
    denied = [
        sign_event(name, at(0), errorCode="AccessDenied", resources=None)
        for name in "abx"
    ]
    found = _reconcile(tmp_path, records, *denied)

    assert (found.failed, found.intruders) == (3, ())
    assert [each.request_id for each in found.missing] == ["b"]


def test_a_rejected_signature_is_matched(tmp_path: Path) -> None:
    """A signature that failed our checks was requested all the same."""
    records = [intent(0), outcome(1, "a", outcome="signature-recovery")]
    found = _reconcile(tmp_path, records, sign_event("a", at(1)))

    assert (found.matched, found.is_good) == (1, True)


def test_a_lost_reply_explains_as_many_as_were_lost(tmp_path: Path) -> None:
    """Three attempts with one id explain two events, and not a third one."""
    records = [intent(0), outcome(9, "c", attempts=3, seconds=8)]
    events = [sign_event("c", at(9))]
    events += [sign_event(name, at(n)) for n, name in enumerate("xyz")]
    found = _reconcile(tmp_path, records, *events)

    assert [(each.event.request_id, each.reason) for each in found.explained] == [
        ("x", "lost-reply"),
        ("y", "lost-reply"),
    ]
    assert {each.record_id for each in found.explained} == {records[1].id}
    assert _intruders(found) == ["z"]


@pytest.mark.parametrize(("seconds", "arn"), [(-40, ARN), (200, ARN), (1, OTHER_ARN)])
def test_a_lost_reply_explains_nothing_else(
    tmp_path: Path, seconds: float, arn: str
) -> None:
    """It explains no signature long before or after, or with another key."""
    other = Subject("aws-kms", OTHER_ARN, SUBJECT.address)
    records = [
        intent(0),
        outcome(2, "c", attempts=2, seconds=2),
        outcome(900, "d", refund_id="rf_2", subject=other),
    ]
    events = [sign_event("c", at(2)), sign_event("d", at(900), arn=OTHER_ARN)]
    found = _reconcile(
        tmp_path, records, *events, sign_event("x", at(seconds), arn=arn)
    )

    assert _intruders(found) == ["x"]


def test_a_request_without_a_result_explains_one_event(tmp_path: Path) -> None:
    """A process that crashed may have had one digest signed, soon afterwards."""
    events = [sign_event("x", at(1)), sign_event("y", at(2))]
    found = _reconcile(tmp_path, [intent(0)], *events)

    assert [(e.event.request_id, e.reason) for e in found.explained] == [("x", "crash")]
    assert _intruders(found) == ["y"]


def test_a_crash_explains_events_until_the_work_continues(tmp_path: Path) -> None:
    """Events are explained up to the request of the process that took over."""
    records = [intent(0), intent(60), outcome(61, "b")]
    before, after = sign_event("x", at(50)), sign_event("x", at(95))
    ours = sign_event("b", at(61))

    assert _intruders(_reconcile(tmp_path, records, ours, before)) == []
    assert _intruders(_reconcile(tmp_path, records, ours, after)) == ["x"]


def test_a_request_with_its_result_explains_nothing(tmp_path: Path) -> None:
    records = [outcome(0, "a"), intent(0)]
    found = _reconcile(
        tmp_path, records, sign_event("a", at(0)), sign_event("x", at(0))
    )

    assert _intruders(found) == ["x"]


def test_a_batch_is_continued_by_another_process(tmp_path: Path) -> None:
    """Its request has no digest yet, and one signature explains no more."""
    purpose = batch_purpose("a0")
    signed = log_at(1).outcome(
        purpose,
        SUBJECT,
        digest=DIGEST,
        outcome="success",
        seconds=0.01,
        device_request_ids=["a"],
    )
    events = [sign_event(name, at(1)) for name in "ax"]

    found = _reconcile(tmp_path, [log_at(0).intent(purpose, SUBJECT), signed], *events)

    assert _intruders(found) == ["x"]


def test_a_result_of_other_work_does_not_count(tmp_path: Path) -> None:
    """A result of another refund or digest does not belong to the request."""
    purpose = purpose_of(None)
    records = [
        intent(0),
        outcome(1, "b", refund_id="rf_2"),
        log_at(0).intent(purpose, SUBJECT, bytes(32)),
        outcome(1, "c", refund_id=None),
    ]
    events = [sign_event(name, at(1)) for name in "bcxyz"]
    found = _reconcile(tmp_path, records, *events)

    assert [each.event.request_id for each in found.explained] == ["x", "y"]
    assert _intruders(found) == ["z"]


def test_unknown_keys_are_compared_only_if_named(tmp_path: Path) -> None:
    records = [intent(0), outcome(1, "a")]
    trail = trail_of(
        tmp_path, sign_event("a", at(1)), sign_event("x", at(1), arn=OTHER_ARN)
    )

    assert reconcile(records, trail).is_good
    assert reconcile(records, trail, [ARN]).is_good
    assert _intruders(reconcile(records, trail, [OTHER_ARN])) == ["x"]


@pytest.mark.parametrize("arn", [ARN, OTHER_ARN])
def test_missing_keys_are_counted(tmp_path: Path, arn: str) -> None:
    """If one side lacks a key the result is empty, and counts the skipped events."""
    trail = trail_of(tmp_path, sign_event("a", at(1)), sign_event("b", at(2)))
    empty = reconcile([], trail)
    named = reconcile([intent(0), outcome(1, "a"), outcome(2, "b")], trail, [arn])

    assert (empty.is_empty, empty.skipped, empty.other_keys) == (True, 2, 1)
    assert named.is_empty == (arn == OTHER_ARN)
    assert (named.events, named.skipped) == ((2, 0) if arn == ARN else (0, 2))


def test_keys_of_the_ring_are_reconciled(tmp_path: Path) -> None:
    trail = trail_of(tmp_path, sign_event("x", at(1)), sign_event("y", at(2)))

    assert _intruders(reconcile([], trail, ring=[ARN])) == ["x", "y"]
    assert reconcile([], trail, ring=[OTHER_ARN]).skipped == 2
    assert _intruders(reconcile([outcome(1, "x")], trail, ring=[OTHER_ARN])) == ["y"]


def test_other_backends_are_ignored(tmp_path: Path) -> None:
    local = Subject("pkcs11", "01", SUBJECT.address)
    found = _reconcile(tmp_path, [intent(0, subject=local), outcome(1, subject=local)])

    assert found == _matching(0, records=0)
    assert found.is_empty


def test_reads_directories_as_aws_fills_them(tmp_path: Path) -> None:
    """Plain and compressed files at any depth are read; an event in two counts once."""
    day = tmp_path / "AWSLogs" / "111122223333" / "CloudTrail" / "us-west-2" / "2026"
    trail_file(day / "a.json.gz", [sign_event("a", at(0)), other_event(at(-9))])
    trail_file(day / "b.json", [sign_event("a", at(0)), sign_event("b", at(5))])
    (day / "notes.txt").write_text("not a log")
    (day / "c.json.part").write_text("not a log yet")
    trail = read_trail([tmp_path])

    assert [sign.request_id for sign in trail.signs] == ["a", "b"]
    assert (trail.first, trail.last) == (at(-9), at(5))
    assert trail.signs[0].prefix == "1234abcd..."


@pytest.mark.parametrize("resources", [[], None, [None], [{"ARN": None}], 5])
def test_an_event_without_an_arn(tmp_path: Path, resources: object) -> None:
    """If CloudTrail has no ARN, the key id that the caller used is compared."""
    bare = {"keyId": ARN.rpartition("/")[2]}
    event = sign_event("x", at(1), resources=resources, requestParameters=bare)
    records = [outcome(900, "a")]

    assert _intruders(_reconcile(tmp_path, records, event)) == ["x"]
    assert _intruders(reconcile(records, trail_of(tmp_path, event), [ARN])) == ["x"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"Records": {}}',
        b'{"Records": []}',
        b'{"Records": [1]}',
        b'{"Records": [{"eventTime": "2026-01-01T00:00:00"}]}',
        b'{"Records": [{"eventTime": "soon"}]}',
        json.dumps({"Records": [sign_event("", START)]}).encode(),
        b"\x1f\x8b\x08\x00torn",
        b"\xff\xfe",
    ],
)
def test_rejects_files_that_are_not_cloudtrail_logs(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "trail.json"
    path.write_bytes(content)

    with pytest.raises(InvalidInputError):
        read_trail([path])


def test_a_missing_trail(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"gone\.json cannot be read"):
        read_trail([tmp_path / "gone.json"])
