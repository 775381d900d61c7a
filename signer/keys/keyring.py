"""
The key ring of one process: the active key, and the signers of keys used before.

The store decides which key is active, and is asked each time: a process that cached the
answer would keep signing with a key that was rotated away on another host.  Signers are
cached, because each is bound to one key and one key id for its lifetime.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from signer.crypto.secp256k1 import Signature
from signer.errors import KeyNotFoundError, KeyRotatedError, KeyUnusableError
from signer.keys.signer import Signer
from signer.model.audit_record import Purpose
from signer.model.key import FORMER, SIGNING, Key, find_key
from signer.ports.key_store import KeyStore


OpenSigner = Callable[[Key], Signer]
"""Opens the signer of a key of the ring; raises ``SigningError``."""

T = TypeVar("T")

_MAX_TRIES = 10
"""A try that meets a rotation costs one read: its intent was not written."""

_CACHE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class ActiveKey:
    """A key's row as it was read a moment ago, and the key's signer."""

    key: Key
    signer: Signer


class _Cache(NamedTuple):
    epoch: int | None
    at: float
    keys: tuple[Key, ...]
    version: tuple[int, int] | None = None


class KeyRing:
    """The ring as one process uses it; thread-safe."""

    def __init__(
        self,
        store: KeyStore,
        open_signer: OpenSigner,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._open_signer = open_signer
        self._timer = timer
        self._signers: dict[tuple[str, str], Signer] = {}
        self._cache = _Cache(None, -_CACHE_SECONDS, ())

    def active(self) -> ActiveKey:
        """
        Return the key that signs new refunds.

        Another key may be active a moment later.  ``RefundStore.reserve`` and
        ``Journal.append`` therefore commit only while this key is still active.

        Raises:
            KeyNotFoundError: The ledger has no key yet.
            SigningError: The key's device does not answer.
        """
        key = self._store.active_key()
        if key is None:
            raise KeyNotFoundError("no key was enrolled in the ledger yet")
        if key.epoch != self._cache.epoch:
            self._refresh(key.epoch)
        return ActiveKey(key, self._signer(key))

    def signer(self, address: str) -> Signer:
        """
        Return the signer for a nonce of *address*.

        Raises:
            KeyUnusableError: The ring has no such key, or the key may not sign.
            SigningError: As ``active``.
        """
        key = find_key(self._store.keys(), address)
        if key is None:
            raise KeyUnusableError("the nonce belongs to a key that is not in the ring")
        if key.state not in SIGNING:
            raise KeyUnusableError(f"the nonce belongs to a key that is {key.state}")
        return self._signer(key)

    def former(self, address: str) -> ActiveKey:
        """
        Return a key that pays no refunds any more, so that its address can be swept.

        Raises:
            KeyUnusableError: The key is active, may not sign, or is not in the ring.
            SigningError: As ``active``.
        """
        key = find_key(self._store.keys(), address)
        if key is None or key.state not in FORMER:
            raise KeyUnusableError("only a draining or retired key's address is swept")
        return ActiveKey(key, self._signer(key))

    def cached_signer(self, address: str, key_id: str) -> Signer | None:
        return self._signers.get((address, key_id))

    def cached_keys(self) -> Sequence[Key]:
        """
        Return every key, the latest epoch first, at most a minute old.

        Do not use them to decide whether a key may sign.
        """
        if self._timer() - self._cache.at >= _CACHE_SECONDS:
            return self.refresh()
        return self._cache.keys

    def refresh(self) -> Sequence[Key]:
        """Read and return every key, the latest epoch first."""
        return self._refresh(self._cache.epoch)

    def current_keys(self) -> Sequence[Key]:
        """
        Return every key, the latest epoch first, as ``refresh``.

        A ring that has not changed is read once a minute: reading and verifying it
        takes time for each key that was ever active.
        """
        # Read it first: a change after that is found by the next call.
        version = self._store.ring_version()
        age = self._timer() - self._cache.at
        if version != self._cache.version or age >= _CACHE_SECONDS:
            self.refresh()
            self._cache = self._cache._replace(version=version)
        return self._cache.keys

    def cached_key(self, address: str) -> Key | None:
        return find_key(self.cached_keys(), address)

    def announce(
        self,
        address: str,
        digest: bytes,
        purpose: Purpose,
        *,
        chain_id: int,
        named: str,
        pays: str | None = None,
    ) -> Signer:
        """
        Record the intent to sign a transaction, and return the signer of *address*.

        *digest* is the transaction's, *chain_id* its chain, and *named* as
        ``Signer.announce``.

        Raises:
            KeyUnusableError, SigningError: As ``signer``.
            KeyRotatedError: Failovers changed the key's id during every try; or *pays*
                is given and is not the active key's address.
            SigningStoppedError: Signing is stopped.
        """
        for _ in range(_MAX_TRIES):
            signer = self.signer(address)
            with suppress(KeyRotatedError):
                signer.announce(
                    digest,
                    purpose,
                    states=SIGNING,
                    pays=pays,
                    chain_id=chain_id,
                    named=named,
                )
                return signer
        raise KeyRotatedError("the ring changed during every attempt to sign")

    def self_test(self) -> None:
        """Test the key that is active; raises as ``sign_digest``."""
        self._while_active(lambda signer: signer.self_test(while_active=True))

    def sign_digest(self, digest: bytes, purpose: Purpose) -> tuple[Signature, Signer]:
        """
        Sign with the key that is active when the intent becomes durable.

        Raises:
            SigningError, InvalidInputError: As ``Signer.sign_digest``.
            KeyRotatedError: Rotations changed the active key during every try.
        """
        return self._while_active(
            lambda signer: (
                signer.sign_digest(digest, purpose, while_active=True),
                signer,
            )
        )

    def _while_active(self, use: Callable[[Signer], T]) -> T:
        """*use* the signer of the active key, again if that was rotated meanwhile."""
        for _ in range(_MAX_TRIES):
            signer = self.active().signer
            with suppress(KeyRotatedError):
                return use(signer)
        raise KeyRotatedError("the active key changed during every attempt to sign")

    def _refresh(self, epoch: int | None) -> Sequence[Key]:
        at = self._timer()
        self._cache = cache = _Cache(epoch, at, tuple(self._store.keys()))
        return cache.keys

    def _signer(self, key: Key) -> Signer:
        cache_key = (key.address, key.key_id)
        cached = self._signers.get(cache_key)
        # Threads may open the same key concurrently; the first signer is kept.
        return cached or self._signers.setdefault(cache_key, self._open_signer(key))
