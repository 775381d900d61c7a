"""Our records against CloudTrail, both ways: who signed, and did we ask (K15)?"""

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from signer.audit.cloudtrail import Trail, read_trail
from signer.audit.reconcile import Reconciliation, reconcile
from signer.errors import InvalidInputError
from signer.model.audit_record import Operation, Purpose, Record, Subject
from tests.support.audit import START
from tests.support.cloudtrail import (
    ARN,
    OTHER_ARN,
    other_event,
    sign_event,
    trail_file,
)
from tests.unit.signer.audit.signings import (
    DIGEST,
    SUBJECT,
    at,
    intent,
    log_at,
    outcome,
    purpose_of,
)


def _trail(tmp_path: Path, *events: dict[str, Any]) -> Trail:
    """Return the events, amid two hours of others."""
    edges = [other_event(START), other_event(START + timedelta(hours=2))]
    return read_trail([trail_file(tmp_path / "trail.json.gz", [*edges, *events])])


def _compared(
    tmp_path: Path, records: Sequence[Record], *events: dict[str, Any]
) -> Reconciliation:
    return reconcile(records, _trail(tmp_path, *events))


def _matching(events: int, *, records: int) -> Reconciliation:
    """Return what comes of so many events that all match, and of so many records."""
    return Reconciliation(events, (), (), (), 0, 0, records, 0, 0)


def _strange(found: Reconciliation) -> list[str]:
    return [event.request_id for event in found.intruders]


def test_each_has_what_the_other_has(tmp_path: Path) -> None:
    """A signature that both know of is matched by its id, whatever their clocks say."""
    records = [intent(0), outcome(1, "a"), intent(5), outcome(6, "b", "c")]
    events = [sign_event(name, at(2)) for name in "abc"]
    found = _compared(tmp_path, records, *events)

    assert found == _matching(3, records=len(records))
    assert found.is_good


def test_an_intruder(tmp_path: Path) -> None:
    """A signature that nobody asked for is found, close to ours or far from them."""
    records = [intent(0), outcome(1, "a")]
    events = [sign_event("a", at(1)), sign_event("x", at(1)), sign_event("y", at(9))]
    found = _compared(tmp_path, records, *events)

    assert _strange(found) == ["x", "y"]
    assert not found.is_good


def test_every_kind_of_record_counts(tmp_path: Path) -> None:
    """Self-tests and rotations ask for signatures as refunds do."""
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
    found = _compared(tmp_path, records, *events)

    assert found == _matching(len(Operation), records=len(records))


def test_ours_that_nobody_saw(tmp_path: Path) -> None:
    """A signature that we say we have, and CloudTrail does not, is missing."""
    records = [outcome(0, "a"), outcome(1, "b", refund_id="rf_2")]
    found = _compared(tmp_path, records, sign_event("a", at(0)))

    assert [asked.request_id for asked in found.missing] == ["b"]
    assert not found.is_good


def test_what_the_files_may_not_cover(tmp_path: Path) -> None:
    """Near the edges of the files and beyond, what is not there proves nothing."""
    moments = (-3600, -2701, 2701, 3600, 7200)
    records = [
        outcome(second, f"r{second}", refund_id=f"rf_{second}")
        for second in (*moments, -2699, 2699)
    ]
    found = _compared(tmp_path, records)

    assert found.outside == len(moments)
    assert sorted(asked.request_id for asked in found.missing) == ["r-2699", "r2699"]


def test_refused_calls_sign_nothing(tmp_path: Path) -> None:
    """An event with an error is no signature, and no success of ours either."""
    records = [
        outcome(0, "a", outcome="backend-access-denied"),
        outcome(1, "b", refund_id="rf_2"),
    ]
    denied = [
        sign_event(name, at(0), errorCode="AccessDenied", resources=None)
        for name in "abx"
    ]
    found = _compared(tmp_path, records, *denied)

    assert (found.failed, found.intruders) == (3, ())
    assert [asked.request_id for asked in found.missing] == ["b"]


def test_a_signature_that_we_threw_away(tmp_path: Path) -> None:
    """What KMS signed and we did not believe was asked for all the same."""
    records = [intent(0), outcome(1, "a", outcome="signature-recovery")]
    found = _compared(tmp_path, records, sign_event("a", at(1)))

    assert (found.matched, found.is_good) == (1, True)


def test_a_lost_reply_explains_as_many_as_were_lost(tmp_path: Path) -> None:
    """Of three attempts two have no id: two events are theirs, and not a third."""
    records = [intent(0), outcome(9, "c", attempts=3, seconds=8)]
    events = [sign_event("c", at(9))]
    events += [sign_event(name, at(n)) for n, name in enumerate("xyz")]
    found = _compared(tmp_path, records, *events)

    assert [(each.event.request_id, each.reason) for each in found.explained] == [
        ("x", "lost-reply"),
        ("y", "lost-reply"),
    ]
    assert {each.record_id for each in found.explained} == {records[1].id}
    assert _strange(found) == ["z"]


@pytest.mark.parametrize(("seconds", "arn"), [(-40, ARN), (200, ARN), (1, OTHER_ARN)])
def test_a_lost_reply_explains_nothing_else(
    tmp_path: Path, seconds: float, arn: str
) -> None:
    """Not what was signed long before or after, nor with another key."""
    other = Subject("aws-kms", OTHER_ARN, SUBJECT.address)
    records = [
        intent(0),
        outcome(2, "c", attempts=2, seconds=2),
        outcome(900, "d", refund_id="rf_2", subject=other),
    ]
    events = [sign_event("c", at(2)), sign_event("d", at(900), arn=OTHER_ARN)]
    found = _compared(tmp_path, records, *events, sign_event("x", at(seconds), arn=arn))

    assert _strange(found) == ["x"]


