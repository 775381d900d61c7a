"""What ``hotwallet doctor`` knows so far of what it looks at."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from signer.audit.log import AuditLog
from signer.chain.chain import Chain
from signer.config.networks import Network
from signer.config.settings import Settings
from signer.keys.signer import Signer
from signer.model.audit_record import Record
from signer.model.key import WATCHED, Key, KeyState
from signer.ports import Clock, KeyDirectory, Ledger, utc_now


_NOBODY = "0x0000000000000000000000000000000000000001"


@dataclass(frozen=True, slots=True)
class Openers:
    """How the outside world is opened: what ``api/bootstrap.py`` has for it."""

    store: Callable[[Settings], Ledger]
    backend: Callable[[Settings], KeyDirectory]
    chains: Callable[[Mapping[str, Network]], Mapping[str, Chain]]


@dataclass
class DoctorContext:
    """
    What is known so far.  A rung writes down what those that stand on it need.

    What is not known yet raises ``AttributeError``: a step that forgot its needs.
    ``active`` is the key that serves: None while the ring has none, or was not read.
    ``address`` is that key's; in an empty ring the configured one's.
    """

    environ: Mapping[str, str]
    openers: Openers
    clock: Clock = utc_now
    networks: Mapping[str, Network] = field(default_factory=dict)
    chains: Mapping[str, Chain] = field(default_factory=dict)
    is_ring_read: bool = False
    active: Key | None = None
    address: str | None = None
    settings: Settings = field(init=False)
    backend: KeyDirectory = field(init=False)
    store: Ledger = field(init=False)
    audit: AuditLog = field(init=False)
    written: Record = field(init=False)
    signer: Signer = field(init=False)

    @property
    def key_name(self) -> str:
        """What the configuration calls the key."""
        if self.settings.use_kms:
            return self.settings.kms_key_id or ""
        return self.settings.pkcs11_key_id


@dataclass(frozen=True, slots=True)
class NetworkContext:
    """One network, as the doctor comes to it."""

    patient: DoctorContext
    name: str

    @property
    def chain(self) -> Chain:
        """The way to it."""
        return self.patient.chains[self.name]

    @property
    def network(self) -> Network:
        """What the file says of it."""
        return self.patient.networks[self.name]

    @property
    def address(self) -> str:
        """Whose funds are looked at."""
        return self.patient.address or _NOBODY

    @property
    def watched(self) -> Mapping[str, KeyState]:
        """Addresses that may stop the network: of all keys that serve, or did."""
        ring = self.patient.store.keys()
        return {
            key.address: key.state for key in ring if key.state in WATCHED or key.epoch
        } or {self.address: KeyState.ACTIVE}
