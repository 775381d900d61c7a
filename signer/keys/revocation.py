"""
Revokes compromised keys that are no longer active, and undoes a mistaken revocation.

A revoked key signs nothing any more.  To revoke the active key, rotate to another key
with ``compromised``: one commit makes both changes.

A key that is reinstated becomes a former key again, as after a planned rotation, and
finishes the refunds that it signed.  Refunds that lost their nonces in the revocation
stay with the active key.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass

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
from signer.model.approval import ApprovalUse
from signer.model.audit_record import Actor, Operation, require_reason
from signer.model.key import FORMER, REINSTATABLE_FOR, Key, KeyState, find_key
from signer.ports.clock import Clock
from signer.ports.key_store import KeyStore


_OPERATION = Operation.KEY_ROTATION

_MAX_TRIES = 3
"""A worker may retire the key meanwhile, or another administrator may revoke it."""

_MAX_STRANDED = 1000


@dataclass(eq=False, repr=False)
class Revocation:
    """
    Revokes and reinstates keys, for administrators.

    With *approvals*, another administrator must approve both.  *clock* is the ledger's:
    a host cannot extend the time for a reinstatement.
    """

    store: KeyStore
    _: KW_ONLY
    audit: AuditLog
    clock: Clock
    approvals: Approvals | None = None

    def __post_init__(self) -> None:
        self._admin_audit = AdminAudit(self.audit, _OPERATION, approvals=self.approvals)

    def revoke(self, address: str, actor: Actor) -> tuple[Key, Sequence[str]]:
        """
        Revoke the former key with *address*; idempotent.

        Return the key, and the ids of open refunds that it has signed.

        Raises:
            InvalidInputError: *address* is malformed.
            NotFoundError: The ring has no key with this address.
            ConflictError: The key is active, or it was never active.
            RotationInProgressError: A rotation back to the key is in progress.
            ApprovalRequiredError: Another administrator must approve it first.
            StoreError: The ledger does not answer; a repeated call continues.
        """
        with self._admin_audit.attempt(
            AuditAction.KEY_REVOKE, actor, key_address=redact_address(address)
        ):
            key = self._find_former(parse_address(address, field="address"))
            if key.state is KeyState.BLOCKED:
                return key, self.stranded(key.address)
            facts = {**key_facts("key", key), "epoch": key.epoch}
            action = AuditAction.KEY_REVOKE
            with self._admin_audit.authorize(action, actor, **facts) as use:
                return self.revoke_during_rotation(key.address, actor, use)

    def preview(self, address: str) -> tuple[Key, Sequence[str]]:
        """Return what ``revoke`` would, except for the key's state; change nothing."""
        key = self._find_former(parse_address(address, field="address"))
        return key, self.stranded(key.address)

    def revoke_during_rotation(
        self, address: str, actor: Actor, use: ApprovalUse | None
    ) -> tuple[Key, Sequence[str]]:
        """Revoke as ``revoke`` does, in a rotation that has recorded its own intent."""
        return self._repeat(lambda: self._block(self._find_former(address), actor, use))

    def stranded(self, address: str) -> Sequence[str]:
        """Return the ids of open refunds that the key with *address* has signed."""
        return self.store.stranded(address, _MAX_STRANDED)

    def _repeat(self, change: Callable[[], Key]) -> tuple[Key, Sequence[str]]:
        """Return the key after *change*, which is tried again if the key changed."""
        for _ in range(_MAX_TRIES):
            with suppress(StaleStateError):
                key = change()
                return key, self.stranded(key.address)
        raise RotationInProgressError(
            "other processes keep changing the key; try again"
        )

    def _find(self, address: str) -> Key:
        key = find_key(self.store.keys(), address)
        if key is None:
            raise NotFoundError("the ring has no key with this address")
        return key

    def _find_former(self, address: str) -> Key:
        key = self._find(address)
        if key.state is KeyState.ACTIVE:
            raise ConflictError(
                "the key is active: rotate to another key with --compromised --from"
            )
        if not key.is_former and key.state is not KeyState.BLOCKED:
            raise ConflictError(
                f"the key is {key.state} and was never active, so there is nothing to"
                " revoke; a rotation to another key ends a pending one"
            )
        return key

    def _block(self, key: Key, actor: Actor, use: ApprovalUse | None) -> Key:
        if key.state is KeyState.BLOCKED:
            return key
        record = self.audit.result(
            AuditAction.KEY_REVOKE, _OPERATION, actor, **key_facts("key", key)
        )
        blocked = self.store.block(key, self.clock(), record, use)
        self.audit.log(record)
        return blocked

    def reinstate(self, address: str, actor: Actor) -> tuple[Key, Sequence[str]]:
        """
        Make the revoked key with *address* a former key again; idempotent.

        Return the key, and the ids of open refunds that it has signed.

        Raises:
            InvalidInputError: *address* is malformed, or the reason is empty, too long
                or not printable.
            NotFoundError: The ring has no key with this address.
            ConflictError: The key is neither revoked nor a former key, or it was
                revoked more than ``REINSTATABLE_FOR`` ago.
            ApprovalRequiredError: Another administrator must approve it first.
            StoreError: The ledger does not answer; a repeated call continues.
        """
        require_reason(actor.reason)
        action = AuditAction.KEY_REINSTATE
        facts: Facts = {"key_address": redact_address(address), "reason": actor.reason}
        with self._admin_audit.attempt(action, actor, **facts):
            return self._repeat(
                lambda: self._reinstate(self._find_revoked(address), actor)
            )

    def preview_reinstatement(self, address: str) -> tuple[Key, Sequence[str]]:
        """Return what ``reinstate`` would, except for the state; change nothing."""
        key = self._find_revoked(address)
        return key, self.stranded(key.address)

    def _find_revoked(self, address: str) -> Key:
        """Return the key with *address*, which may be reinstated, or was before."""
        key = self._find(parse_address(address, field="address"))
        if key.revoked_at is not None:
            # A host whose clock was wrong may have dated the revocation ahead.
            if abs(self.clock() - key.revoked_at) >= REINSTATABLE_FOR:
                raise ConflictError(
                    "the key was revoked more than 24 hours ago, which is final: see"
                    " docs/how-to/key-compromise.md for its refunds"
                )
        elif key.state not in FORMER:
            raise ConflictError(f"the key is {key.state}, and not revoked")
        return key

    def _reinstate(self, key: Key, actor: Actor) -> Key:
        if key.revoked_at is None:
            return key
        revocation: Facts = {
            **key_facts("key", key),
            "epoch": key.epoch,
            "revoked_at": key.revoked_at.isoformat(),
            "version": key.version,
        }
        action = AuditAction.KEY_REINSTATE
        with self._admin_audit.authorize(action, actor, **revocation) as use:
            record = self.audit.result(
                action, _OPERATION, actor, **key_facts("key", key), reason=actor.reason
            )
            reinstated = self.store.reinstate(key, self.clock(), record, use)
            self.audit.log(record)
            return reinstated
