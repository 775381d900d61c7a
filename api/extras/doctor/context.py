"""What the checks of ``hotwallet doctor`` pass on to later checks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Self

from api.container import Container
from signer.chain.chain import Chain
from signer.config.networks import Network
from signer.config.settings import Settings
from signer.diagnostics import Check, Finding
from signer.keys.signer import Signer
from signer.model.audit_record import Record
from signer.model.key import WATCHED, Key, KeyState


_PLACEHOLDER = "0x0000000000000000000000000000000000000001"
"""The address to ask nodes about while the wallet's is not known."""


@dataclass
class DoctorContext:
    """
    What is known so far: each check stores what the checks that need it read.

    Reading a field that no check has set raises ``AttributeError``, which means that
    the reader lacks a name in its ``needs``.  ``active`` is the key ring's active key,
    None while the ring is empty or was not read.  ``address`` is that key's, or the
    configured key's while the ring is empty.
    """

    container: Container
    networks: Mapping[str, Network] = field(default_factory=dict)
    is_ring_read: bool = False
    active: Key | None = None
    address: str | None = None
    settings: Settings = field(init=False)
    written: Record = field(init=False)
    signer: Signer = field(init=False)

    def check(
        self, name: str, run: Callable[[Self], Finding], cure: str, *needs: str
    ) -> Check:
        """Return the check that calls *run* with this context."""
        return Check(name, partial(run, self), cure, needs)


@dataclass(frozen=True, slots=True)
class NetworkContext:
    """One network, beside what is known of everything else."""

    doctor: DoctorContext
    name: str

    def check(
        self, name: str, run: Callable[[Self], Finding], cure: str, *needs: str
    ) -> Check:
        """Return the check of this network that calls *run* with this context."""
        return Check(f"{self.name} {name}", partial(run, self), cure, needs)

    @property
    def chain(self) -> Chain:
        """The network and its client."""
        return self.doctor.container.chains[self.name]

    @property
    def address(self) -> str:
        """The address whose funds are checked."""
        return self.doctor.address or _PLACEHOLDER

    @property
    def watched(self) -> Mapping[str, KeyState]:
        """Addresses, current or former, whose unknown transactions pause a network."""
        ring = self.doctor.container.store.keys()
        return {
            key.address: key.state for key in ring if key.state in WATCHED or key.epoch
        } or {self.address: KeyState.ACTIVE}
