"""What gunicorn loads in the tests: application and worker, without an HSM."""

import os
from collections.abc import Mapping
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from threading import Thread

from api.backend_factories import pool_size
from api.container import Container
from api.health.readiness import Check, ReadinessChecker
from api.http.app import App, create_app
from api.principal import tenant_of_thread
from backends.json_rpc import JSONRPCChain
from backends.json_rpc.client import JSONRPCProxy
from signer.chain.chain import Chain
from signer.config.settings import Settings
from signer.config.tenants import load_tenants
from signer.errors import ConfigurationError, Refusal
from signer.ports.clock import utc_now
from signer.startup.dependency_checks import check_chain
from tests.api.service import build_container
from tests.api.support import make_verifier
from tests.support.ledgers import open_ledger


BROKEN = "TEST_BROKEN_FILE"
WITHOUT_WORKER = "TEST_WITHOUT_WORKER"
NODE = "TEST_NODE"
STORE_SECONDS = "TEST_STORE_SECONDS"
TRANSIENT = "chain-unavailable"
_PATIENCE = 60.0  # A test may let the node wait, and its machine may be loaded.
CANARY = "postgresql://hotwallet:canary-pin-48213@db.internal/refunds"


def get_app() -> App:
    """Return the application over the ledger that ``DATABASE_URL`` names."""
    broken = Path(os.environ[BROKEN])
    if broken.exists():
        if broken.read_text(encoding="utf-8") == TRANSIENT:
            raise ConfigurationError(Refusal(TRANSIENT, "no answer", is_transient=True))
        raise RuntimeError(f"cannot connect to {CANARY}")
    settings = Settings.from_env(os.environ)
    store = open_ledger(
        settings.effective_database_url,
        pool_size=pool_size(settings),
        timeout=float(os.environ.get(STORE_SECONDS, "5")),
        tenant=tenant_of_thread.get,
    )
    authenticator = make_verifier(settings)
    container = build_container(store, utc_now, authenticator)
    container.settings = settings
    container.tenants = load_tenants(settings.tenants_file)
    if NODE in os.environ:
        _use_node(container, os.environ[NODE])
    container.proxies = [ip_network(each) for each in settings.trusted_proxies]
    del container.refunds  # The container's own, which waits in real time.
    worker = Thread(target=container.worker.run, args=(lambda: False, 1.0), daemon=True)
    if WITHOUT_WORKER not in os.environ:
        worker.start()
    return create_app(container)


def _use_node(container: Container, url: str) -> None:
    """Let *container* ask the node at *url*, also for ``/readyz``."""
    network = container.networks["local"]

    def open_chains() -> Mapping[str, Chain]:
        chain = JSONRPCChain([url], timeout=_PATIENCE, chain_id=network.chain_id)
        return {"local": Chain(network, chain)}

    container.chains, container.tenants_chains = open_chains(), open_chains()
    container.node_proxies = {"local": JSONRPCProxy([url], timeout=_PATIENCE)}
    check = partial(check_chain, "local", network, container.chains["local"].client)
    checks: Mapping[str, Check] = {
        "database": container.store.check,
        "network-local": check,
    }
    container.readiness = ReadinessChecker(checks, None, container.store.active_key)
