"""The whole service in this process, on SQLite and with chains in memory."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

from bench.growth.chain import InstantChain
from signer.chain.chain import Chain
from signer.config.tenants import TenantRegistry
from signer.keys.keyring import KeyRing
from signer.keys.signer import Signer
from signer.model.acceptance import Acceptance
from signer.model.audit_record import Actor
from signer.ports.ledger import Ledger
from signer.refunds.payment_checks import admit
from tests.support.ledgers import open_ledger
from tests.support.refunds import NETWORK, REQUEST, World, signer, watched


OTHER = "other"
OTHER_NETWORK = NETWORK.model_copy(update={"chain_id": NETWORK.chain_id + 1})

_BATCH = 500


class Site(World):
    """
    One process that accepts refunds and moves them, on a clock of its own.

    It has two networks: ``local``, whose refunds are measured, and ``other``, whose
    wallet is paused.  The clock goes as fast as the process works.
    """

    def __init__(self, store: Ledger, tenants: TenantRegistry | None = None) -> None:
        key: Signer = signer()
        self.instant_chain = InstantChain(key.address)
        paused = InstantChain(key.address, unknown=1)
        self._own_ring: KeyRing | None = None
        self._other = Chain(OTHER_NETWORK, paused.client)
        super().__init__(
            store,
            signer=key,
            client=self.instant_chain.client,
            tenants=tenants or TenantRegistry(),
        )
        self.mover = self.worker
        self.acceptor = self.service_over(watched(store, self._wait))
        self._posts = count(1)

    @property
    def ring(self) -> KeyRing:
        """The key ring of the process, which keeps what it has read."""
        if self._own_ring is None:
            self._own_ring = super().ring
        return self._own_ring

    @property
    def chains(self) -> dict[str, Chain]:
        """Both networks."""
        return {**super().chains, OTHER: self._other}

    def accept(self, tenant: str = "gateway") -> None:
        """Accept a refund of *tenant*, as a request does, to a recipient of its own."""
        number = next(self._posts)
        recipient = f"0x{number + 10**30:040d}"  # No letters: its checksum is right.
        self.acceptor.submit(
            tenant=tenant,
            idempotency_key=f"post-{number}",
            request=replace(REQUEST, reference=f"post-{number}", recipient=recipient),
            actor=Actor.from_token(tenant, "req-1", None),
        )

    def post(self, tenant: str = "gateway") -> float:
        """
        Accept a refund and pay it; return the seconds until it was sent.

        Raises:
            RuntimeError: The worker did not send it.
        """
        began = time.perf_counter()
        self.accept(tenant)
        self.mover.advance()
        self.clock.advance(seconds=time.perf_counter() - began)
        if self.instant_chain.sent_at < began:
            raise RuntimeError("the refund was not sent")
        return self.instant_chain.sent_at - began

    def run_pass(self) -> None:
        """Run one pass of the worker, a second after the last one."""
        self.clock.advance(seconds=1)
        self.mover.work()

    def queue(self, number: int, *, network: str, tenant: str = "gateway") -> None:
        """Accept *number* refunds of *tenant* on *network*, which stay queued."""
        new = [
            admit(
                replace(REQUEST, reference=f"queued-{n}", network=network),
                refund_id=f"rf_{n:032x}",
                tenant=tenant,
                idempotency_key=f"queued-{n}",
                networks={name: chain.network for name, chain in self.chains.items()},
                wallets=(),
                now=self.clock(),
            )
            for n in range(number)
        ]
        for first in range(0, number, _BATCH):
            part = new[first : first + _BATCH]
            self.store.accept_all([Acceptance(each) for each in part])

    def _wait(self, seconds: float) -> None:
        self.clock.advance(seconds=seconds)


@contextlib.contextmanager
def open_site(path: Path, tenants: TenantRegistry | None = None) -> Iterator[Site]:
    """Yield a site with the new SQLite file *path*."""
    store = open_ledger(f"sqlite:///{path}")
    store.migrate()
    yield Site(store, tenants)
    store.close()
