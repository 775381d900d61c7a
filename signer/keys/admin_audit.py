"""Audits what administrators ask for and what came of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from signer.alerts import Alert, Alerts
from signer.approvals import Approvals
from signer.audit.actions import SUCCESS, AuditAction
from signer.audit.log import AuditLog
from signer.errors import HotWalletError, NewKeyUnhealthyError, StoreError
from signer.model.approval import ApprovalUse, Proposal
from signer.model.audit_record import Actor, Operation
from signer.model.key import Key
from signer.redact import key_prefix


Facts = dict[str, Any]
"""Fields of an audit record, by name."""


@dataclass(eq=False, repr=False)
class AdminAudit:
    """
    Writes audit records for one administrative *operation*.

    *alerts* is needed only by callers that pass ``should_alert`` to ``attempt``.
    Without *approvals*, one administrator may do everything.  Every method raises
    ``StoreError`` if the journal cannot be written.
    """

    audit: AuditLog
    operation: Operation
    alerts: Alerts | None = None
    approvals: Approvals | None = None

    def __post_init__(self) -> None:
        self._log = structlog.get_logger("keys")

    @contextmanager
    def attempt(
        self,
        action: AuditAction,
        actor: Actor,
        *,
        should_alert: Callable[[HotWalletError], bool] | None = None,
        **facts: Any,
    ) -> Iterator[None]:
        """
        Record that *action* is requested, run the block, and record a refusal.

        The block records its own success, with ``write`` or in the commit that makes
        the change.  *should_alert* selects the errors that alert ``rotation-refused``.
        """
        try:
            self.request(action, actor, **facts)
            yield
        except HotWalletError as e:
            reason = failure_code(e)
            if self.alerts and should_alert and should_alert(e):
                self.alerts.sound(Alert.ROTATION_REFUSED, code=reason, actor=actor.name)
            try:
                self.write(action, actor, outcome=reason, **facts)
            except StoreError as unrecorded:
                self._log.warning("refusal-not-recorded", code=unrecorded.code)
            raise

    @contextmanager
    def authorize(
        self, action: AuditAction, actor: Actor, **facts: Any
    ) -> Iterator[ApprovalUse | None]:
        """
        Run the block if another administrator approved it, as ``Approvals.authorize``.

        *facts* say exactly what the block changes, and which state it ends.  The other
        administrator sees the reason of *actor*.
        """
        if self.approvals is None:
            yield None
            return
        with self.approvals.authorize(Proposal(action, facts), actor) as use:
            yield use

    def request(self, action: AuditAction, actor: Actor, **facts: Any) -> None:
        """Record durably that *actor* requests *action*."""
        self.audit.write(self.audit.request(action, self.operation, actor, **facts))

    def write(
        self, action: AuditAction, actor: Actor, outcome: str = SUCCESS, **facts: Any
    ) -> None:
        """Record the result of *action* durably: success, or the code of an error."""
        self.audit.write(
            self.audit.result(action, self.operation, actor, outcome=outcome, **facts)
        )


def key_facts(name: str, key: Key | None) -> Facts:
    """Return the prefix of the id and the address of *key*, with *name* as prefix."""
    if key is None:
        return {}
    return {name: key_prefix(key.key_id), f"{name}_address": key.address}


def failure_code(error: HotWalletError) -> str:
    """Return the code of *error*, or of its cause if a new key failed its test."""
    return error.reason if isinstance(error, NewKeyUnhealthyError) else error.code
