"""What a process reads from its environment and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_network
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from api.peer_addresses import Network as IPNetwork
    from signer.audit.checkpointer import CheckpointSettings
    from signer.config.deny_list import DenyList
    from signer.config.digest import Configuration
    from signer.config.networks import Network
    from signer.config.settings import Settings
    from signer.config.tenants import TenantRegistry
    from signer.ports.backend_plugin import BackendConfig, BackendPlugin
    from signer.row_macs import RowMACs
    from signer.startup.policy_reload import Rules
    from signer.webhooks.endpoint import Endpoints
    from signer.webhooks.signatures import PublicKey


@dataclass(kw_only=True, eq=False, repr=False)
class ConfigurationParts:
    """Settings, files and keys that are read; nothing is opened."""

    environ: Mapping[str, str]

    @cached_property
    def settings(self) -> Settings:
        """The settings of the environment."""
        from signer.config.settings import Settings

        return Settings.from_env(self.environ)

    @cached_property
    def networks(self) -> Mapping[str, Network]:
        """The networks of ``NETWORKS_FILE``, by name."""
        from signer.config.networks import load_networks

        return load_networks(self.settings.networks_file)

    @cached_property
    def tenants(self) -> TenantRegistry:
        """The tenants of ``TENANTS_FILE``; their limits fit the networks."""
        from signer.config.tenants import check_tenants, load_tenants

        settings = self.settings
        registry = load_tenants(settings.tenants_file, settings.jwt_audience)
        check_tenants(registry, self.networks)
        return registry

    @property
    def key_name(self) -> str:
        """The key that the configuration names: KMS_KEY_ID or PKCS11_KEY_ID."""
        return self.backend_plugin.key_name(self.backend_config)

    @cached_property
    def backend_plugin(self) -> BackendPlugin:
        """The plugin of the key backend that the configuration names."""
        from api.plugins import load_plugin

        return load_plugin(self.settings.backend_name)

    @property
    def backend_config(self) -> BackendConfig:
        """What the plugin may read."""
        from signer.ports.backend_plugin import BackendConfig

        return BackendConfig(self.settings, self.environ)

    def check_backend(self, settings: Settings, *, serving: bool = True) -> list[str]:
        """
        Let the plugin check its settings, as in the environment of *settings*.

        It returns warnings.  A process that has no key loads no plugin.

        Raises:
            ConfigurationError: The plugin, or production, refuses.
        """
        from api.plugins import check_plugin
        from signer.ports.backend_plugin import BackendConfig

        if serving and not settings.serve_role.has_key:
            return []
        config = BackendConfig(settings, self.environ)
        forbidden = check_plugin(self.backend_plugin, config)
        if forbidden is None:
            return []
        return [f"NOT SAFE FOR PRODUCTION: {forbidden.message}"]

    @cached_property
    def row_macs(self) -> RowMACs:
        """The MAC keys that all processes of the service have."""
        from api.mac_key import open_row_macs
        from signer.errors import ConfigurationError, Refusal

        macs = open_row_macs(self.settings)
        if macs is None:
            raise ConfigurationError(Refusal("mac-key-missing", "set MAC_KEY_FILE"))
        return macs

    @cached_property
    def checkpoint_settings(self) -> CheckpointSettings | None:
        """How audit checkpoints are signed; None in production without a key."""
        from api.checkpoint_key import open_checkpoint_key

        return open_checkpoint_key(self.settings)

    @cached_property
    def deny_list(self) -> DenyList | None:
        """The addresses that are never paid, if a file is configured."""
        from signer.config.deny_list import DenyList

        path = self.settings.deny_list_file
        return None if path is None else DenyList(path)

    @cached_property
    def proxies(self) -> Sequence[IPNetwork]:
        """The networks of ``TRUSTED_PROXIES``."""
        return [ip_network(each) for each in self.settings.trusted_proxies]

    @cached_property
    def policy_files(self) -> Mapping[str, str]:
        """The operator's own rules of ``POLICY_DIR``: texts by file."""
        from signer.config.policy_files import read_policy_files

        return read_policy_files(self.settings.policy_dir)

    @cached_property
    def configuration(self) -> Configuration:
        """The rules in force: networks, tokens, tenants and limits."""
        return self.build_configuration(self.policy_files)

    def build_configuration(self, rules: Rules) -> Configuration:
        """Return the configuration with the own *rules*, texts by file."""
        from signer.config.digest import read_configuration

        tenants = self.tenants.tenants or {}
        return read_configuration(self.settings, self.networks, tenants, rules)

    @cached_property
    def webhook_endpoints(self) -> Endpoints:
        """The webhooks of tenants, and the keys that sign for them."""
        from api.webhook_keys import open_endpoints

        return open_endpoints(self.settings, self.tenants)

    @cached_property
    def webhook_public_keys(self) -> Sequence[PublicKey]:
        """The keys with which receivers verify events."""
        from api.webhook_keys import open_public_keys

        return open_public_keys(self.settings)
