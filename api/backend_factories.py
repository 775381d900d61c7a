"""
Opens what ``backends`` implements, as the settings configure it.

Only this module imports ``backends``.  Call its functions after the fork.  Each backend
is imported in the branch that chose it, so a process loads only the libraries it uses.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from api.key_files import load_or_create_key
from api.principal import tenant_of_thread
from signer.audit.checkpointer import CheckpointSettings
from signer.audit.checkpoints import CheckpointKey, Ed25519Signer
from signer.config.networks import Network
from signer.config.settings import Settings
from signer.errors import BackendError, ConfigurationError, Refusal, StoreError
from signer.ports.backend_plugin import BackendConfig
from signer.ports.chain import ChainHistory
from signer.ports.key_backend import KeyDirectory
from signer.ports.ledger import Ledger
from signer.ports.outside_services import (
    FetchKeySet,
    NodeProxy,
    Notifier,
    WebhookSender,
)
from signer.private_files import create_in_home
from signer.row_macs import RowMACs
from signer.webhooks.endpoint import LOOPBACK


if TYPE_CHECKING:
    from api.auth.verification_keys import KeySource
    from backends.sql.migrate import SchemaUpgrade
    from signer.chain.chain import Chain


Client = TypeVar("Client")

_MOST_CONNECTIONS = 8
"""How many database connections one process uses: waiting requests hold none."""


def pool_size(settings: Settings) -> int:
    """Return how many database connections a process may open."""
    return min(settings.threads, _MOST_CONNECTIONS)


def open_store(settings: Settings) -> Ledger:
    """Return the ledger; outside production it is created if necessary."""
    from backends.sql import SQLStore  # noqa: PLC0415  After the fork.

    store = SQLStore(
        settings.effective_database_url,
        open_row_macs(settings),
        pool_size=pool_size(settings),
        tenant=tenant_of_thread.get,
    )
    with refusing_store_errors():
        try:
            store.check()
        except StoreError:
            # Check first: in most cases another process has created it already.
            if settings.is_production:
                raise
            store.migrate()
            store.check()
    return store


def upgrade_database(settings: Settings, *, create: bool) -> "SchemaUpgrade":
    """
    Create the ledger, or renew its MACs, and return what was done.

    Any number of processes may do so at the same time.  In production, a new SQLite
    ledger is created only with *create*.
    """
    from backends.sql import SQLStore  # noqa: PLC0415

    may_create = create or not settings.is_production
    store = SQLStore(settings.effective_database_url, open_row_macs(settings))
    return store.migrate(create=may_create)


def open_row_macs(settings: Settings) -> RowMACs | None:
    """Return what makes and verifies the MACs of rows; None if there is no key."""
    path = settings.mac_key_file
    if path is None and settings.is_production:
        return None  # The guard reports it.
    if path is None:
        path = settings.home / "mac.key"
        create_in_home(
            path, RowMACs.generate, code="mac-key-invalid", variable="MAC_KEY_FILE"
        )
    return RowMACs.load(path, partial(derive_mac_key, settings))


def derive_mac_key(settings: Settings, arn: str) -> bytes:
    """
    Return the key of row MACs that AWS KMS makes with its key *arn*; a secret.

    Raises:
        ConfigurationError: ``mac-key-invalid``.
        BackendError: KMS does not answer, for now.
    """
    with _refusing_kms_errors("mac-key-invalid", "MAC_KEY_FILE"):
        from backends.aws_kms import service_keys  # noqa: PLC0415

        return service_keys.derive_mac_key(
            arn, settings.kms_endpoint, settings.kms_timeout_ms
        )


def open_checkpoint_key(settings: Settings) -> CheckpointSettings | None:
    """Return how checkpoints are signed; None if production has no key configured."""
    path = settings.audit_signing_key_file
    if path is None and settings.is_production:
        return None  # The guard reports it.
    if path is None:
        key = load_or_create_key(settings.home / "audit.pem")
    else:
        key = load_checkpoint_key(settings, path)
    return CheckpointSettings(key, f"hotwallet/{settings.audit_origin}")


def load_checkpoint_key(settings: Settings, path: Path) -> CheckpointKey:
    """Return the key in the file at *path*, or the one in KMS that the file names."""
    return CheckpointKey.load(path, partial(open_checkpoint_signer, settings))


def open_checkpoint_signer(settings: Settings, arn: str) -> Ed25519Signer:
    """
    Return the Ed25519 key *arn* of AWS KMS, which signs checkpoints.

    Raises:
        ConfigurationError: ``audit-misconfigured``.
        BackendError: KMS does not answer, for now.
    """
    with _refusing_kms_errors("audit-misconfigured", "AUDIT_SIGNING_KEY_FILE"):
        from backends.aws_kms import service_keys  # noqa: PLC0415

        return service_keys.KMSEd25519Key(
            arn, settings.kms_endpoint, settings.kms_timeout_ms
        )


@contextmanager
def _refusing_kms_errors(code: str, variable: str) -> Iterator[None]:
    """Raise a refusal about *variable* for an error of KMS that lasts."""
    try:
        yield
    except ImportError:
        problem = "a key in KMS needs boto3: pip install 'hotwallet[kms]'"
    except ValueError as e:
        problem = str(e)
    except BackendError as e:
        if e.retryable:
            raise
        problem = str(e)
    else:
        return
    raise ConfigurationError(Refusal(code, f"{variable}: {problem}"))


def open_chains(
    networks: Mapping[str, Network],
    observe: Callable[[str, str, Sequence[tuple[str, str]], float], None] | None = None,
) -> "Mapping[str, Chain]":
    """
    Return a client of each network; no request is sent yet.

    *observe* is called with the network, the node, methods with outcomes, and seconds.
    """
    from backends.json_rpc import JSONRPCChain  # noqa: PLC0415
    from signer.chain.chain import Chain  # noqa: PLC0415

    def connect(name: str, network: Network) -> Chain:
        seen = None if observe is None else partial(observe, name)
        return Chain(network, _connect(partial(JSONRPCChain, observe=seen), network))

    return {name: connect(name, network) for name, network in networks.items()}


def open_node_proxies(networks: Mapping[str, Network]) -> Mapping[str, NodeProxy]:
    """Return what forwards clients' reads, by network; no request is sent yet."""
    from backends.json_rpc.client import JSONRPCProxy  # noqa: PLC0415

    return {name: _connect(JSONRPCProxy, each) for name, each in networks.items()}


