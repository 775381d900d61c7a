"""The application that schemathesis calls: it pays on a chain in memory."""

import os
from threading import RLock, Thread
from typing import Any, cast

import bitcurve

from api.auth.authorization import AccessPolicy, RateLimits
from api.http.app import App, create_app
from api.process_parts import open_dispatcher
from signer.audit.log import AuditLog
from signer.config.settings import Settings
from signer.config.tenants import TenantRegistry
from signer.ports.chain import ChainClient
from signer.ports.clock import utc_now
from signer.ports.key_backend import KeyDirectory
from tests.api.service import build_container
from tests.api.support import make_verifier
from tests.fixtures.scripted_chain import ScriptedChain
from tests.support.devices import KEY_ID, Directory, honest
from tests.support.ledgers import open_ledger
from tests.support.ring import SILENCE


KEY_IDS = (KEY_ID, KEY_ID[:-1] + "0")
"""The keys that can be the active one."""

_MANY = 1_000_000

_CONFIRMATIONS = 12


class _LockedChain:
    """A chain in memory that one thread uses at a time."""

    def __init__(self, chain: ScriptedChain) -> None:
        self._chain = chain
        self._lock = RLock()

    def mine_deep(self) -> None:
        with self._lock:
            if self._chain.pool:
                self._chain.mine()
                self._chain.mine_empty(_CONFIRMATIONS)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._chain, name)

        def call(*given: Any, **named: Any) -> Any:
            with self._lock:
                return found(*given, **named)

        return call


def get_app() -> App:
    """Return the application with the role of ``SERVE_ROLE``, and no rate limits."""
    settings = Settings.from_env(os.environ)
    store = open_ledger(settings.effective_database_url, pool_size=settings.threads)
    chain = _LockedChain(ScriptedChain())
    directory = Directory()
    for key_id in KEY_IDS:
        directory.devices[key_id] = honest(bitcurve.PrivateKey())
    container = build_container(
        store,
        utc_now,
        make_verifier(settings),
        client=cast("ChainClient", chain),
        device=directory.devices[KEY_ID],
    )
    container.backend = cast("KeyDirectory", directory)
    container.settings = settings
    del container.refunds  # The container's own, which waits in real time.
    del container.readiness  # The container's own, which asks the dependencies.
    limits = RateLimits.shared(store, refused=_MANY, administration=_MANY)
    audit = AuditLog(SILENCE, journal=store)
    container.access = AccessPolicy(store, limits, audit, utc_now, TenantRegistry())
    container.ring.active()  # Registers the key, as the guard does.
    del container.ring  # The container's own, which opens every key.

    def has_ended() -> bool:
        chain.mine_deep()
        return False

    worker = Thread(target=container.worker.run, args=(has_ended, 0.2), daemon=True)
    worker.start()
    events = Thread(
        target=open_dispatcher(container).run, args=(lambda: False,), daemon=True
    )
    events.start()
    return create_app(container)
