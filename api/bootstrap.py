"""
The composition root: makes the container, runs the guard, and opens the backends.

Only this module imports ``backends`` and ``softhsm``.  Call it after the fork.  Each
backend is imported in the branch that chose it, so that a process loads only the
libraries it uses.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.metadata import version
from ipaddress import ip_network
from typing import TYPE_CHECKING

from api.backend_plugins import load_plugin, open_plugin
from api.checkpoint_key import require_separate_key
from api.container import Container
from api.mac_key import open_row_macs
from signer.audit import configurations
from signer.audit.configurations import Start
from signer.audit.record_index import Sequences
from signer.chain.chain import Chain
from signer.config.digest import Configuration
from signer.config.networks import Network
from signer.config.settings import Settings
from signer.errors import ConfigurationError, InvalidInputError, Refusal, StoreError
from signer.keys.signer import Signer
from signer.keys.startup_key import StartupKey
from signer.model.audit_record import WORKER
from signer.ports import (
    BackendConfig,
    ChainHistory,
    Clock,
    FetchKeySet,
    KeyDirectory,
    Ledger,
    Meter,
    NodeProxy,
    Notifier,
    ScreeningService,
    WebhookSender,
)
from signer.ports.refund_client import SendBatch
from signer.startup import dependency_checks, guard
from signer.webhooks.addresses import LOOPBACK


if TYPE_CHECKING:
    from api.auth.verification_keys import KeySource
    from backends.sql.migrate import SchemaUpgrade


_MOST_CONNECTIONS = 8
"""How many database connections one process uses: waiting requests hold none."""


def build_container(environ: Mapping[str, str] = os.environ) -> Container:
    """Return a container to look at ledger and chains; nothing is opened or checked."""
    return Container(
        environ=environ,
        open_store=open_store,
        open_backend=partial(open_backend, environ=environ),
        open_chains=open_chains,
        open_notifier=open_notifier,
        open_jwt_keys=open_token_keys,
        open_webhook_sender=open_webhook_sender,
        open_tracer=open_tracer,
        open_screening=open_screening,
        open_node_proxies=open_node_proxies,
    )


def build_admin_container(environ: Mapping[str, str] = os.environ) -> Container:
    """
    Return a container for an administrator's command; nothing is opened.

    The guard checks the settings, but not the active key: it may be the one in trouble.

    Raises:
        ConfigurationError: The guard refuses the settings.
    """
    container = build_container(environ)
    container.warnings = _check_settings(container, serving=False)
    return container


def open_container(
    environ: Mapping[str, str] = os.environ, *, serving: bool = True
) -> Container:
    """
    Return a container whose store, device, key and chains the guard has checked.

    With *serving* the process answers requests, so the keys for tokens are opened too.
    A process that serves refunds only opens no key and asks no node.

    Raises:
        ConfigurationError: The guard refuses, with one ``Refusal`` per problem.
    """
    container = build_container(environ)
    warnings = _check_settings(container, serving=serving, paying=not serving)
    dependency_checks.check_journal(
        container.settings, container.store, serving=serving
    )
    with _refusing_store_errors():
        container.limits_guard.require_approved()
    if serving and not container.settings.serve_role.has_key:
        container.warnings = warnings
        return container
    signer, key_warnings = _settle_key(container)
    container.warnings = (*warnings, *key_warnings)
    if container.checkpoint_settings is not None:
        require_separate_key(
            container.checkpoint_settings,
            container.jwt_keys if serving else None,
            signer.public_key,
        )
    for name, chain in container.chains.items():
        dependency_checks.check_chain(name, chain.network, chain.client)
    return container


def check_configuration(environ: Mapping[str, str]) -> list[str]:
    """
    Check the settings and files of *environ*; return warnings.

    No node, device or database is asked.

    Raises:
        ConfigurationError: The guard refuses, with one ``Refusal`` per problem.
    """
    return _check_settings(build_container(environ), serving=True)


def record_start(container: Container, process: str) -> None:
    """
    Record in the audit log under which configuration *process* starts.

    Only a worker moves refunds: its limits become the accepted ones.

    Raises:
        ConfigurationError: ``database-not-ready``: the record cannot be written; or
            ``limits-raised``: a limit was lowered since ``open_container``.
    """
    with _refusing_store_errors():
        if process == WORKER.name:
            container.limits_guard.accept(WORKER)
        _record(container, process, container.configuration)


def watch_policy(container: Container, process: str) -> None:
    """Apply changed rules in a background thread, recorded as a start of *process*."""
    container.start_policy_reload(partial(accept_rules, container, process))


def accept_rules(
    container: Container, process: str, rules: Mapping[str, str]
) -> Configuration:
    """
    Record in the audit log that *process* applies other own *rules* from now on.

    Return the configuration with them.  As at a start, a worker makes them the accepted
    ones.

    Raises:
        ConfigurationError: ``limits-raised`` or ``limits-differ``: as
            ``LimitsGuard.accept``.
        StoreError: The ledger does not answer.
    """
    configuration = container.build_configuration(rules)
    guard = container.build_limits_guard(configuration)
    guard.require_approved()
    if process == WORKER.name:
        guard.accept(WORKER, rules_only=True)
    _record(container, process, configuration)
    return configuration


def _record(container: Container, process: str, configuration: Configuration) -> None:
    start = Start(process, version("hotwallet"), str(container.settings.app_env))
    configurations.record_start(container.audit, container.store, start, configuration)


def _check_settings(
    container: Container, *, serving: bool, paying: bool = False
) -> list[str]:
    """Check what needs no open backend, and report all problems at once."""
    refusals: list[Refusal] = []
    networks: Mapping[str, Network] = {}
    warnings: list[str] = []
    with _collecting(refusals):
        networks = container.networks
    with _collecting(refusals):
        _ = container.tenants
    with _collecting(refusals):
        _ = container.policy
    with _collecting(refusals):
        _ = container.deny_list
    with _collecting(refusals):
        _ = container.screening
    with _collecting(refusals):
        _ = container.webhook_public_keys if serving else None
    with _collecting(refusals):
        _ = container.webhook_endpoints if paying else None
    with _collecting(refusals):
        warnings = guard.check_settings(container.settings, networks, serving=serving)
    with _collecting(refusals):
        warnings += container.check_backend(container.settings, serving=serving)
    with _collecting(refusals):
        _ = container.jwt_keys if serving else None
    with _collecting(refusals):
        open_row_macs(container.settings)
    with _collecting(refusals):
        _require_tracing(container.settings)
    if refusals:
        # The tenants need the networks, and raise their refusals again.
        raise ConfigurationError(*dict.fromkeys(refusals))
    return warnings


@contextmanager
def _refusing_store_errors() -> Iterator[None]:
    """Raise ``database-not-ready`` for a ``StoreError`` of the block."""
    try:
        yield
    except StoreError as e:
        problem = Refusal("database-not-ready", str(e), is_transient=e.retryable)
        raise ConfigurationError(problem) from None


@contextmanager
def _collecting(refusals: list[Refusal]) -> Iterator[None]:
    try:
        yield
    except ConfigurationError as e:
        refusals += e.refusals


def _settle_key(container: Container) -> tuple[Signer, list[str]]:
    """Make sure that the ring has an active key; return its signer, and warnings."""
    settings = container.settings
    key_setting = container.backend_plugin.key_setting
    self_test = partial(dependency_checks.self_test_key, settings, key_setting)
    startup_key = StartupKey(
        container.store, container.signers, self_test, container.clock
    )
    try:
        with _refusing_store_errors():
            return startup_key.open(container.key_name, settings.wallet_address)
    except InvalidInputError as e:
        problem = Refusal("kms-not-configured", f"{key_setting} {e}")
    raise ConfigurationError(problem)


def open_store(settings: Settings) -> Ledger:
    """
    Return the ledger; outside production its schema is upgraded if necessary.

    Raises:
        ConfigurationError: ``database-not-ready``: the database does not answer, or
            its schema is not the one of this version.
    """
    from backends.sql import SQLStore  # noqa: PLC0415  After the fork.

    store = SQLStore(
        settings.effective_database_url,
        open_row_macs(settings),
        pool_size=min(settings.threads, _MOST_CONNECTIONS),
    )
    with _refusing_store_errors():
        try:
            store.check()
        except StoreError:
            # Check first: in most cases another process has upgraded it already.
            if settings.is_production:
                raise
            store.migrate()
            store.check()
    return store


def open_record_sequences() -> Sequences:
    """Open a temporary file for the ids of an export's records."""
    from backends.sql.record_sequences import RecordSequences  # noqa: PLC0415

    return RecordSequences()


