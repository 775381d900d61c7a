"""Records with the event of a signature that no process of the service wrote."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from api.extras.cloudtrail.reconciliation import (
    MalformedRecord,
    Reconciliation,
    reconcile,
)
from signer.audit.actions import SIGN_FINISHED, SIGN_REQUESTED
from signer.model.audit_record import Record
from tests.support.audit import record
from tests.support.cloudtrail import sign_event
from tests.support.ledgers import DRAFTS
from tests.support.signings import at, intent, outcome, trail_of


OURS = (intent(0), outcome(1, "a"), intent(5), outcome(6, "b", attempts=2))

REQUEST, RESULT = OURS[0].fields, OURS[1].fields


def _reconcile(folder: Path, *records: Record) -> Reconciliation:
    events = [sign_event(name, at(1)) for name in ("a", "b", "x")]
    return reconcile(records, trail_of(folder, *events))


def _like(fields: dict[str, Any], **changes: Any) -> Record:
    """Return a record in canonical form; a field that is ``...`` is left out."""
    given = {**fields, **changes}
    return Record.of({k: v for k, v in given.items() if v is not ...}, at(3))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("backend", ...),
        ("backend", ["aws-kms"]),
        ("key_id", ...),
        ("key_id", 7),
        ("key_id", "\x1b[2J"),
        ("key_id", "1" * 257),
        ("timestamp", ...),
        ("timestamp", "soon"),
        ("timestamp", 7),
        ("timestamp", "2026-01-01T00:00:00"),
        ("timestamp", "0001-01-01T00:00:00+14:00"),
        ("timestamp", "9999-12-31T23:59:59-14:00"),
        ("timestamp", "9999-12-31T23:59:59+00:00"),
        ("device_request_ids", "abc"),
        ("device_request_ids", None),
        ("device_request_ids", [["a"]]),
        ("device_request_ids", ["a\nINTRUDER"]),
        ("attempts", "2"),
        ("attempts", True),
        ("attempts", -1),
        ("attempts", 10**9),
        ("duration_us", "1"),
        ("duration_us", 2**53 - 1),
        ("pid", {}),
        ("operation", []),
        ("network", {}),
        ("refund_id", ["rf_1"]),
        ("digest", 5),
        ("actor", {}),
        ("request_id", []),
        ("node", []),
    ],
)
def test_a_field_of_another_type(tmp_path: Path, field: str, value: Any) -> None:
    """The record is a finding, and the others are compared as without it."""
    hostile = _like(RESULT, **{field: value})
    without = _reconcile(tmp_path, *OURS)
    found = _reconcile(tmp_path, *OURS, hostile)

    assert without.malformed == ()
    assert found.malformed == (MalformedRecord(hostile.id, f"it has no valid {field}"),)
    assert not found.is_good
    assert _compared(found) == _compared(without)


def _compared(found: Reconciliation) -> list[object]:
    return [
        *(found.matched, found.intruders, found.missing, found.explained),
        found.records,
    ]


@pytest.mark.parametrize(
    "malformed",
    [
        Record("au_0", OURS[1].body),
        Record("a\x1b[2J\nb", OURS[1].body),
        Record(record().id, OURS[1].body.replace(":", ": ", 1)),
        Record(record().id, json.dumps(RESULT)),
    ],
    ids=["id", "id with control characters", "space", "order"],
)
def test_a_record_that_is_not_canonical(tmp_path: Path, malformed: Record) -> None:
    """A record whose id or body no process of the service writes is a finding."""
    found = _reconcile(tmp_path, *OURS[:1], malformed)

    assert [each.record_id for each in found.malformed] == [malformed.id]
    assert found.records == 1


def test_a_declared_record_is_left_out(tmp_path: Path) -> None:
    """After the sealer's declaration it is no finding any more."""
    hostile = _like(RESULT, key_id=7)
    found = _reconcile(tmp_path, *OURS, hostile, DRAFTS.forged([hostile.id]))

    assert found == _reconcile(tmp_path, *OURS)


def test_a_record_of_another_backend_is_ignored(tmp_path: Path) -> None:
    """It is not compared, so its fields do not matter."""
    other = _like(RESULT, backend="pkcs11", key_id=7)

    assert _reconcile(tmp_path, *OURS, other) == _reconcile(tmp_path, *OURS)


Chance = random.Random


def _any_text(chance: Chance) -> str:
    alphabet = "a0\x00\x1b\n\u202e\U0001f512\"\\'{}[]:,é "
    return "".join(chance.choices(alphabet, k=chance.randrange(12)))


def _any_value(chance: Chance, depth: int = 0) -> Any:
    leaves: list[Callable[[], Any]] = [
        lambda: None,
        lambda: chance.random() < 0.5,
        lambda: chance.choice((-1, 0, 1, 2**31, 2**53 - 1)),
        lambda: chance.choice((0.5, -0.25, 1e300)),
        lambda: _any_text(chance),
        lambda: chance.choice(("0001-01-01", "9999-12-31T23:59:59+00:00", "24:00")),
    ]
    inner: list[Callable[[], Any]] = [
        lambda: [_any_value(chance, depth + 1) for _ in range(chance.randrange(3))],
        lambda: {_any_text(chance): _any_value(chance, depth + 1) for _ in range(2)},
    ]
    return chance.choice(leaves if depth > 1 else leaves + inner)()


def _any_record(chance: Chance) -> Record:
    """Return a record of a signature that is changed in some places, or in its text."""
    fields = {**chance.choice((REQUEST, RESULT))}
    fields["event"] = chance.choice(sorted(SIGN_REQUESTED | SIGN_FINISHED))
    for name in chance.sample(sorted(fields), k=chance.randrange(4)):
        if name != "event":
            fields[name] = _any_value(chance)
            if chance.random() < 0.3:
                del fields[name]
    made = Record.of(fields, at(chance.randrange(9)))
    body = made.body
    if chance.random() < 0.3:
        begin = chance.randrange(len(body))
        body = body[:begin] + _any_text(chance) + body[begin + chance.randrange(3) :]
    return Record(made.id if chance.random() < 0.7 else _any_text(chance), body)


@pytest.mark.parametrize("seed", range(4))
def test_any_record(tmp_path: Path, seed: int) -> None:
    """No record ends the comparison, or hides one of ours that does not match."""
    chance = random.Random(seed)
    trail = trail_of(tmp_path, sign_event("a", at(1)), sign_event("b", at(6)))
    for _ in range(100):
        hostile = [_any_record(chance) for _ in range(3)]
        found = reconcile([*OURS, *hostile], trail)

        assert found.matched == 2
        assert {each.record_id for each in found.malformed} <= {
            each.id for each in hostile
        }
