"""
The composition root: the environment becomes services; the only importer of backends.

Call it after the fork.  A backend's libraries are imported in the branch that
chose it, so that a process loads only what it uses.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING

from api.auth import Authenticator
from api.logs import audit_logger
from api.services import Readiness, Services
from signer.audit import AuditLog
from signer.errors import (
    ConfigurationError,
    HotWalletError,
    Refusal,
    StoreError,
)
from signer.guard import check_chain, check_settings, prove_key
from signer.networks import Network, load_networks
from signer.ports import KeyBackend, KeyId, Store, utc_now
from signer.refunds.explain import Explainer
from signer.refunds.lifecycle import Lifecycle
from signer.refunds.nonces import Chain, Nonces
from signer.refunds.payment import Payer
from signer.refunds.service import RefundService
from signer.refunds.tracking import Tracker
from signer.refunds.worker import Worker
from signer.settings import Settings
from signer.signing import Signer


if TYPE_CHECKING:
    from backends.sql import SQLStore


_READINESS_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Foundation:
    """What the guard has found sound: everything that refunds stand on."""

    settings: Settings
    networks: Mapping[str, Network]
    store: Store
    signer: Signer
    chains: Mapping[str, Chain]
    warnings: tuple[str, ...]


def lay_foundation(environ: Mapping[str, str], *, serving: bool = True) -> Foundation:
    """
    Read the configuration, open everything once, and let the guard judge it.

    *serving* says whether requests will be answered, and so tokens checked.

    Raises:
        ConfigurationError: With a line for each reason not to start.
    """
    settings = Settings.from_env(environ)
    networks, warnings = _judge(settings, serving=serving)
    store = open_store(settings)
    signer = prove_key(settings, partial(open_signer, settings))
    chains = open_chains(networks)
    for name, chain in chains.items():
        check_chain(name, chain.network, chain.client)
    return Foundation(settings, networks, store, signer, chains, tuple(warnings))


@dataclass(frozen=True, slots=True)
class Observatory:
    """What one can see without the key: ledger and chains."""

    store: Store
    chains: Mapping[str, Chain]


def open_observatory(environ: Mapping[str, str]) -> Observatory:
    """
    Open ledger and chains for somebody who looks for a reason.

    Neither the device nor the nodes must work for that, so neither is asked.

    Raises:
        ConfigurationError: The ledger or the networks file cannot be read.
    """
    settings = Settings.from_env(environ)
    networks = load_networks(settings.networks_file)
    return Observatory(open_store(settings), open_chains(networks))


def build_services(environ: Mapping[str, str] = os.environ) -> Services:
    """
    Return what the routes work with.

    Raises:
        ConfigurationError: The guard refuses.
    """
    return assemble_services(lay_foundation(environ))


def build_worker(environ: Mapping[str, str] = os.environ) -> Worker:
    """
    Return the worker that brings refunds to their end.

    Raises:
        ConfigurationError: The guard refuses.
    """
    return assemble_worker(lay_foundation(environ, serving=False))


def assemble_services(found: Foundation) -> Services:
    """Join what the guard has found sound into what the routes work with."""
    return Services(
        refunds=RefundService(
            found.store,
            found.networks,
            _lifecycle(found),
            wallet=found.signer.address,
            clock=utc_now,
        ),
        explainer=Explainer(found.store, found.chains, utc_now),
        authenticator=Authenticator.from_settings(found.settings),
        readiness=_Prober(found),
        clock=utc_now,
        networks=found.networks,
    )


def assemble_worker(found: Foundation) -> Worker:
    """Join what the guard has found sound into a worker."""
    return Worker(
        found.store,
        _lifecycle(found),
        tracker=Tracker(found.store, found.chains, utc_now),
        nonces=_nonces(found),
        chains=found.chains,
        clock=utc_now,
    )


def open_signer(settings: Settings) -> Signer:
    """
    Return the signer of the configured key; the device is asked for its public key.

    Raises:
        SigningError: There is no such key, or the device does not answer.
    """
    backend, key_id = _open_key(settings)
    return Signer.open(
        backend,
        key_id,
        AuditLog(audit_logger()),
        expected_address=settings.wallet_address,
    )


def open_store(settings: Settings) -> Store:
    """
    Return the ledger, with its schema up to date.

    Outside production the schema is brought up to date on the way.

    Raises:
        ConfigurationError: ``database-not-ready``.
    """
    from backends.sql import SQLStore  # noqa: PLC0415  After the fork.

    store = SQLStore(settings.effective_database_url, pool_size=settings.threads)
    try:
        _bring_up(store, may_upgrade=not settings.is_production)
    except StoreError as e:
        raise ConfigurationError(Refusal("database-not-ready", str(e))) from None
    return store


def upgrade_database(settings: Settings) -> None:
    """
    Bring the ledger's schema up to date; several at once are safe.

    Raises:
        StoreError: The database does not answer, or is newer than this program.
    """
    from backends.sql import SQLStore  # noqa: PLC0415

    SQLStore(settings.effective_database_url).migrate()


def open_chains(networks: Mapping[str, Network]) -> Mapping[str, Chain]:
    """Return a way to each of the networks; nothing is asked yet."""
    from backends.json_rpc import JSONRPCChain  # noqa: PLC0415  It takes a second.

    return {
        name: Chain(
            network,
            JSONRPCChain(
                network.rpc_urls,
                timeout=network.rpc_timeout_ms / 1000,
                chain_id=network.chain_id,
            ),
        )
        for name, network in networks.items()
    }


def _bring_up(store: "SQLStore", *, may_upgrade: bool) -> None:
    try:
        store.check()
    except StoreError:
        # Looking first is cheap: most processes find that another one was here.
        if not may_upgrade:
            raise
        store.migrate()
        store.check()


def _open_key(settings: Settings) -> tuple[KeyBackend, KeyId]:
    if settings.use_kms:
        from backends.aws_kms import KMSBackend, build_client  # noqa: PLC0415

        kms = KMSBackend(
            build_client(
                region=settings.aws_region,
                endpoint_url=settings.kms_endpoint,
                max_retries=settings.kms_max_retries,
                timeout_ms=settings.kms_timeout_ms,
                max_pool_connections=settings.threads,
            )
        )
        return kms, kms.resolve(settings.kms_key_id or "")

    from backends.pkcs11 import PKCS11Backend  # noqa: PLC0415
    from softhsm import prepare  # noqa: PLC0415

    module, pin = prepare(settings)
    backend = PKCS11Backend(module, settings.pkcs11_token_label, pin)
    return backend, KeyId(settings.pkcs11_key_id)


def _judge(
    settings: Settings, *, serving: bool
) -> tuple[Mapping[str, Network], list[str]]:
    """Judge what can be judged without a connection, and name all problems at once."""
    refusals: list[Refusal] = []
    networks: Mapping[str, Network] = {}
    warnings: list[str] = []
    try:
        networks = load_networks(settings.networks_file)
    except ConfigurationError as e:
        refusals += e.refusals
    try:
        warnings = check_settings(settings, networks)
    except ConfigurationError as e:
        refusals += e.refusals
    try:
        if serving:
            Authenticator.from_settings(settings)
    except ConfigurationError as e:
        refusals += e.refusals
    if refusals:
        raise ConfigurationError(*refusals)
    return networks, warnings


def _lifecycle(found: Foundation) -> Lifecycle:
    payer = Payer(found.signer, utc_now)
    return Lifecycle(found.store, found.chains, payer, _nonces(found), utc_now)


def _nonces(found: Foundation) -> Nonces:
    return Nonces(
        found.store,
        address=found.signer.address,
        key_id=found.signer.key_id,
        clock=utc_now,
    )


class _Prober:
    """Asks the dependencies whether they work, once in a few seconds at most."""

    def __init__(self, found: Foundation) -> None:
        self._found = found
        self._lock = Lock()
        self._until = 0.0
        self._last = Readiness({})

    def __call__(self) -> Readiness:
        """Return the state of the dependencies; never raises ours."""
        with self._lock:
            if time.monotonic() >= self._until:
                self._last = Readiness(self._checks())
                self._until = time.monotonic() + _READINESS_SECONDS
            return self._last

    def _checks(self) -> Mapping[str, str]:
        probes = {
            "database": self._found.store.check,
            "key": self._found.signer.self_test,
        }
        for name, chain in self._found.chains.items():
            probes[f"network-{name}"] = partial(
                check_chain, name, chain.network, chain.client
            )
        return {name: _answer(probe) for name, probe in probes.items()}


def _answer(probe: Callable[[], object]) -> str:
    try:
        probe()
    except ConfigurationError as e:
        return e.refusals[0].code
    except HotWalletError as e:
        return e.code
    return "ok"