def test_a_crash_explains_one(tmp_path: Path) -> None:
    """An intent without an outcome may have had one signature, soon after it."""
    events = [sign_event("x", at(1)), sign_event("y", at(2))]
    found = _compared(tmp_path, [intent(0)], *events)

    assert [(e.event.request_id, e.reason) for e in found.explained] == [("x", "crash")]
    assert _strange(found) == ["y"]


def test_a_crash_ends_where_the_work_was_taken_up(tmp_path: Path) -> None:
    """What the first process had signed is explained up to the second one's intent."""
    records = [intent(0), intent(60), outcome(61, "b")]
    before, after = sign_event("x", at(50)), sign_event("x", at(95))
    ours = sign_event("b", at(61))

    assert _strange(_compared(tmp_path, records, ours, before)) == []
    assert _strange(_compared(tmp_path, records, ours, after)) == ["x"]


def test_an_outcome_closes_its_intent(tmp_path: Path) -> None:
    """With its outcome there, an intent explains nothing, in whichever order."""
    records = [outcome(0, "a"), intent(0)]
    found = _compared(tmp_path, records, sign_event("a", at(0)), sign_event("x", at(0)))

    assert _strange(found) == ["x"]


def test_another_outcome_closes_nothing(tmp_path: Path) -> None:
    """The outcome of another refund, or of another digest, is not this intent's."""
    purpose = purpose_of(None)
    records = [
        intent(0),
        outcome(1, "b", refund_id="rf_2"),
        log_at(0).intent(purpose, SUBJECT, bytes(32)),
        outcome(1, "c", refund_id=None),
    ]
    events = [sign_event(name, at(1)) for name in "bcxyz"]
    found = _compared(tmp_path, records, *events)

    assert [each.event.request_id for each in found.explained] == ["x", "y"]
    assert _strange(found) == ["z"]


def test_other_keys_are_not_ours(tmp_path: Path) -> None:
    """Keys that no record mentions count when they are asked for alone."""
    records = [intent(0), outcome(1, "a")]
    trail = _trail(
        tmp_path, sign_event("a", at(1)), sign_event("x", at(1), arn=OTHER_ARN)
    )

    assert reconcile(records, trail).is_good
    assert reconcile(records, trail, [ARN]).is_good
    assert _strange(reconcile(records, trail, [OTHER_ARN])) == ["x"]


@pytest.mark.parametrize("arn", [ARN, OTHER_ARN])
def test_what_was_not_compared(tmp_path: Path, arn: str) -> None:
    """With nothing of a key on one side nothing is told, and what was left counts."""
    trail = _trail(tmp_path, sign_event("a", at(1)), sign_event("b", at(2)))
    nobody = reconcile([], trail)
    asked = reconcile([intent(0), outcome(1, "a"), outcome(2, "b")], trail, [arn])

    assert (nobody.is_empty, nobody.passed_over, nobody.other_keys) == (True, 2, 1)
    assert asked.is_empty == (arn == OTHER_ARN)
    assert (asked.events, asked.passed_over) == ((2, 0) if arn == ARN else (0, 2))


def test_keys_of_the_ring_are_ours(tmp_path: Path) -> None:
    """A key of the ring counts before any record of ours mentions it, and after."""
    trail = _trail(tmp_path, sign_event("x", at(1)), sign_event("y", at(2)))

    assert _strange(reconcile([], trail, ring=[ARN])) == ["x", "y"]
    assert reconcile([], trail, ring=[OTHER_ARN]).passed_over == 2
    assert _strange(reconcile([outcome(1, "x")], trail, ring=[OTHER_ARN])) == ["y"]


def test_softhsm_has_no_trail(tmp_path: Path) -> None:
    """What another backend signed is in no CloudTrail, and need not be."""
    local = Subject("pkcs11", "01", SUBJECT.address)
    found = _compared(tmp_path, [intent(0, subject=local), outcome(1, subject=local)])

    assert found == _matching(0, records=0)
    assert found.is_empty


def test_reads_folders_as_aws_fills_them(tmp_path: Path) -> None:
    """Plain and compressed files in any depth; an event in two of them counts once."""
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
def test_a_key_by_its_name_alone(tmp_path: Path, resources: object) -> None:
    """Where CloudTrail does not tell the key's ARN, what the caller said counts."""
    bare = {"keyId": ARN.rpartition("/")[2]}
    event = sign_event("x", at(1), resources=resources, requestParameters=bare)
    records = [outcome(900, "a")]

    assert _strange(_compared(tmp_path, records, event)) == ["x"]
    assert _strange(reconcile(records, _trail(tmp_path, event), [ARN])) == ["x"]


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
def test_what_is_no_trail(tmp_path: Path, content: bytes) -> None:
    """A file that is no log of CloudTrail is named, and nothing is guessed."""
    path = tmp_path / "trail.json"
    path.write_bytes(content)

    with pytest.raises(InvalidInputError):
        read_trail([path])


def test_a_missing_trail(tmp_path: Path) -> None:
    """A file that is not there is an error, and no silence."""
    with pytest.raises(InvalidInputError, match=r"gone\.json cannot be read"):
        read_trail([tmp_path / "gone.json"])
