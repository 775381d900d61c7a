"""Purposes and records of signatures, made at a given time."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from api.extras.cloudtrail.reconciliation import Trail, read_trail
from signer.audit.log import AuditLog
from signer.model.audit_record import Operation, Purpose, Record, Subject
from tests.support.audit import START
from tests.support.cloudtrail import ARN, other_event, trail_file


SUBJECT = Subject("aws-kms", ARN, "0x5FbDB2315678afecb367f032d93F642f64180aa3")
DIGEST = bytes(range(32))


class _Quiet:
    def info(self, event: str, **fields: Any) -> None:
        """Discard the event."""


def at(seconds: float) -> datetime:
    """Return a time that the CloudTrail files of these tests cover."""
    return START + timedelta(hours=1, seconds=seconds)


def trail_of(folder: Path, *events: dict[str, Any]) -> Trail:
    """Return a trail of two hours that contains *events*."""
    edges = [other_event(START), other_event(START + timedelta(hours=2))]
    return read_trail([trail_file(folder / "trail.json.gz", [*edges, *events])])


def purpose_of(refund_id: str | None) -> Purpose:
    return Purpose(
        Operation.TRANSACTION_SIGNING, "local", actor="gateway", refund_id=refund_id
    )


def log_at(seconds: float) -> AuditLog:
    """Return an audit log with a fixed clock."""
    return AuditLog(_Quiet(), clock=lambda: at(seconds))


def batch_purpose(composition: str) -> Purpose:
    operation = Operation.TRANSACTION_SIGNING
    details: Any = {
        "chain_id": 1,
        "composition": composition,
        "payments": ["rf_1", "rf_2"],
    }
    return Purpose(operation, "local", "worker", details=details)


def intent(
    seconds: float, refund_id: str | None = "rf_1", subject: Subject = SUBJECT
) -> Record:
    return log_at(seconds).intent(purpose_of(refund_id), subject)


def outcome(
    when: float,
    *request_ids: str,
    refund_id: str | None = "rf_1",
    subject: Subject = SUBJECT,
    **changes: Any,
) -> Record:
    """Return the record of the result, with the *request_ids* of KMS."""
    given = {"outcome": "success", "seconds": 0.01, **changes}
    return log_at(when).outcome(
        purpose_of(refund_id),
        subject,
        digest=DIGEST,
        device_request_ids=request_ids,
        **given,
    )


class Unchecked(Purpose):
    """The purpose of a signature over any digest, as if the policy allowed each."""

    def allows(self, digest: bytes) -> bool:
        """Return True."""
        return True
