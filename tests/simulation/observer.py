"""Observes calls to store, audit log and device during a schedule."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import bitcurve

from signer.audit.log import LogLines
from signer.crypto.der import parse_public_key
from signer.model.audit_record import Record
from signer.model.refund import Refund
from signer.ports.key_backend import DeviceSignature, KeyId
from tests.support.devices import KEY_ID, honest


KEY = bitcurve.PrivateKey.from_int(0x5EED)

_IDS = (
    KEY_ID,
    *(KeyId(KEY_ID.replace("1234abcd", each)) for each in ("5678abcd", "9abcabcd")),
)

_DEVICES = {
    KEY_ID: honest(KEY),
    _IDS[1]: honest(bitcurve.PrivateKey.from_int(0xBEEF)),
    _IDS[2]: honest(bitcurve.PrivateKey.from_int(0xF00D)),
}

_PUBLIC_KEYS = {
    key_id: device.public_key(key_id) for key_id, device in _DEVICES.items()
}

ADDRESSES = {parse_public_key(spki).address: id_ for id_, spki in _PUBLIC_KEYS.items()}
"""The addresses of all keys, with the keys' ids."""

ADDRESS = next(iter(ADDRESSES))


_INTENT = "digest-sign-requested"

_TIME_OF_ID = len("au_") + 15


class Observer:
    """
    Notes every version of a refund that a process saw, and intents and signatures.

    ``nonces`` has all nonces that each refund ever had, and ``without_intent`` the
    digests that were signed without an intent in the audit log.  The intent of a
    reservation has no digest yet, and is good for one signature of any digest.

    ``lines`` are the records that processes have written to the log, by id, unless
    *loses* returns true for them.  ``renamed`` has those that were stored with another
    id of their refund.  ``unlogged`` has the refunds of which a record was committed
    before a restore, and not written to the log.
    """

    def __init__(self, loses: Callable[[Record], bool]) -> None:
        self.lines: dict[str, Record] = {}
        self.renamed: dict[str, Record] = {}
        self.unlogged: set[str | None] = set()
        self._loses = loses
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
        elif isinstance(seen, (tuple, list)):
            for each in seen:
                of_change = getattr(each, "after", each)
                self.see(getattr(each, "refund", of_change))

    def log(self) -> Sequence[Record]:
        """Return the records of the log in the order of their ids' times."""
        # The rest of an id is random, and would not replay.
        lines = self.lines.values()
        return sorted(lines, key=lambda record: record.id[:_TIME_OF_ID])

    def write(self, record: Record) -> None:
        """Note a line of the log."""
        if not self._loses(record):
            self.lines[record.id] = self.renamed.get(record.id, record)
        if _INTENT not in record.body:
            return
        fields = record.fields
        if fields["event"] != _INTENT:
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


class ObservedLines(LogLines):
    """Writes records to the observer, as the log of all hosts."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def write(self, record: Record) -> None:
        """Write one record."""
        self._observer.write(record)


class ObservedDevice:
    """A device with three keys, whose signatures the observer notes."""

    name = "device"
    concurrency = 1

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def resolve(self, name: str) -> KeyId:
        """Return the id of the key *name*, which is an id."""
        return KeyId(name)

    def public_key(self, key_id: KeyId) -> bytes:
        """Return the SubjectPublicKeyInfo."""
        return _PUBLIC_KEYS[key_id]

    def sign_digest(self, key_id: KeyId, digest: bytes) -> DeviceSignature:
        """Sign."""
        self._observer.signed(digest)
        return DeviceSignature(_DEVICES[key_id].sign_digest(key_id, digest).der)
