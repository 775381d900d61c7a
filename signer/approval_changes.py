"""Stores the changes of approvals, each with its audit record in one transaction."""

from contextlib import suppress
from dataclasses import replace

from signer.audit.actions import AuditAction
from signer.audit.log import AuditLog
from signer.errors import StaleStateError
from signer.model.approval import Approval, ApprovalState
from signer.model.audit_record import Actor, Operation, Record
from signer.ports.clock import Clock
from signer.ports.control_store import ControlStore


_CLOCK = Actor("clock")

_DECIDED = frozenset({ApprovalState.APPROVED, ApprovalState.REJECTED})


class ApprovalChanges:
    """
    Makes each change by compare-and-set, and logs its record afterwards.

    Every method that stores raises ``StaleStateError`` if another process has changed
    the approval, and ``StoreError`` if the ledger does not answer.
    """

    def __init__(self, store: ControlStore, audit: AuditLog, clock: Clock) -> None:
        self._store = store
        self._audit = audit
        self._clock = clock

    def draft(
        self, action: AuditAction, approval: Approval, actor: Actor, reason: str = ""
    ) -> Record:
        """Draft the record that *actor* makes *approval* what it is, for *reason*."""
        is_new = action is AuditAction.APPROVAL_REQUEST
        return self._audit.result(
            action,
            Operation.ADMINISTRATION,
            actor,
            **({"proposal": approval.proposal} if is_new else {}),
            digest=approval.digest,
            state=str(approval.state),
            requested_by=approval.requested_by,
            reason=reason,
        )

    def ask(
        self, before: Approval | None, new: Approval, actor: Actor, reason: str
    ) -> Approval:
        """Store *new*, which *actor* asks for, in place of *before*; return it."""
        return self._put(before, new, AuditAction.APPROVAL_REQUEST, actor, reason)

    def move(
        self,
        before: Approval,
        state: ApprovalState,
        action: AuditAction,
        actor: Actor,
        reason: str = "",
        *,
        decided_by: str | None = None,
    ) -> Approval:
        """
        Move *before* to *state*, and return it as it is stored.

        *decided_by* are the people who decided; *actor* if it is None.
        """
        after = replace(before, state=state)
        if state in _DECIDED or decided_by is not None:
            name = decided_by or actor.name
            after = replace(after, decided_by=name, decided_at=self._clock())
        return self._put(before, after, action, actor, reason)

    def expire(self, found: Approval) -> bool:
        """Return whether the time of *found* is over, after this was recorded."""
        if not found.is_expired(self._clock()):
            return False
        with suppress(StaleStateError):  # Another process recorded it.
            expired, action = ApprovalState.EXPIRED, AuditAction.APPROVAL_EXPIRE
            self.move(found, expired, action, _CLOCK)
        return True

    def _put(
        self,
        before: Approval | None,
        after: Approval,
        action: AuditAction,
        actor: Actor,
        reason: str,
    ) -> Approval:
        record = self.draft(action, after, actor, reason)
        self._store.put_approval(before, after, record)
        self._audit.log(record)
        return replace(after, version=0 if before is None else before.version + 1)
