"""Observes calls to store, audit log and device during a schedule."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import coincurve

from signer.crypto.der import parse_public_key
from signer.model.refund import Refund
from signer.ports import DeviceSignature, KeyId
from tests.support.devices import KEY_ID, honest


KEY = coincurve.PrivateKey.from_int(0x5EED)

_IDS = (
    KEY_ID,
    *(KeyId(KEY_ID.replace("1234abcd", each)) for each in ("5678abcd", "9abcabcd")),
)

_DEVICES = {
    KEY_ID: honest(KEY),
    _IDS[1]: honest(coincurve.PrivateKey.from_int(0xBEEF)),
    _IDS[2]: honest(coincurve.PrivateKey.from_int(0xF00D)),
}

ADDRESSES = {
    parse_public_key(device.public_key(key_id)).address: key_id
    for key_id, device in _DEVICES.items()
}
"""The addresses of all keys, with the keys' ids."""

ADDRESS = next(iter(ADDRESSES))


class Observer:
    """
    Notes every version of a refund that a process saw, and intents and signatures.

    ``nonces`` has all nonces that each refund ever had, and ``without_intent`` the
    digests that were signed without an intent in the audit log.  The intent of a
    reservation has no digest yet, and is good for one signature of any digest.
    """

    def __init__(self) -> None:
        self.nonces: defaultdict[str, set[str]] = defaultdict(set)
        self.without_intent: list[str] = []
        self._intents: set[str] = set()
        self._reservations = 0

    def forget(self) -> None:
        """Forget nonces: a restored ledger may assign others."""
        self.nonces.clear()

    def see(self, seen: object) -> None:
        """Note the refunds in an argument or result of a store's method."""
        if isinstance(seen, Refund):
            if seen.nonce is not None:
                self.nonces[seen.id].add(f"{seen.sender} n{seen.nonce}")
        elif isinstance(seen, Sequence) and not isinstance(seen, (str, bytes)):
            for each in seen:
                of_change = getattr(each, "after", each)
                self.see(getattr(each, "refund", of_change))

    def info(self, event: str, **fields: Any) -> None:
        """Note an event of the audit log."""
        if event != "digest-sign-requested":
            return
        if fields["digest"] is None:
            self._reservations += 1
        else:
            self._intents.add(fields["digest"])

    def signed(self, digest: bytes) -> None:
        """Note a signature."""
        if digest.hex() in self._intents:
            return
        if self._reservations == 0:
            self.without_intent.append(digest.hex())
        self._reservations -= 1


class ObservedDevice:
    """A device with three keys, whose signatures the observer notes."""

    name = "device"
    concurrency = 1

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def public_key(self, key_id: KeyId) -> bytes:
        """Return the SubjectPublicKeyInfo."""
        return _DEVICES[key_id].public_key(key_id)

    def sign_digest(self, key_id: KeyId, digest: bytes) -> DeviceSignature:
        """Sign."""
        self._observer.signed(digest)
        return DeviceSignature(_DEVICES[key_id].sign_digest(key_id, digest).der)
