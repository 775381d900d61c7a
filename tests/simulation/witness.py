"""Whoever watches the calls themselves: what no row and no block tells afterwards."""

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
"""The wallet's, and those that it is rotated to, each with the key's id."""

ADDRESS = next(iter(ADDRESSES))


class Witness:
    """
    Remembers every version of a refund that a process saw, and what was announced.

    ``nonces`` are those that each refund was ever seen with; ``unannounced`` are the
    digests that were signed without an intent in the audit log.  An intent that rides
    in a reservation knows no digest yet, and is good for any one.
    """

    def __init__(self) -> None:
        self.nonces: defaultdict[str, set[str]] = defaultdict(set)
        self.unannounced: list[str] = []
        self._announced: set[str] = set()
        self._open = 0

    def forget(self) -> None:
        """Begin anew: a ledger that was restored may tell its refunds apart."""
        self.nonces.clear()

    def see(self, seen: object) -> None:
        """Look at something that went to the store, or came from it."""
        if isinstance(seen, Refund):
            if seen.nonce is not None:
                self.nonces[seen.id].add(f"{seen.sender} n{seen.nonce}")
        elif isinstance(seen, Sequence) and not isinstance(seen, (str, bytes)):
            for each in seen:
                self.see(getattr(each, "refund", each))

    def info(self, event: str, **fields: Any) -> None:
        """Take an event of the audit log."""
        if event != "digest-sign-requested":
            return
        if fields["digest"] is None:
            self._open += 1
        else:
            self._announced.add(fields["digest"])

    def signed(self, digest: bytes) -> None:
        """Take note that a signature was made."""
        if digest.hex() in self._announced:
            return
        if self._open == 0:
            self.unannounced.append(digest.hex())
        self._open -= 1


class Guarded:
    """A good device with three keys, that tells a witness what it signs."""

    name = "device"

    def __init__(self, witness: Witness) -> None:
        self._witness = witness

    def public_key(self, key_id: KeyId) -> bytes:
        """Return the SubjectPublicKeyInfo."""
        return _DEVICES[key_id].public_key(key_id)

    def sign_digest(self, key_id: KeyId, digest: bytes) -> DeviceSignature:
        """Sign, and tell."""
        self._witness.signed(digest)
        return DeviceSignature(_DEVICES[key_id].sign_digest(key_id, digest).der)
