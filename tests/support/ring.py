"""A key ring, further keys, and the operations of administrators on them."""

from collections.abc import Sequence
from typing import Any

import bitcurve
import structlog
from structlog.testing import LogCapture

from backends.sql import SQLStore
from signer.alerts import Alerts
from signer.approvals import Approvals
from signer.audit.log import AuditLog
from signer.chain.chain import Chain
from signer.crypto.der import parse_public_key
from signer.deadline import Deadlines
from signer.keys.balances import AddressBalance
from signer.keys.failover import Failover
from signer.keys.revocation import Revocation
from signer.keys.rotation import Rotation
from signer.keys.signer import SignerFactory
from signer.keys.vault_operators import VaultOperators
from signer.model.audit_record import Actor
from signer.model.key import Key
from signer.ports.key_backend import KeyId
from tests.support.devices import Device, Directory, honest
from tests.support.keys import key_at
from tests.support.ledgers import seal
from tests.support.refunds import FakeClock


ALICE = Actor("alice", "req-1", "token-1")
RICH = AddressBalance("local", "1.0", {"TUSD": "5"}, 0)
POOR = AddressBalance("local", "0", {"TUSD": "0"}, 0)

OLD, NEW, OTHER = (f"{n}" * 8 + "-0000-4000-8000-whole" for n in (1, 2, 3))
ELSEWHERE = "4" * 8 + "-0000-4000-8000-whole"
SILENCE = structlog.wrap_logger(structlog.PrintLogger(), processors=[LogCapture()])


class System:
    """A store with an active key, its directory, and operations on its ring."""

    def __init__(self, store: SQLStore, *, is_empty: bool = False) -> None:
        """Enrol the first key, unless *is_empty*."""
        keys = [bitcurve.PrivateKey.from_int(n) for n in (11, 12, 13)]
        self.store = store
        self.clock = FakeClock()
        self.holdings: Sequence[AddressBalance] = (RICH,)
        self.chains: dict[str, Chain] = {}
        self.directory = Directory()
        self.directory.devices = {
            name: honest(key) for name, key in zip((OLD, NEW, OTHER), keys, strict=True)
        }
        self.alerts: list[dict[str, object]] = []
        # The events that the audit writes to the log, as well as to the store.
        self.log = LogCapture()
        logger = structlog.wrap_logger(structlog.PrintLogger(), processors=[self.log])
        self.audit = AuditLog(logger, journal=store)
        self.old = self.key(OLD) if is_empty else store.enrol(self.key(OLD))

    def address(self, name: str) -> str:
        return parse_public_key(self.directory.public_key(KeyId(name))).address

    def key(self, name: str) -> Key:
        """Return a new row for the key *name*."""
        return key_at(self.address(name), key_id=name)

    def begin_rotation(self, name: str) -> Key:
        return self.store.begin_rotation(self.key(name), self.clock())

    def notify(self, document: Any) -> None:
        """Record an alert."""
        self.alerts.append(document)

    @property
    def signers(self) -> SignerFactory:
        """The factory of signers for keys in the directory."""
        return SignerFactory(self.directory, self.audit)

    def rotation(
        self,
        store: Any = None,
        *,
        needs_funds: bool = False,
        approvals: Approvals | None = None,
    ) -> Rotation:
        """Return a new ``Rotation``, as in a new process."""
        return Rotation(
            store or self.store,
            self.signers,
            read_balances=lambda address: self.holdings,
            require_operator=VaultOperators(self.chains, Deadlines()).require,
            alerts=Alerts(self.store, self),
            clock=self.clock,
            needs_funds=needs_funds,
            approvals=approvals,
        )

    def approvals(self) -> Approvals:
        """Return new ``Approvals``, which are required."""
        alerts = Alerts(self.store, self)
        return Approvals(self.store, self.audit, alerts, self.clock, required=True)

    def revocation(
        self, store: Any = None, approvals: Approvals | None = None
    ) -> Revocation:
        """Return a new ``Revocation``, as in a new process."""
        return Revocation(
            store or self.store,
            audit=self.audit,
            clock=self.clock,
            approvals=approvals,
        )

    def failover(self, store: Any = None) -> Failover:
        """Return a new ``Failover``, as in a new process."""
        return Failover(
            store or self.store,
            self.signers,
            alerts=Alerts(self.store, self),
            clock=self.clock,
        )

    def replicate(self, name: str, replica: str) -> str:
        """Add a replica of the key *name* under the id *replica*."""
        original = self.directory.devices[name]
        self.directory.devices[replica] = Device(original._point, original._answer)
        return replica

    @property
    def states(self) -> dict[str, str]:
        """The states of the ring's keys, by key id."""
        ring = self.store.keys()
        return {key.key_id: str(key.state) for key in ring}

    @property
    def records(self) -> list[dict[str, Any]]:
        """All audit records, in order."""
        seal(self.store)
        return [each.record.fields for each in self.store.sealed(0, 1000)]

    @property
    def outcomes(self) -> list[tuple[str, str | None]]:
        """The events and outcomes of the records, sorted: their times are equal."""
        return sorted((each["event"], each.get("outcome")) for each in self.records)
