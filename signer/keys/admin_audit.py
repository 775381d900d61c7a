"""What administrators ask for, and what came of it, as the audit has it."""

from typing import Any

import structlog

from signer.alerts import Alert, Alerts
from signer.audit.log import SUCCESS, AuditLog
from signer.errors import (
    HotWalletError,
    NewKeyNotFoundError,
    NewKeyUnhealthyError,
    StoreError,
)
from signer.model.audit_record import Actor, Operation
from signer.model.key import Key
from signer.redact import key_prefix


Facts = dict[str, Any]


class AdminAudit:
    """Writes down what is asked for the sake of one *operation*."""

    def __init__(self, audit: AuditLog, alerts: Alerts, operation: Operation) -> None:
        self._audit = audit
        self._alerts = alerts
        self._operation = operation
        self._log = structlog.get_logger("keys")

    def write(
        self, event: str, actor: Actor, outcome: str = SUCCESS, **known: Any
    ) -> None:
        """
        Make durable what *actor* did.

        Raises:
            StoreError: The journal cannot be written.
        """
        self._audit.write(
            self._audit.event(event, self._operation, actor, outcome=outcome, **known)
        )

    def refuse(
        self,
        event: str,
        error: HotWalletError,
        actor: Actor,
        *,
        is_alarming: bool = False,
        **known: Any,
    ) -> None:
        """Write down why it was not done; an alert tells if that *is_alarming*."""
        reason = reason_of(error)
        # A name that no key has is a typo: the caller alone must know.
        if is_alarming and not isinstance(error, NewKeyNotFoundError):
            self._alerts.sound(Alert.ROTATION_REFUSED, code=reason, actor=actor.name)
        try:
            self.write(event, actor, outcome=reason, **known)
        except StoreError as e:
            self._log.warning("refusal-not-recorded", code=e.code)


def named(name: str, key: Key | None) -> Facts:
    """Return what the audit says of *key*, by *name*."""
    if key is None:
        return {}
    return {name: key_prefix(key.key_id), f"{name}_address": key.address}


def reason_of(error: HotWalletError) -> str:
    """Return the code of what *error* is about."""
    return error.reason if isinstance(error, NewKeyUnhealthyError) else error.code
