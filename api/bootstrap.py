"""
The composition root: opens what the environment names; the only importer of backends.

Call it after the fork.  A backend's libraries are imported in the branch that
chose it, so that a process loads only what it uses.  ``assembly`` joins the parts.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from api.auth.jwks import FETCH_TIMEOUT, open_keys
from api.auth.jwt_verifier import JWTVerifier
from api.auth.verification_keys import MAX_BYTES, KeySource
from api.checkpoint_key import open_checkpoint_key, require_separate_key
from api.container import Foundation, Parts
from api.logs import audit_logger
from api.services import Services
from signer.audit.log import AuditLog
from signer.chain.chain import Chain
from signer.config.networks import Network, load_networks
from signer.config.settings import Settings
from signer.errors import ConfigurationError, InvalidInputError, Refusal, StoreError
from signer.keys.failover import Failover
from signer.keys.revocation import Revocation
from signer.keys.rotation import Rotation
from signer.keys.signer import Signer, SignerFactory
from signer.keys.startup_key import StartupKey
from signer.ports import FetchKeySet, KeyDirectory, Ledger, Notifier, utc_now
from signer.refunds.sweep import Sweeper
from signer.refunds.worker import Worker
from signer.startup.guard import (
    check_chain,
    check_journal,
    check_settings,
    self_test_key,
)


if TYPE_CHECKING:
    from backends.sql import SQLStore
    from backends.sql.migrate import SchemaUpgrade


def lay_foundation(environ: Mapping[str, str], *, serving: bool = True) -> Foundation:
    """
    Read the configuration, open everything once, and let the guard judge it.

    *serving* says whether requests will be answered, and so tokens checked.

    Raises:
        ConfigurationError: With a line for each reason not to start.
    """
    settings = Settings.from_env(environ)
    networks, keys, warnings = _judge(settings, serving=serving)
    store = open_store(settings)
    check_journal(settings, store)
    backend = open_backend(settings)
    signer, found = settle_key(settings, store, backend)
    warnings += found
    signing = open_checkpoint_key(settings)
    if signing is not None:
        require_separate_key(signing, keys, signer.public_key)
    chains = open_chains(networks)
    for name, chain in chains.items():
        check_chain(name, chain.network, chain.client)
    return Foundation(
        settings,
        networks,
        store,
        backend,
        chains,
        tuple(warnings),
        open_notifier(settings),
        signing,
        None if keys is None else _authenticator(settings, keys),
    )


@dataclass(frozen=True, slots=True)
class Observatory:
    """What one can see without the key: ledger and chains."""

    settings: Settings
    store: Ledger
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
    return Observatory(settings, open_store(settings), open_chains(networks))


def build_services(environ: Mapping[str, str] = os.environ) -> Services:
    """
    Return what the routes work with.

    Raises:
        ConfigurationError: The guard refuses.
    """
    parts = Parts(lay_foundation(environ))
    parts.seal()
    return parts.services


def build_worker(environ: Mapping[str, str] = os.environ) -> Worker:
    """
    Return the worker that brings refunds to their end.

    Raises:
        ConfigurationError: The guard refuses.
    """
    parts = Parts(lay_foundation(environ, serving=False))
    parts.seal()
    return parts.worker


def build_rotation(environ: Mapping[str, str] = os.environ) -> Rotation:
    """
    Return what rotates the key; it needs the new key's device, and not the old key.

    Raises:
        ConfigurationError: The guard refuses the settings, or nothing can be opened.
    """
    return _parts(environ).rotation


def build_revocation(environ: Mapping[str, str] = os.environ) -> Revocation:
    """
    Return what revokes former keys; it needs no key's device.

    Raises:
        ConfigurationError: As ``build_rotation``.
    """
    return _parts(environ).revocation


def build_failover(environ: Mapping[str, str] = os.environ) -> Failover:
    """
    Return what fails keys over; it needs the replica, and not the old key.

    Raises:
        ConfigurationError: As ``build_rotation``.
    """
    return _parts(environ).failover


def build_sweeper(environ: Mapping[str, str] = os.environ) -> Sweeper:
    """
    Return what empties the addresses of former keys.

    Raises:
        ConfigurationError: As ``build_rotation``.
    """
    return _parts(environ).sweeper


def _parts(environ: Mapping[str, str]) -> Parts:
    """Open everything for an administrator, who comes when a key is in trouble."""
    settings = Settings.from_env(environ)
    networks, _, warnings = _judge(settings, serving=False)
    return Parts(
        Foundation(
            settings,
            networks,
            open_store(settings),
            open_backend(settings),
            open_chains(networks),
            tuple(warnings),
            open_notifier(settings),
        )
    )


def open_ledger(environ: Mapping[str, str]) -> Ledger:
    """
    Open the ledger alone.

    Raises:
        ConfigurationError: It cannot be read.
    """
    return open_store(Settings.from_env(environ))


def settle_key(
    settings: Settings, store: Ledger, backend: KeyDirectory
) -> tuple[Signer, list[str]]:
    """
    Make sure that the ring has an active key; return its signer, and warnings.

    Raises:
        ConfigurationError: As ``self_test_key`` and ``StartupKey.open``.
    """
    audit = AuditLog(audit_logger(), journal=store)
    enrolment = StartupKey(
        store,
        SignerFactory(backend, audit),
        partial(self_test_key, settings),
        utc_now,
    )
    name = settings.kms_key_id or "" if settings.use_kms else settings.pkcs11_key_id
    try:
        return enrolment.open(name, settings.wallet_address)
    except InvalidInputError as e:
        problem = Refusal("kms-not-configured", f"KMS_KEY_ID {e}")
    except StoreError as e:
        problem = Refusal("database-not-ready", str(e))
    raise ConfigurationError(problem)


def open_store(settings: Settings) -> Ledger:
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


def upgrade_database(settings: Settings, *, create: bool) -> "SchemaUpgrade":
    """
    Bring the ledger's schema up to date, and return what was done.

    Any number of processes may do so at the same time.  In production, a new SQLite
    ledger is created only with *create*.

    Raises:
        StoreError: There is no ledger and it may not be created, the database does not
            answer, or it is newer than this program.
    """
    from backends.sql import SQLStore  # noqa: PLC0415

    store = SQLStore(settings.effective_database_url)
    return store.migrate(create=create or not settings.is_production)


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


def open_backend(settings: Settings) -> KeyDirectory:
    """
    Return the way to the configured device; it is not asked yet.

    Raises:
        ConfigurationError: There is no such device, or nothing to reach it with.
    """
    if settings.use_kms:
        from backends.aws_kms import KMSBackend, build_client  # noqa: PLC0415

        open_client = partial(
            build_client,
            endpoint_url=settings.kms_endpoint,
            max_retries=settings.kms_max_retries,
            timeout_ms=settings.kms_timeout_ms,
            max_pool_connections=settings.threads,
        )
        return KMSBackend(open_client(settings.aws_region), open_client)

    from backends.pkcs11 import PKCS11Backend  # noqa: PLC0415
    from softhsm import prepare  # noqa: PLC0415

    module, pin = prepare(settings)
    return PKCS11Backend(module, settings.pkcs11_token_label, pin)


def preload(settings: Settings) -> None:
    """Import what opening takes, and open nothing: a fork may share it."""
    names = ["backends.sql", "backends.json_rpc"]
    names += (
        ["backends.aws_kms"] if settings.use_kms else ["backends.pkcs11", "softhsm"]
    )
    if settings.alert_webhook_url is not None:
        names.append("backends.webhook")
    if settings.jwt_jwks_url is not None:
        names.append("backends.jwks_client")
    for name in names:
        import_module(name)


def open_token_keys(settings: Settings) -> KeySource:
    """
    Return the keys that verify tokens; call it after the fork.

    Raises:
        ConfigurationError: See ``open_keys``.
    """
    return open_keys(settings, partial(_build_jwks_client, settings))


def _build_jwks_client(settings: Settings, url: str) -> FetchKeySet:
    from backends.jwks_client import JWKSClient  # noqa: PLC0415

    return JWKSClient(
        url,
        allow_http=not settings.is_production,
        timeout=FETCH_TIMEOUT,
        max_bytes=MAX_BYTES,
    )


def open_notifier(settings: Settings) -> Notifier | None:
    """Return who is told of alerts, if anybody is."""
    if settings.alert_webhook_url is None:
        return None
    from backends.webhook import Webhook  # noqa: PLC0415

    return Webhook(settings.alert_webhook_url)


def _bring_up(store: "SQLStore", *, may_upgrade: bool) -> None:
    try:
        store.check()
    except StoreError:
        # Looking first is cheap: most processes find that another one was here.
        if not may_upgrade:
            raise
        store.migrate()
        store.check()


def _authenticator(settings: Settings, keys: KeySource) -> JWTVerifier:
    return JWTVerifier(keys, issuer=settings.jwt_issuer, audience=settings.jwt_audience)


def _judge(
    settings: Settings, *, serving: bool
) -> tuple[Mapping[str, Network], KeySource | None, list[str]]:
    """Judge what can be judged before anything is opened; name all problems at once."""
    refusals: list[Refusal] = []
    networks: Mapping[str, Network] = {}
    keys: KeySource | None = None
    warnings: list[str] = []
    try:
        networks = load_networks(settings.networks_file)
    except ConfigurationError as e:
        refusals += e.refusals
    try:
        warnings = check_settings(settings, networks, serving=serving)
    except ConfigurationError as e:
        refusals += e.refusals
    try:
        keys = open_token_keys(settings) if serving else None
    except ConfigurationError as e:
        refusals += e.refusals
    if refusals:
        raise ConfigurationError(*refusals)
    return networks, keys, warnings
