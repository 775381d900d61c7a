"""Refunds on a scripted chain: a whole system in one process, with a clock to turn."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import coincurve

from signer.networks import Network
from signer.ports import ChainClient, Store
from signer.refunds.lifecycle import Actor, Chain, Lifecycle
from signer.refunds.policy import admit
from signer.refunds.refund import Refund, RefundRequest
from signer.refunds.service import RefundService
from signer.refunds.worker import Worker
from signer.signing import Signer
from tests.fixtures.scripted_chain import CHAIN_ID, DECIMALS, TOKEN, ScriptedChain
from tests.support.devices import honest, signer_over


KEY = coincurve.PrivateKey.from_int(0x5EED)
CUSTOMER = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
ACTOR = Actor("gateway", "req-1")

NETWORK = Network.model_validate(
    {
        "chain_id": CHAIN_ID,
        "rpc_urls": ["http://127.0.0.1:8545"],
        "confirmations": 3,
        "tokens": {
            "TUSD": {"address": TOKEN, "decimals": DECIMALS, "max_amount": "1000"}
        },
    }
)

REQUEST = RefundRequest(
    payment_session_id="session-1",
    reference="reference-1",
    network="local",
    token="TUSD",
    recipient=CUSTOMER,
    amount="12.50",
)


class FakeClock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def __call__(self) -> datetime:
        """Return the time."""
        return self.now

    def advance(self, **span: float) -> None:
        """Turn the clock forward."""
        self.now += timedelta(**span)


def signer() -> Signer:
    """Return a signer over a good device."""
    return signer_over(honest(KEY))


@dataclass
class World:
    """A process of the service, and what is outside of it."""

    store: Store
    chain: ScriptedChain = field(default_factory=ScriptedChain)
    clock: FakeClock = field(default_factory=FakeClock)
    signer: Signer = field(default_factory=signer)
    client: ChainClient | None = None
    _numbers: Iterator[int] = field(default_factory=count)

    @property
    def lifecycle(self) -> Lifecycle:
        """A lifecycle as a process that starts now has it."""
        chains = {"local": Chain(NETWORK, self.client or self.chain)}
        return Lifecycle(self.store, chains, self.signer, self.clock)

    @property
    def service(self) -> RefundService:
        """The service as a process that starts now has it."""
        return RefundService(
            self.store,
            {"local": NETWORK},
            self.lifecycle,
            wallet=self.signer.address,
            clock=self.clock,
        )

    @property
    def worker(self) -> Worker:
        """The worker as a process that starts now has it."""
        return Worker(self.store, self.lifecycle, self.clock)

    def accepted(self, **changes: Any) -> Refund:
        """Return a refund that is accepted, and that nobody has sent yet."""
        number = next(self._numbers)
        request = replace(REQUEST, **{"reference": f"reference-{number}", **changes})
        admitted = admit(
            request,
            refund_id=f"rf_{number:04}",
            client="gateway",
            idempotency_key=f"key-{number}",
            networks={"local": NETWORK},
            wallet=self.signer.address,
            now=self.clock(),
        )
        refund, created = self.store.accept(admitted)
        assert created
        return refund

    def step(self, refund: Refund, times: int = 1) -> Refund:
        """Return the refund that many steps further, as the store has it."""
        for _ in range(times):
            refund = self.lifecycle.step(refund, ACTOR)
            assert refund == self.store.get(refund.id)
        return refund
