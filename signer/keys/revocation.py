"""
Gives former keys up as compromised: they sign nothing at all any more.

The active key is given up by a rotation to another one, in the same commit.
"""

from collections.abc import Sequence

from signer.addresses import parse_address, shown_address
from signer.alerts import Alerts
from signer.audit.log import AuditAction, AuditLog
from signer.errors import (
    ConflictError,
    HotWalletError,
    NotFoundError,
    RotationInProgressError,
    StaleStateError,
)
from signer.keys.admin_audit import AdminAudit, Facts, named
from signer.model.audit_record import Actor, Operation
from signer.model.key import Key, KeyState
from signer.ports import Clock, KeyStore


_OPERATION = Operation.KEY_ROTATION

_LOOKS = 3
"""Each costs a read: a worker may retire the key meanwhile, or a colleague block it."""

_MOST_STRANDED = 1000


class Revocation:
    """Gives keys up, on behalf of administrators."""

    def __init__(
        self, store: KeyStore, *, audit: AuditLog, alerts: Alerts, clock: Clock
    ) -> None:
        """Give up keys of *store*'s ring."""
        self._store = store
        self._audit = audit
        self._clock = clock
        self._minutes = AdminAudit(audit, alerts, _OPERATION)

    def block(self, address: str, actor: Actor) -> tuple[Key, Sequence[str]]:
        """
        Give up the former key with *address*; again is fine.

        *address* has its EIP-55 checksum, or is in lower case.

        Returns:
            The key, and the ids of open refunds that it has signed.

        Raises:
            InvalidInputError: *address* is malformed.
            NotFoundError: The ring has no such key.
            ConflictError: It is the active one, or never served.
            RotationInProgressError: Somebody is rotating back to it at this moment.
            StoreError: The ledger does not answer; asking again goes on.
        """
        request: Facts = {"key_address": shown_address(address)}
        try:
            self._minutes.request(AuditAction.KEY_REVOKE, actor, **request)
            return self.give_up(parse_address(address, field="address"), actor)
        except HotWalletError as e:
            self._minutes.refuse(AuditAction.KEY_REVOKE, e, actor, **request)
            raise

    def give_up(self, address: str, actor: Actor) -> tuple[Key, Sequence[str]]:
        """
        Do as ``block``, as a part of what is on record already.

        Raises:
            NotFoundError, ConflictError, StoreError: As ``block``.
        """
        for _ in range(_LOOKS):
            key = self._former(address)
            try:
                blocked = self._blocked(key, actor)
            except StaleStateError:
                continue
            return blocked, self.stranded(address)
        raise RotationInProgressError("the key changes faster than it is given up")

    def stranded(self, address: str) -> Sequence[str]:
        """Return the ids of open refunds that the key with *address* has signed."""
        return self._store.stranded(address, _MOST_STRANDED)

    def _former(self, address: str) -> Key:
        ring = self._store.keys()
        found = next((key for key in ring if key.address == address), None)
        if found is None:
            raise NotFoundError("the ring has no key with this address")
        if found.state is KeyState.ACTIVE:
            raise ConflictError(
                "the key is active: rotate to another one, as from a compromised key"
            )
        if not found.is_former and found.state is not KeyState.BLOCKED:
            raise ConflictError(
                f"the key is {found.state}, and never served: there is nothing to give"
                " up; a rotation to another key ends what is pending"
            )
        return found

    def _blocked(self, key: Key, actor: Actor) -> Key:
        if key.state is KeyState.BLOCKED:
            return key
        record = self._audit.result(
            AuditAction.KEY_REVOKE, _OPERATION, actor, **named("key", key)
        )
        blocked = self._store.block(key, self._clock(), record)
        self._audit.log(record)
        return blocked
