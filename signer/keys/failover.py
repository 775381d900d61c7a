"""
Pins a key of the ring to another place in which the very same key lives.

That is what a region's failure asks for: a replica of a multi-Region KMS key has the
same material, and so the same address, under an ARN of its own.  Nothing else changes:
the row keeps its state and its epoch, and the wallet its nonces.

::

    find      what the given name means now, and which key of the ring that is
    prove     a real signature in the new place, which recovers to the same key
    relocate  one commit: the row names the new place, and the audit knows

A process may die between any two lines.  Until the last one the old place is asked;
after it, no intent to sign there becomes durable any more, on any host.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from signer.alerts import Alerts
from signer.audit.log import AuditAction, AuditLog
from signer.errors import (
    ConflictError,
    HotWalletError,
    NewKeyUnhealthyError,
    NotFoundError,
    RotationInProgressError,
    StaleStateError,
)
from signer.keys.admin_audit import AdminAudit, Facts, named
from signer.keys.candidate import CandidateTester
from signer.keys.keyring import OpenSigner
from signer.model.audit_record import Actor, Operation
from signer.model.key import SIGNING, Key
from signer.ports import Clock, KeyDirectory, KeyStore
from signer.redact import key_prefix


_OPERATION = Operation.KEY_RELOCATION

_STILL_THERE = "the old place has the key as well: whoever may use it there can sign"

_ALREADY = "the key was pinned to this place already"


@dataclass(frozen=True, slots=True)
class FailoverResult:
    """
    What became of a relocation.

    ``status`` is ``relocated`` or, for a rehearsal, ``would-relocate``; ``previous`` is
    the key as it was before.
    """

    status: str
    key: Key
    previous: Key
    warnings: Sequence[str]


class Failover:
    """Relocates keys, on behalf of administrators."""

    def __init__(
        self,
        store: KeyStore,
        directory: KeyDirectory,
        open_signer: OpenSigner,
        *,
        audit: AuditLog,
        alerts: Alerts,
        clock: Clock,
    ) -> None:
        """Relocate among the keys of *directory*."""
        self._store = store
        self._directory = directory
        self._audit = audit
        self._clock = clock
        self._prover = CandidateTester(directory, open_signer, alerts, clock)
        self._minutes = AdminAudit(audit, alerts, _OPERATION)
        self._log = structlog.get_logger("keys")

    def relocate(
        self, name: str, actor: Actor, *, rehearse: bool = False
    ) -> FailoverResult:
        """
        Pin the key of the ring that *name* means to that place; again is fine.

        With *rehearse* the key proves itself there, and nothing is changed.

        Raises:
            InvalidInputError: *name* is malformed.
            NotFoundError: It is no key of the ring.
            RotationInProgressError: A rotation is under way, or another relocation.
            ConflictError: The key may sign nothing, or is in another backend.
            NewKeyUnhealthyError: It did not prove itself there in time.
            ProofsPendingError: It was not asked, since it never answered before.
            StoreError: The ledger does not answer; asking again goes on.
        """
        request: Facts = {"key": key_prefix(name), "rehearsal": rehearse}
        try:
            self._minutes.request(AuditAction.KEY_FAILOVER, actor, **request)
            relocated = self._relocated(name, actor, rehearse=rehearse)
        except HotWalletError as e:
            # Of a rehearsal as well: there is nowhere to go when the region fails.
            is_alarming = isinstance(e, NewKeyUnhealthyError)
            self._minutes.refuse(
                AuditAction.KEY_FAILOVER, e, actor, is_alarming=is_alarming, **request
            )
            raise
        self._log.info(
            relocated.status, address=relocated.key.address, actor=actor.name
        )
        return relocated

    def _relocated(self, name: str, actor: Actor, *, rehearse: bool) -> FailoverResult:
        wanted = self._prover.find(name, actor)
        key = self._pinned(wanted.address)
        is_there = key.key_id == wanted.key_id
        if is_there and not rehearse:
            return FailoverResult("relocated", key, key, (_ALREADY,))
        there = replace(key, key_id=wanted.key_id)
        self._prover.prove(there, actor, _OPERATION)
        if rehearse:
            warning = _ALREADY if is_there else _STILL_THERE
            return FailoverResult("would-relocate", there, key, (warning,))
        record = self._audit.result(
            AuditAction.KEY_FAILOVER,
            _OPERATION,
            actor,
            **named("key", there),
            previous_key=key_prefix(key.key_id),
            state=str(key.state),
        )
        try:
            moved = self._store.relocate(key, there.key_id, self._clock(), record)
        except StaleStateError:
            raise RotationInProgressError("somebody else changed the key") from None
        self._audit.log(record)
        return FailoverResult("relocated", moved, key, (_STILL_THERE,))

    def _pinned(self, address: str) -> Key:
        """Return the key with *address*, which may be relocated."""
        ring = self._store.keys()
        found = next((key for key in ring if key.address == address), None)
        if found is None:
            raise NotFoundError(
                "no key of the ring has this address: that is another key; use rotate"
            )
        if found.state not in SIGNING:
            raise ConflictError(f"the key is {found.state}, and signs nothing")
        if found.backend != self._directory.name:
            raise ConflictError("the ring has this key in another backend")
        return found
