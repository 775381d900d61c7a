"""
Fails a key of the ring over to a replica of it, such as one in another AWS region.

A replica of a multi-Region KMS key has the same key material, and therefore the same
address, under an ARN of its own.  A failover changes only that ARN: the row keeps its
state and its epoch, and the wallet keeps its nonces.

::

    find       resolve the given name, and find the key of the ring with its address
    self-test  sign with the replica; the signature must recover to the same key
    relocate   one commit: update the key id of the row, and write the audit record

A process may die between any two steps.  Until the last one commits, processes sign
with the old key id.  After it, no intent to sign with the old key id becomes durable on
any host.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from signer.alerts import Alerts
from signer.audit.actions import AuditAction
from signer.errors import (
    ConflictError,
    NewKeyUnhealthyError,
    NotFoundError,
    RotationInProgressError,
    StaleStateError,
)
from signer.keys.admin_audit import AdminAudit, key_facts
from signer.keys.key_proofs import CandidateTester
from signer.keys.signer import SignerFactory
from signer.model.audit_record import Actor, Operation
from signer.model.key import SIGNING, Key, find_key
from signer.ports.clock import Clock
from signer.ports.key_store import KeyStore
from signer.redact import key_prefix


_OPERATION = Operation.KEY_RELOCATION

_OLD_STILL_SIGNS = "roles with permission for the old key id can still sign with it"

_ALREADY = "the ring already has the key under this id"


@dataclass(frozen=True, slots=True)
class FailoverResult:
    """
    The key after and before a failover.

    ``status`` is ``relocated``, or ``would-relocate`` for a dry run.
    """

    status: str
    key: Key
    previous: Key
    warnings: Sequence[str]


class Failover:
    """Fails keys over to their replicas, for administrators."""

    def __init__(
        self, store: KeyStore, signers: SignerFactory, *, alerts: Alerts, clock: Clock
    ) -> None:
        self._store = store
        self._backend = signers.directory.name
        self._audit = signers.audit
        self._clock = clock
        self._tester = CandidateTester(signers, alerts, clock)
        self._admin_audit = AdminAudit(signers.audit, _OPERATION, alerts)
        self._log = structlog.get_logger("keys")

    def fail_over(
        self, name: str, actor: Actor, *, dry_run: bool = False
    ) -> FailoverResult:
        """
        Replace the id of a key in the ring with that of its replica *name*; idempotent.

        With *dry_run* the replica is self-tested, and nothing is changed.

        Raises:
            NotFoundError: No key of the ring has the address of *name*.
            RotationInProgressError: A rotation or another failover is in progress.
            ConflictError: The key may not sign, or it is in another backend.
            InvalidInputError, NewKeyUnhealthyError, SelfTestPendingError: As
                ``CandidateTester.find``.
            StoreError: The ledger does not answer; a repeated call continues.
        """
        with self._admin_audit.attempt(
            AuditAction.KEY_FAILOVER,
            actor,
            # In a dry run too: a replica that cannot sign is no help in an outage.
            should_alert=lambda error: isinstance(error, NewKeyUnhealthyError),
            key=key_prefix(name),
            rehearsal=dry_run,
        ):
            result = self._fail_over(name, actor, dry_run=dry_run)
        self._log.info(
            "key-failover-succeeded",
            status=result.status,
            address=result.key.address,
            actor=actor.name,
        )
        return result

    def _fail_over(self, name: str, actor: Actor, *, dry_run: bool) -> FailoverResult:
        candidate = self._tester.find(name, actor)
        key = self._find_original(candidate.address)
        is_done = key.key_id == candidate.key_id
        warnings = (_ALREADY if is_done else _OLD_STILL_SIGNS,)
        if is_done and not dry_run:
            return FailoverResult("relocated", key, key, warnings)
        replica = replace(key, key_id=candidate.key_id)
        self._tester.self_test(replica, actor, _OPERATION)
        if dry_run:
            return FailoverResult("would-relocate", replica, key, warnings)
        record = self._audit.result(
            AuditAction.KEY_FAILOVER,
            _OPERATION,
            actor,
            **key_facts("key", replica),
            previous_key=key_prefix(key.key_id),
            state=str(key.state),
        )
        try:
            moved = self._store.relocate(key, replica.key_id, self._clock(), record)
        except StaleStateError:
            raise RotationInProgressError(
                "the key was changed by another process; try again"
            ) from None
        self._audit.log(record)
        return FailoverResult("relocated", moved, key, warnings)

    def _find_original(self, address: str) -> Key:
        key = find_key(self._store.keys(), address)
        if key is None:
            raise NotFoundError(
                "no key of the ring has this address, so it is another key: use rotate"
            )
        if key.state not in SIGNING:
            raise ConflictError(f"the key is {key.state} and may not sign")
        if key.backend != self._backend:
            raise ConflictError(
                f"the ring has this key in {key.backend}, and the configuration opens"
                f" {self._backend}"
            )
        return key
