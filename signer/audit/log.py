"""
The one place that names audit events and their fields.

An auditor must be able to ask: who had what signed, with which key, why, and
what came of it?  Nobody must be able to read a secret from the answer: events
hold no signature bytes, PINs, tokens, vendor messages, or whole key ids.
"""

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Protocol

from signer.model.audit_record import (
    NOTHING,
    Actor,
    Operation,
    Purpose,
    Record,
    Subject,
)
from signer.model.key import SigningCondition
from signer.ports import Clock, Journal, utc_now
from signer.redact import key_prefix, redact_event


SUCCESS = "success"


class AuditAction(StrEnum):
    """
    What an audit event is about, as ``<object>-<verb>``.

    The name of the event adds ``-requested``, ``-succeeded`` or ``-refused``.
    """

    DIGEST_SIGN = "digest-sign"
    KEY_ROTATE = "key-rotate"
    KEY_FUND = "key-fund"
    KEY_FAILOVER = "key-failover"
    KEY_REVOKE = "key-revoke"
    KEY_RETIRE = "key-retire"
    KEY_SWEEP = "key-sweep"
    NONCE_PAUSE = "nonce-pause"
    NONCE_RESUME = "nonce-resume"
    NONCE_REPAIR = "nonce-repair"
    NONCE_ABANDON = "nonce-abandon"
    FOREIGN_TRANSACTION_ACCEPT = "foreign-transaction-accept"
    ADMIN_ACCESS = "admin-access"
    DOCTOR_RUN = "doctor-run"

    @property
    def requested(self) -> str:
        """The name of the event that is recorded before the action."""
        return f"{self}-requested"

    def finished(self, outcome: str) -> str:
        """Return the name of the event that records *outcome*."""
        return f"{self}-succeeded" if outcome == SUCCESS else f"{self}-refused"


SIGN_REQUESTED = frozenset({AuditAction.DIGEST_SIGN.requested, "signing-intent"})
"""Events of stored records that precede a signature; the last name is the old one."""

SIGN_FINISHED = frozenset({"digest-sign-succeeded", "digest-sign-refused", "signing"})
"""Events of stored records that follow a signature; the last name is the old one."""

_MARK_DIGITS = 16


class Logger(Protocol):
    """The part of a structlog logger that events are written with."""

    def info(self, event: str, **fields: Any) -> object:
        """Write one event."""


class AuditLog:
    """
    Drafts records, and writes them: to the journal, then to the log.

    Drafting has no side effects.  A draft that rides in somebody else's commit is
    told to the log afterwards; every other one is written here.

    Writing must not fail silently: what journal or *logger* raise goes to the
    caller, so that no signature is made without its record.
    """

    def __init__(
        self,
        logger: Logger,
        clock: Clock = utc_now,
        node: str = os.uname().nodename,
        journal: Journal | None = None,
    ) -> None:
        """Write to *logger*, and to *journal* where there is one."""
        self._logger = logger
        self._clock = clock
        self._node = node
        self._journal = journal

    def intent(
        self, purpose: Purpose, subject: Subject, digest: bytes | None = None
    ) -> Record:
        """
        Draft what is about to be asked of the device.

        *digest* is None where the intent rides in the commit that decides what will
        be signed; the outcome has it.
        """
        return self._signing(
            AuditAction.DIGEST_SIGN.requested, purpose, subject, digest
        )

    def outcome(
        self,
        purpose: Purpose,
        subject: Subject,
        *,
        digest: bytes,
        outcome: str,
        seconds: float,
        attempts: int = 1,
        device_request_ids: Sequence[str] = (),
        details: Mapping[str, str | int] = NOTHING,
    ) -> Record:
        """
        Draft what came of it: *outcome* is ``success`` or an error's code.

        *seconds* is how long the device and the checks took together, *attempts* how
        often the device was asked, and *details* go on top of the purpose's.
        """
        return self._signing(
            AuditAction.DIGEST_SIGN.finished(outcome),
            purpose,
            subject,
            digest,
            details,
            outcome=outcome,
            duration_us=round(seconds * 1_000_000),
            attempts=attempts,
            device_request_ids=list(device_request_ids),
        )

    def request(
        self,
        action: AuditAction,
        operation: Operation,
        actor: Actor,
        **details: str | int | None,
    ) -> Record:
        """Draft the record that *actor* asks for *action*."""
        return self._administrative(
            action.requested, operation, actor, SUCCESS, details
        )

    def result(
        self,
        action: AuditAction,
        operation: Operation,
        actor: Actor,
        *,
        outcome: str = SUCCESS,
        **details: str | int | None,
    ) -> Record:
        """Draft the record of *action*: it succeeded, or an error code refused it."""
        return self._administrative(
            action.finished(outcome), operation, actor, outcome, details
        )

    def _administrative(
        self,
        event: str,
        operation: Operation,
        actor: Actor,
        outcome: str,
        details: Mapping[str, str | int | None],
    ) -> Record:
        return self._record(
            event=event,
            operation=str(operation),
            outcome=outcome,
            actor=actor.name,
            request_id=actor.request_id,
            token_id=actor.token_id,
            details=dict(details),
        )

    def write(self, *records: Record, standing: SigningCondition | None = None) -> None:
        """
        Make *records* durable, then tell the log.

        Raises:
            KeyRotatedError: No key of the ring has this *standing* any more; nothing
                was written.
            StoreError: The journal cannot be written.
        """
        if self._journal is not None:
            self._journal.append(records, standing=standing)
        self.tell(*records)

    def tell(self, *records: Record) -> None:
        """
        Tell the log of records that are durable.

        A journal is evidence enough where the log cannot be written.
        """
        try:
            for record in records:
                fields = record.fields
                self._logger.info(fields.pop("event"), record_id=record.id, **fields)
        except OSError:
            if self._journal is None:
                raise

    def _signing(
        self,
        event: str,
        purpose: Purpose,
        subject: Subject,
        digest: bytes | None,
        details: Mapping[str, str | int] = NOTHING,
        **more: Any,
    ) -> Record:
        return self._record(
            event=event,
            operation=str(purpose.operation),
            network=purpose.network,
            backend=subject.backend,
            key_id=key_prefix(subject.key_id),
            address=subject.address,
            actor=purpose.actor,
            request_id=purpose.request_id,
            token_id=purpose.token_id,
            refund_id=purpose.refund_id,
            digest=None if digest is None else digest.hex(),
            details={**purpose.details, **details},
            **more,
        )

    def _record(self, **fields: Any) -> Record:
        at = self._clock()
        where = {
            "timestamp": at.isoformat(timespec="microseconds"),
            # Orders the events of one process, whatever is done to its clock.
            "monotonic_us": time.monotonic_ns() // 1000,
            "node": self._node,
            "pid": os.getpid(),
        }
        said = redact_event(None, "", {**where, **fields})
        actor = fields["actor"]
        if said["actor"] != actor:
            said["actor"] += _mark(actor)
        return Record.of(said, at)


def _mark(actor: str) -> str:
    """
    Return what tells *actor* from others, where his name must not be shown whole.

    Issuers may call people by URLs (SPIFFE) or numbers; who knows the name can do this
    again, and see that it was he.
    """
    digest = hashlib.sha256(actor.encode(errors="replace")).hexdigest()
    return f"#{digest[:_MARK_DIGITS]}"