def upgrade_database(settings: Settings, *, create: bool) -> "SchemaUpgrade":
    """
    Bring the ledger's schema up to date, and return what was done.

    Any number of processes may do so at the same time.  In production, a new SQLite
    ledger is created only with *create*.

    Raises:
        StoreError: As ``SQLStore.migrate``.
    """
    from backends.sql import SQLStore  # noqa: PLC0415

    may_create = create or not settings.is_production
    store = SQLStore(settings.effective_database_url, open_row_macs(settings))
    return store.migrate(create=may_create)


def open_chains(networks: Mapping[str, Network]) -> Mapping[str, Chain]:
    """Return a client of each network; no request is sent yet."""
    from backends.json_rpc import JSONRPCChain  # noqa: PLC0415  The import takes a second.

    def connect(network: Network) -> JSONRPCChain:
        seconds = network.rpc_timeout_ms / 1000
        return JSONRPCChain(
            network.rpc_urls, timeout=seconds, chain_id=network.chain_id
        )

    return {
        name: Chain(network, connect(network)) for name, network in networks.items()
    }


def open_node_proxies(networks: Mapping[str, Network]) -> Mapping[str, NodeProxy]:
    """Return what forwards clients' reads, by network; no request is sent yet."""
    from backends.json_rpc.proxy import JSONRPCProxy  # noqa: PLC0415

    return {
        name: JSONRPCProxy(
            network.rpc_urls,
            timeout=network.rpc_timeout_ms / 1000,
            chain_id=network.chain_id,
        )
        for name, network in networks.items()
    }


