"""Checks of a laboratory's run in which keys were rotated."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from signer.audit.checkpoints import CheckpointKey, Verifier
from signer.audit.export import export, records
from signer.audit.verify import verify
from tests.crash.admin_client import AdminClient, Response
from tests.crash.evidence import Evidence, Recorded
from tests.crash.laboratory import Laboratory
from tests.crash.read_store import reading
from tests.support.conformance.check import check_conformance
from tests.support.ledgers import open_ledger


SETTINGS = {"RATE_LIMIT_ADMIN": "10000"}
"""Tests repeat administrators' requests more often than the rate limit allows."""


@dataclass(frozen=True, slots=True)
class ActivePeriod:
    """
    A key that became the active one between the times ``begins`` and ``settled``.

    Between them the rotation was under way: it or the key before may have been active.
    """

    address: str
    begins: float
    settled: float


def rotate(lab: Laboratory, admin: AdminClient, count: int, pause: float) -> None:
    """Rotate through the keys *count* times, every *pause* seconds."""
    names = [key.name for key in (*lab.device.spares, lab.device.key)]
    for name in itertools.islice(itertools.cycle(names), count):
        response = admin.rotate(name)
        assert response.is_done, lab.explain(response)
        lab.sleep(pause)


def _active_periods(
    first: str, responses: Sequence[Response]
) -> Iterator[ActivePeriod]:
    yield ActivePeriod(first.lower(), 0.0, 0.0)
    began: float | None = None
    for response in responses:
        # The service may have acted on a request without a response.
        began = response.began if began is None else began
        if response.is_done:
            yield ActivePeriod(response.address, began, response.at)
            began = None


def wrong_keys(
    lab: Laboratory, evidence: Evidence, responses: Sequence[Response]
) -> Iterator[str]:
    """
    Yield a sentence for each intent of a key that was not active at that time.

    An intent with a digest, for a refund, finishes what began before a rotation (O4).
    """
    periods = list(_active_periods(lab.device.key.address, responses))
    for record in evidence.audit:
        if not _chooses_a_key(record):
            continue
        begun = [period for period in periods if period.begins <= record.at]
        possible = {begun[-1].address}
        if record.at < begun[-1].settled and len(begun) > 1:
            possible.add(begun[-2].address)
        if record.owner[1] not in possible:
            yield f"{record.id} is of {record.owner[1]}, at {record.at}"


def _chooses_a_key(record: Recorded) -> bool:
    fields = record.fields
    if fields["event"] != "digest-sign-requested":
        return False
    is_reservation = fields["refund_id"] is not None and fields["digest"] is None
    return is_reservation or fields["operation"] == "message-signing"


def unmatched_requests(lab: Laboratory, evidence: Evidence) -> Iterator[str]:
    """
    Yield a sentence for each device request that audit and device log disagree on.

    The audit knows no id of a request whose response was lost: its outcome counts more
    attempts than it has ids.
    """
    addresses = {key.name: key.address for key in (*lab.device.spares, lab.device.key)}
    audited = dict[str, str]()
    lost = Counter[str]()
    for record in evidence.audit:
        ids = record.fields.get("device_request_ids", ())
        audited |= dict.fromkeys(ids, str(record.fields.get("address")))
        if record.fields["event"] in ("digest-sign-succeeded", "digest-sign-refused"):
            lost[record.fields["digest"]] += record.fields["attempts"] - len(ids)
    for signed in lab.device.read_log():
        by_audit = audited.pop(signed.request_id, None)
        if signed.is_refused:
            continue
        lost[signed.digest] -= by_audit is None
        address = addresses[signed.key]
        if by_audit not in {None, address} or lost[signed.digest] < 0:
            yield f"{signed.request_id} is of {address}, not of {by_audit}"
    for request_id in audited:
        yield f"{request_id} is only in the audit"


def assert_verified(lab: Laboratory) -> None:
    """Fail unless an export of the audit chain verifies and conforms."""
    key = CheckpointKey.load(lab.home / "hotwallet" / "audit.pem")
    with reading(lab.database_url) as rows:
        (row,) = rows.execute("SELECT note FROM audit_checkpoints LIMIT 1")
    origin, *_ = str(row["note"]).splitlines()
    with closing(open_ledger(lab.database_url)) as store:
        lines = list(export(store, origin))
    verdict = verify(lines, Verifier(key.public_pem()))
    assert verdict.is_good, lab.explain(verdict)
    found = check_conformance(records(lines))
    assert found.is_good, lab.explain(found.violations)


def count_events(evidence: Evidence, event: str) -> int:
    """Return the number of audit records of *event* that succeeded."""
    return sum(
        record.fields["event"] == event
        and record.fields.get("outcome", "success") == "success"
        for record in evidence.audit
    )


def is_drained(lab: Laboratory) -> bool:
    """Whether one key is active, and every other key that was active is retired."""
    states = sorted(key.state for key in lab.evidence().keys if key.epoch)
    return states == ["active"] + ["retired"] * (len(states) - 1)
