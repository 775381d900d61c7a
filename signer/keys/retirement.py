"""Retires draining keys whose last transaction is final."""

from collections.abc import Sequence

import structlog

from signer.audit.actions import AuditAction
from signer.audit.log import AuditLog
from signer.errors import HotWalletError
from signer.model.audit_record import WORKER, Operation, Record
from signer.model.key import Key
from signer.ports.clock import Clock
from signer.ports.key_store import KeyStore
from signer.redact import key_prefix


class KeyRetirement:
    """Retires keys; several processes may do so concurrently."""

    def __init__(self, store: KeyStore, audit: AuditLog, clock: Clock) -> None:
        self._store = store
        self._audit = audit
        self._clock = clock
        self._log = structlog.get_logger("keys")

    def retire(self, settled: Sequence[str]) -> None:
        """
        Retire draining keys with no open refund and an address in *settled*.

        On *settled* addresses, the ledger knows all that the chains know: if it was
        restored from a backup, it may have forgotten open refunds.  A
        ``HotWalletError`` is logged, not raised: the worker tries again later.
        """
        try:
            retired = self._store.retire(settled, self._clock(), self._draft_record)
            for key, record in retired:
                self._audit.log(record)
                self._log.info("key-retired", address=key.address)
        except HotWalletError as e:
            self._log.warning("key-retirement-failed", code=e.code)

    def _draft_record(self, key: Key) -> Record:
        return self._audit.result(
            AuditAction.KEY_RETIRE,
            Operation.KEY_ROTATION,
            WORKER,
            key_id=key_prefix(key.key_id),
            address=key.address,
            epoch=key.epoch,
        )
