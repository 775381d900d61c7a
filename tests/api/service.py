"""The real application over a real store, on a network whose nodes are down."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import coincurve
import structlog

from api.auth.authorization import AccessControl
from api.auth.jwt_verifier import JWTVerifier
from api.auth.rate_limits import RateLimits
from api.auth.verification_keys import KeySet, bind
from api.health.readiness import Readiness
from api.services import Services
from signer.alerts import Alerts
from signer.audit.log import AuditLog
from signer.chain.chain import Chain
from signer.config.networks import Network
from signer.errors import ChainUnavailableError
from signer.keys.failover import Failover
from signer.keys.rotation import Rotation
from signer.keys.signer import Signer, SignerFactory
from signer.ports import ChainClient, Clock, KeyDirectory, Ledger, NodeStatus
from signer.refunds.explain import Explainer
from signer.refunds.lifecycle import Lifecycle
from signer.refunds.nonces import NonceManager
from signer.refunds.service import RefundService
from signer.refunds.transaction_signer import TransactionSigner
from tests.api.support import AUDIENCE, ES256_KEY, ISSUER
from tests.support.devices import KEY_ID, Device, honest, recording
from tests.support.keys import ring_over


RECIPIENT = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
TOKEN_ADDRESS = "0x5FbDB2315678afecb367f032d93F642f64180aa3"

NETWORKS: Mapping[str, Network] = {
    "local": Network.model_validate(
        {
            "chain_id": 31337,
            "rpc_urls": ["http://127.0.0.1:9"],
            "tokens": {
                "TUSD": {
                    "address": TOKEN_ADDRESS,
                    "decimals": 6,
                    "max_amount": "1000",
                }
            },
        }
    )
}

BODY = {
    "payment_session_id": "ps_1",
    "network": "local",
    "token": "TUSD",
    "recipient": RECIPIENT,
    "amount": "12.50",
}


class _NoNode:
    """Nodes that do not answer, whatever they are asked: refunds stay queued."""

    def node_statuses(
        self, sender: str, tx_hashes: Sequence[str]
    ) -> Sequence[NodeStatus]:
        return [NodeStatus("node-1", trusted=True, error=ChainUnavailableError.code)]

    def __getattr__(self, name: str) -> object:
        raise ChainUnavailableError("no node answers")


@dataclass
class Pace:
    """A timer that moves while somebody sleeps; ``meanwhile`` is what happens then."""

    slept: float = 0.0
    meanwhile: Callable[[], object] = lambda: None

    def timer(self) -> float:
        """Return the time, in seconds."""
        return self.slept

    def sleep(self, seconds: float) -> None:
        """Let the time pass."""
        self.slept += seconds
        self.meanwhile()


def build_services(
    store: Ledger,
    clock: Clock,
    authenticator: JWTVerifier | None = None,
    *,
    client: ChainClient | None = None,
    pace: Pace | None = None,
    device: Device | None = None,
) -> Services:
    """
    Return services as bootstrap would, with a key in memory.

    Without *client* no node answers; with *pace* nobody really sleeps.  *device* is the
    one with the key.
    """
    device = device or honest(coincurve.PrivateKey())
    audit = AuditLog(structlog.get_logger("audit"), clock, journal=store)
    signer = Signer.open(device, KEY_ID, audit)
    node = client or cast("ChainClient", _NoNode())
    chains = {name: Chain(network, node) for name, network in NETWORKS.items()}
    ring = ring_over(store, signer)
    nonces = NonceManager(store, ring, clock)
    lifecycle = Lifecycle(store, chains, TransactionSigner(ring, clock), nonces, clock)
    return Services(
        refunds=RefundService(
            store,
            NETWORKS,
            lifecycle,
            wallets=lambda: [signer.address],
            clock=clock,
            timer=pace.timer if pace else time.monotonic,
            sleep=pace.sleep if pace else time.sleep,
        ),
        explainer=Explainer(store, store, chains, clock),
        rotation=Rotation(
            store,
            SignerFactory(cast("KeyDirectory", device), recording()[0]),
            read_balances=lambda address: (),
            alerts=Alerts(),
            clock=clock,
        ),
        failover=Failover(
            store,
            SignerFactory(cast("KeyDirectory", device), recording()[0]),
            alerts=Alerts(),
            clock=clock,
        ),
        ledger=store,
        access=AccessControl(
            store,
            RateLimits.shared(store, refused=10_000, clock=clock),
            recording()[0],
            clock,
        ),
        authenticator=authenticator
        or JWTVerifier(
            KeySet(only=bind(ES256_KEY.public_key(), "ES256")),
            issuer=ISSUER,
            audience=AUDIENCE,
            clock=clock,
        ),
        readiness=lambda: Readiness({"database": "ok", "network-local": "ok"}),
        clock=clock,
        networks=NETWORKS,
    )
