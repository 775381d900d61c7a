"""The real application over a real store, on a network whose nodes are down."""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import cast

import bitcurve
import structlog

from api.auth.authorization import AccessPolicy, RateLimits
from api.auth.jwt_verifier import JWTVerifier
from api.auth.verification_keys import KeySet, bind
from api.container import Container
from api.health.readiness import Readiness
from signer.alerts import Alerts
from signer.audit.log import AuditLog
from signer.chain.chain import Chain
from signer.config.networks import Network
from signer.config.tenants import TenantRegistry
from signer.errors import ChainUnavailableError
from signer.keys.signer import Signer
from signer.policy.policy import LivePolicy, Policy
from signer.ports.chain import ChainClient, NodeStatus
from signer.ports.clock import Clock, utc_now
from signer.ports.key_backend import KeyDirectory
from signer.ports.ledger import Ledger
from signer.ports.outside_services import Notifier, ScreeningService
from signer.refunds.acceptance import RefundAcceptor
from signer.refunds.service import RefundService
from tests.api.support import AUDIENCE, ES256_KEY, ISSUER
from tests.support.devices import KEY_ID, Device, honest, recording
from tests.support.keys import ring_over
from tests.support.refunds import watched
from tests.support.rpc import ScriptedProxy


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
    """Nodes that never answer, so that refunds stay queued."""

    def node_statuses(
        self, sender: str, tx_hashes: Sequence[str]
    ) -> Sequence[NodeStatus]:
        return [NodeStatus("node-1", trusted=True, error=ChainUnavailableError.code)]

    def __getattr__(self, name: str) -> object:
        raise ChainUnavailableError("no node answers")


@dataclass
class Pace:
    """A timer that sleeping advances; ``meanwhile`` is called while it sleeps."""

    slept: float = 0.0
    meanwhile: Callable[[], object] = lambda: None

    def timer(self) -> float:
        return self.slept

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.meanwhile()


def build_container(
    store: Ledger,
    clock: Clock,
    authenticator: JWTVerifier | None = None,
    *,
    client: ChainClient | None = None,
    pace: Pace | None = None,
    device: Device | None = None,
    tenants: TenantRegistry | None = None,
    policy: Policy | None = None,
    screening: ScreeningService | None = None,
    changes: int = 30,
) -> Container:
    """
    Return a container over *store*, with a key in memory.

    Without *client* no node answers.  With *pace* waiting takes no time.  *device*
    holds the key.  Without *tenants* each subject is a tenant, and without *policy*
    there are no own rules.  *screening* is asked about recipients.  An administrator
    may make so many *changes* per minute.
    """
    device = device or honest(bitcurve.PrivateKey())
    audit = AuditLog(structlog.get_logger("audit"), clock, journal=store)
    signer = Signer.open(device, KEY_ID, audit)
    node = client or cast("ChainClient", _NoNode())
    container = container_over(
        store,
        cast("KeyDirectory", device),
        {name: Chain(network, node) for name, network in NETWORKS.items()},
        clock=clock,
    )
    container.tenants = tenants or TenantRegistry()
    container.ring = ring_over(store, signer)
    if policy is not None:
        container.policy = LivePolicy(policy)
    container.screening = screening
    pace = pace or Pace()

    def wait(seconds: float) -> None:
        if not container.worker.advance():
            pace.sleep(min(seconds, 0.2))

    acceptor = RefundAcceptor(
        watched(store, wait),
        NETWORKS,
        audit=audit,
        wallets=lambda: [signer.address],
        clock=clock,
        tenants=container.tenants,
        policy=container.payment_policy,
        alerts=Alerts(clock=clock),
    )
    container.refunds = RefundService(acceptor, pace.timer)
    container.access = AccessPolicy(
        store,
        RateLimits.shared(
            store,
            refused=10_000,
            administration=changes,
            tenants=container.tenants.requests_per_minute(),
            clock=clock,
        ),
        recording()[0],
        clock,
        container.tenants,
    )
    if authenticator is not None:
        container.authenticator = authenticator
    container.readiness = lambda: Readiness({"database": "ok", "network-local": "ok"})
    return container


def container_over(
    store: Ledger,
    backend: KeyDirectory,
    chains: Mapping[str, Chain],
    *,
    notifier: Notifier | None = None,
    clock: Clock = utc_now,
) -> Container:
    """Return a container over open dependencies."""
    keys = KeySet(only=bind(ES256_KEY.public_key(), "ES256"))
    container = Container(
        environ={"APP_ENV": "test", "JWT_ISSUER": ISSUER, "JWT_AUDIENCE": AUDIENCE},
        clock=clock,
    )
    container.store, container.backend = store, backend
    container.chains = container.tenants_chains = chains
    container.notifier, container.jwt_keys = notifier, keys
    container.node_proxies = dict.fromkeys(chains, ScriptedProxy())
    container.ledger_clock = clock
    container.networks = {name: chain.network for name, chain in chains.items()}
    return container


def replaced(container: Container, **parts: object) -> Container:
    other = copy(container)
    for name, part in parts.items():
        setattr(other, name, part)
    return other
