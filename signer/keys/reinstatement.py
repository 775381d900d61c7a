"""
Reinstates keys that were revoked by mistake: they finish the refunds that they signed.

The key becomes a former key again, as after a planned rotation.  Refunds that lost
their nonces in the revocation stay with the active key.
"""

from collections.abc import Sequence
from contextlib import suppress

from signer.addresses import parse_address, redact_address
from signer.approvals import Approvals
from signer.audit.actions import AuditAction
from signer.audit.log import AuditLog
from signer.errors import (
    ConflictError,
    NotFoundError,
    RotationInProgressError,
    StaleStateError,
)
from signer.keys.admin_audit import AdminAudit, Facts, key_facts
from signer.model.audit_record import Actor, Operation, require_reason
from signer.model.key import FORMER, REINSTATABLE_FOR, Key, find_key
from signer.ports.clock import Clock
from signer.ports.key_store import KeyStore


_OPERATION = Operation.KEY_ROTATION

_MAX_TRIES = 3
"""Another administrator may reinstate the key meanwhile."""

_MAX_OPEN = 1000


class Reinstatement:
    """Reinstates revoked keys, for administrators."""

    def __init__(
        self,
        store: KeyStore,
        *,
        audit: AuditLog,
        clock: Clock,
        approvals: Approvals | None = None,
    ) -> None:
        """
        With *approvals*, another administrator must approve ``reinstate``.

        *clock* is the ledger's: a host cannot extend the time for a reinstatement.
        """
        self._store = store
        self._audit = audit
        self._clock = clock
        self._admin_audit = AdminAudit(audit, _OPERATION, approvals=approvals)

    def reinstate(
        self, address: str, reason: str, actor: Actor
    ) -> tuple[Key, Sequence[str]]:
        """
        Make the revoked key with *address* a former key again; idempotent.

        Return the key, and the ids of open refunds that it has signed.

        Raises:
            InvalidInputError: *address* is malformed, or *reason* is empty, too long or
                not printable.
            NotFoundError: The ring has no key with this address.
            ConflictError: The key is neither revoked nor a former key, or it was
                revoked more than ``REINSTATABLE_FOR`` ago.
            ApprovalRequiredError: Another administrator must approve it first.
            StoreError: The ledger does not answer; a repeated call continues.
        """
        require_reason(reason)
        action = AuditAction.KEY_REINSTATE
        facts: Facts = {"key_address": redact_address(address), "reason": reason}
        with self._admin_audit.attempt(action, actor, **facts):
            for _ in range(_MAX_TRIES):
                key = self._find(address)
                with suppress(StaleStateError):
                    key = self._reinstate(key, reason, actor)
                    return key, self._store.stranded(key.address, _MAX_OPEN)
            raise RotationInProgressError(
                "other processes keep changing the key; try again"
            )

    def preview(self, address: str) -> tuple[Key, Sequence[str]]:
        """Return what ``reinstate`` would, except for the state; change nothing."""
        key = self._find(address)
        return key, self._store.stranded(key.address, _MAX_OPEN)

    def _find(self, address: str) -> Key:
        """Return the key with *address*, which may be reinstated, or was before."""
        key = find_key(self._store.keys(), parse_address(address, field="address"))
        if key is None:
            raise NotFoundError("the ring has no key with this address")
        if key.revoked_at is not None:
            # A host whose clock was wrong may have dated the revocation ahead.
            if abs(self._clock() - key.revoked_at) >= REINSTATABLE_FOR:
                raise ConflictError(
                    "the key was revoked more than 24 hours ago, which is final: see"
                    " docs/how-to/key-compromise.md for its refunds"
                )
        elif key.state not in FORMER:
            raise ConflictError(f"the key is {key.state}, and not revoked")
        return key

    def _reinstate(self, key: Key, reason: str, actor: Actor) -> Key:
        if key.revoked_at is None:
            return key
        revocation: Facts = {
            **key_facts("key", key),
            "epoch": key.epoch,
            "revoked_at": key.revoked_at.isoformat(),
            "version": key.version,
        }
        action = AuditAction.KEY_REINSTATE
        with self._admin_audit.authorize(action, actor, reason, **revocation) as use:
            record = self._audit.result(
                action, _OPERATION, actor, **key_facts("key", key), reason=reason
            )
            reinstated = self._store.reinstate(key, self._clock(), record, use)
            self._audit.log(record)
            return reinstated