def open_histories(networks: Mapping[str, Network]) -> Mapping[str, ChainHistory]:
    """Return a client of each network's past; no request is sent yet."""
    from backends.json_rpc.history import JSONRPCHistory  # noqa: PLC0415

    return {
        name: JSONRPCHistory(
            network.rpc_urls,
            timeout=network.rpc_timeout_ms / 1000,
            chain_id=network.chain_id,
        )
        for name, network in networks.items()
    }


def open_backend(
    settings: Settings, environ: Mapping[str, str] = os.environ
) -> KeyDirectory:
    """
    Return the configured device; no request is sent yet.

    A plugin reads variables of its own from *environ*.

    Raises:
        ConfigurationError: There is no such device, or its library is missing.
    """
    plugin = load_plugin(settings.backend_name)
    return open_plugin(plugin, BackendConfig(settings, environ))


def preload(settings: Settings) -> None:
    """Import the libraries of the backends before the fork; open nothing."""
    used = {
        "backends.sql": True,
        "backends.json_rpc": True,
        "backends.webhook": settings.alert_webhook_url is not None,
        "backends.jwks_client": settings.jwt_jwks_url is not None,
        "backends.screening_client": settings.screening_url is not None,
    }
    for name, is_used in used.items():
        if is_used:
            import_module(name)
    if settings.serve_role.has_key:
        for name in load_plugin(settings.backend_name).modules:
            import_module(name)


def open_token_keys(settings: Settings) -> "KeySource":
    """Return the keys that verify tokens, as ``open_keys``; call it after the fork."""
    from api.auth.jwks import FETCH_TIMEOUT, open_keys  # noqa: PLC0415
    from api.auth.verification_keys import MAX_BYTES  # noqa: PLC0415

    def connect(url: str) -> FetchKeySet:
        from backends.jwks_client import JWKSClient  # noqa: PLC0415

        return JWKSClient(
            url,
            allow_http=not settings.is_production,
            timeout=FETCH_TIMEOUT,
            max_bytes=MAX_BYTES,
        )

    return open_keys(settings, connect)


def open_refund_client(url: str) -> SendBatch:
    """
    Return a client of the service at *url*; no request is sent yet.

    Raises:
        InvalidInputError: *url* is not secure.
    """
    from backends.refund_client import RefundClient  # noqa: PLC0415

    return RefundClient(url)


def open_notifier(settings: Settings) -> Notifier | None:
    """Return the webhook that alerts are sent to, if one is configured."""
    if settings.alert_webhook_url is None:
        return None
    from backends.webhook import Webhook  # noqa: PLC0415

    return Webhook(settings.alert_webhook_url)


def open_tracer(settings: Settings, clock: Clock) -> Meter | None:
    """
    Return what sends traces of refunds, if ``TRACES_URL`` is set; *clock* dates them.

    Raises:
        ConfigurationError: The packages of the extra ``otel`` are missing.
    """
    if settings.traces_url is None:
        return None
    _require_tracing(settings)
    from backends.open_telemetry import open_exporter  # noqa: PLC0415

    return open_exporter(settings.traces_url, settings.traces_share, clock)


def _require_tracing(settings: Settings) -> None:
    if settings.traces_url is None:
        return
    try:
        import_module("backends.open_telemetry")
    except ModuleNotFoundError as e:
        missing = f"TRACES_URL needs {e.name}: pip install 'hotwallet[otel]'"
        raise ConfigurationError(Refusal("settings-invalid", missing)) from None


def open_screening(settings: Settings) -> ScreeningService | None:
    """Return the client of the screening service, if one is configured."""
    if settings.screening_url is None:
        return None
    from backends.screening_client import ScreeningClient  # noqa: PLC0415

    return ScreeningClient(
        settings.screening_url,
        settings.screening_secret_file,
        allow_http=not settings.is_production,
        kept_seconds=settings.screening_kept_seconds,
    )


def open_webhook_sender(settings: Settings) -> WebhookSender:
    """Return what sends events; outside production also to this host."""
    from backends.webhook_client import WebhookClient  # noqa: PLC0415

    allowed = [ip_network(each) for each in settings.webhook_allowed_networks]
    if settings.is_production:
        return WebhookClient(allowed)
    return WebhookClient([*allowed, *LOOPBACK], allow_http=True)
