"""Records that the active key signs, for the processes that have no key."""

import time
from collections.abc import Callable

import structlog

from signer.errors import HotWalletError
from signer.keys.keyring import KeyRing
from signer.ports.clock import Clock
from signer.ports.key_store import KeyStore


PROVE_EVERY_SECONDS = 10.0
"""How often a worker records that the active key signs."""

LOOK_EVERY_SECONDS = 1.0
"""How often a worker asks whether another key is active, which is proved at once."""

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
        self._due = self._look_due = float("-inf")
        self._seen: str | None = None
        self._log = structlog.get_logger("keys")

    def __call__(self) -> None:
        """Check the key if a check is due, and record that it signs; never raises."""
        is_new = self._has_new_key()
        if self._timer() < self._due and not is_new:
            return
        self._due = self._timer() + PROVE_EVERY_SECONDS
        try:
            self._check()
            self._store.prove(self._ring.active().key.address, self._clock())
        except HotWalletError as e:
            self._log.warning("key-not-proved", code=e.code)

    def _has_new_key(self) -> bool:
        """Return whether another key is active than a moment ago; False if unknown."""
        if self._timer() < self._look_due:
            return False
        self._look_due = self._timer() + LOOK_EVERY_SECONDS
        try:
            key = self._store.active_key()
        except HotWalletError:
            return False  # The next proof reports it.
        before, self._seen = self._seen, None if key is None else key.address
        return before not in {None, self._seen}
