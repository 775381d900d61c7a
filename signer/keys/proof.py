"""Records that the active key signs, for the processes that have no key."""

import time
from collections.abc import Callable

import structlog

from signer.errors import HotWalletError
from signer.keys.keyring import KeyRing
from signer.ports import Clock, KeyStore


PROVE_EVERY_SECONDS = 10.0
"""How often a worker records that the active key signs."""

PROOF_VALID_SECONDS = 60.0
"""How old the last proof of the active key may be.  Several periods, since a pass of a
worker may be slow."""


class KeyProof:
    """Proves the active key every ``PROVE_EVERY_SECONDS``, if it is called as often."""

    def __init__(
        self,
        store: KeyStore,
        ring: KeyRing,
        check: Callable[[], object],
        clock: Clock,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prove the key by *check*, which raises a ``HotWalletError`` if it fails."""
        self._store = store
        self._ring = ring
        self._check = check
        self._clock = clock
        self._timer = timer
        self._due = float("-inf")
        self._log = structlog.get_logger("keys")

    def __call__(self) -> None:
        """Check the key if a check is due, and record that it signs; never raises."""
        if self._timer() < self._due:
            return
        self._due = self._timer() + PROVE_EVERY_SECONDS
        try:
            self._check()
            self._store.prove(self._ring.active().key.address, self._clock())
        except HotWalletError as e:
            self._log.warning("key-not-proved", code=e.code)
