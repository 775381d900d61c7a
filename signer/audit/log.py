"""
Drafts audit records, and writes them.

An auditor must be able to ask who had what signed, with which key, why, and with which
result.  Events contain no secrets: no signature bytes, PINs, tokens, vendor messages or
full key ids.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from signer import strict_json
from signer.audit.actions import ALERT_RAISED, SUCCESS, AuditAction
from signer.audit.hash_chain import EVENT as FORGED
from signer.audit.hash_chain import FIELD, hash_id, is_record_id
from signer.errors import AuditLogUnwritableError, InvalidInputError
from signer.model.audit_record import (
    NOTHING,
    Actor,
    Operation,
    Purpose,
    Record,
    Subject,
    write_canonical,
)
from signer.ports.audit_journal import Journal
from signer.ports.clock import Clock, utc_now
from signer.redact import key_prefix, redact_event, sanitize


if TYPE_CHECKING:  # It needs pydantic, which an auditor does not.
    from signer.model.key import SigningCondition


# Only records of a configuration have text that was not redacted when it was recorded.
_NOT_REDACTED = '"event":"configuration-'

# The fields of a line that are not in the record's body.
_EVENT_FIELDS = ("level", "logger", "mac", "record_id")


class Logger(Protocol):
    """The part of a structlog logger that writes events."""

    def info(self, event: str, **fields: Any) -> object:
        """Write one event."""


class LogEvents:
    """Writes the fields of each record as an event of a structlog logger."""

    def __init__(self, logger: Logger) -> None:
        self._logger = logger

    def write(self, record: Record) -> None:
        """Write one record; the errors of the logger reach the caller."""
        fields = record.fields
        self._logger.info(fields.pop("event"), record_id=record.id, **fields)


class LogLines:
    """
    Writes the stored body of each record, with the fields of a log event at its end.

    A record is not serialised again: its body is canonical JSON already, and redacted.
    Its MAC shows that the line is one of the service: ``parse_line`` reads it.
    """

    def __init__(self, write_line: Callable[[str], object]) -> None:
        """Write lines with *write_line*, which adds the end of the line."""
        self._write_line = write_line
        self._has_failed = False

    def write(self, record: Record) -> None:
        """Write one record; the errors of ``write_line`` reach the caller."""
        body = record.body
        if _NOT_REDACTED in body:
            body = _dump_ascii(redact_event(None, "", record.fields))
        elif not body.isascii():
            body = _dump_ascii(record.fields)
        mac = "" if record.mac is None else f'"mac":"{record.mac}",'
        event = f'"level":"info","logger":"audit",{mac}"record_id":"{record.id}"'
        self._write(f"{body[:-1]},{event}}}")

    def _write(self, line: str) -> None:
        # A write that failed may have left a part of its line.
        line = f"\n{line}" if self._has_failed else line
        try:
            self._write_line(line)
        except OSError:
            self._has_failed = True
            raise
        self._has_failed = False


def parse_line(line: bytes) -> Record:
    """
    Return the record of a *line* of ``LogLines``, with its MAC, which is not verified.

    The line of a configuration's record is redacted, so the MAC does not fit it.

    Raises:
        InvalidInputError: It is another line.
    """
    fields = strict_json.parse(line)
    event = {name: fields.pop(name, None) for name in _EVENT_FIELDS}
    record_id, mac = event["record_id"], event["mac"]
    if not isinstance(record_id, str) or not is_record_id(record_id):
        raise InvalidInputError("not the line of an audit record")
    try:
        body = write_canonical(fields)
    except ValueError:
        raise InvalidInputError("not the line of an audit record") from None
    return Record(record_id, body, mac if isinstance(mac, str) else None)


def _dump_ascii(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))


_FINGERPRINT_DIGITS = 16

_SEALER = Actor("sealer")

_ALERTS = Actor("alerts")


class AuditLog:
    """
    Drafts audit records, and writes them to the journal and then to the log.

    Drafting has no side effects.  ``write`` commits records by itself; a draft that is
    committed with another change is only logged afterwards, with ``log``.

    No signature is made without its record and, as the journal may be lost, without the
    line of its intent in the log: ``write_intent`` and ``log_intent`` raise an error if
    the line cannot be written.  Other lines are not required if there is a journal.
    """

    def __init__(
        self,
        logger: Logger | LogLines,
        clock: Clock = utc_now,
        node: str = os.uname().nodename,
        journal: Journal | None = None,
        configuration: str | None = None,
        *,
        require_shipped: Callable[[], None] | None = None,
    ) -> None:
        """
        Write to *logger*, and to *journal* if there is one.

        *configuration* is the short hash of the configuration in force, which is added
        to the records of signatures.  *require_shipped* is a ``ShippingCondition``.
        """
        self._require_shipped = require_shipped
        self._lines = logger if isinstance(logger, LogLines) else LogEvents(logger)
        self._clock = clock
        self._node = sanitize(node)
        self._journal = journal
        self._configuration = configuration

    def require_shipped(self) -> None:
        """Raise ``AuditNotShippedError`` unless a signature may be begun."""
        if self._require_shipped is not None:
            self._require_shipped()

    def use_configuration(self, configuration: str) -> None:
        """Add the short hash *configuration* to the records from now on."""
        self._configuration = configuration

    def intent(
        self, purpose: Purpose, subject: Subject, digest: bytes | None = None
    ) -> Record:
        """
        Draft the record that a signature is about to be requested.

        *digest* is None if the record is committed together with the decision what to
        sign; the record of the result has it.
        """
        event = AuditAction.DIGEST_SIGN.requested
        return self._signing({"event": event}, purpose, subject, digest)

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
        Draft the record of the result; *outcome* is ``success`` or an error code.

        *seconds* is the time of the device and the checks together, *attempts* the
        number of requests to the device; *details* are added to those of *purpose*.
        """
        facts = {
            "event": AuditAction.DIGEST_SIGN.event_for(outcome),
            "outcome": outcome,
            "duration_us": round(seconds * 1_000_000),
            "attempts": attempts,
        }
        given = {
            "details": {**purpose.details, **details},
            "device_request_ids": device_request_ids,
        }
        return self._signing(facts, purpose, subject, digest, given)

    def request(
        self,
        action: AuditAction,
        operation: Operation,
        actor: Actor,
        **details: str | int | None,
    ) -> Record:
        """Draft the record that *actor* requests *action*, which signs nothing."""
        return self._action(action.requested, operation, actor, SUCCESS, details)

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
        event = action.event_for(outcome)
        return self._action(event, operation, actor, outcome, details)

    def approval(
        self,
        action: AuditAction,
        actor: Actor,
        evidence: Mapping[str, str],
        **details: str | None,
    ) -> Record:
        """
        Draft the record of a decision, with the *evidence* of who signed it, if any.

        An auditor verifies the signature, so it is kept as it is, as in
        ``configuration``.
        """
        event, operation = action.event_for(SUCCESS), Operation.ADMINISTRATION
        return self._action(
            event, operation, actor, SUCCESS, details, evidence=evidence
        )

    def forged(self, ids: Sequence[str]) -> Record:
        """Draft the record which declares the records with these *ids* forged."""
        details = {FIELD: [hash_id(id_) for id_ in ids]}
        return self._action(FORGED, Operation.SEALING, _SEALER, "forged", details)

    def alert(self, alert: str, facts: Mapping[str, str | int | None]) -> Record:
        """Draft the record that a check failed, with the facts of its *alert*."""
        return self._action(ALERT_RAISED, Operation.CHECK, _ALERTS, alert, facts)

    def configuration(
        self,
        event: str,
        actor: Actor,
        *,
        evidence: Mapping[str, Any],
        **details: str,
    ) -> Record:
        """
        Draft the record of an *event* about the configuration: a start, or its limits.

        The record has *evidence* among its details as it is, because an auditor
        compares it with its hash: it must be a part of ``Configuration.document``,
        which has no secrets.  Its line in the log is redacted.
        """
        return self._action(
            event, Operation.START, actor, SUCCESS, details, evidence=evidence
        )

    def write(
        self, *records: Record, condition: SigningCondition | None = None
    ) -> None:
        """Make *records* durable, then log them; raises as ``Journal.append``."""
        self._append(records, condition)
        self.log(*records)

    def write_intent(
        self, intent: Record, condition: SigningCondition | None = None
    ) -> None:
        """Make *intent* durable and log it; raises as ``write`` and ``log_intent``."""
        self._append([intent], condition)
        self.log_intent(intent)

    def log(self, *records: Record) -> None:
        """Log records that are durable; raises ``AuditLogUnwritableError``."""
        try:
            for record in records:
                self.log_intent(record)
        except AuditLogUnwritableError:
            if self._journal is None:
                raise

    def log_intent(self, intent: Record) -> None:
        """Log a durable *intent* to sign; call this before the device is asked."""
        try:
            self._lines.write(intent)
        except OSError as e:
            raise AuditLogUnwritableError(
                f"the audit log on standard output cannot be written"
                f" ({type(e).__name__}): free the disk, or restart the process with"
                " the program that reads its output"
            ) from e

    def _append(
        self, records: Sequence[Record], condition: SigningCondition | None
    ) -> None:
        if self._journal is not None:
            self._journal.append(records, condition=condition)

    def _action(
        self,
        event: str,
        operation: Operation,
        actor: Actor,
        outcome: str,
        details: Mapping[str, Any],
        *,
        evidence: Mapping[str, Any] = NOTHING,
    ) -> Record:
        facts = {"event": str(event), "operation": str(operation), "outcome": outcome}
        if actor.reason and not details.get("reason"):
            details = {**details, "reason": actor.reason}
        given = {
            "actor": actor.name,
            "request_id": actor.request_id,
            "token_id": actor.token_id,
            "details": details,
        }
        return self._record(facts, given, evidence)

    def _signing(
        self,
        facts: dict[str, Any],
        purpose: Purpose,
        subject: Subject,
        digest: bytes | None,
        given: Mapping[str, Any] = NOTHING,
    ) -> Record:
        facts |= {
            "operation": str(purpose.operation),
            "backend": subject.backend,
            "key_id": key_prefix(subject.key_id),
            "address": subject.address,
            "digest": None if digest is None else digest.hex(),
        }
        if self._configuration is not None:
            facts["configuration"] = self._configuration
        given = {
            "actor": purpose.actor,
            "network": purpose.network,
            "request_id": purpose.request_id,
            "token_id": purpose.token_id,
            "refund_id": purpose.refund_id,
            "details": purpose.details,
            **given,
        }
        if purpose.decision is not None:
            given["details"] = {**given["details"], **purpose.decision.details()}
        return self._record(facts, given)

    def _record(
        self,
        facts: Mapping[str, Any],
        given: dict[str, Any],
        evidence: Mapping[str, Any] = NOTHING,
    ) -> Record:
        """
        Draft a record of *facts* as they are, and of what is *given*, redacted.

        Facts are made by this process; the rest may be a caller's or a vendor's text.
        *evidence* is added to the record's details as it is.
        """
        at, actor = self._clock(), given["actor"]
        redacted = redact_event(None, "", given)
        if redacted["actor"] != actor:
            redacted["actor"] += _fingerprint(actor)
        if evidence:
            redacted["details"] |= evidence
        context = {
            "timestamp": at.isoformat(timespec="microseconds"),
            # Orders the events of one process even if its clock is set.
            "monotonic_us": time.monotonic_ns() // 1000,
            "node": self._node,
            "pid": os.getpid(),
        }
        record = Record.of({**redacted, **facts, **context}, at)
        # Here, so that the row and the line share one computation of the MAC.
        return record if self._journal is None else self._journal.authenticate(record)


def _fingerprint(actor: str) -> str:
    """Return a short hash: an auditor who knows the redacted name can compute it."""
    digest = hashlib.sha256(actor.encode(errors="replace")).hexdigest()
    return f"#{digest[:_FINGERPRINT_DIGITS]}"
