"""Keeps the ring in order: what is drained is retired, with its record."""

from collections.abc import Sequence

import structlog

from signer.audit.log import AuditAction, AuditLog
from signer.errors import HotWalletError
from signer.model.audit_record import Actor, Operation, Record
from signer.model.key import Key
from signer.ports import Clock, KeyStore
from signer.redact import key_prefix


_KEEPER = Actor("worker")


class KeyRetirement:
    """Retires keys; any number of processes may do so at once."""

    def __init__(self, store: KeyStore, audit: AuditLog, clock: Clock) -> None:
        self._store = store
        self._audit = audit
        self._clock = clock
        self._log = structlog.get_logger("keys")

    def retire(self, settled: Sequence[str]) -> None:
        """
        Retire the draining keys whose last nonce is final; never raises ours.

        Only those with the addresses in *settled*, whose chains know no more of them
        than the ledger does: one that was restored has forgotten what is open.
        """
        try:
            retired = self._store.retire(settled, self._clock(), self._draft)
            for key, record in retired:
                self._audit.log(record)
                self._log.info("key-retired", address=key.address)
        except HotWalletError as e:
            self._log.warning("keys-not-kept", code=e.code)

    def _draft(self, key: Key) -> Record:
        return self._audit.result(
            AuditAction.KEY_RETIRE,
            Operation.KEY_ROTATION,
            _KEEPER,
            key_id=key_prefix(key.key_id),
            address=key.address,
            epoch=key.epoch,
        )
