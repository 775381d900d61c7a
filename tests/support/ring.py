"""A ring, the keys that may be rotated to, and what administrators do with them."""

from collections.abc import Sequence
from typing import Any

import coincurve
import structlog
from structlog.testing import LogCapture

from backends.sql import SQLStore
from signer.alerts import Alerts
from signer.audit.log import AuditLog
from signer.crypto.der import parse_public_key
from signer.errors import InvalidInputError, KeyNotFoundError
from signer.keys.balances import AddressBalance
from signer.keys.failover import Failover
from signer.keys.revocation import Revocation
from signer.keys.rotation import Rotation
from signer.keys.signer import Signer
from signer.model.audit_record import Actor
from signer.model.key import Key
from signer.ports import DeviceSignature, KeyId
from tests.support.devices import Device, honest
from tests.support.keys import key_at
from tests.support.refunds import FakeClock


ALICE = Actor("alice", "req-1", "token-1")
RICH = AddressBalance("local", "1.0", {"TUSD": "5"}, 0)
POOR = AddressBalance("local", "0", {"TUSD": "0"}, 0)

OLD, NEW, OTHER = (f"{n}" * 8 + "-0000-4000-8000-whole" for n in (1, 2, 3))
ELSEWHERE = "4" * 8 + "-0000-4000-8000-whole"
SILENCE = structlog.wrap_logger(structlog.PrintLogger(), processors=[LogCapture()])


class Directory:
    """A backend with named keys, each a device that behaves as it was told to."""

    name = "device"

    def __init__(self, **devices: Device) -> None:
        self.devices = {name.replace("_", "-"): each for name, each in devices.items()}
        self.aliases: dict[str, str] = {}
        self.failure: Exception | None = None

    def resolve(self, name: str) -> KeyId:
        """Return the id that never moves."""
        if not name.strip():
            raise InvalidInputError("must name a key", field="key_id")
        key_id = self.aliases.get(name, name)
        if key_id not in self.devices:
            raise KeyNotFoundError("there is no such key")
        return KeyId(key_id)

    def public_key(self, key_id: KeyId) -> bytes:
        """Return what the device says."""
        return self.devices[key_id].public_key(key_id)

    def sign_digest(self, key_id: KeyId, digest: bytes) -> DeviceSignature:
        """Sign, or fail as was arranged."""
        if self.failure is not None:
            raise self.failure
        return self.devices[key_id].sign_digest(key_id, digest)


class System:
    """A store with an active key, its directory, and rotations of it."""

    def __init__(self, store: SQLStore, *, is_empty: bool = False) -> None:
        """Enrol the first key, unless the ring is to be empty."""
        keys = [coincurve.PrivateKey.from_int(n) for n in (11, 12, 13)]
        self.store = store
        self.clock = FakeClock()
        self.holdings: Sequence[AddressBalance] = (RICH,)
        self.directory = Directory()
        self.directory.devices = {
            name: honest(key) for name, key in zip((OLD, NEW, OTHER), keys, strict=True)
        }
        self.told: list[dict[str, object]] = []
        # What the audit tells the log, beside the store.
        self.log = LogCapture()
        logger = structlog.wrap_logger(structlog.PrintLogger(), processors=[self.log])
        self.audit = AuditLog(logger, journal=store)
        first = key_at(self.address(OLD), key_id=OLD)
        self.old = first if is_empty else store.enrol(first)

    def address(self, name: str) -> str:
        """Return the address of the key that is called *name*."""
        return parse_public_key(self.directory.public_key(KeyId(name))).address

    def notify(self, document: Any) -> None:
        """Take note of an alert."""
        self.told.append(document)

    def open_signer(self, key: Key) -> Signer:
        """Return the signer of *key*, as the composition root opens it."""
        return Signer.open(
            self.directory,
            KeyId(key.key_id),
            self.audit,
            expected_address=key.address,
        )

    def rotation(self, store: Any = None, *, needs_funds: bool = False) -> Rotation:
        """Return a rotation as a process that starts now has it."""
        return Rotation(
            store or self.store,
            self.directory,
            self.open_signer,
            survey=lambda address: self.holdings,
            audit=self.audit,
            alerts=Alerts(self.store, self),
            clock=self.clock,
            needs_funds=needs_funds,
        )

    def blocking(self, store: Any = None) -> Revocation:
        """Return what gives keys up, as a process that starts now has it."""
        return Revocation(
            store or self.store,
            audit=self.audit,
            alerts=Alerts(self.store, self),
            clock=self.clock,
        )

    def relocation(self, store: Any = None) -> Failover:
        """Return a relocation as a process that starts now has it."""
        return Failover(
            store or self.store,
            self.directory,
            self.open_signer,
            audit=self.audit,
            alerts=Alerts(self.store, self),
            clock=self.clock,
        )

    def replicate(self, name: str, replica: str) -> str:
        """Let the key that is called *name* be in *replica* as well."""
        original = self.directory.devices[name]
        self.directory.devices[replica] = Device(original._point, original._answer)
        return replica

    @property
    def states(self) -> dict[str, str]:
        """The states of the ring by key id."""
        ring = self.store.keys()
        return {key.key_id: str(key.state) for key in ring}

    @property
    def records(self) -> list[dict[str, Any]]:
        """All records of the audit, in their order."""
        self.store.seal()
        return [each.record.fields for each in self.store.sealed(0, 1000)]

    @property
    def outcomes(self) -> list[tuple[str, str | None]]:
        """The records' events and outcomes; by name, for their time is the same."""
        return sorted((each["event"], each.get("outcome")) for each in self.records)
