"""
The keys that sign: which one now, and which one for a nonce that was given out.

The store says which key is active, and is asked each time: a process that remembered
would go on signing with a key that was rotated away on another host.  What is
remembered is each key's signer, which is bound to that key, and to the place that it
is in, for life.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from signer.crypto.secp256k1 import Signature
from signer.errors import KeyNotFoundError, KeyRotatedError, KeyUnusableError
from signer.keys.signer import SELF_TEST, Signer, self_test_digest
from signer.model.audit_record import Purpose
from signer.model.key import FORMER, SIGNING, Key, find_key
from signer.ports import KeyStore


OpenSigner = Callable[[Key], Signer]
"""Opens the signer of a key of the ring; raises ``SigningError``."""

_ROTATIONS_MEANWHILE = 10
"""Each costs a look at the ledger, and nothing else: an intent was not written."""

_SEEN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class ActiveKey:
    """The active key as its row stood a moment ago, and its signer."""

    key: Key
    signer: Signer


class _Seen(NamedTuple):
    epoch: int | None
    at: float
    keys: tuple[Key, ...]


class KeyRing:
    """The ring as one process uses it; threads share it."""

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
        self._seen = _Seen(None, -_SEEN_SECONDS, ())

    def active(self) -> ActiveKey:
        """
        Return the key that signs what begins now.

        It may be another one a moment later: what begins with it commits only while it
        is the active one (``Store.reserve``, ``Journal.append``).

        Raises:
            KeyNotFoundError: No key was ever enrolled.
            SigningError: Its device does not answer.
        """
        key = self._store.active_key()
        if key is None:
            raise KeyNotFoundError("no key was enrolled in the ledger yet")
        if key.epoch != self._seen.epoch:
            self._look(key.epoch)
        return ActiveKey(key, self._signer(key))

    def signer(self, address: str) -> Signer:
        """
        Return the signer for a nonce that *address* gave out.

        Raises:
            KeyUnusableError: The ring has no such key, or it may not sign any more.
            SigningError: Its device does not answer.
        """
        key = find_key(self._store.keys(), address)
        if key is None:
            raise KeyUnusableError("the nonce belongs to a key that is not in the ring")
        if key.state not in SIGNING:
            raise KeyUnusableError(f"the nonce belongs to a key that is {key.state}")
        return self._signer(key)

    def former(self, address: str) -> ActiveKey:
        """
        Return a key that pays no refunds any more, to empty its address.

        Raises:
            KeyUnusableError: It is the active one, or none that may sign.
            SigningError: Its device does not answer.
        """
        key = find_key(self._store.keys(), address)
        if key is None or key.state not in FORMER:
            raise KeyUnusableError("only a draining or retired key's address is swept")
        return ActiveKey(key, self._signer(key))

    def opened(self, address: str, key_id: str) -> Signer | None:
        """Return the signer of *address* in *key_id* if this process has opened it."""
        return self._signers.get((address, key_id))

    def known(self) -> Sequence[Key]:
        """
        Return every key, the latest epoch first, as they stood within the last minute.

        Nothing may be signed on the strength of that.
        """
        if self._timer() - self._seen.at >= _SEEN_SECONDS:
            self._look(self._seen.epoch)
        return self._seen.keys

    def look(self) -> Sequence[Key]:
        """Return every key, the latest epoch first, as they stand now."""
        self._look(self._seen.epoch)
        return self._seen.keys

    def key(self, address: str) -> Key | None:
        """Return the key with *address*, as ``known`` does."""
        return find_key(self.known(), address)

    def announced(
        self, address: str, digest: bytes, purpose: Purpose, *, pays: str | None = None
    ) -> Signer:
        """
        Return the signer for a nonce that *address* gave out, its intent durable.

        Raises:
            KeyUnusableError, SigningError: As ``signer``.
            KeyRotatedError: The key was relocated again and again meanwhile; or *pays*,
                where it is given, is not the active key's address.
            StoreError: The journal cannot be written.
        """
        for _ in range(_ROTATIONS_MEANWHILE):
            signer = self.signer(address)
            try:
                signer.announce(digest, purpose, states=SIGNING, pays=pays)
            except KeyRotatedError:
                continue
            return signer
        raise KeyRotatedError("the ring changes faster than the key signs")

    def self_test(self) -> None:
        """
        Prove that the active key signs where it is now.

        Raises:
            SigningError, KeyRotatedError: As ``sign_digest``.
        """
        self.sign_digest(self_test_digest(), SELF_TEST)

    def sign_digest(self, digest: bytes, purpose: Purpose) -> tuple[Signature, Signer]:
        """
        Return a signature by the key that is active when its intent becomes durable.

        Returns:
            The signature, and the signer that made it.

        Raises:
            SigningError, InvalidInputError: As ``Signer.sign_digest``.
            KeyRotatedError: It was rotated again and again meanwhile.
        """
        for _ in range(_ROTATIONS_MEANWHILE):
            signer = self.active().signer
            try:
                return signer.sign_digest(digest, purpose, while_active=True), signer
            except KeyRotatedError:
                continue
        raise KeyRotatedError("the active key changes faster than it signs")

    def _look(self, epoch: int | None) -> None:
        at = self._timer()
        self._seen = _Seen(epoch, at, tuple(self._store.keys()))

    def _signer(self, key: Key) -> Signer:
        place = (key.address, key.key_id)
        found = self._signers.get(place)
        # Threads that race open the same key; the first one's signer is kept.
        return found or self._signers.setdefault(place, self._open_signer(key))