def open_histories(networks: Mapping[str, Network]) -> Mapping[str, ChainHistory]:
    """Return a client of each network's past; no request is sent yet."""
    from backends.json_rpc.history import JSONRPCHistory  # noqa: PLC0415

    return {name: _connect(JSONRPCHistory, each) for name, each in networks.items()}


def _connect(client: Callable[..., Client], network: Network) -> Client:
    from backends.json_rpc.node import NodeRules  # noqa: PLC0415

    token = network.fee_token
    coin = None if token is None else (token.address, token.in_coin(1))
    has_pending = network.pending != "none"
    return client(
        network.rpc_urls,
        timeout=network.rpc_timeout_ms / 1000,
        chain_id=network.chain_id,
        rules=NodeRules(network.rpc_batch, has_pending, network.fees, coin),
    )


def open_backend(
    settings: Settings,
    environ: Mapping[str, str] = os.environ,
    *,
    is_worker: bool = False,
) -> KeyDirectory:
    """
    Return the configured device; no request is sent yet.

    A plugin reads variables of its own from *environ*.  A worker may repeat a call more
    often, because nothing but its queue waits.
    """
    from api.plugins import load_plugin, open_plugin  # noqa: PLC0415

    plugin = load_plugin(settings.backend_name)
    return open_plugin(plugin, BackendConfig(settings, environ, is_worker))


def preload(settings: Settings) -> None:
    """
    Import the libraries of the backends before the fork; open nothing.

    Of extras, the modules of services that are configured are imported.
    """
    from api.extension import find_service  # noqa: PLC0415
    from api.plugins import load_plugin  # noqa: PLC0415

    used = {
        "backends.sql": True,
        "backends.json_rpc": True,
        "backends.alert_webhook": settings.alert_webhook_url is not None,
        "backends.jwks_client": settings.jwt_jwks_url is not None,
    }
    for name, is_used in used.items():
        if is_used:
            import_module(name)
    find_service("screening", os.environ)
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


def open_notifier(settings: Settings) -> Notifier | None:
    if settings.alert_webhook_url is None:
        return None
    from backends.alert_webhook import AlertWebhook  # noqa: PLC0415

    return AlertWebhook(settings.alert_webhook_url, settings.alert_webhook_format)


def open_webhook_sender(settings: Settings) -> WebhookSender:
    """Return what sends events; outside production also to this host."""
    from backends.webhook_client import WebhookClient  # noqa: PLC0415

    allowed = [ip_network(each) for each in settings.webhook_allowed_networks]
    if settings.is_production:
        return WebhookClient(allowed)
    return WebhookClient([*allowed, *LOOPBACK], allow_http=True)


@contextmanager
def refusing_store_errors() -> Iterator[None]:
    """Raise ``database-not-ready`` for a ``StoreError`` of the block."""
    try:
        yield
    except StoreError as e:
        problem = Refusal("database-not-ready", str(e), is_transient=e.retryable)
        raise ConfigurationError(problem) from None
